//! A way to the server that takes everything and says nothing, from a certain moment on: whatever capture waits for
//! before it streams is told while it lasts, and has an end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rowcast_postgres::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::harness::{Capture, Directory, config, run, sql, until};
use crate::support::Server;

/// Twelve times the connect_timeout of two seconds is less than the shortest limit, 40 s.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Words of what is asked, in the order in which it is.
const STAGES: [&str; 7] = [
    "current_setting('server_version_num')",
    "pg_postmaster_start_time",
    "IDENTIFY_SYSTEM",
    "left join pg_replication_slots",
    "from rowcast.migrations",
    "not bool_or(p.pubupdate",
    "START_REPLICATION",
];

/// What is lost of a connection from the words on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lost {
    /// What the client says, the words among it.
    Said,
    /// What the server answers, but for the first [`PASSES`] bytes.
    Answered,
}

const PASSES: usize = 1 << 20;

/// Listens on a port of its own until it is dropped.
pub(super) struct Stall {
    port: u16,
    stalls: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
    held: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Stall {
    /// A connection on which these words are said is stalled, until [`Stall::end`].
    async fn at(server: SocketAddr, words: &'static str) -> Self {
        Self::losing(Lost::Said, server, words).await
    }

    pub(super) async fn losing(lost: Lost, server: SocketAddr, words: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stalls = Arc::new(AtomicBool::new(true));
        let open = Arc::new(AtomicUsize::new(0));
        let held = Arc::new(AtomicUsize::new(0));
        let shared = (Arc::clone(&stalls), Arc::clone(&open), Arc::clone(&held));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (stalls, open, held) = shared.clone();
                tokio::spawn(async move {
                    open.fetch_add(1, Ordering::Relaxed);
                    connection(client, server, (words, lost), (stalls, held)).await;
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { port, stalls, open, held, task }
    }

    /// Connections that clients have not closed.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Those of them that are stalled.
    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn end(&self) {
        self.stalls.store(false, Ordering::Relaxed);
    }

    pub(super) fn config(&self, config: &Config) -> Config {
        let port = self.port;
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres?connect_timeout=2&sslmode=disable");
        Config { url, ..config.clone() }
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(
    mut client: TcpStream,
    server: SocketAddr,
    (words, lost): (&'static str, Lost),
    (stalls, held): (Arc<AtomicBool>, Arc<AtomicUsize>),
) {
    let mut server = TcpStream::connect(server).await.unwrap();
    let (mut said, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let heard = |said: &[u8]| said.windows(words.len()).any(|part| part == words.as_bytes());
    let mut left = None;
    loop {
        if !stalls.load(Ordering::Relaxed) {
            let _ = copy_bidirectional(&mut client, &mut server).await;
            return;
        }
        if left == Some(0) {
            // Everything is taken.
            held.fetch_add(1, Ordering::Relaxed);
            while matches!(client.read(&mut said).await, Ok(1..)) {}
            held.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        tokio::select! {
            count = client.read(&mut said) => match count {
                Ok(count) if count > 0 => {
                    if heard(&said[..count]) {
                        left = Some(if let Lost::Said = lost { 0 } else { PASSES });
                    }
                    if left != Some(0) {
                        server.write_all(&said[..count]).await.unwrap();
                    }
                }
                _ => return,
            },
            count = server.read(&mut answered) => match count {
                Ok(count) if count > 0 && client.write_all(&answered[..count]).await.is_ok() => {
                    left = left.map(|left| left.saturating_sub(count));
                }
                _ => return,
            },
        }
    }
}

/// Waits for words on the board, be they of the source or of a snapshot.
pub(super) async fn told(capture: &Capture, words: &str, whose: &str, within: Duration) {
    let start = Instant::now();
    loop {
        let report = capture.report();
        let of_tables = report.snapshots.iter().filter_map(|shown| shown.reason.as_ref());
        if of_tables.chain(&report.reasons).any(|reason| reason.contains(words)) {
            return println!("{whose}: {words:?} after {:?}", start.elapsed());
        }
        let (snapshots, reasons) = (report.snapshots, report.reasons);
        assert!(start.elapsed() < within, "{whose}: {words:?} is not in {reasons:?}, {snapshots:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn stalls_at(stage: &'static str, number: usize, address: SocketAddr, base: Config) {
    let (directory, slot) = (Directory::new(), format!("stalled_{number}"));
    let config = Config { slot, tables: vec!["public.t".to_owned()], ..base };
    Capture::start(config.clone(), directory.path()).await.stop().await;
    let stall = Stall::at(address, stage).await;
    let mut capture = Capture::launch(stall.config(&config), directory.path());
    told(&capture, "s so far", stage, ENDS_WITHIN).await;
    // Which is when it is tried again.
    told(&capture, "The source is reconnecting", stage, ENDS_WITHIN).await;
    stall.end();
    capture.streams().await;
    assert!(capture.report().source.stuck.is_none());
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wait_before_the_stream_has_an_end() {
    let server = Server::start("max_replication_slots = 20\nmax_wal_senders = 20");
    server.admit("host all all all trust");
    run(&sql(&server).await, "create table t (id int primary key)").await;
    let cases: Vec<_> = (0..STAGES.len())
        .map(|number| tokio::spawn(stalls_at(STAGES[number], number, server.address(), config(&server))))
        .collect();
    for case in cases {
        case.await.unwrap();
    }
}

/// It may take any time, so it is asked whether the server still makes it.
#[tokio::test]
async fn a_slot_that_nobody_makes_is_not_waited_for() {
    let (server, directory) = (Server::start(""), Directory::new());
    server.admit("host all all all trust");
    run(&sql(&server).await, "create table t (id int primary key)").await;
    let stall = Stall::at(server.address(), "CREATE_REPLICATION_SLOT").await;
    let error = Capture::launch(stall.config(&config(&server)), directory.path()).fails().await;
    assert!(error.to_string().contains("does not make the replication slot any more"), "{error}");
}

/// A table that cannot be looked up is tried for ever: no try leaves a session behind.
#[tokio::test]
async fn a_catalog_that_does_not_answer_is_asked_by_one_session() {
    let (server, directory) = (Server::start(""), Directory::new());
    server.admit("host all all all trust");
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let stall = Stall::at(server.address(), ", key_columns as (").await;
    let capture = Capture::start(stall.config(&config(&server)), directory.path()).await;
    run(&client, "insert into t values (1)").await;
    until("the question", async || stall.held() == 1).await;
    let reason =
        async || capture.report().source.reason.is_some_and(|said| said.contains("longer than 30 s"));
    until("the end of its time", reason).await;
    // Before the next try begins.
    until("the end of its session", async || stall.held() == 0).await;
    stall.end();
    assert_eq!(capture.briefs(1).await, ["insert public.t 1"]);
    assert_eq!(capture.report().source.reconnects, 0);
    capture.stop().await;
}
