//! A key that stands in another order than when reading began: behind its cursor rows would be missing.

use super::load::progress;
use super::*;

/// Tables, what changes their keys' order between two chunks, and how many rows they have.
const CASES: [(&str, &str); 4] = [
    ("create table t (id int primary key, v text); insert into t select i, 'v' from generate_series(1, 9000) i", "alter table t alter column id type text"),
    ("create table t (id text collate \"C\" primary key, v text);
      insert into t select case when i % 2 = 0 then 'a' else 'B' end || lpad(i::text, 5, '0'), 'v' from generate_series(1, 9000) i",
     "alter table t alter column id type text collate \"und-x-icu\""),
    ("create type word as enum ('one', 'two', 'three'); create table t (id word, n int, v text, primary key (id, n));
      insert into t select w, i, 'v' from generate_series(1, 3000) i, unnest(enum_range(null::word)) w",
     "alter type word rename value 'one' to 'first'"),
    ("create table t (id text not null, v text); create unique index plain on t (id); create unique index by_pattern on t (id text_pattern_ops);
      alter table t replica identity using index by_pattern;
      insert into t select case when i % 2 = 0 then 'a' else 'B' end || lpad(i::text, 5, '0'), 'v' from generate_series(1, 9000) i",
     "alter table t replica identity using index plain"),
];

async fn begins_anew(table: &str, change: &str, condition: Option<&str>) {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, table).await;
    let way = Interceptor::start(&server).await;
    let capture = Capture::start(way.config(), directory.path()).await;
    way.hold();
    way.pass_stream();
    capture.status.ask_for_snapshot(rows_of_t(condition)).await.unwrap();
    pause_behind_a_chunk(&way, &client, &capture).await;
    run(&client, change).await;
    capture.status.ask_for_snapshot(Command::Resume(vec!["public.t".to_owned()])).await.unwrap();
    read_whole(&capture).await;
    let dropped = capture.status.dropped_tables();
    assert!(dropped.is_empty(), "{change}: {dropped:?}");
    let events = capture.events();
    let read: Vec<&str> =
        events.iter().filter(|event| event.op == Op::Read).map(|event| event.new.as_str()).collect();
    assert_eq!(read.len(), 2000 + 9000, "{change}");
    let behind: std::collections::BTreeSet<&str> = read[2000..].iter().copied().collect();
    assert_eq!(behind.len(), 9000, "{change}");
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_is_read_from_its_first_row_again() {
    for (table, change) in CASES {
        begins_anew(table, change, None).await;
    }
    // All rows meet it, and it is not to blame for the cursor.
    begins_anew(CASES[2].0, CASES[2].1, Some("v <> ''")).await;
}

/// Rows for more than two chunks, however large the second one is.
const LARGE: &str =
    "create type word as enum ('one', 'two', 'three'); create table t (id word, n int, primary key (id, n));
    insert into t select w, i from generate_series(1, 30000) i, unnest(enum_range(null::word)) w";
const LARGE_ROWS: usize = 90_000;

/// The chunk before is noted, and its reader has not heard so: what is noted next must come behind it.
async fn changes_while_a_chunk_is_on_its_way(change: &str) -> Vec<Seen> {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, other) = (sql(&server).await, sql(&server).await);
    run(&client, LARGE).await;
    run(&client, "alter table t replica identity full").await;
    let way = Interceptor::start(&server).await;
    let capture = Capture::start(way.config(), directory.path()).await;
    way.hold();
    way.pass_stream();
    capture.status.ask_for_snapshot(rows_of_t(None)).await.unwrap();
    until("a chunk to be read", async || way.chunks() == 1).await;
    way.pass_chunk();
    until("the next one to be read", async || way.chunks() == 2).await;
    // The third one waits for the table, and the second is written meanwhile.
    run(&other, "begin; lock table t").await;
    way.pass_all_chunks();
    until("the second chunk to be noted", async || {
        caught_up(&client, &capture).await;
        progress(&capture.journal).is_some_and(|(rows, _)| rows > 2000)
    })
    .await;
    run(&other, &format!("{change}; commit")).await;
    read_whole(&capture).await;
    assert!(capture.status.dropped_tables().is_empty(), "{change}");
    let events = capture.events();
    capture.stop().await;
    events.into_iter().filter(|event| event.op == Op::Read).collect()
}

fn different(read: &[Seen]) -> usize {
    read.iter().map(|event| event.new.as_str()).collect::<std::collections::BTreeSet<_>>().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_on_its_way_comes_first() {
    let read = changes_while_a_chunk_is_on_its_way("alter type word rename value 'one' to 'first'").await;
    // It begins anew.
    let before = read.len() - LARGE_ROWS;
    assert!(before > 2000, "{before}");
    assert_eq!(different(&read[before..]), LARGE_ROWS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_lost_while_a_chunk_is_on_its_way() {
    let read = changes_while_a_chunk_is_on_its_way("alter table t drop constraint t_pkey").await;
    // Read in one piece, but for what has been told.
    assert_eq!((read.len(), different(&read)), (LARGE_ROWS, LARGE_ROWS));
}
