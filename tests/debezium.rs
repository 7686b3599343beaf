//! What Kafka gets, compared with what Debezium itself wrote (recorded in `data/debezium`).

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

/// The recorded records of the stream; those of the snapshot before it are left out.
fn recorded(case: &str) -> Vec<Value> {
    let records = text(&format!("{case}/expected.jsonl"));
    let records = records.lines().map(|line| serde_json::from_str(line).expect("a record"));
    records.filter(|record: &Value| record["value"]["op"] != "r").collect()
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

/// Runs the case's scripts and has the comparer judge what came.
async fn compare(case: &str) {
    let expected = recorded(case);
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix(case);
    let database = Postgres::shared().await.create_database(case).await;
    database.execute(&text(&format!("{case}/setup.sql"))).await;
    let _rowcast = Rowcast::of(&database).kafka(kafka, &prefix).start().await;
    let mut reader = KafkaReader::start(kafka, &prefix);
    let client = database.client().await;
    // Line by line, as psql does: a BEGIN must not take in what stands before it.
    for line in text(&format!("{case}/load.sql")).lines() {
        client.batch_execute(line).await.unwrap_or_else(|error| panic!("{error:?}\nin: {line}"));
    }
    let mut found = Vec::new();
    while let Some(record) = reader.next(if found.len() < expected.len() { SOON } else { QUIET }).await {
        found.push(dumped(&record, &prefix, database.name()));
    }

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
    compare("operations").await;
}

#[tokio::test]
async fn replica_identities_are_as_debezium_writes_them() {
    compare("identity").await;
}

#[tokio::test]
async fn keys_are_as_debezium_writes_them() {
    compare("keys").await;
}
