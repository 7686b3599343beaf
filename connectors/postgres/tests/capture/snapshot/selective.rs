//! Conditions that leave most rows out: a chunk ends all the same.

use std::time::{Duration, Instant};

use super::*;

/// More than a second of looking, for a condition that is slow to say no.
const ROWS: usize = 100_000;
const NONE: &str = "(select count(*) from generate_series(1, 300 + id % 2)) = 0";

/// Whoever wants the table for himself gets it between two chunks, and whoever comes behind him does not wait long.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_condition_that_no_row_meets() {
    let server = Server::start("jit = off");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, &format!("create table t (id int primary key, v text); insert into t select i, 'v' from generate_series(1, {ROWS}) i")).await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let whole = Instant::now();
    run(&client, &format!("select count(*) from t where {NONE}")).await;
    let whole = whole.elapsed();
    capture.status.ask_for_snapshot(rows_of_t(Some(NONE))).await.unwrap();
    let mut longest = Duration::ZERO;
    for number in 0..10 {
        let begun = Instant::now();
        run(&client, &format!("alter table t add column c{number} int")).await;
        longest = longest.max(begun.elapsed());
        tokio::time::sleep(whole / 20).await;
    }
    assert!(!capture.report().snapshots.is_empty(), "it has ended in less than {whole:?}");
    assert!(longest < whole / 2, "waited for {longest:?}; the whole table takes {whole:?}");
    read_whole(&capture).await;
    assert_eq!(capture.events().iter().filter(|event| event.op == Op::Read).count(), 0);
    capture.stop().await;
}

/// One row in a thousand, with keys of two columns, forwards and at the end; and what a publication's own filter leaves.
#[tokio::test(flavor = "multi_thread")]
async fn all_rows_that_meet_it_are_read() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(
        &client,
        "create table t (a int, b text, v text, primary key (b, a));
        insert into t select i, 'b' || i % 7, repeat('x', i % 50) from generate_series(1, 30000) i",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let mut before = 0;
    for condition in ["a % 1000 = 0", "b = 'b6' and a > 29000", "t.a = 1", "public.t.a <= 0", "true"] {
        capture.status.ask_for_snapshot(rows_of_t(Some(condition))).await.unwrap();
        read_whole(&capture).await;
        let all: usize =
            value(&client, &format!("select count(*) from t where {condition}")).await.parse().unwrap();
        let events = capture.events();
        let read: std::collections::BTreeSet<&str> =
            events[before..].iter().map(|event| event.new.as_str()).collect();
        assert_eq!((read.len(), events.len() - before), (all, all), "{condition}");
        before = events.len();
    }
    capture.stop().await;
}

/// A table of which nothing is shown has rows all the same.
#[tokio::test(flavor = "multi_thread")]
async fn rows_without_columns() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table nothing (); insert into nothing select from generate_series(1, 3)").await;
    let capture = Capture::start(initial(&server), directory.path()).await;
    read_whole(&capture).await;
    assert_eq!(capture.events().iter().filter(|event| event.op == Op::Read).count(), 3);
    capture.stop().await;
}
