//! A network between two programs that can break.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    /// Passes everything on.
    Fair,
    /// Holds everything back, connections stay open.
    Stalled,
    /// Resets every connection, old and new.
    Down,
}

/// A TCP proxy to one target. Dropping it resets its connections.
pub(crate) struct Proxy {
    address: SocketAddr,
    weather: Arc<watch::Sender<Weather>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of its own.
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let weather = Arc::new(watch::Sender::new(Weather::Fair));
        let sender = Arc::clone(&weather);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, target, sender.subscribe()));
            }
        });
        Self { address, weather, task }
    }

    /// Where to connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets what is connected and whoever comes, until [`Proxy::mend`].
    pub(crate) fn cut(&self) {
        self.weather.send_replace(Weather::Down);
    }

    /// Holds all bytes back, until [`Proxy::mend`].
    pub(crate) fn stall(&self) {
        self.weather.send_replace(Weather::Stalled);
    }

    /// All is well again; what was held back goes on.
    pub(crate) fn mend(&self) {
        self.weather.send_replace(Weather::Fair);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn connection(client: TcpStream, target: SocketAddr, weather: watch::Receiver<Weather>) {
    // A reset, which a program sees at once, where an end of the stream could be mistaken for a farewell.
    let _ = client.set_zero_linger();
    let mut down = weather.clone();
    let pass = async {
        let server = TcpStream::connect(target).await?;
        server.set_zero_linger()?;
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::try_join!(copy(from_client, to_server, weather.clone()), copy(from_server, to_client, weather))
            .map(|_| ())
    };
    tokio::select! {
        _ = down.wait_for(|weather| *weather == Weather::Down) => {}
        // An end or an error of either side ends both.
        _ = pass => {}
    }
}

async fn copy(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut weather: watch::Receiver<Weather>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if weather.wait_for(|weather| *weather == Weather::Fair).await.is_err() || count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
    }
}
