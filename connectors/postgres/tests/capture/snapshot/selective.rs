//! Conditions that leave most rows out: a chunk ends all the same.

use super::*;

/// No row meets it, and every twentieth takes so long to say no, however fast the machine is: 3 s for all of them. A chunk
/// is to take a quarter of a second, so there are at least twelve.
const ROWS: usize = 20_000;
const NONE: &str = "case when id % 20 = 0 then pg_sleep(0.003) is null else false end";

/// Somebody looks at rows of the table.
const LOOKS: &str = "exists (select from pg_stat_activity where wait_event = 'PgSleep')";

/// Whoever wants the table for himself gets it between two chunks, and so does whoever comes behind him.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_condition_that_no_row_meets() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, &format!("create table t (id int primary key, v text); insert into t select i, 'v' from generate_series(1, {ROWS}) i")).await;
    let capture = Capture::start(config(&server), directory.path()).await;
    capture.status.ask_for_snapshot(rows_of_t(Some(NONE))).await.unwrap();
    let goes_on = || !capture.report().snapshots.is_empty();
    let mut between = 0;
    until("the reading to be over", async || {
        // Asked for in the midst of a chunk, so that each is another one's end.
        if value(&client, LOOKS).await == "true" {
            run(&client, "alter table t alter v set default 'w'").await;
            between += usize::from(goes_on());
        }
        !goes_on()
    })
    .await;
    println!("the table was to be had {between} times while it was read");
    // Were it one look over the whole table, there would be the end of that alone.
    assert!(between >= 2, "{between} times");
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
