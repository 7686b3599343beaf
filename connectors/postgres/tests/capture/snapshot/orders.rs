//! What a person orders: a pause that outlasts a restart, and an end.

use std::time::Duration;

use rowcast_engine::snapshots::{Command, State};

use super::*;

fn table() -> Vec<String> {
    vec!["public.t".to_owned()]
}

async fn ask(capture: &Capture, command: Command) {
    assert_eq!(capture.status.ask_for_snapshot(command).await.unwrap().tables, table());
}

fn reads(capture: &Capture) -> usize {
    capture.events().iter().filter(|event| event.op == Op::Read).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlasts_a_restart_and_a_cancel_ends_it() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key); insert into t select generate_series(1, 100)").await;
    // Its rows are read while nobody holds that lock. (While the table is locked, nothing can be ordered from 16 on.)
    let condition = "pg_advisory_xact_lock_shared(7) is not null".to_owned();
    let start = || rows_of_t(Some(&condition));
    let (lock, unlock) = ("select pg_advisory_lock(7)", "select pg_advisory_unlock(7)");
    let capture = Capture::start(config(&server), directory.path()).await;
    let locker = sql(&server).await;
    run(&locker, lock).await;
    ask(&capture, start()).await;
    ask(&capture, Command::Pause(table())).await;
    until("it to be paused", async || {
        capture.report().snapshots.iter().any(|shown| shown.state == State::Paused)
    })
    .await;
    capture.stop().await;
    run(&locker, unlock).await;
    let capture = Capture::start(config(&server), directory.path()).await;
    until("it to be paused", async || {
        capture.report().snapshots.iter().any(|shown| shown.state == State::Paused)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(reads(&capture), 0);
    ask(&capture, Command::Resume(table())).await;
    read_whole(&capture).await;
    assert_eq!((reads(&capture), capture.status.read_tables()["public.t"]), (100, 100));

    run(&locker, lock).await;
    ask(&capture, start()).await;
    ask(&capture, Command::Cancel(table())).await;
    run(&locker, unlock).await;
    read_whole(&capture).await;
    run(&client, "insert into t values (1000)").await;
    until("the row", async || capture.events().len() == 101).await;
    assert_eq!(reads(&capture), 100);
    assert!(capture.status.read_tables().is_empty());
    let unknown = capture.status.ask_for_snapshot(Command::Cancel(table())).await.unwrap_err();
    assert!(unknown.to_string().contains("No unfinished snapshot matches"), "{unknown}");
    capture.stop().await;
}

/// A chunk may take an hour. The server does not go on with it when nobody is there any more to take it.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_chunk_ends_with_the_one_who_reads_it() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key); insert into t values (1)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    ask(&capture, rows_of_t(Some("pg_sleep(3600) is not null"))).await;
    let slow = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    until("the chunk to be read", async || value(&client, slow).await == "1").await;
    capture.crash().await;
    until("the server to end it", async || value(&client, slow).await == "0").await;
}

/// Whoever gives it up does not wait for it, nor does whoever orders something else.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_chunk_is_given_up_at_once() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key); insert into t values (1)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let slow = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    let start = rows_of_t(Some("pg_sleep(3600) is not null"));
    let (resume, cancel) = (Command::Resume(table()), Command::Cancel(table()));
    for (begin, order) in [(start, Command::Pause(table())), (resume, cancel)] {
        ask(&capture, begin).await;
        until("the chunk to be read", async || value(&client, slow).await == "1").await;
        tokio::time::timeout(Duration::from_secs(20), ask(&capture, order)).await.unwrap();
        until("the server to end it", async || value(&client, slow).await == "0").await;
    }
    read_whole(&capture).await;
    assert_eq!(capture.events().len(), 0);
    ask(&capture, rows_of_t(None)).await;
    read_whole(&capture).await;
    assert_eq!(reads(&capture), 1);
    capture.stop().await;
}

/// Who has a table for itself keeps nobody waiting for ever: neither whoever asks, nor sessions that nobody hears any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_somebody_has_for_himself_is_not_waited_for() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key); insert into t values (1)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let locker = sql(&server).await;
    run(&locker, "begin; lock table public.t in access exclusive mode").await;
    let start = rows_of_t(None);
    if let Err(error) = capture.status.ask_for_snapshot(start.clone()).await {
        // From 16 on.
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("pg_stat_activity")), "{error}");
        run(&locker, "commit").await;
        assert_eq!(capture.status.ask_for_snapshot(start).await.unwrap().tables, table());
    } else {
        run(&locker, "commit").await;
    }
    read_whole(&capture).await;
    assert_eq!(reads(&capture), 1);
    capture.stop().await;
}
