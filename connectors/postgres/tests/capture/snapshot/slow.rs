//! How long a chunk takes decides how many rows the next one has.

use super::*;

const ROWS: usize = 10_000;

/// How many chunks it takes to look at all rows with a condition that none meets.
async fn chunks(capture: &Capture, way: &Interceptor, condition: &str) -> usize {
    let before = way.chunks();
    capture.status.ask_for_snapshot(rows_of_t(Some(condition))).await.unwrap();
    read_whole(capture).await;
    way.chunks() - before
}

/// Rows that take long are read in more chunks: none holds a lock, and what vacuum removes, for long.
#[tokio::test(flavor = "multi_thread")]
async fn slow_rows_come_in_smaller_chunks() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    let fill = format!(
        "create table t (id int primary key); insert into t select generate_series(1, {ROWS}); analyze t"
    );
    run(&client, &fill).await;
    let way = Interceptor::start(&server).await;
    let capture = Capture::start(way.config(), directory.path()).await;
    let fast = chunks(&capture, &way, "id < 0").await;
    // A thousand of these take a second and more, on any machine: no chunk but the first has more. (What takes less may be
    // taken for the way to the server on a busy one.)
    let slow =
        chunks(&capture, &way, "case when id % 10 = 0 then pg_sleep(0.01) is null else false end").await;
    assert!(fast >= 1 && slow >= ROWS / 1_000 - 1, "{fast} chunks, and {slow} of slow rows");
    assert!(slow > fast, "{fast} chunks, and {slow} of slow rows");
    capture.stop().await;
}

/// How far vacuum gets in a table that nothing is read of: the oldest transaction that somebody may still not see.
async fn oldest(client: &Client) -> u64 {
    client.batch_execute("vacuum (freeze) public.other").await.unwrap();
    let oldest = "select relfrozenxid::text from pg_class where relname = 'other'";
    value(client, oldest).await.parse().unwrap()
}

/// However long it takes, a reading has each chunk's own view of the database: rows that die meanwhile can be removed.
#[tokio::test(flavor = "multi_thread")]
async fn vacuum_gets_on_while_a_table_is_read() {
    let server = Server::start("autovacuum = off");
    let (client, directory) = (sql(&server).await, Directory::new());
    let fill = format!(
        "create table t (id int primary key); insert into t select generate_series(1, {ROWS});
         create table other (id int primary key); analyze t"
    );
    run(&client, &fill).await;
    let capture = Capture::start(config(&server), directory.path()).await;
    // Twenty seconds in all.
    let slow = "case when id % 10 = 0 then pg_sleep(0.02) is null else false end";
    capture.status.ask_for_snapshot(rows_of_t(Some(slow))).await.unwrap();
    let reading =
        "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and backend_xmin is not null";
    for round in 0..3 {
        // A view that is older than this transaction is held now.
        until("a chunk to be read", async || value(&client, reading).await == "1").await;
        run(&client, &format!("begin; insert into other values ({round})")).await;
        let now: u64 = value(&client, "select pg_current_xact_id()").await.parse().unwrap();
        run(&client, "commit").await;
        until("vacuum to get beyond it", async || oldest(&client).await > now).await;
        assert!(!capture.report().snapshots.is_empty(), "only when all of it was read");
    }
    read_whole(&capture).await;
    assert_eq!(capture.report().source.reconnects, 0);
    capture.stop().await;
}
