//! `source.on_gap = "resnapshot"` in the whole program, under load: the history breaks, readers are told one gap, and
//! behind it all tables are read anew. Who begins anew at the gap ends with the tables.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::ndjson::page;
use crate::support::postgres::Stop;
use crate::support::{Database, Postgres, Rowcast, SOON, own_servers, wait_for};

const ROWS: i64 = 3000;

async fn captured(postgres: &Postgres, name: &str) -> (Database, Rowcast) {
    let database = postgres.create_database(name).await;
    database
        .execute(&format!(
            "create table t (id integer primary key, v text);
             create table u (id integer primary key, v text);
             insert into t select i, 'first' from generate_series(1, {ROWS}) i;
             insert into u select i, 'first' from generate_series(1, 10) i"
        ))
        .await;
    let rowcast = Rowcast::of(&database).set("source.on_gap=resnapshot").start().await;
    database.execute("update t set v = 'captured' where id = 1").await;
    wait_event(&rowcast, |event| event["after"]["v"] == "captured").await;
    (database, rowcast)
}

async fn all(rowcast: &Rowcast) -> Result<Vec<Value>, String> {
    let (mut events, mut from) = (Vec::new(), "earliest".to_owned());
    loop {
        let page = page(rowcast.address(), &format!("/v1/events?from={from}&limit=10000")).await?;
        let more = page["events"].as_array().ok_or("no events")?;
        if more.is_empty() {
            return Ok(events);
        }
        events.extend(more.clone());
        from = page["next"].to_string();
    }
}

async fn wait_event(rowcast: &Rowcast, is: impl Fn(&Value) -> bool) {
    let mut from = "earliest".to_owned();
    wait_for("an event", SOON * 2, async || {
        let page = page(rowcast.address(), &format!("/v1/events?from={from}&limit=10000")).await?;
        let found = page["events"].as_array().ok_or("no events")?.iter().any(&is);
        from = page["next"].to_string();
        if found { Ok(()) } else { Err(format!("none before {from}")) }
    })
    .await;
}

/// Changes of all kinds, until it is aborted.
async fn writer(database: &Database) -> JoinHandle<()> {
    let client = database.client().await;
    tokio::spawn(async move {
        for round in 0_i64.. {
            let (old, new) = (round % ROWS + 1, 10_000 + round);
            let sql = format!(
                "update t set v = 'round {round}' where id = {old}; insert into t values ({new}, 'new');
                 delete from t where id = {}; update u set v = 'round {round}' where id = {}",
                new - 20,
                round % 10 + 1
            );
            client.batch_execute(&sql).await.expect("the database is well");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
}

/// A table as one has it who begins anew at the gap, by key.
fn rebuilt(events: &[Value], channel: &str) -> BTreeMap<i64, Value> {
    let gap = events.iter().rposition(|event| event["type"] == "gap").expect("a gap");
    let mut rows = BTreeMap::new();
    for event in events[gap + 1..].iter().filter(|event| event["channel"] == channel) {
        let key = event["key"]["id"].as_i64().expect("a key");
        match event["op"].as_str().expect("an op") {
            "delete" => _ = rows.remove(&key),
            _ => _ = rows.insert(key, event["after"].clone()),
        }
    }
    rows
}

async fn actual(database: &Database, table: &str) -> BTreeMap<i64, Value> {
    let rows = database.rows(table).await.into_iter();
    rows.map(|row| (row["id"].as_i64().expect("a key"), row)).collect()
}

/// Waits until all is read and captured; asserts that there is one gap, and what stands behind it.
async fn assert_read_anew(database: &Database, rowcast: &Rowcast, reason: &str) {
    database.execute("insert into u values (999, 'the end')").await;
    wait_event(rowcast, |event| event["after"]["id"] == 999).await;
    wait_for("all to be read", SOON * 2, async || {
        let left = rowcast.status().await["snapshots"].clone();
        if left == json!([]) { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
    let events = all(rowcast).await.expect("events");
    let gaps: Vec<_> = events.iter().filter(|event| event["type"] == "gap").collect();
    assert_eq!(gaps.iter().map(|gap| &gap["reason"]).collect::<Vec<_>>(), [reason]);
    let ids: Vec<_> = events.iter().filter_map(|event| event["id"].as_u64()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "numbers rise over the gap: {ids:?}");
    for table in ["t", "u"] {
        let channel = format!("public.{table}");
        let reads = |event: &&Value| event["op"] == "read" && event["channel"] == channel;
        let read = events.iter().filter(reads).count();
        // Rows that were changed meanwhile come with their changes alone; of so many some were not.
        assert!(table == "u" || read >= 10, "{read} rows of {channel} were read");
        assert!(rebuilt(&events, &channel) == actual(database, table).await, "{channel} is another one");
    }
    let status = rowcast.status().await;
    assert_eq!(status["healthy"], true, "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_dropped_while_everything_goes_on() {
    let (database, rowcast) = captured(Postgres::shared().await, "anew_slot").await;
    let writer = writer(&database).await;
    let cut = format!(
        "select pg_terminate_backend(active_pid), pg_drop_replication_slot(slot_name)
         from pg_replication_slots where slot_name = '{}'",
        database.name()
    );
    let client = database.client().await;
    // As soon as nobody holds it.
    wait_for("the slot's end", SOON, async || {
        client.batch_execute(&cut).await.map_err(|error| error.to_string())
    })
    .await;
    wait_event(&rowcast, |event| event["type"] == "gap").await;
    wait_event(&rowcast, |event| event["op"] == "read").await;
    writer.abort();
    let _ = writer.await;
    assert_read_anew(&database, &rowcast, "source_lost").await;
    assert!(rowcast.log().contains("source_lost"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_restored_from_a_backup() {
    if !own_servers("a_source_that_is_restored_from_a_backup") {
        return;
    }
    let mut postgres = Postgres::start(&[]).await;
    let (database, mut rowcast) = captured(&postgres, "anew_source").await;
    assert_eq!(rowcast.terminate().await, 0);
    postgres.stop(Stop::Fast).await;
    postgres.back_up();
    postgres.resume().await;
    rowcast.resume().await;
    rowcast.wait_streaming().await;
    // What the restored source knows nothing of.
    let lost = "delete from t where id between 100 and 200; insert into t select i, 'lost' from generate_series(20000, 20100) i";
    database.execute(lost).await;
    wait_event(&rowcast, |event| event["after"]["id"] == 20100).await;
    assert_eq!(rowcast.terminate().await, 0);
    postgres.stop(Stop::Fast).await;
    postgres.put_back();
    postgres.resume().await;
    let writer = writer(&database).await;
    rowcast.resume().await;
    rowcast.wait_streaming().await;
    wait_event(&rowcast, |event| event["type"] == "gap").await;
    wait_event(&rowcast, |event| event["op"] == "read").await;
    writer.abort();
    let _ = writer.await;
    assert_read_anew(&database, &rowcast, "source_restored").await;
}
