//! A journal without room: reading stops, which costs no connection, and keeps no server from stopping.

use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{Options, open};
use rowcast_engine::snapshots::Command;
use rowcast_postgres::{Config, Streaming};

use super::breaks::gaps;
use super::guarded::{Guard, Guarded};
use super::harness::{Capture, Directory, Seen, config, run, sql, until, value};
use crate::support::Server;

/// The machine's disk, which takes nothing more while it is full.
#[derive(Clone, Debug, Default)]
struct Bounded(Arc<AtomicBool>);

impl Bounded {
    fn fill(&self, full: bool) {
        self.0.store(full, Ordering::SeqCst);
    }
}

impl Guard for Bounded {
    fn write(&self) -> Result<()> {
        if self.0.load(Ordering::SeqCst) { Err(Error::from(ErrorKind::StorageFull)) } else { Ok(()) }
    }
}

async fn on(disk: &Bounded, config: Config, directory: &Directory) -> Capture {
    let options = Options::new(directory.path());
    let mut capture = Capture::launch_on(Arc::new(Guarded(disk.clone())), config, options, &[]);
    capture.streams().await;
    capture
}

/// The rows' ids, in their order.
fn ids(told: &[Seen]) -> Vec<u32> {
    told.iter().map(|event| event.new.split(',').next().unwrap().parse().unwrap()).collect()
}

/// Captures one row; then the disk is full.
async fn full(server: &Server, config: Config, directory: &Directory) -> (Capture, Bounded) {
    let (client, disk) = (sql(server).await, Bounded::default());
    run(&client, "create table t (id int primary key, v text)").await;
    let capture = on(&disk, config, directory).await;
    run(&client, "insert into t values (1)").await;
    capture.wait(1).await;
    disk.fill(true);
    (capture, disk)
}

async fn is_paused(capture: &Capture) {
    until("the journal to be full", async || capture.report().source.state == "paused").await;
}

/// Rows of a megabyte up to this one, in one transaction.
fn up_to(last: u32) -> String {
    format!("insert into t select i, repeat('x', 1000000) from generate_series(2, {last}) i")
}

/// What is written before the server stops.
#[derive(Clone, Copy, Debug)]
enum Before {
    /// What fits into memory: it is read to its end, and not stored.
    Little,
    /// Many transactions: reading stops.
    Much,
    /// One that has a file of its own, which waits for room while it is finished.
    Large,
    /// One that is sent before it commits, which it never does.
    Open,
}

/// How long a fast shutdown takes. Nothing of what has committed is lost, nothing comes twice.
async fn fast_shutdown(before: Before) -> Duration {
    let mut server = Server::start("logical_decoding_work_mem = '64kB'");
    let directory = Directory::new();
    let streaming = if matches!(before, Before::Open) { Streaming::On } else { Streaming::Off };
    let (capture, disk) = full(&server, Config { streaming, ..config(&server) }, &directory).await;
    let (client, other) = (sql(&server).await, sql(&server).await);
    let last = match before {
        Before::Little => 4,
        Before::Much | Before::Large => 61,
        Before::Open => 2,
    };
    match before {
        Before::Little | Before::Large => run(&client, &up_to(last)).await,
        Before::Much => {
            for id in 2..=last {
                run(&client, &format!("insert into t values ({id}, repeat('x', 1000000))")).await;
            }
        }
        Before::Open => {
            run(&client, "insert into t values (2)").await;
            run(&other, "begin; insert into t select i, repeat('x', 1000000) from generate_series(3, 61) i")
                .await;
        }
    }
    is_paused(&capture).await;
    let start = Instant::now();
    tokio::task::block_in_place(|| server.stop_in_order());
    let took = start.elapsed();
    println!("{before:?}: pg_ctl stop -m fast took {took:?}");
    until("the notice", async || capture.report().source.state == "reconnecting").await;
    disk.fill(false);
    server.relaunch();
    until("the stream", async || capture.report().source.state == "streaming").await;
    run(&sql(&server).await, "insert into t values (0)").await;
    let told = capture.wait(last as usize + 1).await;
    assert_eq!(ids(&told), (1..=last).chain([0]).collect::<Vec<_>>());
    assert!(gaps(&capture).is_empty());
    capture.stop().await;
    took
}

/// It takes less than a second; without our giving way it has no end.
const MOMENTS: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_shutdown_takes_moments_although_the_journal_is_full() {
    for before in [Before::Little, Before::Much, Before::Large, Before::Open] {
        let took = fast_shutdown(before).await;
        assert!(took < MOMENTS, "{before:?}: {took:?}");
    }
}

