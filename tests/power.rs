//! A power cut with `journal.sync = "interval"`: what was shown and not synced is taken back, and comes again.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::confirm::{confirmed, insert, lsn, wait_position};
use crate::support::ndjson::page;
use crate::support::sse::Sse;
use crate::support::{Kafka, KafkaReader, Postgres, Rowcast, SOON};

/// The files of the journal as a disk has them on which everything is synced that is written so far.
fn synced(rowcast: &Rowcast) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(rowcast.data().join("journal")).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

/// Takes back all that came after: names, bytes and lengths, in the same files.
fn cut_power(dir: &Path, synced: &BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let Some(bytes) = synced.get(&path) else {
            fs::remove_file(&path).unwrap();
            continue;
        };
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        file.write_all_at(bytes, 0).unwrap();
    }
}

/// Rows by number.
async fn held(rowcast: &Rowcast) -> Vec<(u64, Value)> {
    let page = page(rowcast.address(), "/v1/events?from=earliest&limit=1000").await.unwrap();
    let pair = |event: &Value| (event["id"].as_u64().unwrap(), event["after"]["id"].clone());
    page["events"].as_array().unwrap().iter().map(pair).collect()
}

fn rows(held: &[(u64, Value)]) -> Vec<Value> {
    held.iter().map(|(_, row)| row.clone()).collect()
}

#[tokio::test]
async fn what_a_power_cut_takes_back_comes_again_under_new_numbers_and_readers_are_told() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("power");
    let database = Postgres::shared().await.create_database("power").await;
    database.execute("create table t (id integer primary key)").await;
    // Nothing is synced by itself while the test looks.
    let mut rowcast = Rowcast::of(&database)
        .kafka(kafka, &prefix)
        .set("journal.sync=interval")
        .set("journal.sync_interval=1h")
        .start()
        .await;
    insert(&database, &rowcast, 1..=3).await;
    wait_position(&rowcast).await;
    // Its end syncs all.
    assert_eq!(rowcast.terminate().await, 0);
    rowcast.resume().await;
    rowcast.wait_streaming().await;
    let kept = synced(&rowcast);
    let before = lsn(&database, "select pg_current_wal_insert_lsn()").await;
    insert(&database, &rowcast, 4..=6).await;
    wait_position(&rowcast).await;
    let shown = held(&rowcast).await;
    assert_eq!(rows(&shown), (1..=6).map(|row| json!(row)).collect::<Vec<_>>());
    assert!(confirmed(&database).await <= before, "what may be taken back is not confirmed");
    rowcast.kill9().await;
    cut_power(&rowcast.data().join("journal"), &kept);

    rowcast.resume().await;
    rowcast.wait_streaming().await;
    insert(&database, &rowcast, 7..=7).await;
    let again = held(&rowcast).await;
    assert_eq!(rows(&again), (1..=7).map(|row| json!(row)).collect::<Vec<_>>(), "each once, in order");
    assert_eq!(again[..3], shown[..3]);
    let newest = shown[5].0;
    assert!(again[3].0 > newest, "{again:?}: no number that somebody has seen is given twice, {shown:?}");

    // A new connection does not wait for the interval.
    let name = database.name();
    let cut = format!(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{name}'"
    );
    database.execute(&cut).await;
    insert(&database, &rowcast, 8..=8).await;

    // Who has a number that is gone is told so, and has the rows again; who has not, misses nothing.
    for (position, told) in [(newest, true), (shown[3].0, true), (shown[2].0, false)] {
        let mut stream =
            Sse::resume(rowcast.address(), "/v1/events", Some(&position.to_string())).await.unwrap();
        stream.expect("open").await;
        if told {
            let gap = stream.expect("the gap").await;
            assert!(gap.event == "gap" && gap.json()["reason"] == "source_lost", "{gap:?}");
        }
        for expected in &again[3..] {
            let event = stream.expect("a row").await;
            assert_eq!((event.event.as_str(), &event.json()["after"]["id"]), ("message", &expected.1));
        }
    }
    wait_position(&rowcast).await;
    let mut reader = KafkaReader::start(kafka, &prefix);
    let mut delivered: BTreeMap<u64, Value> = BTreeMap::new();
    while !delivered.contains_key(&again[6].0) {
        let record = reader.next(SOON).await.unwrap_or_else(|| panic!("row 7, not only {delivered:?}"));
        let number = record.headers["rowcast.id"].parse().unwrap();
        delivered.insert(number, record.key["id"].clone());
    }
    let expected: BTreeMap<_, _> = shown.into_iter().chain(again).collect();
    assert_eq!(delivered, expected, "the rows of the last interval once more, under their other numbers");
}
