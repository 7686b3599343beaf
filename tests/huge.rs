//! A transaction far larger than memory, while everybody else goes on as if it were not there.
//!
//! `make test-huge` does it with 5,000,000 rows, and shows the figures.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::ndjson::{Ndjson, page};
use crate::support::rowcast::command;
use crate::support::{Postgres, Rowcast, SOON, http, own_servers, soon, wait_for};

/// Enough to be written in several parts: some 70 MB, four times what may stay in memory.
const ROWS: u64 = 600_000;

/// However large the transaction is.
const RESIDENT_MAX_KB: u64 = 150 << 10;

/// What a transaction may add to it: 16 MB of one that has no file yet, its parts on their way to the disk and to the
/// readers; two at a time, twice that. Less than all of it would be, which is 70 MB, or 140.
const GROWTH_MAX_KB: u64 = 60 << 10;

/// Nobody waits so long for anything but the server. It takes milliseconds (`make bench-huge`), but a disk may be busy with
/// other things: half of the time that the transaction takes is allowed as well.
const STALL: Duration = Duration::from_secs(3);

/// Nor do half of them wait so long, which take two; on a disk that is busy, five times what they take without a huge one.
const HALF_MAX: Duration = Duration::from_millis(100);
const TIMES_MAX: u32 = 5;

/// Between two custom events.
const PAUSE: Duration = Duration::from_millis(4);

/// A server of the test's own where there may be one: slots of others wait for what is open here, and their walsenders read
/// all of it.
async fn server(own: &mut Option<Postgres>) -> &Postgres {
    if own_servers("huge, on its own server") {
        return own.insert(Postgres::start(&[]).await);
    }
    Postgres::shared().await
}

fn rows() -> u64 {
    std::env::var("ROWCAST_TEST_HUGE_ROWS").map_or(ROWS, |rows| rows.parse().expect("a number"))
}

/// Custom events published one after the other: what each was answered with, when it was begun, and how long that took.
type Published = Vec<(u64, Instant, Duration)>;

async fn keep_publishing(address: std::net::SocketAddr, stop: Arc<AtomicBool>) -> Published {
    let mut published = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let answer = soon("an answer", http::post(address, "/v1/channels/custom.event/events", "1")).await;
        let answer = answer.expect("rowcast listens");
        assert_eq!(answer.status, 201, "{}", answer.text());
        published.push((answer.json()["id"].as_u64().expect("a number"), start, start.elapsed()));
        tokio::time::sleep(PAUSE).await;
    }
    published
}

/// The next event; what else a door says is passed over.
async fn next_event(stream: &mut Ndjson) -> Value {
    loop {
        let line = stream.expect("an event").await;
        if line["op"].is_string() {
            return line;
        }
    }
}

/// The highest resident memory so far, in kB.
fn resident_max(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

/// Of a process that took so much `before` in kB.
fn stays_flat(rowcast: &Rowcast, before: u64) {
    let resident = resident_max(rowcast.pid().expect("it runs"));
    println!("at most {} MB resident, {} before", resident >> 10, before >> 10);
    let grown = resident - before;
    assert!(resident < RESIDENT_MAX_KB && grown < GROWTH_MAX_KB, "{resident} kB resident, {before} before");
}

/// How long the answers took.
fn answers(published: &[(u64, Instant, Duration)]) -> Vec<Duration> {
    published.iter().map(|(_, _, time)| *time).collect()
}

fn sorted(times: &[Duration]) -> Vec<Duration> {
    let mut times = times.to_vec();
    times.sort();
    times
}

/// For people: p50, p99, the longest.
fn show(what: &str, times: &[Duration]) {
    let times = sorted(times);
    let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1)));
    println!("{what}: {} times, p50 {:?}, p99 {:?}, max {:?}", times.len(), at(50), at(99), times.last());
}

fn half_of(times: &[Duration]) -> Duration {
    sorted(times)[times.len() / 2]
}

/// Small ones, each of which is seen before the next is made: what that took.
async fn insert_small(
    client: &tokio_postgres::Client,
    live: &mut Ndjson,
    ids: RangeInclusive<i32>,
) -> Vec<Duration> {
    let mut waits = Vec::new();
    for id in ids {
        let start = Instant::now();
        client.execute("insert into small values ($1)", &[&id]).await.unwrap();
        assert_eq!(next_event(live).await["after"]["id"], id);
        waits.push(start.elapsed());
    }
    waits
}

