//! Positions: what is confirmed, and what happens after a break.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rowcast_engine::Lsn;
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{Options, open};
use rowcast_postgres::Config;
use tokio_postgres::Client;

use super::breaks::make_anew;
use super::harness::{
    Capture, Directory, SENDS_NO_EMPTY, config, confirmed, run, sql, until, value, version,
};
use super::interceptor::Interceptor;
use crate::support::Server;

#[tokio::test]
async fn what_is_durable_is_confirmed_and_idle_databases_advance() {
    let (server, directory) = (Server::start("wal_sender_timeout = 4s"), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key); create table other (id int)").await;
    let config = Config { tables: vec!["public.t".to_owned()], ..config(&server) };
    let capture = Capture::start(config, directory.path()).await;
    run(&client, "insert into t values (1)").await;
    let event = capture.wait(1).await.remove(0);
    until("the confirmation", async || confirmed(&client).await >= event.end_lsn).await;

    // Nothing of this is published; the slot must not hold it back all the same.
    run(&client, "insert into other select generate_series(1, 1000)").await;
    let behind: Lsn = value(&client, "select pg_current_wal_lsn()").await.parse().unwrap();
    until("the idle position", async || confirmed(&client).await >= behind).await;
    assert!(capture.journal.position().lsn >= behind, "confirmed and not stored");
    assert_eq!(capture.events().len(), 1);
    let source = capture.report().source;
    assert!(source.confirmed_lsn >= event.end_lsn && source.received_lsn >= event.end_lsn);
    assert_eq!(source.reconnects, 0);
    run(&client, "insert into t values (2)").await;
    let last = capture.wait(2).await.remove(1);
    let stored = capture.journal.position().lsn;
    capture.stop().await;
    // By the last status: nobody is there any more to send another.
    until("the last confirmation", async || confirmed(&client).await >= last.end_lsn).await;

    let capture = Capture::start(super::harness::config(&server), directory.path()).await;
    assert!(capture.journal.position().lsn >= stored);
    capture.stop().await;
}

/// A crash has to come sooner than a confirmation, of which there is one a second.
const TRIES: i32 = 20;

/// What the server repeats is compared with the journal, which has nothing of a table that was not captured then. That is
/// no other history.
#[tokio::test]
async fn more_tables_may_be_wanted_between_a_crash_and_the_next_start() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table a (id int primary key); create table b (id int primary key)").await;
    // Somebody's own: both are sent.
    run(&client, "create publication rowcast for all tables").await;
    let of = |tables: &[&str]| {
        let tables = tables.iter().map(ToString::to_string).collect();
        Config { tables, ..config(&server) }
    };
    let (mut id, mut unconfirmed) = (0, false);
    while !unconfirmed && id < TRIES {
        id += 1;
        let capture = Capture::start(of(&["public.a"]), directory.path()).await;
        run(&client, &format!("insert into b values ({id}); insert into a values ({id})")).await;
        run(&client, &format!("insert into b values ({id} + 1000)")).await;
        run(&client, &format!("insert into a values ({id} + 1000)")).await;
        let newest = capture.wait(2 * id as usize).await.pop().unwrap();
        capture.crash().await;
        unconfirmed = confirmed(&client).await < newest.end_lsn;
    }
    assert!(unconfirmed, "every crash came after a confirmation");
    let before = 2 * id as usize;
    let capture = Capture::start(of(&["public.a", "public.b"]), directory.path()).await;
    run(&client, "insert into b values (0)").await;
    assert_eq!(capture.briefs(before + 1).await[before], "insert public.b 0");
    capture.stop().await;
    // From there on it must be there again.
    let capture = Capture::start(of(&["public.a", "public.b"]), directory.path()).await;
    let position = capture.journal.position();
    assert!(position.captured_since < position.lsn && position.captured_since > Lsn::ZERO, "{position:?}");
    capture.stop().await;
}

/// While the server sends again what the journal has, it is told how much of that has come.
#[tokio::test]
async fn what_is_repeated_is_counted_as_long_as_it_goes_on() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let way = Interceptor::start(&server).await;
    // A sink that never has anything keeps all of it from being confirmed.
    let journal = open(Options::new(directory.path()), Arc::new(RealDisk)).unwrap();
    let ingest = Ingest::new(journal).required(vec!["sink".to_owned()]);
    let mut capture = Capture::launch_into(ingest, config(&server), &[]);
    capture.streams().await;
    for id in 0..5 {
        run(&client, &format!("insert into t values ({id})")).await;
    }
    capture.wait(5).await;
    capture.crash().await;
    way.hold_behind(b'C');
    let capture = Capture::start(way.config(), directory.path()).await;
    until("the first to be repeated", async || capture.gauge("repeated_transactions") >= 1.0).await;
    assert!(capture.gauge("repeated_transactions") < 5.0, "{}", capture.gauge("repeated_transactions"));
    way.pass_stream();
    until("the end of it", async || capture.gauge("repeated_transactions") == 0.0).await;
    run(&client, "insert into t values (5)").await;
    capture.wait(6).await;
    all_once(&capture, 6);
    assert_eq!(capture.report().source.reconnects, 0);
    capture.stop().await;
}

