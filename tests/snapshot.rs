//! The rows that are there before: read for a target that is filled, and again behind a gap where that is the policy.

use serde_json::{Value, json};

use crate::support::ndjson::page;
use crate::support::process::Directory;
use crate::support::rowcast::command;
use crate::support::{Kafka, KafkaReader, Postgres, Rowcast, SOON};

async fn next(records: &mut KafkaReader) -> (String, Value, Value) {
    let value = records.next(SOON).await.expect("a record").value.expect("no tombstone");
    let marks = value["source"]["snapshot"].clone();
    (value["op"].as_str().unwrap().to_owned(), value["after"]["id"].clone(), marks)
}

#[tokio::test]
async fn a_topic_is_filled_with_the_rows_and_goes_on_with_the_changes() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("filled");
    let mut records = KafkaReader::start(kafka, &prefix);
    let database = Postgres::shared().await.create_database("filled").await;
    database
        .execute("create table orders (id integer primary key); insert into orders values (1), (2), (3)")
        .await;
    let rowcast = Rowcast::of(&database).filled(kafka, &prefix).start().await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(next(&mut records).await);
    }
    let read = |id: i32, marks: &str| ("r".to_owned(), json!(id), json!(marks));
    assert_eq!(seen, [read(1, "first"), read(2, "true"), read(3, "last")]);
    database.execute("insert into orders values (4)").await;
    let (op, id, _) = next(&mut records).await;
    assert_eq!((op.as_str(), id), ("c", json!(4)));
    let page = page(rowcast.address(), "/v1/events?channel=public.orders&from=earliest").await.unwrap();
    let told: Vec<(&str, &Value)> = page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (event["op"].as_str().unwrap(), &event["after"]["id"]))
        .collect();
    let ids = [json!(1), json!(2), json!(3), json!(4)];
    assert_eq!(told, ["read", "read", "read", "insert"].into_iter().zip(&ids).collect::<Vec<_>>());
}

#[tokio::test]
async fn one_that_only_reads_ends_by_itself() {
    let database = Postgres::shared().await.create_database("only").await;
    database
        .execute("create table orders (id integer primary key); insert into orders values (1), (2)")
        .await;
    let (directory, slot) = (Directory::new("only"), format!("source.slot={}", database.name()));
    let data = directory.path().to_str().unwrap();
    let run = ["run", "--source", database.url(), "--listen", "127.0.0.1:0", "--data", data, "--set", &slot];
    let ended = command(&[&run[..], &["--set", "source.snapshot=only"]].concat()).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let shown = command(&["journal", "show", "--data", data, "--from", "earliest", "--json"]).await;
    assert_eq!(shown.stdout.matches("\"op\":\"read\"").count(), 2, "{shown:?}");
}
