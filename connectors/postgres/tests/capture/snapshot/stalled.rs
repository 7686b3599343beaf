//! A connection that reads rows and loses what is said on it: a read may take any time, so it is asked what the server's
//! process does that reads.

use std::time::Duration;

use rowcast_engine::snapshots::State;
use rowcast_postgres::Config;

use super::*;
use crate::capture::stalled::{self, Lost, Stall};

/// Two silences of ten seconds end the first session; after a minute of such it is a person's.
const TOLD_WITHIN: Duration = Duration::from_secs(180);

const ROWS: usize = 500;

/// With a key few large rows, without one many: it is told how far those have come before any of them is written.
fn table(key: &str) -> String {
    let (rows, width) = if key.is_empty() { (30_000, 400) } else { (ROWS, 30_000) };
    format!(
        "create table t (id int {key}, v text); alter table t replica identity full;
         insert into t select i, repeat('x', {width}) from generate_series(1, {rows}) i"
    )
}

/// Waits until the board says this of the snapshot.
async fn told(capture: &Capture, lost: Lost, words: &str) {
    stalled::told(capture, words, &format!("{lost:?}"), TOLD_WITHIN).await;
}

/// Sessions that hold a snapshot, which vacuum has to heed, and the lock of a table.
const READING: &str = "select count(*) from pg_stat_activity
    where application_name like 'rowcast%' and backend_xmin is not null and pid <> pg_backend_pid()";

/// A table of more than fits between the two, and a capture by way of a network that loses what is said of it.
async fn held_up(lost: Lost, key: &str) -> (Server, Client, Directory, Stall, Capture) {
    let server = Server::start("");
    server.admit("host all all all trust");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, &table(key)).await;
    let stall = Stall::losing(lost, server.address(), "copy (select").await;
    let config = Config { tables: vec!["public.t".to_owned()], ..config(&server) };
    let mut capture = Capture::launch(stall.config(&config), directory.path());
    capture.streams().await;
    capture.status.ask_for_snapshot(rows_of_t(None)).await.unwrap();
    (server, client, directory, stall, capture)
}

async fn rows_do_not_arrive(lost: Lost, key: &str, doing: &str) {
    let (_server, client, _directory, stall, capture) = held_up(lost, key).await;
    told(&capture, lost, doing).await;
    assert!(capture.report().healthy, "it may pass by itself");
    let before = stall.open();
    told(&capture, lost, "do not arrive").await;
    until("the session to be ended", async || value(&client, READING).await == "0").await;
    told(&capture, lost, "has not got on for").await;
    assert!(!capture.report().healthy);
    let open = stall.open();
    assert!(open <= before + 1, "each attempt keeps a connection: {before}, then {open}");
    // Changes come all the while.
    run(&client, "update t set v = 'new' where id = 1").await;
    capture.wait(1).await;
    stall.end();
    read_whole(&capture).await;
    assert!(capture.report().healthy, "{:?}", capture.report().reasons);
    let rows: usize = value(&client, "select count(*) from t").await.parse().unwrap();
    assert_eq!(capture.status.read_tables()["public.t"], rows as u64 - u64::from(key.is_empty()));
    if !key.is_empty() {
        capture.wait(1 + ROWS).await;
        assert_eq!(rebuilt(&capture.events(), "public.t", 2), actual(&client, "t", &["id", "v"]).await);
    }
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_does_not_arrive_is_asked_again() {
    rows_do_not_arrive(Lost::Said, "primary key", "waits for a question").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_do_not_arrive_are_read_again() {
    rows_do_not_arrive(Lost::Answered, "primary key", "has rows that nobody takes").await;
}

/// Some of it came each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_are_those_of_a_table_without_a_key() {
    rows_do_not_arrive(Lost::Answered, "", "has rows that nobody takes").await;
}

/// Whoever does not want it any more leaves nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_ends_the_session_that_is_held_up() {
    let (_server, client, _directory, stall, capture) = held_up(Lost::Said, "primary key").await;
    told(&capture, Lost::Said, "waits for a question").await;
    let table = || vec!["public.t".to_owned()];
    capture.status.ask_for_snapshot(Command::Pause(table())).await.unwrap();
    until("the session to be ended", async || value(&client, READING).await == "0").await;
    assert!(capture.report().snapshots[0].state == State::Paused && capture.report().healthy);
    stall.end();
    capture.status.ask_for_snapshot(Command::Resume(table())).await.unwrap();
    read_whole(&capture).await;
    capture.wait(ROWS).await;
    capture.stop().await;
}

/// A server that looks for long is no such thing: it is told, and waited for. Where its activities are hidden, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_its_time_is_waited_for() {
    for hidden in ["", "track_activities = off"] {
        let server = Server::start(hidden);
        let (client, directory) = (sql(&server).await, Directory::new());
        run(&client, "create table t (id int primary key, v text); insert into t values (1, 'a')").await;
        let capture = Capture::start(config(&server), directory.path()).await;
        let slow = "pg_sleep(25) is not null";
        capture.status.ask_for_snapshot(rows_of_t(Some(slow))).await.unwrap();
        told(&capture, Lost::Answered, "looks for it (Timeout PgSleep)").await;
        read_whole(&capture).await;
        assert_eq!(capture.wait(1).await[0].brief(), "read public.t 1,a");
        let report = capture.report();
        assert!(report.healthy && report.source.reconnects == 0, "{:?}", report.reasons);
        capture.stop().await;
    }
}

/// Sessions that change to another role are not told when they began; nor is who may not look at all.
#[tokio::test]
async fn who_is_told_nothing_of_its_own_session_reads_all_the_same() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table t (id int primary key); insert into t values (1);
         create role owner nologin replication; create role v login replication in role owner;
         alter role v set role = 'owner'; grant select on t to owner; grant usage on schema public to owner;
         create publication rowcast for table t",
    )
    .await;
    run(&client, "select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await;
    server.admit("local all all trust\nlocal replication all trust");
    let url = server.admin().replace("user=postgres", "user=v");
    let config = Config { url, manage: false, ..initial(&server) };
    let capture = Capture::start(config.clone(), directory.path()).await;
    read_whole(&capture).await;
    assert_eq!(capture.wait(1).await[0].brief(), "read public.t 1");
    run(&client, "revoke select on pg_stat_activity from public").await;
    capture.status.ask_for_snapshot(rows_of_t(None)).await.unwrap();
    until("the rows", async || capture.status.read_tables().contains_key("public.t")).await;
    capture.wait(2).await;
    capture.stop().await;
}