/// Rows of one statement share positions; those of a COPY as well.
async fn insert_groups(client: &Client, from: u32) {
    for group in 0..20 {
        let start = from + group * 100;
        let sql = format!("insert into t select g from generate_series({start}, {}) g", start + 99);
        run(client, &sql).await;
    }
}

fn all_once(capture: &Capture, count: usize) {
    let events = capture.events();
    let mut rows: Vec<u32> = events.iter().map(|event| event.new.parse().unwrap()).collect();
    assert!(events.windows(2).all(|pair| pair[0].id < pair[1].id));
    assert!(rows.windows(2).all(|pair| pair[0] < pair[1]), "out of order or twice");
    rows.dedup();
    assert_eq!(rows.len(), count);
}

#[tokio::test]
async fn a_walsender_that_is_killed_repeats_nothing() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let mut dying = 0_i32;
    for round in 0..5 {
        insert_groups(&client, round * 2000).await;
        // Not the one that is dying still.
        let killed = "select pid, pg_terminate_backend(pid) from pg_stat_replication
                      where state = 'streaming' and pid <> $1";
        until("a stream to kill", async || {
            let found = client.query_opt(killed, &[&dying]).await.unwrap();
            found.map(|row| dying = row.get(0)).is_some()
        })
        .await;
    }
    insert_groups(&client, 10_000).await;
    capture.wait(12_000).await;
    all_once(&capture, 12_000);
    assert!(capture.report().source.reconnects >= 5, "{:?}", capture.report().source);
    capture.stop().await;
}

#[tokio::test]
async fn a_crash_at_any_moment_repeats_nothing() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    capture.crash().await;
    for round in 0..6_u32 {
        // Slower than a confirmation: the server remembers an older position than the journal.
        let capture = Capture::start(config(&server), directory.path()).await;
        insert_groups(&client, round * 2000).await;
        if round % 2 == 0 {
            capture.wait(usize::try_from(round + 1).unwrap() * 2000).await;
        }
        capture.crash().await;
    }
    let capture = Capture::start(config(&server), directory.path()).await;
    capture.wait(12_000).await;
    all_once(&capture, 12_000);
    capture.stop().await;
}

#[tokio::test]
async fn another_history_is_noticed() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into t values (1)").await;
    capture.wait(1).await;
    capture.stop().await;

    // The slot is made anew by hand: what came between is lost.
    run(&client, "select pg_drop_replication_slot('rowcast'); insert into t values (2)").await;
    let capture = Capture::launch(config(&server), directory.path());
    capture.waits("is gone").await;
    assert_eq!(capture.briefs(1).await, ["insert public.t 1"]);
    capture.stop().await;
    make_anew(&client).await;
    let capture = Capture::launch(config(&server), directory.path());
    capture.waits("beyond the journal's position").await;
    capture.stop().await;

    // Another installation, and the same one after its directory was lost.
    let elsewhere = Directory::new();
    let error = Capture::launch(config(&server), elsewhere.path()).fails().await;
    assert!(error.to_string().contains("belongs to another installation"), "{error}");

    // Adopted: a gap, and it goes on.
    run(&client, "insert into t values (3)").await;
    let capture = Capture::start(Config { adopt: true, ..config(&server) }, directory.path()).await;
    assert_eq!(capture.briefs(3).await, ["insert public.t 1", "gap slot_recreated", "insert public.t 3"]);
    capture.stop().await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into t values (4)").await;
    capture.wait(4).await;
    capture.stop().await;

    // Taken over by the other one: the first one is told.
    let other = Capture::start(Config { adopt: true, ..config(&server) }, elsewhere.path()).await;
    run(&client, "insert into t values (5)").await;
    assert_eq!(other.briefs(2).await, ["gap taken_over", "insert public.t 5"]);
    other.stop().await;
    let capture = Capture::launch(config(&server), directory.path());
    capture.waits("another installation").await;
    capture.stop().await;

    // A slot that is gone is made again.
    run(&client, "select pg_drop_replication_slot('rowcast')").await;
    let other = Capture::start(Config { adopt: true, ..config(&server) }, elsewhere.path()).await;
    run(&client, "insert into t values (6)").await;
    assert_eq!(other.briefs(4).await[2..], ["gap source_lost", "insert public.t 6"]);
    other.stop().await;
}

