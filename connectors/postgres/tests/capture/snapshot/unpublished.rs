//! A table that is taken out of the publication and put in again while its rows are read.

use super::*;

/// Its first chunk takes so long that this comes before the next.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_so_for_a_moment_is_read_to_its_end() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key); insert into t select generate_series(1, 5000)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let slow = "case when id = 1000 then pg_sleep(5) is not null else true end";
    capture.status.ask_for_snapshot(rows_of_t(Some(slow))).await.unwrap();
    let reading = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    until("the chunk to be read", async || value(&client, reading).await == "1").await;
    // Whoever keeps the publication would put it in again: it waits for the table's name meanwhile.
    let keeper = sql(&server).await;
    run(&client, "alter publication rowcast drop table t").await;
    run(&keeper, "begin; lock table t in share row exclusive mode").await;
    until("the rest to wait", async || is_waiting(&capture, "in none of")).await;
    run(&keeper, "alter publication rowcast add table only t; commit").await;
    read_whole(&capture).await;
    let events = capture.events();
    let read = events.iter().filter(|event| event.op == Op::Read).map(|event| event.new.parse().unwrap());
    assert_eq!(read.collect::<Vec<i32>>(), (1..=5000).collect::<Vec<_>>());
    capture.stop().await;
}
