//! `source.confirm`: what a lost data directory costs, and that nothing hangs on a sink that stands still.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::slot::wait_metric;
use crate::support::ndjson::page;
use crate::support::postgres::Stop;
use crate::support::rowcast::{Output, command};
use crate::support::{Database, Kafka, KafkaReader, Postgres, Rowcast, SOON, own_servers, wait_for};

async fn sink(rowcast: &Rowcast, wish: &str) {
    let data = rowcast.data().display().to_string();
    let output = command(&["sink", wish, "kafka", "--data", &data]).await;
    assert_eq!(output.code, 0, "{wish}: {output:?}");
}

/// Inserts rows, a transaction each, and waits until the journal has them.
pub(crate) async fn insert(database: &Database, rowcast: &Rowcast, rows: std::ops::RangeInclusive<u64>) {
    let last = *rows.end();
    for row in rows {
        database.execute(&format!("insert into t values ({row})")).await;
    }
    wait_for("the rows to be held", SOON, async || {
        let page = page(rowcast.address(), "/v1/events?from=earliest&limit=1000").await?;
        let events = page["events"].as_array().ok_or("no events")?;
        if events.iter().any(|event| event["after"]["id"] == last) { Ok(()) } else { Err(page.to_string()) }
    })
    .await;
}

/// Up to where the server may forget.
pub(crate) async fn confirmed(database: &Database) -> u64 {
    lsn(
        database,
        &format!(
            "select confirmed_flush_lsn from pg_replication_slots where slot_name = '{}'",
            database.name()
        ),
    )
    .await
}

/// Waits until the server may forget up to this position.
async fn wait_confirmed(database: &Database, position: u64) {
    wait_for("the position to be confirmed", SOON, async || {
        let confirmed = confirmed(database).await;
        if confirmed >= position { Ok(()) } else { Err(format!("{confirmed} of {position}")) }
    })
    .await;
}

/// The server is not told that it may forget what lies at this position, for several times as long as it takes to be told.
async fn is_kept(database: &Database, position: u64, otherwise: &str) {
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(confirmed(database).await < position, "{otherwise}");
}

pub(crate) async fn lsn(database: &Database, sql: &str) -> u64 {
    let sql = format!("select (({sql}) - '0/0'::pg_lsn)::bigint");
    let lsn: i64 = database.client().await.query_one(&sql, &[]).await.unwrap().get(0);
    u64::try_from(lsn).unwrap()
}

pub(crate) async fn wait_position(rowcast: &Rowcast) {
    wait_for("Kafka to have everything", SOON, async || {
        let status = rowcast.status().await;
        let (door, newest) = (&status["doors"]["kafka"], &status["journal"]["newest"]);
        if door["position"] == *newest { Ok(()) } else { Err(door.to_string()) }
    })
    .await;
}

/// What lies on the topics once row `last` is there: rows, each once, and the reasons of gaps.
async fn delivered(kafka: &Kafka, prefix: &str, last: u64) -> (BTreeSet<u64>, Vec<Value>) {
    let mut reader = KafkaReader::start(kafka, prefix);
    let (mut rows, mut gaps) = (BTreeSet::new(), Vec::new());
    while !rows.contains(&last) || gaps.is_empty() {
        let record =
            reader.next(SOON).await.unwrap_or_else(|| panic!("row {last} and a gap, not {rows:?}, {gaps:?}"));
        if record.topic == format!("{prefix}.rowcast") {
            gaps.push(record.value.expect("a value")["reason"].clone());
        } else {
            rows.insert(record.key["id"].as_u64().expect("a row"));
        }
    }
    (rows, gaps)
}