#[tokio::test]
async fn another_cluster_is_refused() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    Capture::start(config(&server), directory.path()).await.stop().await;
    let other = Server::start("");
    let capture = Capture::launch(config(&other), directory.path());
    capture.waits("another database cluster").await;
    let client = sql(&other).await;
    let touched = "select count(*) from pg_namespace where nspname = 'rowcast'";
    assert_eq!(value(&client, touched).await, "0", "the wrong server was changed");
    capture.stop().await;
}

#[tokio::test]
async fn a_slot_in_use_is_waited_for_and_then_named() {
    let (server, directory, elsewhere) = (Server::start(""), Directory::new(), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let holder = Capture::start(config(&server), directory.path()).await;
    run(&client, "delete from rowcast.installation").await;
    let started = Instant::now();
    let error = Capture::launch(config(&server), elsewhere.path()).fails().await;
    assert!(started.elapsed() >= Duration::from_secs(10), "given up too early");
    let text = error.to_string();
    assert!(text.contains("is being read by process") && text.contains("application rowcast"), "{text}");
    assert!(error.remedy().unwrap().contains("pg_terminate_backend"));
    holder.stop().await;
}

#[tokio::test]
async fn a_slot_that_vanishes_makes_capture_wait() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into t values (1)").await;
    capture.wait(1).await;
    until("the slot's end", async || {
        let dropped = "select pg_terminate_backend(active_pid), pg_drop_replication_slot(slot_name)
                       from pg_replication_slots where slot_name = 'rowcast'";
        client.execute(dropped, &[]).await.is_ok_and(|slots| slots == 1)
    })
    .await;
    capture.waits("is gone").await;
    capture.stop().await;
}

#[tokio::test]
async fn a_fast_shutdown_of_the_server_does_not_wait_for_us() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key); create table other (id int)").await;
    let config = Config { tables: vec!["public.t".to_owned()], ..config(&server) };
    let capture = Capture::start(config, directory.path()).await;
    run(&client, "insert into t values (1)").await;
    capture.wait(1).await;
    run(&client, "insert into other values (1)").await;

    let pid_file = server.dir().join("postmaster.pid");
    let content = std::fs::read_to_string(&pid_file).unwrap();
    let started = Instant::now();
    assert!(Command::new("kill").args(["-INT", content.lines().next().unwrap()]).status().unwrap().success());
    until("the server's end", async || !pid_file.exists()).await;
    // A tenth of a second; where it waited for us it would be its patience, a minute.
    assert!(started.elapsed() < Duration::from_secs(10), "it took {:?}", started.elapsed());
    until("the notice", async || capture.report().source.state == "reconnecting").await;
    let report = capture.report();
    assert!(!report.healthy && report.source.reason.is_some());
    capture.stop().await;
}

#[tokio::test]
async fn a_huge_transaction_that_is_cut_or_repeated_is_there_once() {
    const ROWS: usize = 250_000;
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key, v text)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let path = directory.path().to_owned();
    let spills = || {
        let files = std::fs::read_dir(&path).unwrap().flatten();
        files.filter(|file| file.file_name().to_string_lossy().starts_with("spill")).count()
    };
    run(&client, &format!("insert into t select g, repeat('x', 150) from generate_series(1, {ROWS}) g"))
        .await;
    until("a file of its own", async || spills() > 0).await;
    let killed = "select pg_terminate_backend(pid) from pg_stat_replication";
    client.execute(killed, &[]).await.unwrap();

    until("the transaction", async || capture.journal.summary().newest_commit > 0).await;
    assert_eq!((capture.report().source.reconnects, spills()), (1, 0));
    // Too soon for the confirmation: the server repeats all of it.
    capture.crash().await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let newest = capture.journal.newest();
    run(&client, "insert into t values (0, 'after')").await;
    until("the row after it", async || capture.journal.newest() > newest).await;
    let events = capture.wait(ROWS + 1).await;
    assert!(events[..ROWS].iter().zip(0..).all(|(event, seq)| event.seq == seq));
    // 14 sends what other transactions leave of themselves, too: nothing of ours.
    let (before, is_next) = (events[ROWS].previous_end, version(&client).await >= SENDS_NO_EMPTY);
    assert!(if is_next { before == events[0].end_lsn } else { before >= events[0].end_lsn });
    capture.stop().await;
}
