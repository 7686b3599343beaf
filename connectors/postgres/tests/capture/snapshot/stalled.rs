//! A connection that reads rows and loses what is said on it: a read may take any time, so it is asked what the server's
//! process does that reads.

use std::time::{Duration, Instant};

use rowcast_postgres::Config;

use super::*;
use crate::capture::stalled::{Lost, Stall};

/// Two silences of ten seconds end the first session; after a minute of such it is a person's.
const TOLD_WITHIN: Duration = Duration::from_secs(180);

const ROWS: usize = 500;

/// Waits until the board says this of the snapshot.
async fn told(capture: &Capture, lost: Lost, words: &str) {
    let start = Instant::now();
    loop {
        let report = capture.report();
        let of_tables = report.snapshots.iter().filter_map(|shown| shown.reason.as_ref());
        if of_tables.chain(&report.reasons).any(|reason| reason.contains(words)) {
            return println!("{lost:?}: {words:?} after {:?}", start.elapsed());
        }
        let snapshots = report.snapshots;
        assert!(start.elapsed() < TOLD_WITHIN, "{words:?} is not in {snapshots:?}, {:?}", report.reasons);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn rows_do_not_arrive(lost: Lost, doing: &str) {
    let server = Server::start("");
    server.admit("host all all all trust");
    let (client, directory) = (sql(&server).await, Directory::new());
    // More than fits between the two.
    let rows = format!(
        "create table t (id int primary key, v text);
         insert into t select i, repeat('x', 30000) from generate_series(1, {ROWS}) i"
    );
    run(&client, &rows).await;
    let stall = Stall::losing(lost, server.address(), "copy (select").await;
    let config = Config { tables: vec!["public.t".to_owned()], ..config(&server) };
    let mut capture = Capture::launch(stall.config(&config), directory.path());
    capture.streams().await;
    capture.status.ask_for_snapshot(rows_of_t(None)).await.unwrap();
    told(&capture, lost, doing).await;
    assert!(capture.report().healthy, "it may pass by itself");
    told(&capture, lost, "do not arrive").await;
    // Which would hold the table's lock, and what vacuum removes, for as long as the proxy stands.
    let reading = "select count(*) from pg_stat_activity where application_name like 'rowcast%' and backend_xmin is not null
                   and pid <> pg_backend_pid()";
    until("the session to be ended", async || value(&client, reading).await == "0").await;
    told(&capture, lost, "has not got on for").await;
    assert!(!capture.report().healthy);
    // Changes come all the while.
    run(&client, "update t set v = 'new' where id = 1").await;
    capture.wait(1).await;
    stall.end();
    read_whole(&capture).await;
    assert!(capture.report().healthy, "{:?}", capture.report().reasons);
    capture.wait(1 + ROWS).await;
    assert_eq!(rebuilt(&capture.events(), "public.t", 2), actual(&client, "t", &["id", "v"]).await);
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_does_not_arrive_is_asked_again() {
    rows_do_not_arrive(Lost::Said, "waits for a question").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_do_not_arrive_are_read_again() {
    rows_do_not_arrive(Lost::Answered, "has rows that nobody takes").await;
}

/// A server that looks for long is no such thing: it is told, and waited for.
#[tokio::test]
async fn a_server_that_takes_its_time_is_waited_for() {
    let server = Server::start("");
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