/// Rows 1 to 3 are in Kafka, 4 to 6 in the journal alone. Then the data directory is lost; it goes on with row 7.
/// Gives what Kafka has in the end.
async fn lose_the_disk(confirm: &str) -> (BTreeSet<u64>, Vec<Value>) {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix(&format!("lost_{confirm}"));
    let database = Postgres::shared().await.create_database(&format!("lost_{confirm}")).await;
    database.execute("create table t (id integer primary key)").await;
    let confirm = format!("source.confirm={confirm}");
    let mut rowcast =
        Rowcast::of(&database).kafka(kafka, &prefix).set("source.snapshot=never").set(&confirm).start().await;
    insert(&database, &rowcast, 1..=3).await;
    wait_position(&rowcast).await;
    sink(&rowcast, "pause").await;
    insert(&database, &rowcast, 4..=6).await;
    let lacking = page(rowcast.address(), "/v1/events?channel=public.t&from=last:3").await.unwrap();
    let (fourth, row) = (&lacking["events"][0]["tx"]["lsn"], &lacking["events"][0]["after"]["id"]);
    assert_eq!(row, 4);
    let fourth = lsn(&database, &format!("select '{}'::pg_lsn", fourth.as_str().unwrap())).await;
    let inserted = lsn(&database, "select pg_current_wal_lsn()").await;
    let status = rowcast.status().await;
    if confirm.ends_with("sinks") {
        assert_eq!(
            (&status["source"]["confirm"], &status["source"]["held_by"]),
            (&json!("sinks"), &json!(["kafka"]))
        );
        assert!(status["reasons"].to_string().contains("The slot waits for the sink kafka"), "{status}");
        is_kept(&database, fourth, "what Kafka lacks was confirmed").await;
        assert!(rowcast.metric("rowcast_source_held_bytes").await.is_some_and(|bytes| bytes > 0.0));
        // A restart forgets none of it.
        rowcast.kill9().await;
        rowcast.resume().await;
        rowcast.wait_streaming().await;
        is_kept(&database, fourth, "what Kafka lacks was confirmed after a restart").await;
    } else {
        assert_eq!(
            (&status["source"]["confirm"], &status["source"]["held_by"]),
            (&json!("journal"), &json!([]))
        );
        wait_confirmed(&database, inserted).await;
    }
    rowcast.kill9().await;
    std::fs::remove_dir_all(rowcast.data()).unwrap();

    let adopted = adopt(&database, &rowcast, kafka, &confirm).await;
    assert!(adopted.code == 0 && adopted.stdout.contains("gap"), "{adopted:?}");
    rowcast.resume().await;
    rowcast.wait_streaming().await;
    database.execute("insert into t values (7)").await;
    // It stops at the gap, which a person has to have seen.
    wait_for("the sink to stop at the gap", SOON, async || {
        let door = rowcast.status().await["doors"]["kafka"].clone();
        if door["state"] == "stopped" { Ok(()) } else { Err(door.to_string()) }
    })
    .await;
    sink(&rowcast, "resume").await;
    wait_position(&rowcast).await;
    if confirm.ends_with("sinks") {
        let last = lsn(&database, "select pg_current_wal_lsn()").await;
        wait_confirmed(&database, last).await;
    }
    delivered(kafka, &prefix, 7).await
}

async fn adopt(database: &Database, rowcast: &Rowcast, kafka: &Kafka, confirm: &str) -> Output {
    let (data, slot) = (rowcast.data().display().to_string(), format!("source.slot={}", database.name()));
    let arguments = ["adopt", "--data", &data, "--source", database.url(), "--set", &slot, "--set", confirm];
    let brokers = format!("kafka.brokers={}", kafka.brokers());
    command(&[&arguments[..], &["--set", &brokers, "--set", "kafka.topic_prefix=x"]].concat()).await
}

#[tokio::test]
async fn with_confirm_sinks_a_lost_disk_loses_nothing_that_kafka_lacks() {
    let (rows, gaps) = lose_the_disk("sinks").await;
    assert_eq!(rows, BTreeSet::from([1, 2, 3, 4, 5, 6, 7]), "{gaps:?}");
}

#[tokio::test]
async fn with_confirm_journal_a_lost_disk_loses_what_was_not_delivered_and_says_so() {
    let (rows, gaps) = lose_the_disk("journal").await;
    assert_eq!(rows, BTreeSet::from([1, 2, 3, 7]));
    assert!(gaps.iter().any(|reason| reason == "taken_over" || reason == "journal_lost"), "{gaps:?}");
}

