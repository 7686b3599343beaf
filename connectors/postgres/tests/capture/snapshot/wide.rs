//! Rows that wait to be read again, and are larger together than a chunk may be.

use super::load::{equal_to_the_table, progress};
use super::*;
use crate::capture::interceptor::Interceptor;

/// 80 MB, and a chunk has at most 32.
const TABLE: &str = "create table t (id int primary key, v text, big text);
    alter table t alter big set storage external;
    insert into t select i, 'v', repeat(i || ' ', 200000 / length(i || ' ')) from generate_series(1, 400) i";

#[tokio::test(flavor = "multi_thread")]
async fn large_rows_that_wait_are_read_a_few_at_a_time() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, TABLE).await;
    let way = Interceptor::start(&server).await;
    way.hold();
    way.pass_stream();
    let capture = Capture::start(way.config(), directory.path()).await;
    // No event of it has the large values. It commits in the midst of the reading.
    let other = sql(&server).await;
    run(&other, "begin; update t set id = id + 1000").await;
    capture.status.ask_for_snapshot(rows_of_t(None)).await.unwrap();
    until("the first chunk", async || way.chunks() == 1).await;
    way.pass_chunk();
    until("the next one", async || way.chunks() == 2).await;
    run(&other, "commit").await;
    caught_up(&client, &capture).await;
    way.pass_all_chunks();
    let mut waiting = 0;
    until("all rows to wait", async || {
        waiting = waiting.max(progress(&capture.journal).map_or(0, |(_, keys)| keys));
        waiting == 400
    })
    .await;
    read_whole(&capture).await;
    caught_up(&client, &capture).await;
    equal_to_the_table(&client, &capture.events()).await;
    capture.stop().await;
}

/// A chunk of one row takes it however large it is; the one behind it, which shows that there are more, is not held.
#[tokio::test(flavor = "multi_thread")]
async fn rows_each_of_which_is_as_large_as_a_chunk_are_read_one_by_one() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(
        &client,
        "create table t (id int primary key, v text, big text); alter table t alter big set storage external;
         insert into t select i, 'v', repeat('x', case when i % 5 = 0 then 1 when i = 7 then 40 << 20 else 20 << 20 end)
         from generate_series(1, 9) i",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    capture.status.ask_for_snapshot(rows_of_t(None)).await.unwrap();
    read_whole(&capture).await;
    let reads = capture.events().iter().filter(|event| event.op == Op::Read).count();
    assert_eq!(reads, 9);
    equal_to_the_table(&client, &capture.events()).await;
    capture.stop().await;
}