/// What a sink lacks may be as long in coming as room in the journal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_shutdown_takes_moments_although_a_sink_stands_still() {
    let (mut server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let journal = open(Options::new(directory.path()), Arc::new(RealDisk)).unwrap();
    let ingest = Ingest::new(journal).required(vec!["sink".to_owned()]);
    let mut capture = Capture::launch_into(ingest, config(&server), &[]);
    capture.status.source(|source| source.required = vec!["sink".to_owned()]);
    capture.streams().await;
    run(&client, "insert into t values (1)").await;
    capture.wait(1).await;
    let start = Instant::now();
    tokio::task::block_in_place(|| server.stop_in_order());
    let took = start.elapsed();
    println!("A sink stands still: pg_ctl stop -m fast took {took:?}");
    assert!(took < MOMENTS, "{took:?}");
    until("the notice", async || capture.report().source.state == "reconnecting").await;
    server.relaunch();
    until("the stream", async || capture.report().source.state == "streaming").await;
    run(&sql(&server).await, "insert into t values (2)").await;
    assert_eq!(capture.briefs(2).await, ["insert public.t 1", "insert public.t 2"]);
    capture.stop().await;
}

/// A table without a key is read in one piece, under a lock. Its rows wait for room on our disk; whoever wants the table
/// for himself does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_not_locked_for_as_long_as_there_is_no_room_for_its_rows() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, disk) = (sql(&server).await, Bounded::default());
    // More than is kept in memory, of which some goes to the disk before all has been read.
    run(&client, "create table t (id int, v text)").await;
    run(&client, "insert into t select i, repeat('x', 1000000) from generate_series(1, 24) i").await;
    let capture = on(&disk, config(&server), &directory).await;
    disk.fill(true);
    let order = Command::Start { tables: vec!["public.t".to_owned()], condition: None };
    // The wish itself needs room.
    let refused = capture.status.ask_for_snapshot(order.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("takes no events now"), "{refused}");
    disk.fill(false);
    until("room", async || capture.report().source.state == "streaming").await;
    capture.status.ask_for_snapshot(order).await.unwrap();
    disk.fill(true);
    is_paused(&capture).await;
    // Each writer, each reader would wait behind this.
    run(&client, "set lock_timeout = '40s'; begin; lock table t in access exclusive mode; commit").await;
    assert!(capture.events().is_empty(), "there was room");
    disk.fill(false);
    until("the rows", async || capture.events().len() >= 24).await;
    let told = capture.wait(24).await;
    let mut ids = ids(&told);
    ids.sort_unstable();
    assert_eq!(ids, (1..=24).collect::<Vec<_>>());
    capture.stop().await;
}

/// Rows that are on their way wait for room, for as long as it takes. Who orders something meanwhile is told so, and what
/// he was told had failed is not done later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_does_not_wait_for_room() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, disk) = (sql(&server).await, Bounded::default());
    run(&client, "create table t (id int primary key, v text)").await;
    run(&client, "insert into t select i, repeat('x', 1000) from generate_series(1, 40000) i").await;
    let capture = on(&disk, config(&server), &directory).await;
    let tables = || vec!["public.t".to_owned()];
    capture.status.ask_for_snapshot(Command::Start { tables: tables(), condition: None }).await.unwrap();
    // From here on nothing but rows is written.
    until("some rows", async || !capture.events().is_empty()).await;
    disk.fill(true);
    is_paused(&capture).await;
    let refused = capture.status.ask_for_snapshot(Command::Cancel(tables())).await.unwrap_err();
    let told = format!("{refused} {:?}", refused.remedy());
    assert!(told.contains("have not arrived") && told.contains("Make room"), "{told}");
    // One stands in the way of the next, which nobody waits for any more when its turn comes.
    let (first, second) = (Command::Pause(tables()), Command::Cancel(tables()));
    let gone =
        async { tokio::time::timeout(Duration::from_secs(1), capture.status.ask_for_snapshot(second)).await };
    let (first, gone) = tokio::join!(capture.status.ask_for_snapshot(first), gone);
    assert!(first.is_err() && gone.is_err());
    disk.fill(false);
    let told = capture.wait(40_000).await;
    let mut ids = ids(&told);
    ids.sort_unstable();
    assert_eq!(ids, (1..=40_000).collect::<Vec<_>>());
    until("the end", async || capture.report().snapshots.is_empty()).await;
    capture.stop().await;
}

/// The server hears of us although nothing is read: what it asks is not heard, so we have to say it by ourselves.
#[tokio::test]
async fn a_full_journal_costs_no_connection() {
    // Something is said each ten seconds; after twenty without a word the server cuts the connection.
    const PATIENCE: Duration = Duration::from_secs(30);
    let server = Server::start("wal_sender_timeout = 20s");
    let (directory, client) = (Directory::new(), sql(&server).await);
    let (capture, disk) = full(&server, config(&server), &directory).await;
    let reader = "select pid from pg_stat_replication";
    let pid = value(&client, reader).await;
    for id in 2..=30 {
        run(&client, &format!("insert into t values ({id}, repeat('x', 1000000))")).await;
    }
    is_paused(&capture).await;
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        assert_eq!(value(&client, reader).await, pid, "after {:?}", start.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    disk.fill(false);
    capture.wait(30).await;
    assert_eq!((value(&client, reader).await, capture.report().source.reconnects), (pid, 0));
    capture.stop().await;
}
