//! The door: bound before anything runs, so that a wrong address is told at once.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rowcast_engine::feed::Feed;
use rowcast_engine::sinks::Sinks;
use rowcast_engine::status::Status;
use rowcast_engine::{Error, Result, Stop};
use tokio::net::{TcpListener, lookup_host};

use crate::app::App;
use crate::channels::{self, CustomChannels};
use crate::clients::Clients;
use crate::config::{Config, no_address};
use crate::guard::Guard;
use crate::routes::routes;
use crate::serve::serve;
use crate::unix::AdminSocket;
use crate::unreadable::Unreadable;

/// How often the door says on the board how it is.
const BOARD_PERIOD: Duration = Duration::from_secs(1);
/// WebSockets end by themselves, about when the last connection does; one that is stuck is not waited for.
const SOCKETS_LATER: Duration = Duration::from_millis(500);

/// What the door needs of the house.
pub struct Context {
    /// Where events come from.
    pub feed: Feed,
    /// The board that the door shows, and writes itself on.
    pub status: Status,
    /// The doors that push, which can be commanded through the Unix socket.
    pub sinks: Sinks,
    /// Renders the metrics as Prometheus reads them.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// The HTTP door, bound and not open yet.
#[derive(Debug)]
pub struct Door {
    config: Config,
    listener: TcpListener,
    address: SocketAddr,
    admin: Option<AdminSocket>,
}

impl Door {
    /// Binds the address, and the Unix socket that serves the same without asking for Host and Origin.
    ///
    /// # Errors
    /// A usage error for an address that is none, for one beyond loopback without `auth`, and for `hosts` or
    /// `origins` that are none; a failure when the port is taken.
    pub async fn bind(config: Config, admin_socket: Option<PathBuf>) -> Result<Self> {
        config.check()?;
        config.check_listen()?;
        let address = resolve(&config.listen).await?;
        config.check_reach(address.ip())?;
        let listener =
            TcpListener::bind(address).await.map_err(|error| cannot_listen(&config.listen, error))?;
        let address = listener.local_addr().map_err(|error| cannot_listen(&config.listen, error))?;
        let admin = match admin_socket {
            Some(path) => AdminSocket::bind(path).await?,
            None => None,
        };
        Ok(Self { config, listener, address, admin })
    }

    /// Where it listens, with the port that was drawn.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the stop. Then every client is told to come back, and all are gone within five seconds.
    pub async fn run(self, context: Context, stop: Stop) -> Result<()> {
        let Self { config, listener, address, admin } = self;
        let guard = Guard::new(&config);
        let max = config.max_connections;
        let app = Arc::new(App {
            feed: context.feed,
            status: context.status,
            sinks: context.sinks,
            metrics: context.metrics,
            clients: Clients::new(max),
            channels: CustomChannels::default(),
            unreadable: Unreadable::default(),
            stop: stop.clone(),
            config,
        });
        tracing::info!(%address, "Serving HTTP");
        let public = serve(listener, routes(Arc::clone(&app), Some(guard)), max, stop.clone());
        let private = async {
            if let Some(AdminSocket { listener, file }) = admin {
                serve(listener, routes(Arc::clone(&app), None), max, stop.clone()).await;
                drop(file);
            }
        };
        let served = async {
            tokio::join!(public, private);
            app.clients.gone(SOCKETS_LATER).await;
        };
        tokio::select! {
            () = served => {}
            () = watch(&app) => {}
        }
        app.show("stopped");
        Ok(())
    }
}

/// What goes on beside serving. Never ends.
async fn watch(app: &Arc<App>) {
    let board = async {
        let mut tick = tokio::time::interval(BOARD_PERIOD);
        loop {
            tick.tick().await;
            app.show("running");
        }
    };
    let channels = async {
        channels::watch(Arc::clone(app)).await;
        std::future::pending::<()>().await;
    };
    tokio::join!(board, channels);
}

async fn resolve(listen: &str) -> Result<SocketAddr> {
    let mut found = lookup_host(listen).await.map_err(|error| no_address(listen).because(error))?;
    found.next().ok_or_else(|| no_address(listen))
}

fn cannot_listen(listen: &str, error: std::io::Error) -> Error {
    let hint = match error.kind() {
        ErrorKind::AddrInUse => {
            "Another program has the port. Stop it, or choose another with --listen HOST:PORT."
        }
        ErrorKind::AddrNotAvailable => {
            "This machine does not have the address. Choose one that it has with --listen HOST:PORT."
        }
        ErrorKind::PermissionDenied => {
            "Ports below 1024 are for privileged users. Choose one above with --listen HOST:PORT."
        }
        _ => "Choose another address with --listen HOST:PORT.",
    };
    Error::failed(format!("Cannot listen on {listen}")).because(error).hint(hint)
}
