//! What Kafka gets, compared with what Debezium itself wrote (recorded in `data/debezium`), from the snapshot's first row on.

mod by_hand;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::kafka::Record;
use crate::support::process::Directory;
use crate::support::{Kafka, KafkaReader, Postgres, Rowcast, SOON};

/// The recordings' database, topic prefix and server name.
const RECORDED: &str = "ref";
/// That nothing more comes than was recorded.
const QUIET: Duration = Duration::from_secs(1);

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/debezium").join(file)
}

fn text(file: &str) -> String {
    std::fs::read_to_string(data(file)).expect("a recording")
}

fn recorded(case: &str) -> Vec<Value> {
    let records = text(&format!("{case}/expected.jsonl"));
    records.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

fn of_snapshot(record: &Value) -> bool {
    record["value"]["op"] == "r"
}

/// Topic, key and place of each of the snapshot's rows. The comparer passes over the place: in the stream it was
/// recorded wrong.
fn places(records: &[Value]) -> Vec<String> {
    let place = |record: &Value| {
        format!("{} {} {}", record["topic"], record["key"], record["value"]["source"]["snapshot"])
    };
    let mut places: Vec<_> = records.iter().filter(|record| of_snapshot(record)).map(place).collect();
    places.sort();
    places
}

/// A record as the recordings have it; the names of database and prefix, which are ours, become theirs.
fn dumped(record: &Record, prefix: &str, database: &str) -> Value {
    let topic = record.topic.strip_prefix(prefix).expect("a topic of ours");
    let mut value = record.value.clone().unwrap_or_default();
    if let Some(source) = value.get_mut("source") {
        assert_eq!((&source["name"], &source["db"]), (&json!(prefix), &json!(database)), "{record:?}");
        source["name"] = json!(RECORDED);
        source["db"] = json!(RECORDED);
    }
    let parsed = |text: &String| serde_json::from_str(text).unwrap_or_else(|_| json!({"text": text}));
    let headers: Vec<Value> =
        record.headers.iter().map(|(name, value)| json!([name, parsed(value)])).collect();
    json!({"topic": format!("{RECORDED}{topic}"), "key": record.key, "value": value, "headers": headers})
}

fn lines(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

/// Who reads the rows that are there before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// rowcast, as it does by itself when it starts with a sink.
    Rowcast,
    /// The test: some of the tables have no key, by which rowcast could read them beside a stream.
    ByHand,
}

/// How much of a recording is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Snapshot and stream.
    All,
    /// The snapshot's rows alone; `load.sql` is not run.
    Snapshot,
}

/// The next record, passing over those of events below `first`: topics do not keep to each other's order.
async fn next(reader: &mut KafkaReader, first: u64, wait: Duration) -> Option<Record> {
    loop {
        let record = reader.next(wait).await?;
        let id: u64 = record.headers["rowcast.id"].parse().expect("a number");
        if id >= first {
            return Some(record);
        }
    }
}

/// Runs the case's scripts and has the comparer judge what came.
async fn compare(case: &str, extent: Extent, reader: Reader) {
    let mut expected = recorded(case);
    expected.retain(|record| extent == Extent::All || of_snapshot(record));
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix(case);
    let database = Postgres::shared().await.create_database(&case.replace('-', "_")).await;
    database.execute(&text(&format!("{case}/setup.sql"))).await;
    let (_rowcast, first) = match reader {
        Reader::Rowcast => {
            by_hand::log_all(&database).await;
            // One after the other, as Debezium does.
            let rowcast = Rowcast::of(&database).set("source.snapshot_tables=1").filled(kafka, &prefix);
            (rowcast.start().await, 0)
        }
        Reader::ByHand => {
            let (rowcast, first) = by_hand::snapshot(&database, Rowcast::of(&database)).await;
            (rowcast.kafka(kafka, &prefix).start().await, first)
        }
    };
    let mut reader = KafkaReader::start(kafka, &prefix);
    let mut found = Vec::new();
    let rows = expected.iter().filter(|record| of_snapshot(record)).count();
    while found.len() < rows {
        let record = next(&mut reader, first, SOON).await;
        let record = record.unwrap_or_else(|| panic!("{} of {rows} rows", found.len()));
        found.push(dumped(&record, &prefix, database.name()));
    }
    let load = if extent == Extent::All { text(&format!("{case}/load.sql")) } else { String::new() };
    let client = database.client().await;
    // Line by line, as psql does: a BEGIN must not take in what stands before it. A statement can have several.
    for lines in load.split_inclusive(";\n") {
        client.batch_execute(lines).await.unwrap_or_else(|error| panic!("{error:?}\nin: {lines}"));
    }
    let wait = |found: usize| if found < expected.len() { SOON } else { QUIET };
    while let Some(record) = next(&mut reader, first, wait(found.len())).await {
        found.push(dumped(&record, &prefix, database.name()));
    }
    assert_eq!(places(&found), places(&expected));

    let directory = Directory::new("debezium");
    let files = ["expected.jsonl", "found.jsonl"].map(|name| directory.path().join(name));
    std::fs::write(&files[0], lines(&expected)).expect("a file");
    std::fs::write(&files[1], lines(&found)).expect("a file");
    let output = Command::new("python3").arg(data("compare.py")).args(&files).output().expect("python3");
    let report = String::from_utf8_lossy(&output.stdout);
    println!("{report}");
    assert!(output.status.success(), "{report}{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn operations_are_as_debezium_writes_them() {
    compare("operations", Extent::All, Reader::Rowcast).await;
}

#[tokio::test]
async fn replica_identities_are_as_debezium_writes_them() {
    compare("identity", Extent::All, Reader::ByHand).await;
}

#[tokio::test]
async fn keys_are_as_debezium_writes_them() {
    compare("keys", Extent::All, Reader::ByHand).await;
}

#[tokio::test]
async fn snapshots_are_as_debezium_writes_them() {
    compare("snapshot", Extent::All, Reader::Rowcast).await;
}

/// Of the stream, the smallest `real` differs: Java prints it with a digit more than it needs.
#[tokio::test]
async fn types_are_as_debezium_writes_them() {
    compare("types", Extent::Snapshot, Reader::Rowcast).await;
}

#[tokio::test]
async fn arrays_are_as_debezium_writes_them() {
    compare("arrays", Extent::All, Reader::Rowcast).await;
}

#[tokio::test]
async fn values_not_sent_are_as_debezium_writes_them() {
    compare("toast", Extent::All, Reader::Rowcast).await;
}

/// The stream of this case makes tables and changes a primary key.
#[tokio::test]
async fn a_table_before_it_changes_is_as_debezium_writes_them() {
    compare("schema-change", Extent::Snapshot, Reader::Rowcast).await;
}
