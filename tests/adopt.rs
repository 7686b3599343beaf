//! A history that does not go on: refused with its reason, and taken up again behind a gap that every reader is told.

use serde_json::{Value, json};

use crate::support::ndjson::page;
use crate::support::rowcast::command;
use crate::support::sse::Sse;
use crate::support::{Database, Postgres, Rowcast, SOON, wait_for};

/// Waits until an event of this row is held; gives all that is held.
async fn wait_row(rowcast: &Rowcast, row: u64) -> Vec<Value> {
    wait_for("the row", SOON, async || {
        let page = page(rowcast.address(), "/v1/events?from=earliest&limit=1000").await?;
        let events = page["events"].as_array().ok_or("no events")?;
        let found = events.iter().any(|event| event["after"]["id"] == row);
        if found { Ok(events.clone()) } else { Err(page.to_string()) }
    })
    .await
}

async fn adopt(database: &Database, rowcast: &Rowcast, code: i32, words: &[&str]) {
    let (data, slot) = (rowcast.data().display().to_string(), format!("source.slot={}", database.name()));
    let arguments = ["--source", database.url(), "--data", &data, "--set", &slot];
    let refused = command(&[&["run", "--listen", "127.0.0.1:0"], &arguments[..]].concat()).await;
    let told = words.iter().all(|word| refused.stderr.contains(word));
    assert!(refused.code == code && told, "{words:?}: {refused:?}");
    let adopted = command(&[&["adopt"], &arguments[..]].concat()).await;
    assert_eq!(adopted.code, 0, "{adopted:?}");
}

#[tokio::test]
async fn a_lost_slot_is_refused_and_can_be_adopted() {
    let database = Postgres::shared().await.create_database("lost").await;
    database.execute("create table t (id integer primary key)").await;
    let mut rowcast = Rowcast::of(&database).start().await;
    database.execute("insert into t values (1)").await;
    let before = wait_row(&rowcast, 1).await;
    assert_eq!(rowcast.terminate().await, 0);
    database.execute(&format!("select pg_drop_replication_slot('{}')", database.name())).await;
    database.execute("insert into t values (2)").await;

    adopt(&database, &rowcast, 3, &["slot", "rowcast adopt"]).await;
    rowcast.resume().await;
    rowcast.wait_streaming().await;
    database.execute("insert into t values (3)").await;
    let held = wait_row(&rowcast, 3).await;
    let told: Vec<_> = held.iter().map(|event| (&event["after"]["id"], &event["reason"])).collect();
    let lost = json!("source_lost");
    assert_eq!(told.len(), 3, "{held:?}");
    assert_eq!((told[0].0, told[1].1, told[2].0), (&json!(1), &lost, &json!(3)), "{held:?}");
    assert_eq!(held[1]["type"], "gap");

    // Also those who ask for one channel, and only for its inserts.
    let path = "/v1/events?channel=public.t&op=insert";
    let from = before[0]["id"].to_string();
    let mut events = Sse::resume(rowcast.address(), path, Some(&from)).await.unwrap();
    assert_eq!(events.expect("open").await.event, "open");
    let gap = events.expect("the gap").await;
    assert!(gap.event == "gap" && gap.json()["reason"] == "source_lost", "{gap:?}");
    assert_eq!(events.expect_event("message").await.json()["after"], json!({"id": 3}));
}

#[tokio::test]
async fn a_slot_made_anew_is_not_taken_for_the_old_one() {
    let database = Postgres::shared().await.create_database("anew").await;
    database.execute("create table t (id integer primary key)").await;
    let mut rowcast = Rowcast::of(&database).start().await;
    database.execute("insert into t values (1)").await;
    wait_row(&rowcast, 1).await;
    assert_eq!(rowcast.terminate().await, 0);
    let slot = database.name();
    database.execute(&format!("select pg_drop_replication_slot('{slot}'); insert into t values (2)")).await;
    database.execute(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    adopt(&database, &rowcast, 3, &["rowcast adopt"]).await;
    rowcast.resume().await;
    rowcast.wait_streaming().await;
    database.execute("insert into t values (3)").await;
    let held = wait_row(&rowcast, 3).await;
    assert_eq!(held.iter().filter(|event| event["type"] == "gap").count(), 1, "{held:?}");
}
