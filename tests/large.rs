//! Transactions larger than memory should hold: whole or not at all, whatever happens meanwhile.

use serde_json::{Value, json};

use crate::support::ndjson::Ndjson;
use crate::support::{Database, Postgres, Rowcast, SOON, wait_for};

/// Rows of about 1 kB: 40 MB, well above what stays in memory.
const ROWS: u64 = 40_000;

/// Where the server sends transactions before they commit, it does so as early as it can.
const SMALL_MEMORY: &str = "do $$ begin
    execute format('alter database %I set logical_decoding_work_mem = ''64kB''', current_database()); end $$";

async fn captured(name: &str, streaming: &str) -> (Database, Rowcast) {
    let database = Postgres::shared().await.create_database(name).await;
    database.execute("create table t (id integer primary key, v text)").await;
    database.execute(SMALL_MEMORY).await;
    let rowcast = Rowcast::of(&database).set(&format!("source.streaming={streaming}")).start().await;
    (database, rowcast)
}

fn insert(first: u64, last: u64) -> String {
    format!("insert into t select i, repeat(md5(i::text), 30) from generate_series({first}, {last}) i;")
}

/// The next event; how far the reader is comes between, when a slow machine takes long over the transaction.
async fn next_event(events: &mut Ndjson) -> Value {
    loop {
        let line = events.expect("the transaction").await;
        if line["type"] != "position" {
            return line;
        }
    }
}

/// Reads one transaction, rows `first` to `last`, and asserts that it is whole. Gives its position in the log.
async fn read(events: &mut Ndjson, first: u64, last: u64) -> Value {
    let (mut lsn, mut before) = (Value::Null, 0);
    for row in first..=last {
        let event = next_event(events).await;
        assert_eq!((&event["op"], &event["after"]["id"]), (&json!("insert"), &json!(row)), "{event}");
        let (seq, end) = (json!(row - first), json!(row == last));
        assert_eq!((&event["tx"]["seq"], &event["tx"]["last"]), (&seq, &end));
        let id = event["id"].as_u64().expect("a number");
        assert!(id > before, "{id} comes after {before}");
        before = id;
        assert!(row == first || lsn == event["tx"]["lsn"]);
        lsn = event["tx"]["lsn"].clone();
    }
    lsn
}

#[tokio::test]
async fn a_large_transaction_arrives_whole_and_in_order() {
    arrives("large", "off").await;
}

#[tokio::test]
async fn one_that_is_sent_before_it_commits_arrives_whole_and_in_order() {
    arrives("early", "on").await;
}

async fn arrives(name: &str, streaming: &str) {
    let (database, rowcast) = captured(name, streaming).await;
    let mut live = Ndjson::open(rowcast.address(), "/v1/events?channel=*").await.unwrap();
    live.expect("open").await;
    let (one, two) = (database.client().await, database.client().await);
    one.batch_execute(&format!("begin; {}", insert(1, ROWS / 2))).await.unwrap();
    two.batch_execute(&insert(100_001, 100_002)).await.unwrap();
    one.batch_execute(&format!("{} commit", insert(ROWS / 2 + 1, ROWS))).await.unwrap();
    two.batch_execute(&insert(100_003, 100_003)).await.unwrap();
    two.batch_execute(&format!("begin; {} rollback", insert(200_001, 220_000))).await.unwrap();
    two.batch_execute(&insert(100_004, 100_004)).await.unwrap();
    let mut held = Ndjson::open(rowcast.address(), "/v1/events?channel=*&from=earliest").await.unwrap();
    held.expect("open").await;
    for events in [&mut live, &mut held] {
        let mut positions = Vec::new();
        for (first, last) in [(100_001, 100_002), (1, ROWS), (100_003, 100_003), (100_004, 100_004)] {
            positions.push(read(events, first, last).await.to_string());
        }
        positions.dedup();
        assert_eq!(positions.len(), 4);
    }
}

#[tokio::test]
async fn a_large_transaction_survives_a_kill_in_its_middle() {
    survives("killed", "off").await;
}

#[tokio::test]
async fn one_that_is_sent_before_it_commits_survives_a_kill_in_its_middle() {
    survives("killed_early", "on").await;
}

async fn survives(name: &str, streaming: &str) {
    let (database, mut rowcast) = captured(name, streaming).await;
    database.execute(&insert(100_001, 100_001)).await;
    let client = database.client().await;
    let change = tokio::spawn(async move { client.batch_execute(&insert(1, ROWS)).await });
    let journal = rowcast.data().join("journal");
    let spilled = wait_for("the transaction to spill", SOON, async || {
        let entries = std::fs::read_dir(&journal).map_err(|error| error.to_string())?;
        let sizes: Vec<u64> =
            entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).collect();
        let size = sizes.iter().max().copied().unwrap_or(0);
        if size > 1 << 20 { Ok(size) } else { Err(format!("{size} bytes")) }
    })
    .await;
    rowcast.kill9().await;
    println!("Killed with {spilled} bytes written");
    change.await.unwrap().unwrap();
    rowcast.resume().await;
    database.execute(&insert(100_002, 100_002)).await;
    let mut events = Ndjson::open(rowcast.address(), "/v1/events?channel=*&from=earliest").await.unwrap();
    events.expect("open").await;
    for (first, last) in [(100_001, 100_001), (1, ROWS), (100_002, 100_002)] {
        read(&mut events, first, last).await;
    }
    let files =
        std::fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = files.filter(|name| name.contains("spill")).collect();
    assert_eq!(left, [] as [String; 0], "what was written before the kill is gone");
}
