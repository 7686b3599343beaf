//! A way to the server that looks at each message of the stream and can change it, or break off.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rowcast_postgres::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::Server;

/// What stands before the output plugin's message in a CopyData: its tag, two positions and a time.
const ENVELOPE: usize = 25;

/// What becomes of a message, and of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is passed on, as it is now.
    Pass,
    /// It is lost, and the connection with it.
    Cut,
}

type Rule = Box<dyn FnMut(&mut Vec<u8>) -> Fate + Send>;

/// Listens on a port of its own until it is dropped.
pub(super) struct Interceptor {
    address: SocketAddr,
    rule: Arc<Mutex<Rule>>,
    task: JoinHandle<()>,
}

impl Interceptor {
    /// Passes on everything at first.
    pub(super) async fn start(server: &Server) -> Self {
        server.admit("host all all 127.0.0.1/32 trust");
        let target = SocketAddr::from(([127, 0, 0, 1], server.port));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_| Fate::Pass)));
        let shared = Arc::clone(&rule);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, target, Arc::clone(&shared)));
            }
        });
        Self { address, rule, task }
    }

    /// From now on each message of the output plugin goes through this.
    pub(super) fn rule(&self, rule: impl FnMut(&mut Vec<u8>) -> Fate + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// A configuration that comes this way.
    pub(super) fn config(&self) -> Config {
        let port = self.address.port();
        let url = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres sslmode=disable");
        Config { url, ..Config::default() }
    }
}

impl Drop for Interceptor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(client: TcpStream, target: SocketAddr, rule: Arc<Mutex<Rule>>) {
    // A reset, as of a cable that was pulled.
    let _ = client.set_zero_linger();
    let Ok(server) = TcpStream::connect(target).await else { return };
    // Messages are written one by one: each would wait for what the other side says of the one before.
    for way in [&client, &server] {
        way.set_nodelay(true).unwrap();
    }
    let ((mut from_client, to_client), (from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        _ = messages(from_server, to_client, rule) => {}
    }
}

/// Without TLS all that the server says is messages: a type, a length that counts itself, a body.
async fn messages(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    rule: Arc<Mutex<Rule>>,
) -> std::io::Result<()> {
    loop {
        let kind = from.read_u8().await?;
        let length = usize::try_from(from.read_u32().await?).unwrap();
        let mut body = vec![0; length - 4];
        from.read_exact(&mut body).await?;
        if kind == b'd' && body.first() == Some(&b'w') {
            let mut message = body.split_off(ENVELOPE);
            if rule.lock().unwrap()(&mut message) == Fate::Cut {
                return Ok(());
            }
            body.extend_from_slice(&message);
        }
        let length = u32::try_from(body.len() + 4).unwrap();
        to.write_all(&[&[kind][..], &length.to_be_bytes(), &body].concat()).await?;
    }
}
