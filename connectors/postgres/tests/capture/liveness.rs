//! The server knows that we are there, we know whether it is, and whoever looks is told what does not move.

use std::process::Command;
use std::time::{Duration, Instant};

use rowcast_postgres::Config;
use rowcast_postgres::conninfo::Conninfo;
use rowcast_postgres::wire::{Connection, Purpose};

use super::harness::{Capture, Directory, config, run, sql, until, value};
use super::measured::counted;
use crate::support::Server;
use crate::support::proxy::Proxy;

/// A server with such patience, whose stream goes through a network that can break.
pub(super) async fn through_a_proxy(settings: &str) -> (Server, Proxy, Config) {
    let server = Server::start(settings);
    server.admit("host all all all trust");
    run(&sql(&server).await, "create table t (id int primary key, v text)").await;
    let proxy = Proxy::start(server.address()).await;
    let port = proxy.address().port();
    // The network has to see from the first words what a connection is for.
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres?connect_timeout=2&sslmode=disable");
    let config = Config { url, ..config(&server) };
    (server, proxy, config)
}

/// The server asks by itself after half of its patience; we say it before. (What is said where nothing is read, and so
/// no question heard: `full.rs`.)
#[tokio::test]
async fn a_status_comes_before_the_server_asks() {
    let (server, directory) = (Server::start("wal_sender_timeout = 60s"), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let pid = value(&client, "select pid from pg_stat_replication").await;
    let age = "select extract(epoch from clock_timestamp() - reply_time) from pg_stat_replication";
    until("the first status", async || value(&client, age).await != "NULL").await;
    let (start, mut latest) = (Instant::now(), 0.0_f64);
    // An idle server, which would ask after 30 s. What the start has left in its log is confirmed within the first 20 s.
    while start.elapsed() < Duration::from_secs(40) {
        latest = latest.max(value(&client, age).await.parse().unwrap());
        assert!(capture.report().healthy, "{:?}", capture.report().reasons);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("The oldest status was {latest} s old");
    assert!(latest < 25.0, "{latest} s, in place of 10");
    assert_eq!(value(&client, "select pid from pg_stat_replication").await, pid);
    assert_eq!(capture.report().source.reconnects, 0);
    capture.stop().await;
}

/// How long a fast shutdown takes of a server with such patience, whose log goes on behind what is captured.
async fn fast_shutdown(patience: &str) -> Duration {
    let (mut server, _proxy, config) = through_a_proxy(&format!("wal_sender_timeout = '{patience}'")).await;
    let (directory, client) = (Directory::new(), sql(&server).await);
    run(&client, "create table other (id int)").await;
    let config = Config { tables: vec!["public.t".to_owned()], ..config };
    let capture = Capture::start(config, directory.path()).await;
    run(&client, "insert into t values (1); insert into other values (1)").await;
    capture.wait(1).await;
    let start = Instant::now();
    tokio::task::block_in_place(|| server.stop_in_order());
    let took = start.elapsed();
    println!("wal_sender_timeout = {patience}: pg_ctl stop -m fast took {took:?}");
    assert!(took < Duration::from_secs(10), "{patience}: {took:?}");
    until("the notice", async || capture.report().source.state == "reconnecting").await;
    capture.stop().await;
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_shutdown_takes_moments_whatever_the_servers_patience() {
    for patience in ["30s", "60s", "0"] {
        let mut tries = Vec::new();
        for _ in 0..3 {
            tries.push(fast_shutdown(patience).await);
        }
        // A machine that is busy for a moment is not so most of the time.
        tries.sort();
        assert!(tries[1] < Duration::from_secs(2), "wal_sender_timeout = {patience}: {tries:?}");
    }
}

/// A peer that takes nothing: the kernel's buffers fill up, then a status cannot be sent.
#[tokio::test]
async fn a_server_that_takes_no_status_is_given_up() {
    let (_server, proxy, config) = through_a_proxy("wal_sender_timeout = 0").await;
    let mut connection =
        Connection::connect(&Conninfo::parse(&config.url).unwrap(), Purpose::Replication).await.unwrap();
    connection.simple_query("CREATE PUBLICATION p").await.unwrap();
    connection
        .simple_query("CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT")
        .await
        .unwrap();
    let start = "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')";
    let mut stream = connection.start_replication(start).await.unwrap();
    proxy.stall_to_server();
    let nowhere = rowcast_engine::Lsn::ZERO;
    let (error, took) = loop {
        let start = Instant::now();
        if let Err(error) = stream.send_status(nowhere, nowhere, nowhere, false).await {
            break (error, start.elapsed());
        }
    };
    assert_eq!(error.kind(), rowcast_engine::Kind::Transient);
    assert!(error.to_string().contains("the server takes no status"), "{error}");
    assert!(took >= Duration::from_secs(9) && took < Duration::from_secs(15), "{took:?}");
}

#[tokio::test]
async fn a_walsender_that_stands_still_is_told_and_then_left() {
    let (server, directory) = (Server::start("wal_sender_timeout = 4s"), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let pid = value(&client, "select pid from pg_stat_replication").await;
    let signal =
        |signal: &str| assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    signal("-STOP");
    let lost = || counted("rowcast_source_reconnects_total");
    let before = lost();
    until("the silence to be told", async || {
        let report = capture.report();
        report.source.state == "streaming"
            && report.reasons.iter().any(|reason| reason.contains("silent for"))
    })
    .await;
    assert!(capture.gauge("silence_seconds") >= 4.0, "{}", capture.gauge("silence_seconds"));
    assert_eq!(lost(), before);
    until("the end of patience", async || {
        let report = capture.report();
        report.source.reason.is_some_and(|reason| reason.contains("Nothing came from the server for 8 s"))
    })
    .await;
    run(&client, "insert into t values (1)").await;
    assert!(!capture.report().healthy);
    signal("-CONT");
    capture.wait(1).await;
    until("health", async || capture.report().healthy).await;
    until("the end of the silence", async || capture.gauge("silence_seconds") < 4.0).await;
    let reconnects = capture.report().source.reconnects;
    assert!(reconnects >= 1 && lost() - before == reconnects, "{before}, {}, {reconnects}", lost());
    capture.stop().await;
}

/// What the client says does not arrive, what the server says does: nothing but the slot shows it.
#[tokio::test]
async fn confirmations_that_do_not_arrive_are_told() {
    let (server, proxy, config) = through_a_proxy("wal_sender_timeout = 0").await;
    let (directory, client) = (Directory::new(), sql(&server).await);
    let capture = Capture::start(config, directory.path()).await;
    proxy.only_streams();
    proxy.stall_to_server();
    let (start, mut rows) = (Instant::now(), 0);
    let told = loop {
        rows += 1;
        run(&client, &format!("insert into t values ({rows})")).await;
        let report = capture.report();
        assert_eq!(report.source.state, "streaming", "{:?}", report.reasons);
        if !report.healthy {
            break report.reasons.join("; ");
        }
        assert!(start.elapsed() < Duration::from_secs(90), "nobody says it");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    println!("After {:?}: {told}", start.elapsed());
    assert!(told.contains("streaming, but the server does not take what it is told"), "{told}");
    assert!(start.elapsed() > Duration::from_secs(30), "too early");
    assert_eq!(capture.gauge("stuck"), 1.0);
    // Nothing is confirmed, so the slot keeps the catalog's rows of before the first of these transactions.
    let age = "select age(catalog_xmin) from pg_replication_slots where slot_name = 'rowcast'";
    let real: f64 = value(&client, age).await.parse().unwrap();
    assert!(real >= rows as f64, "{real} for {rows} rows");
    until("the age to be seen", async || capture.gauge("slot_catalog_xmin_age") >= rows as f64).await;
    capture.wait(rows).await;
    proxy.mend();
    until("health", async || capture.report().healthy).await;
    assert_eq!(capture.gauge("stuck"), 0.0);
    assert_eq!(capture.report().source.reconnects, 0);
    capture.stop().await;
}

/// What the server says does not arrive: its log goes on, and the stream does not.
#[tokio::test]
async fn a_stream_that_stands_still_while_the_log_goes_on_is_told() {
    let (server, proxy, config) = through_a_proxy("wal_sender_timeout = 30s").await;
    let (directory, client) = (Directory::new(), sql(&server).await);
    let capture = Capture::start(config, directory.path()).await;
    run(&client, "insert into t values (1)").await;
    capture.wait(1).await;
    proxy.only_streams();
    proxy.stall_to_client();
    run(&client, "insert into t values (2)").await;
    let start = Instant::now();
    let mut stuck = None;
    while stuck.is_none() {
        let report = capture.report();
        assert_eq!(report.source.state, "streaming", "{:?}", report.reasons);
        stuck = report.source.stuck;
        assert!(start.elapsed() < Duration::from_secs(55), "nobody says it");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (stuck, report) = (stuck.unwrap(), capture.report());
    println!("After {:?}: {stuck}; {:?}", start.elapsed(), report.reasons);
    assert!(stuck.contains("nothing beyond") && stuck.contains("gone on to"), "{stuck}");
    assert!(!report.healthy && report.source.lag_bytes > 0, "{report:?}");
    assert!(report.reasons[0].contains("silent for"), "{:?}", report.reasons);
    let lag = capture.gauge("lag_bytes");
    assert!(lag >= report.source.lag_bytes as f64 && capture.gauge("stuck") == 1.0, "{lag} for {report:?}");
    proxy.mend();
    capture.wait(2).await;
    until("health", async || capture.report().healthy).await;
    assert_eq!(capture.gauge("stuck"), 0.0);
    until("the lag to shrink", async || capture.gauge("lag_bytes") < lag).await;
    assert_eq!(capture.report().source.reconnects, 0);
    capture.stop().await;
}
