//! `rowcast demo`: a shop in a throw-away Postgres, and the same wiring as `rowcast run`.

mod load;
mod programs;
mod server;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;

use rowcast_engine::{Error, Result};

use crate::cli::print;
use crate::config::{self, Assignment, Origin};
use crate::failure::{Failure, say};
use crate::wiring::{House, Signals};
use load::Load;
use server::Server;

/// Tried first, so that what the documentation says works as it stands there.
const PORT: u16 = 8080;
/// Ports tried after that.
const PORTS_MORE: u16 = 50;
/// The shop's database.
const DATABASE: &str = "shop";

/// What can be chosen.
pub(crate) struct Options {
    /// Transactions a second.
    pub(crate) rate: u32,
    /// Where clients connect.
    pub(crate) listen: Option<String>,
    /// Brokers.
    pub(crate) kafka: Option<String>,
    /// First part of the names of topics.
    pub(crate) topic_prefix: Option<String>,
}

/// Runs it until a signal comes.
pub(crate) async fn run(options: Options) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new()?;
    let listen = match options.listen.clone() {
        Some(listen) => listen,
        None => free_address()?,
    };
    rowcast_http::Config { listen: listen.clone(), ..Default::default() }.check_listen()?;
    say("Starting a throw-away Postgres …");
    let server = tokio::select! {
        server = Server::start() => server?,
        () = signals.first() => return Ok(ExitCode::SUCCESS),
    };
    let ended = run_on(&server, &options, &listen, signals).await;
    server.stop().await;
    ended
}

async fn run_on(
    server: &Server,
    options: &Options,
    listen: &str,
    signals: Signals,
) -> Result<ExitCode, Failure> {
    load::create(server).await?;
    let config = config::load(None, assignments(server, options, listen)?)?;
    let house = House::open(config).await?;
    let _load = Load::start(server, options.rate);
    print(&welcome(house.address(), &server.url(DATABASE), options.rate))?;
    house.run(signals).await
}

/// What `rowcast run` would be told by flags.
fn assignments(server: &Server, options: &Options, listen: &str) -> Result<Vec<Assignment>> {
    let flag = |key, flag, value: &str| Assignment::dotted(key, value, Origin::Flag(flag));
    let mut assignments = vec![
        flag("data", "--data", text(&server.directory().join("data"))?),
        flag("source.url", "--source", &server.socket_url(DATABASE)),
        flag("source.tables", "--tables", "public.*"),
        flag("http.listen", "--listen", listen),
    ];
    if let Some(brokers) = &options.kafka {
        assignments.push(flag("kafka.brokers", "--kafka", brokers));
        let prefix = options.topic_prefix.as_deref().unwrap_or("demo");
        assignments.push(flag("kafka.topic_prefix", "--topic-prefix", prefix));
    }
    Ok(assignments)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::failed("The directory for temporary files is not a path in UTF-8"))
}

/// The usual port, or the next one that is free.
fn free_address() -> Result<String> {
    for port in PORT..=PORT + PORTS_MORE {
        let address = format!("127.0.0.1:{port}");
        if TcpListener::bind(&address).is_ok() {
            if port != PORT {
                say(&format!("Port {PORT} is in use, so {port} it is"));
            }
            return Ok(address);
        }
    }
    Err(Error::failed(format!("No port from {PORT} to {} is free", PORT + PORTS_MORE))
        .hint("Choose one: rowcast demo --listen 127.0.0.1:PORT"))
}

fn welcome(address: SocketAddr, database: &str, rate: u32) -> String {
    let url = format!("http://{address}");
    format!(
        "
A shop with about {rate} transactions a second, and every change of it as an event. Ctrl-C ends all and leaves nothing behind.

  The page                {url}/
  Orders, live            curl -N '{url}/v1/events?channel=public.orders'
  All from the start      curl -N -H 'Accept: application/x-ndjson' '{url}/v1/events?channel=*&from=earliest'
  An event of your own    curl -d '{{\"hello\": \"world\"}}' {url}/v1/channels/greetings/events
  For people              rowcast tail '*' --url {url}
  Change something        psql '{database}'

"
    )
}
