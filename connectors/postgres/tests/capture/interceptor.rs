//! A way to the server that looks at each message of the stream and can change it, break off, or hold it back.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rowcast_postgres::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
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

/// What all connections share.
struct Shared {
    rule: Mutex<Rule>,
    /// The output plugin's messages pass. While they do not, keepalives are lost: none overtakes what waits.
    stream_passes: watch::Sender<bool>,
    /// A message of the output plugin waits.
    waits: watch::Sender<bool>,
    /// Chunks of rows that the server has sent, and whose locks it has released.
    read: watch::Sender<usize>,
    /// So many of them are known to who reads.
    reads_pass: watch::Sender<usize>,
}

/// Listens on a port of its own until it is dropped.
pub(super) struct Interceptor {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Interceptor {
    /// Passes on everything at first.
    pub(super) async fn start(server: &Server) -> Self {
        server.admit("host all all 127.0.0.1/32 trust");
        let target = SocketAddr::from(([127, 0, 0, 1], server.port));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            rule: Mutex::new(Box::new(|_| Fate::Pass)),
            stream_passes: watch::Sender::new(true),
            waits: watch::Sender::new(false),
            read: watch::Sender::new(0),
            reads_pass: watch::Sender::new(usize::MAX),
        });
        let of_all = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, target, Arc::clone(&of_all)));
            }
        });
        Self { address, shared, task }
    }

    /// From now on each message of the output plugin goes through this.
    pub(super) fn rule(&self, rule: impl FnMut(&mut Vec<u8>) -> Fate + Send + 'static) {
        *self.shared.rule.lock().unwrap() = Box::new(rule);
    }

    /// From now on nothing is streamed, and who reads a chunk of rows does not hear of its end.
    pub(super) fn hold(&self) {
        self.shared.stream_passes.send_replace(false);
        self.shared.reads_pass.send_replace(self.chunks());
    }

    /// From behind the next row that is inserted nothing is streamed: the stream stands in the midst of its transaction.
    pub(super) fn hold_within(&self) {
        self.hold_behind(b'I');
    }

    /// From behind the next message of this kind nothing is streamed.
    pub(super) fn hold_behind(&self, kind: u8) {
        let passes = self.shared.stream_passes.clone();
        let mut held = false;
        self.rule(move |message| {
            if message.first() == Some(&kind) && !std::mem::replace(&mut held, true) {
                passes.send_replace(false);
            }
            Fate::Pass
        });
    }

    /// Chunks that the server has sent whole: nobody waits for the lock of their table any more.
    pub(super) fn chunks(&self) -> usize {
        *self.shared.read.borrow()
    }

    /// The end of one more of them passes.
    pub(super) fn pass_chunk(&self) {
        self.shared.reads_pass.send_modify(|pass| *pass += 1);
    }

    /// Whether a message of the output plugin waits, and is not just passing.
    pub(super) fn has_message(&self) -> bool {
        *self.shared.waits.borrow() && !*self.shared.stream_passes.borrow()
    }

    pub(super) fn pass_stream(&self) {
        self.shared.stream_passes.send_replace(true);
    }

    pub(super) fn pass_all_chunks(&self) {
        self.shared.reads_pass.send_replace(usize::MAX);
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

async fn connection(client: TcpStream, target: SocketAddr, shared: Arc<Shared>) {
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
        _ = messages(from_server, to_client, &shared) => {}
    }
}

/// Without TLS all that the server says is messages: a type, a length that counts itself, a body.
async fn messages(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) -> std::io::Result<()> {
    let (mut is_stream, mut has_rows) = (false, false);
    loop {
        let kind = from.read_u8().await?;
        let length = usize::try_from(from.read_u32().await?).unwrap();
        let mut body = vec![0; length - 4];
        from.read_exact(&mut body).await?;
        // CopyBothResponse and CopyDone.
        is_stream |= kind == b'W';
        has_rows |= kind == b'c' && !is_stream;
        if has_rows && kind == b'C' && body.starts_with(b"COMMIT") {
            has_rows = false;
            shared.read.send_modify(|read| *read += 1);
            let number = *shared.read.borrow();
            let _ = shared.reads_pass.subscribe().wait_for(|pass| *pass >= number).await;
        }
        if is_stream && kind == b'd' && body.first() == Some(&b'k') && !*shared.stream_passes.borrow() {
            continue;
        }
        if is_stream && kind == b'd' && body.first() == Some(&b'w') {
            shared.waits.send_replace(true);
            let _ = shared.stream_passes.subscribe().wait_for(|passes| *passes).await;
            shared.waits.send_replace(false);
            let mut message = body.split_off(ENVELOPE);
            if shared.rule.lock().unwrap()(&mut message) == Fate::Cut {
                return Ok(());
            }
            body.extend_from_slice(&message);
        }
        let length = u32::try_from(body.len() + 4).unwrap();
        to.write_all(&[&[kind][..], &length.to_be_bytes(), &body].concat()).await?;
    }
}
