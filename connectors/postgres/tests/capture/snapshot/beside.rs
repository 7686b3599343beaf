//! What a snapshot leaves alone: the stream beside it, sinks that are far behind, what a publication keeps back.

use std::time::{Duration, Instant};

use rowcast_engine::journal::Options;
use rowcast_engine::snapshots::Command;
use rowcast_postgres::Config;

use super::*;
use crate::capture::harness::version;

/// What rows for the sink a wait for that lacks too much.
const BEHIND: &str = "the sink a is";

async fn ask(capture: &Capture, command: Command) {
    capture.status.ask_for_snapshot(command).await.unwrap();
}

fn reads(events: &[Seen]) -> Vec<String> {
    events.iter().filter(|event| event.op == Op::Read).map(Seen::brief).collect()
}

/// A chunk takes several times what the server waits for a sign of life.
#[tokio::test(flavor = "multi_thread")]
async fn the_stream_neither_waits_for_a_slow_chunk_nor_falls_silent() {
    const CHUNK: Duration = Duration::from_secs(14);
    let server = Server::start("wal_sender_timeout = '4s'");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(
        &client,
        "create table t (id int primary key); insert into t values (1); create table u (id int primary key)",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    ask(&capture, rows_of_t(Some(&format!("pg_sleep({}) is not null", CHUNK.as_secs())))).await;
    let reading = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    until("the chunk to be read", async || value(&client, reading).await == "1").await;
    let (begun, mut inserted) = (Instant::now(), 0);
    // The chunk may end at any time, and its row come: those of the stream alone are counted.
    let told = || capture.events().iter().filter(|event| event.channel == "public.u").count();
    while value(&client, reading).await == "1" {
        inserted += 1;
        run(&client, &format!("insert into u values ({inserted})")).await;
        until("the row", async || told() == inserted).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(begun.elapsed() > CHUNK / 2 && inserted > 10, "{inserted} in {:?}", begun.elapsed());
    read_whole(&capture).await;
    assert_eq!(reads(&capture.events()), ["read public.t 1"]);
    assert_eq!(capture.report().source.reconnects, 0);
    capture.stop().await;
}

/// Half of what the journal may take is enough ahead of a sink that `t` is read for, alone or among all others: `rows` are
/// the events that it is to have. It moves, and is far behind all the same.
async fn rows_wait_for_a_sink(config: impl Fn(&Server) -> Config, rows: impl Fn(&Capture) -> Vec<Seen>) {
    const ROWS: usize = 300_000;
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key, v text); create table u (id int primary key)").await;
    run(&client, &format!("insert into t select i, repeat('x', 300) from generate_series(1, {ROWS}) i"))
        .await;
    let options =
        Options { segment_bytes: 1 << 20, max_size: Some(64 << 20), ..Options::new(directory.path()) };
    let mut capture = Capture::launch_for(config(&server), options, &[("a", Some(5))]);
    capture.streams().await;
    let place = capture.place_of("a");
    capture.journal.hold_above("a", place);
    until("the rows to wait", async || is_waiting(&capture, BEHIND)).await;
    // The chunk that was on its way comes before the second of these.
    for id in 1..=2 {
        streamed(&client, &capture, id).await;
    }
    let before = reads(&rows(&capture)).len();
    assert!((1..ROWS).contains(&before), "{before} rows");
    for id in 3..=7 {
        capture.journal.hold_above("a", place + id);
        streamed(&client, &capture, id).await;
        // It is looked twice a second whether there is room.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(is_waiting(&capture, BEHIND));
    assert_eq!(reads(&rows(&capture)).len(), before);
    let last = format!("read public.t {ROWS},");
    until("the rest", async || {
        capture.journal.hold_above("a", capture.journal.newest());
        capture.report().snapshots.is_empty()
    })
    .await;
    assert!(reads(&rows(&capture)).last().is_some_and(|row| row.starts_with(&last)));
    read_whole(&capture).await;
    capture.stop().await;
}

/// A row that is written now comes, whatever waits.
async fn streamed(client: &Client, capture: &Capture, id: u64) {
    let before = capture.journal.newest();
    run(client, &format!("insert into u values ({id})")).await;
    let row = format!("insert public.u {id}");
    until("the row", async || capture.after(before).iter().any(|event| event.brief() == row)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_wait_for_a_sink_and_the_stream_does_not() {
    rows_wait_for_a_sink(config, |capture| capture.events_for("a")).await;
}

/// Those that all have at the first start, of which the sink lacks as much.
#[tokio::test(flavor = "multi_thread")]
async fn so_do_everybodys_rows() {
    rows_wait_for_a_sink(initial, Capture::events).await;
}

/// It has been stopped, and has the only place there is.
#[tokio::test(flavor = "multi_thread")]
async fn rows_for_others_do_not_wait_for_a_sink_that_stands_still() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key, v text); create table u (id int primary key)").await;
    run(&client, "insert into t select i, repeat('x', 300) from generate_series(1, 300000) i").await;
    let options =
        Options { segment_bytes: 1 << 20, max_size: Some(64 << 20), ..Options::new(directory.path()) };
    let one_at_a_time = Config { snapshot_tables: 1, ..config(&server) };
    let mut capture = Capture::launch_for(one_at_a_time.clone(), options.clone(), &[("a", Some(5))]);
    capture.streams().await;
    let place = capture.place_of("a");
    capture.journal.hold_above("a", place);
    until("the rows to wait", async || is_waiting(&capture, BEHIND)).await;
    capture.stop().await;
    run(&client, "insert into u values (1), (2)").await;
    let both = [("a", Some(5)), ("b", Some(7))];
    let capture = Capture::launch_for(one_at_a_time, options, &both);
    capture.journal.hold_above("a", place);
    capture.journal.hold_idle("a");
    until("the rows of the other sink", async || {
        capture.journal.hold_above("b", capture.journal.newest());
        reads(&capture.events_for("b")).iter().any(|row| row == "read public.u 2")
    })
    .await;
    assert!(is_waiting(&capture, BEHIND));
    // Nor do those of one that is stopped go on without it.
    assert!(reads(&capture.events_for("a")).len() < 300_000);
    until("the rest", async || {
        ["a", "b"].into_iter().for_each(|sink| capture.journal.hold_above(sink, capture.journal.newest()));
        capture.report().snapshots.is_empty()
    })
    .await;
    capture.stop().await;
}

#[tokio::test]
async fn what_a_publication_keeps_back_is_not_read() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    if version(&client).await < 150_000 {
        println!("SKIPPED: before version 15 there are no column lists");
        return;
    }
    let table = "create table t (id int primary key, shown text, \"Hidden\" text)";
    let rows = "insert into t select i, 'v' || i, 'secret' from generate_series(1, 20) i";
    run(&client, &format!("{table}; {rows}")).await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let chosen = "alter publication rowcast drop table t; alter publication rowcast add table only t (id, shown) \
                  where (id < 4 or id > 18)";
    run(&client, &format!("begin; {chosen}; commit")).await;
    ask(&capture, rows_of_t(None)).await;
    let all = ["1,v1", "2,v2", "3,v3", "19,v19", "20,v20"].map(|row| format!("read public.t {row}"));
    until("the rows", async || reads(&capture.events()).len() >= all.len()).await;
    read_whole(&capture).await;
    assert_eq!(reads(&capture.events()), all);
    assert!(capture.events().iter().all(|event| event.columns == "id int4, shown text"));
    // What somebody asks for is asked of what is published alone.
    ask(&capture, rows_of_t(Some("id = 2 or id = 5 or \"Hidden\" = 'secret' and id = 20"))).await;
    until("them again", async || reads(&capture.events()).len() > all.len()).await;
    read_whole(&capture).await;
    assert_eq!(reads(&capture.events())[all.len()..], [all[1].clone(), all[4].clone()]);
    capture.stop().await;
}

/// Of a table that is published by its schema, too, the server sends every row.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_filter_that_counts_for_nothing_keeps_no_row_back() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    if version(&client).await < 150_000 {
        println!("SKIPPED: before version 15 nothing is published by its schema");
        return;
    }
    let table = "create table t (id int primary key); insert into t select generate_series(1, 3)";
    let publication = "create publication rowcast for table t where (id > 2), tables in schema public";
    run(&client, &format!("{table}; {publication}")).await;
    run(&client, "select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await;
    let manual = Config { manage: false, ..config(&server) };
    let capture = Capture::start(manual, directory.path()).await;
    ask(&capture, rows_of_t(None)).await;
    read_whole(&capture).await;
    assert_eq!(reads(&capture.events()), ["read public.t 1", "read public.t 2", "read public.t 3"]);
    capture.stop().await;
}
