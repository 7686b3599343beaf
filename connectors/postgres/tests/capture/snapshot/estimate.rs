//! How many rows a table is thought to have: how far a snapshot has come is told by it.

use super::load::progress;
use super::*;
use crate::capture::interceptor::Interceptor;

/// Nested partitions, one of them never filled and never analyzed.
const TABLE: &str = "
create table t (id int primary key) partition by range (id);
create table t_low partition of t for values from (0) to (3000) with (autovacuum_enabled = off);
create table t_high partition of t for values from (3000) to (100000) partition by range (id);
create table t_high_a partition of t_high for values from (3000) to (6000) with (autovacuum_enabled = off);
create table t_high_b partition of t_high for values from (6000) to (7000) with (autovacuum_enabled = off);
insert into t select generate_series(0, 5999)";

/// What is told of the table when its first chunk has been read, of 2,000 rows.
async fn estimate(way: &Interceptor, client: &Client, capture: &Capture) -> u64 {
    way.hold();
    way.pass_stream();
    capture.status.ask_for_snapshot(rows_of_t(None)).await.unwrap();
    let before = way.chunks();
    until("the first chunk to be read", async || way.chunks() > before).await;
    way.pass_chunk();
    until("the first chunk to be noted", async || {
        caught_up(client, capture).await;
        progress(&capture.journal) == Some((2000, 0))
    })
    .await;
    let job: serde_json::Value =
        serde_json::from_slice(&capture.journal.note_named("snapshot public.t").unwrap()).unwrap();
    way.pass_all_chunks();
    read_whole(capture).await;
    job["progress"]["estimate"].as_u64().unwrap()
}

/// What is told of some rows of a table whose statistics are known.
#[tokio::test(flavor = "multi_thread")]
async fn of_rows_that_meet_a_condition_those_are_counted() {
    let server = Server::start("jit = off");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(
        &client,
        "create table t (id int primary key); insert into t select generate_series(1, 100000); analyze t",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "select pg_advisory_lock(7)").await;
    let held = "id <= 4100 and (id < 4000 or pg_advisory_xact_lock_shared(7) is not null)";
    capture.status.ask_for_snapshot(rows_of_t(Some(held))).await.unwrap();
    let shown = async || capture.report().snapshots.first().cloned().unwrap_or_default();
    until("the first chunk", async || shown().await.rows >= 2000).await;
    let estimate = shown().await.estimate;
    run(&client, "select pg_advisory_unlock(7)").await;
    read_whole(&capture).await;
    assert!((2000..20_000).contains(&estimate), "{estimate} of 4100, and the table has 100000");
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_partitioned_table_each_row_is_counted_once() {
    let server = Server::start("jit = off");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, TABLE).await;
    let way = Interceptor::start(&server).await;
    let capture = Capture::start(way.config(), directory.path()).await;
    let by_size = estimate(&way, &client, &capture).await;
    assert!((3000..15_000).contains(&by_size), "nothing is known but how large it is: {by_size}");
    run(&client, "analyze t_low").await;
    assert_eq!(estimate(&way, &client, &capture).await, 3000, "one partition is known");
    run(&client, "analyze t").await;
    assert_eq!(value(&client, "select reltuples from pg_class where relname = 't'").await, "6000");
    assert_eq!(estimate(&way, &client, &capture).await, 6000);
    // Of partitions that are filled anew nothing is known; of what they were together it is.
    run(&client, "truncate t; insert into t select generate_series(0, 5999)").await;
    assert_eq!(
        value(
            &client,
            "select max(reltuples) from pg_class where relname in ('t_low', 't_high_a', 't_high_b')"
        )
        .await,
        "-1"
    );
    assert_eq!(estimate(&way, &client, &capture).await, 6000);
    capture.stop().await;
}
