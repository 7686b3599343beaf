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

/// The one that has the name now is read, from its beginning.
#[tokio::test(flavor = "multi_thread")]
async fn another_table_that_takes_the_name_is_read() {
    let swap = "begin; alter table t rename to t_old; alter table t_new rename to t; commit";
    let (_server, _directory, capture) = renamed_meanwhile(swap).await;
    let read = read(&capture, "public.t");
    assert!(read.ends_with(&[10_001, 10_002, 10_003]), "{:?}", read.last());
    assert!(read.len() < 5_000, "the other one was not read to its end");
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