/// The server does not stop before all it sent is confirmed, and what Kafka lacks may take for ever.
#[tokio::test]
async fn a_server_stops_although_a_sink_holds_its_slot() {
    if !own_servers("a_server_stops_although_a_sink_holds_its_slot") {
        return;
    }
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("stopping");
    let mut postgres = Postgres::start(&[]).await;
    let database = postgres.create_database("stopping").await;
    database.execute("create table t (id integer primary key)").await;
    let mut rowcast = Rowcast::of(&database)
        .kafka(kafka, &prefix)
        .set("source.snapshot=never")
        .set("source.confirm=sinks")
        .start()
        .await;
    insert(&database, &rowcast, 1..=1).await;
    wait_position(&rowcast).await;
    sink(&rowcast, "pause").await;
    insert(&database, &rowcast, 2..=3).await;
    let started = Instant::now();
    postgres.stop(Stop::Fast).await;
    // Else it would for as long as the sink is paused.
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert!(rowcast.log().contains("waits for what cannot be confirmed yet"), "{}", rowcast.log());
    postgres.resume().await;
    rowcast.wait_streaming().await;
    sink(&rowcast, "resume").await;
    let mut reader = KafkaReader::start(kafka, &prefix);
    let mut rows = Vec::new();
    while rows.len() < 3 {
        let record = reader.next(SOON).await.unwrap_or_else(|| panic!("three rows, not {rows:?}"));
        rows.push(record.key["id"].as_u64().expect("a row"));
    }
    assert_eq!(rows, [1, 2, 3], "each once, in order");
}

/// The server's disk goes first: what the journal has may be forgotten, and no slot is dropped.
#[tokio::test]
async fn a_sink_that_stands_still_costs_no_slot() {
    if !own_servers("a_sink_that_stands_still_costs_no_slot") {
        return;
    }
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("waived");
    let postgres = Postgres::start(&[]).await;
    let database = postgres.create_database("waived").await;
    database.execute("create table t (id integer primary key, v text)").await;
    let rowcast = Rowcast::of(&database)
        .kafka(kafka, &prefix)
        .set("source.snapshot=never")
        .set("source.confirm=sinks")
        .set("source.wal_budget=64MB")
        .start()
        .await;
    insert(&database, &rowcast, 1..=1).await;
    wait_position(&rowcast).await;
    sink(&rowcast, "pause").await;
    database.execute("insert into t select i, repeat('v', 1000) from generate_series(2, 80000) i").await;
    let written = lsn(&database, "select pg_current_wal_lsn()").await;
    wait_metric(&rowcast, "rowcast_source_confirm_waived", 1.0).await;
    let status = rowcast.status().await;
    assert!(status["reasons"].to_string().contains("as with source.confirm"), "{status}");
    assert_eq!(status["source"]["held_by"], json!([]));
    wait_confirmed(&database, written).await;
    wait_for("the log to be given back", SOON, async || {
        database.execute("checkpoint").await;
        let kept = rowcast.metric("rowcast_source_wal_retained_bytes").await;
        if kept.is_some_and(|kept| kept < f64::from(64 << 20)) { Ok(()) } else { Err(format!("{kept:?}")) }
    })
    .await;

    // From then on the sinks count again.
    sink(&rowcast, "resume").await;
    wait_position(&rowcast).await;
    wait_metric(&rowcast, "rowcast_source_confirm_waived", 0.0).await;
    assert_eq!(rowcast.status().await["source"]["waived"], Value::Null);
    sink(&rowcast, "pause").await;
    database.execute("insert into t values (80001)").await;
    wait_for("Kafka to lack it", SOON, async || {
        let held_by = rowcast.status().await["source"]["held_by"].clone();
        if held_by == json!(["kafka"]) { Ok(()) } else { Err(held_by.to_string()) }
    })
    .await;
    // Where it ends, and nothing that comes behind it.
    let last = page(rowcast.address(), "/v1/events?channel=public.t&from=last:1").await.unwrap();
    let (at, row) = (&last["events"][0]["tx"]["lsn"], &last["events"][0]["after"]["id"]);
    assert_eq!(row, 80001);
    let at = lsn(&database, &format!("select '{}'::pg_lsn", at.as_str().unwrap())).await;
    is_kept(&database, at, "what Kafka lacks was confirmed").await;
}

#[tokio::test]
async fn without_a_sink_it_is_the_journal() {
    let database = Postgres::shared().await.create_database("no_sink").await;
    database.execute("create table t (id integer primary key)").await;
    let rowcast = Rowcast::of(&database).set("source.confirm=sinks").start().await;
    assert!(rowcast.log().contains("there is no sink"), "{}", rowcast.log());
    insert(&database, &rowcast, 1..=1).await;
    let inserted = lsn(&database, "select pg_current_wal_lsn()").await;
    wait_confirmed(&database, inserted).await;
    let wrong = command(&["run", "--source", "postgres://h/d", "--set", "source.confirm=sink"]).await;
    assert!(wrong.code == 2 && wrong.stderr.contains("source.confirm"), "{wrong:?}");
}
