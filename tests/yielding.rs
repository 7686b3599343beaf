//! What yields while room runs short, step by step in one run: age, a sink that stands still, capture, and the slot.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::sinks::grow;
use crate::start::{add, standing};
use crate::support::rowcast::{Output, command};
use crate::support::{Database, Kafka, KafkaReader, Postgres, Rowcast, SOON, own_servers, wait_for};

/// Four files of the server's log.
const BUDGET: &str = "64MB";

/// The row behind all gaps.
const LAST: i64 = 5000;

/// Waits until a counter has begun to count.
async fn wait_counted(rowcast: &Rowcast, name: &str) {
    wait_for(name, SOON * 2, async || {
        let found = rowcast.metric(name).await;
        if found >= Some(1.0) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

fn removed(reason: &str) -> String {
    format!("rowcast_journal_segments_removed_total{{reason=\"{reason}\"}}")
}

const LOST: &str = "rowcast_sink_hold_lost_total{sink=\"idle\"}";
const PAUSED: &str = "rowcast_journal_pauses_total{reason=\"max_size\"}";
const GIVEN_UP: &str = "rowcast_source_slots_given_up_total";

/// None of these has happened yet.
async fn not_yet(rowcast: &Rowcast, names: &[&str]) {
    for name in names {
        assert_eq!(rowcast.metric(name).await.unwrap_or(0.0), 0.0, "{name}");
    }
}

pub(crate) async fn wait_delivered(rowcast: &Rowcast, name: &str) {
    wait_for(&format!("{name} to have everything"), SOON * 2, async || {
        let standing = standing(rowcast, name).await;
        let there = standing["state"] == "running" && standing["position"] == standing["newest"];
        if there { Ok(()) } else { Err(standing.to_string()) }
    })
    .await;
}

/// Rows in steps that are smaller than a segment, each delivered before the next: the sink that moves is in nobody's way.
async fn grow_delivered(database: &Database, rowcast: &Rowcast, (from, to): (u32, u32)) {
    for start in (from..to).step_by(50) {
        grow(database, start, start + 49).await;
        wait_for("the rows to be held", SOON, async || {
            let page = rowcast.get("/v1/events?from=last:1&limit=1").await.json();
            if page["events"][0]["after"]["id"] == start + 49 { Ok(()) } else { Err(page.to_string()) }
        })
        .await;
        wait_delivered(rowcast, "kafka").await;
    }
}

/// Waits until the flow is said to be ill for this reason.
async fn wait_said(rowcast: &Rowcast, words: &str) {
    wait_for(words, SOON * 2, async || {
        let told = rowcast.get("/v1/health/flow").await.json()["reasons"].to_string();
        if told.contains(words) { Ok(()) } else { Err(told) }
    })
    .await;
}

async fn done(rowcast: &Rowcast, arguments: &[&str]) -> Output {
    let data = rowcast.data().display().to_string();
    let output = command(&[arguments, &["--data", &data]].concat()).await;
    assert_eq!(output.code, 0, "{arguments:?}: {output:?}");
    output
}

/// Rows by id, and the gaps between them by reason, so many, in the order of their numbers.
async fn delivered(kafka: &Kafka, prefix: &str, wanted: usize) -> Vec<Value> {
    let mut reader = KafkaReader::start(kafka, prefix);
    // What comes again has its number.
    let mut found: BTreeMap<u64, Value> = BTreeMap::new();
    let gaps = |found: &BTreeMap<u64, Value>| -> Vec<Value> {
        found.values().filter(|what| what.is_string()).cloned().collect()
    };
    // The topics come in any order: the newest row is there, and the gaps before it.
    while gaps(&found).len() < wanted || !found.values().any(|what| *what == LAST) {
        let record = reader.next(SOON).await;
        let record =
            record.unwrap_or_else(|| panic!("{:?} up to {:?}", gaps(&found), found.last_key_value()));
        let number = record.headers["rowcast.id"].parse().expect("a number");
        let value = record.value.expect("no tombstone");
        let what = if value["op"] == "gap" { &value["reason"] } else { &value["after"]["id"] };
        found.insert(number, what.clone());
    }
    found.into_values().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn age_a_sink_that_stands_still_capture_and_the_slot_yield_in_this_order() {
    if !own_servers("age_a_sink_that_stands_still_capture_and_the_slot_yield_in_this_order") {
        return;
    }
    let (server, mut kafka) = tokio::join!(Postgres::start(&[]), Kafka::start());
    let database = server.create_database("yields").await;
    database.execute("create table orders (id integer primary key, note text)").await;
    database.execute("create table other (id integer)").await;
    let rowcast = Rowcast::of(&database)
        .kafka(&kafka, "moving")
        .set("journal.segment_size=1MB")
        .set("journal.max_size=4MB")
        .set("journal.retention=3s")
        .set(&format!("source.wal_budget={BUDGET}"));
    let rowcast = add(rowcast, &kafka, "idle", "idle", "earliest").set("sinks.idle.on_gap=continue");
    let mut rowcast = rowcast.start().await;

    // 1: what is old and nobody needs.
    grow_delivered(&database, &rowcast, (1, 200)).await;
    wait_counted(&rowcast, &removed("age")).await;
    not_yet(&rowcast, &[&removed("stalled_sink"), LOST, PAUSED, GIVEN_UP]).await;
    wait_delivered(&rowcast, "idle").await;

    // 2: what only a sink needs that does not move.
    done(&rowcast, &["sink", "pause", "idle"]).await;
    grow_delivered(&database, &rowcast, (201, 800)).await;
    wait_counted(&rowcast, LOST).await;
    assert!(rowcast.metric(&removed("stalled_sink")).await >= Some(1.0));
    assert!(rowcast.log().contains("The sink idle has lost events"), "it is said");
    assert_eq!(rowcast.status().await["source"]["state"], "streaming");
    not_yet(&rowcast, &[PAUSED, GIVEN_UP, "rowcast_sink_hold_lost_total{sink=\"kafka\"}"]).await;

    // 3: a sink moves, or has done so a while ago, and capture waits for it.
    kafka.kill().await;
    grow(&database, 801, 1500).await;
    wait_counted(&rowcast, PAUSED).await;
    wait_said(&rowcast, "the journal is at its max_size (4 MB), and sink kafka still needs").await;
    not_yet(&rowcast, &[GIVEN_UP, "rowcast_sink_hold_lost_total{sink=\"kafka\"}"]).await;
    let newest = standing(&rowcast, "kafka").await["newest"].clone();

    // 4: before the source's disk is full, its slot goes.
    wait_for("the slot to be given up", Duration::from_secs(120), async || {
        database.execute("insert into other select generate_series(1, 1000); select pg_switch_wal()").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let count = rowcast.metric(GIVEN_UP).await;
        if count == Some(1.0) { Ok(()) } else { Err(format!("{count:?}")) }
    })
    .await;
    wait_said(&rowcast, "has given up the replication slot").await;
    assert!(rowcast.log().contains("Changes from here on are lost to the journal"), "it is said");
    assert_eq!(standing(&rowcast, "kafka").await["newest"], newest, "nothing was taken meanwhile");
    not_yet(&rowcast, &["rowcast_sink_hold_lost_total{sink=\"kafka\"}"]).await;

    // And back: the sink that moves has everything up to the gap, the one that stood still is told of two.
    kafka.resume().await;
    wait_counted(&rowcast, "rowcast_source_broken{reason=\"source_lost\"}").await;
    done(&rowcast, &["adopt"]).await;
    database.execute(&format!("insert into orders values ({LAST}, 'the last one')")).await;
    wait_for("the sink to stop at the gap", SOON, async || {
        let standing = standing(&rowcast, "kafka").await;
        let reason = standing["reason"].to_string();
        if standing["state"] == "stopped" && reason.contains("source_lost") { Ok(()) } else { Err(reason) }
    })
    .await;
    done(&rowcast, &["sink", "resume", "kafka"]).await;
    wait_delivered(&rowcast, "kafka").await;
    // So little is still in memory, which retention does not take.
    assert_eq!(rowcast.terminate().await, 0);
    rowcast.resume().await;
    rowcast.wait_streaming().await;
    done(&rowcast, &["sink", "resume", "idle"]).await;
    let moving = delivered(&kafka, "moving", 1).await;
    let rows = moving.len() as i64 - 2;
    assert!((800..1500).contains(&rows), "{rows}");
    let expected = (1..=rows).map(|id| json!(id)).chain([json!("source_lost"), json!(LAST)]);
    assert_eq!(moving, expected.collect::<Vec<_>>());
    let idle = delivered(&kafka, "idle", 2).await;
    let gap = idle.iter().position(|what| *what == "retention").expect("the gap");
    let (before, behind) = (&idle[..gap], &idle[gap + 1..]);
    assert_eq!(before, &moving[..before.len()]);
    assert!(before.len() >= 200 && moving.ends_with(behind) && before.len() + behind.len() < moving.len());
}
