//! Tables that are given another name while their rows are read.

use rowcast_engine::event::Op;

use super::*;

/// The first chunk, of 2,000 rows, takes so long that a rename waits for it, and comes before the next.
const SLOW: &str = "case when id = 1000 then pg_sleep(8) is not null else true end";

async fn renamed_meanwhile(rename: &str) -> (Server, Directory, Capture) {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(
        &client,
        "create table t (id int primary key); insert into t select generate_series(1, 5000);
         create table t_new (id int primary key); insert into t_new values (10001), (10002), (10003)",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    capture.status.ask_for_snapshot(rows_of_t(Some(SLOW))).await.unwrap();
    let slow = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    until("the chunk to be read", async || value(&client, slow).await == "1").await;
    run(&client, rename).await;
    read_whole(&capture).await;
    (server, directory, capture)
}

fn read(capture: &Capture, channel: &str) -> Vec<i64> {
    let events = capture.events();
    let reads = events.iter().filter(|event| event.op == Op::Read && event.channel == channel);
    reads.map(|event| event.new.parse().unwrap()).collect()
}

/// The one that has the name now is read, from its beginning, and what the other one lacks is told.
#[tokio::test(flavor = "multi_thread")]
async fn another_table_that_takes_the_name_is_read() {
    let swap = "begin; alter table t rename to t_old; alter table t_new rename to t; commit";
    let (_server, _directory, capture) = renamed_meanwhile(swap).await;
    let read = read(&capture, "public.t");
    assert!(read.ends_with(&[10_001, 10_002, 10_003]), "{:?}", read.last());
    assert!(read.len() < 5_000, "the other one was not read to its end");
    let events = capture.events();
    let gaps: Vec<_> = events.iter().filter(|event| event.op == Op::Gap).collect();
    assert_eq!(
        gaps.iter().map(|gap| (&*gap.channel, &*gap.new)).collect::<Vec<_>>(),
        [("public.t_old", "renamed")]
    );
    capture.stop().await;
}

/// What was not read under the old name is told as missing under the new one.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_has_only_another_name_now_leaves_a_gap() {
    let (_server, _directory, capture) = renamed_meanwhile("alter table t rename to t_other").await;
    assert!(read(&capture, "public.t").len() < 5_000);
    let events = capture.events();
    let gap = events.iter().find(|event| event.op == Op::Gap).expect("a gap");
    assert_eq!((gap.channel.as_str(), gap.new.as_str()), ("public.t_other", "renamed"));
    capture.stop().await;
}

/// Nothing of it has been told yet: all of it is, under the name that it has now. So with one without a key.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_for_its_turn_is_read_under_its_new_name() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(
        &client,
        "create table t (id int primary key); insert into t select generate_series(1, 1000);
         create table u (id int primary key); insert into u select generate_series(1, 30);
         create table k (a int); insert into k select generate_series(1, 20)",
    )
    .await;
    let one_at_a_time = rowcast_postgres::Config { snapshot_tables: 1, ..config(&server) };
    let capture = Capture::start(one_at_a_time, directory.path()).await;
    capture.status.ask_for_snapshot(rows_of_t(Some(SLOW))).await.unwrap();
    let slow = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    until("the chunk to be read", async || value(&client, slow).await == "1").await;
    let tables = vec!["public.u".to_owned(), "public.k".to_owned()];
    capture.status.ask_for_snapshot(Command::Start { tables, condition: None }).await.unwrap();
    run(&client, "alter table u rename to u2; alter table k rename to k2").await;
    read_whole(&capture).await;
    assert_eq!(read(&capture, "public.u2"), (1..=30).collect::<Vec<_>>());
    assert_eq!(read(&capture, "public.k2").len(), 20);
    let events = capture.events();
    assert!(
        events
            .iter()
            .all(|event| event.op == Op::Read && !["public.u", "public.k"].contains(&&*event.channel))
    );
    capture.stop().await;
}

/// Two that swap their names while both wait, and three whose names go round: none waits for the other for ever.
#[tokio::test(flavor = "multi_thread")]
async fn those_that_swap_names_are_read_under_their_new_ones() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key); insert into t select generate_series(1, 1000)").await;
    for (table, first) in [("a", 10), ("b", 20), ("x", 30), ("y", 40), ("z", 50)] {
        let rows = format!("create table {table} (id int primary key); insert into {table} values ({first})");
        run(&client, &rows).await;
    }
    let one_at_a_time = rowcast_postgres::Config { snapshot_tables: 1, ..config(&server) };
    let capture = Capture::start(one_at_a_time, directory.path()).await;
    capture.status.ask_for_snapshot(rows_of_t(Some(SLOW))).await.unwrap();
    let slow = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    until("the chunk to be read", async || value(&client, slow).await == "1").await;
    let tables = ["a", "b", "x", "y", "z"].map(|table| format!("public.{table}")).to_vec();
    capture.status.ask_for_snapshot(Command::Start { tables, condition: None }).await.unwrap();
    run(
        &client,
        "begin; alter table a rename to tmp; alter table b rename to a; alter table tmp rename to b; commit;
         begin; alter table x rename to tmp; alter table z rename to x; alter table y rename to z;
         alter table tmp rename to y; commit",
    )
    .await;
    read_whole(&capture).await;
    let rows = ["a", "b", "x", "y", "z"].map(|table| read(&capture, &format!("public.{table}")));
    assert_eq!(rows, [[20], [10], [50], [30], [40]]);
    assert!(capture.events().iter().all(|event| event.op == Op::Read));
    assert!(capture.status.dropped_tables().is_empty(), "{:?}", capture.status.dropped_tables());
    capture.stop().await;
}

/// Likewise where both are being read just then, and wait for their tables.
#[tokio::test(flavor = "multi_thread")]
async fn those_that_swap_names_while_they_are_read() {
    let server = Server::start("");
    let (client, other) = (sql(&server).await, sql(&server).await);
    let directory = Directory::new();
    run(
        &client,
        "create table a (id int primary key); insert into a values (10);
         create table b (id int primary key); insert into b values (20)",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&other, "begin; lock table a, b in access exclusive mode").await;
    let tables = vec!["public.a".to_owned(), "public.b".to_owned()];
    capture.status.ask_for_snapshot(Command::Start { tables, condition: None }).await.unwrap();
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%access share%'";
    until("both to wait", async || value(&client, waiting).await == "2").await;
    run(
        &other,
        "alter table a rename to tmp; alter table b rename to a; alter table tmp rename to b; commit",
    )
    .await;
    read_whole(&capture).await;
    assert_eq!([read(&capture, "public.a"), read(&capture, "public.b")], [[20], [10]]);
    capture.stop().await;
}