/// On a busy machine half of them take a few milliseconds, and some wait for the disk, or for a processor.
fn nobody_waited(
    [to_answer, to_client, inserts]: &[Vec<Duration>; 3],
    alone: Duration,
    after: &[Duration],
    took: Duration,
) {
    show("While it is written, publish to answer", to_answer);
    show("While it is written, publish to client", to_client);
    for times in [to_answer, to_client, inserts] {
        assert!(half_of(times) < HALF_MAX.max(alone * TIMES_MAX), "half of them wait longer");
    }
    let all = to_answer.iter().chain(to_client).chain(inserts).chain(after);
    let longest = all.max().unwrap();
    assert!(*longest < STALL.max(took / 2), "somebody waited {longest:?} of {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_huge_transaction_and_memory_stays_flat() {
    let mut own = None;
    let database = server(&mut own).await.create_database("huge").await;
    database
        .execute(
            "create table big (id integer primary key, v text); create table small (id integer primary key)",
        )
        .await;
    let mut rowcast = Rowcast::of(&database).start().await;
    let path = "/v1/events?channel=public.small&channel=custom.event";
    let mut live = Ndjson::open(rowcast.address(), path).await.unwrap();
    live.expect("open").await;
    let (one, two) = (database.client().await, database.client().await);
    let alone = insert_small(&two, &mut live, 1..=50).await;
    let rows = rows();
    let insert = format!("insert into big select i, md5(i::text) from generate_series(1, {rows}) i");
    one.batch_execute(&format!("begin; {insert}; insert into small values (0)")).await.unwrap();

    let waits = insert_small(&two, &mut live, 51..=100).await;
    show("Without it, insert to client", &alone);
    show("While it is open, insert to client", &waits);

    let stop = Arc::new(AtomicBool::new(false));
    let address = rowcast.address();
    let publisher = tokio::spawn(keep_publishing(address, Arc::clone(&stop)));
    let before = resident_max(rowcast.pid().expect("it runs"));
    one.batch_execute("commit").await.unwrap();
    let (committed, mut seen) = (Instant::now(), Vec::new());
    let last = loop {
        let event = next_event(&mut live).await;
        if event["op"] != "message" {
            break event;
        }
        seen.push((event["id"].as_u64().unwrap(), Instant::now()));
    };
    let took = committed.elapsed();
    // What comes right after it is taken in is to be seen too.
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let published = publisher.await.unwrap();
    let tx = &last["tx"];
    assert_eq!((&last["after"]["id"], &tx["seq"], &tx["last"]), (&json!(0), &json!(rows), &json!(true)));

    // They have their numbers and were seen while it was written, before all of it.
    let first = last["id"].as_u64().unwrap() - rows;
    let during: Vec<_> = published.iter().copied().take_while(|(id, ..)| *id < first).collect();
    let after: Vec<_> = published.iter().copied().skip(during.len()).collect();
    assert!(during.len() > 20, "{} published while it was written", during.len());
    assert!(seen.iter().map(|(id, _)| id).eq(during.iter().map(|(id, ..)| id)), "each was seen, in order");
    assert!(after.iter().all(|(id, ..)| *id > last["id"].as_u64().unwrap()), "none lies within it");
    let to_client: Vec<_> =
        during.iter().zip(&seen).map(|((_, start, _), (_, seen))| seen.duration_since(*start)).collect();
    let around = during.len().saturating_sub(3)..(during.len() + 3).min(published.len());
    show("Around its taking in", &answers(&published[around]));
    show("Afterwards", &answers(&after));
    let meanwhile = [answers(&during), to_client, waits];
    nobody_waited(&meanwhile, half_of(&alone), &answers(&after), took);

    println!("{rows} rows visible {took:?} after their commit");
    stays_flat(&rowcast, before);
    wait_for("the spill to be counted", SOON, async || {
        match rowcast.metric("rowcast_source_spilled_transactions_total").await {
            Some(1.0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(rowcast.terminate().await, 0);
    let data = rowcast.data().display().to_string();
    let output = command(&["journal", "check", "--data", &data]).await;
    assert_eq!(output.code, 0, "{output:?}");
}

/// Sent while it is written: two in turns, with savepoints that are rolled back, so that neither file can stay as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_flat_when_huge_ones_are_sent_before_they_commit() {
    const PARTS: u64 = 10;
    let mut own = None;
    let database = server(&mut own).await.create_database("huge_parts").await;
    database
        .execute("create table one (id integer primary key, v text); create table two (id integer, v text)")
        .await;
    // So that the server sends both in pieces.
    let settings = format!("alter database \"{}\" set logical_decoding_work_mem = '1MB'", database.name());
    database.execute(&settings).await;
    let mut rowcast = Rowcast::of(&database).set("source.streaming=on").start().await;
    let (one, two) = (database.client().await, database.client().await);
    let rows = rows() / PARTS;
    let fill = |table: &str, from: u64| {
        let (from, to) = (from + 1, from + rows);
        format!("insert into {table} select i, md5(i::text) from generate_series({from}, {to}) i")
    };
    let before = resident_max(rowcast.pid().expect("it runs"));
    one.batch_execute("begin").await.unwrap();
    two.batch_execute("begin").await.unwrap();
    for part in 0..PARTS {
        one.batch_execute(&fill("one", part * rows)).await.unwrap();
        let undone = format!("savepoint s; {}; rollback to s; {}", fill("two", 0), fill("two", part * rows));
        two.batch_execute(&undone).await.unwrap();
    }
    one.batch_execute("commit").await.unwrap();
    two.batch_execute("commit; insert into two values (0)").await.unwrap();
    let address = rowcast.address();
    let events = async |query: &str| Ok::<_, String>(page(address, query).await?["events"].clone());
    let ends = wait_for("both and what follows", SOON * 10, async || {
        let ends = events("/v1/events?channel=public.two&from=last:2").await?;
        if ends[1]["after"]["id"] == 0 { Ok(ends) } else { Err(ends.to_string()) }
    })
    .await;
    let status = rowcast.status().await;
    assert_eq!(status["source"]["reconnects"], 0, "{status}");
    let streamed = "rowcast_source_streamed_transactions_total";
    assert_eq!(rowcast.metric(streamed).await, Some(2.0), "both were sent before they committed");
    println!("two of {} rows in turns", rows * PARTS);
    stays_flat(&rowcast, before);

    // All of each, in one piece, and nothing of what was rolled back.
    let total = rows * PARTS;
    let is_end = |event: &Value| {
        let tx = &event["tx"];
        (&event["after"]["id"], &tx["seq"], &tx["last"]) == (&json!(total), &json!(total - 1), &json!(true))
    };
    assert!(is_end(&ends[0]), "{ends}");
    let begin = events("/v1/events?channel=public.two&from=earliest&limit=1").await.unwrap()[0].clone();
    assert_eq!((&begin["after"]["id"], &begin["tx"]["seq"]), (&json!(1), &json!(0)), "{begin}");
    let before = begin["id"].as_u64().unwrap() - 10;
    let before = events(&format!("/v1/events?channel=public.one&from={before}&limit=10")).await.unwrap();
    assert!(before.as_array().unwrap().last().is_some_and(is_end), "{before}");
    assert_eq!(rowcast.terminate().await, 0);
    let data = rowcast.data().display().to_string();
    let output = command(&["journal", "check", "--data", &data]).await;
    assert_eq!(output.code, 0, "{output:?}");
}

/// Few rows, and large: what is kept in memory is counted in bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_flat_when_rows_are_large() {
    const ROWS: u64 = 150;
    let mut own = None;
    let database = server(&mut own).await.create_database("huge_rows").await;
    database.execute("create table wide (id integer primary key, v text); alter table wide alter v set storage external").await;
    for streaming in ["off", "on"] {
        let settings =
            format!("alter database \"{}\" set logical_decoding_work_mem = '1MB'", database.name());
        database.execute(&settings).await;
        let slot = format!("source.slot={}_{streaming}", database.name());
        let mut rowcast =
            Rowcast::of(&database).set(&format!("source.streaming={streaming}")).set(&slot).start().await;
        let before = resident_max(rowcast.pid().expect("it runs"));
        let rows = format!("select i, repeat(chr(97 + i % 26), 1000000) from generate_series(1, {ROWS}) i");
        database.execute(&format!("truncate wide; insert into wide {rows}")).await;
        let address = rowcast.address();
        wait_for("the rows", SOON * 10, async || {
            let page = page(address, "/v1/events?channel=public.wide&from=last:1").await?;
            let last = &page["events"][0];
            let is_last = (&last["after"]["id"], &last["tx"]["last"]) == (&json!(ROWS), &json!(true));
            if is_last { Ok(()) } else { Err(last["tx"].to_string()) }
        })
        .await;
        println!("{ROWS} rows of a megabyte, streaming = {streaming}");
        stays_flat(&rowcast, before);
        assert_eq!(rowcast.terminate().await, 0);
    }
}
