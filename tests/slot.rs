//! The slot as people and monitors see it: its state, what the server keeps for it, and how it was given up.

use std::time::Duration;

use serde_json::Value;

use crate::support::rowcast::command;
use crate::support::{Database, Postgres, Rowcast, SOON, own_servers, wait_for};

const BUDGET: u64 = 64 << 20;

async fn with_table(database: &Database) {
    database.execute("create table t (id integer primary key); create table other (id integer)").await;
}

/// Waits until a gauge has a value.
pub(crate) async fn wait_metric(rowcast: &Rowcast, name: &str, wanted: f64) {
    wait_for(name, SOON * 2, async || {
        let found = rowcast.metric(name).await;
        if found == Some(wanted) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// What `/v1/health/flow` complains of.
async fn reasons(rowcast: &Rowcast) -> String {
    rowcast.get("/v1/health/flow").await.json()["reasons"].to_string()
}

#[tokio::test]
async fn a_slot_is_watched_and_given_up() {
    // Its log is not the other tests' to fill.
    if !own_servers("a_slot_is_watched_and_given_up") {
        return;
    }
    let server = Postgres::start(&[]).await;
    let database = server.create_database("slot_budget").await;
    with_table(&database).await;
    let budget = format!("source.wal_budget={}MB", BUDGET >> 20);
    let mut rowcast = Rowcast::of(&database).set(&budget).start().await;
    database.execute("insert into t values (1)").await;
    wait_metric(&rowcast, "rowcast_source_slot_state{state=\"active\"}", 1.0).await;
    assert_eq!(rowcast.metric("rowcast_source_slot_state{state=\"missing\"}").await, Some(0.0));
    assert_eq!(rowcast.metric("rowcast_source_wal_safe_bytes").await, Some(f64::INFINITY));
    assert!(rowcast.metric("rowcast_source_wal_retained_bytes").await.is_some());
    let output = command(&["status", "--url", &format!("http://{}", rowcast.address())]).await;
    assert!(output.code == 0 && output.stdout.contains("of its log for the slot"), "{output:?}");

    // Somebody moves the slot: capture waits, and the server's log grows.
    assert_eq!(rowcast.terminate().await, 0);
    database.execute("insert into t values (2)").await;
    let slot = database.name();
    let moved = format!("select pg_replication_slot_advance('{slot}', pg_current_wal_insert_lsn())");
    database.execute(&moved).await;
    rowcast.resume().await;
    wait_metric(&rowcast, "rowcast_source_broken{reason=\"journal_behind\"}", 1.0).await;
    let given_up = "rowcast_source_slots_given_up_total";
    wait_for("the slot to be given up", Duration::from_secs(40), async || {
        database.execute("insert into other select generate_series(1, 1000); select pg_switch_wal()").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let count = rowcast.metric(given_up).await;
        if count == Some(1.0) { Ok(()) } else { Err(format!("{count:?}, {}", reasons(&rowcast).await)) }
    })
    .await;
    wait_for("the reason", SOON, async || {
        let told = reasons(&rowcast).await;
        if told.contains("has given up the replication slot") { Ok(()) } else { Err(told) }
    })
    .await;
    let lost = "Changes from here on are lost to the journal";
    assert!(rowcast.log().lines().any(|line| line.contains("ERROR") && line.contains(lost)));
    wait_metric(&rowcast, "rowcast_source_slot_state{state=\"missing\"}", 1.0).await;
    wait_metric(&rowcast, "rowcast_source_broken{reason=\"source_lost\"}", 1.0).await;
    assert_eq!(rowcast.metric("rowcast_source_broken{reason=\"journal_behind\"}").await, Some(0.0));

    let data = rowcast.data().to_str().unwrap().to_owned();
    let output = command(&["adopt", "--data", &data]).await;
    assert!(output.code == 0 && output.stdout.contains("source_lost"), "{output:?}");
    wait_metric(&rowcast, "rowcast_source_slot_state{state=\"active\"}", 1.0).await;
    wait_metric(&rowcast, "rowcast_source_broken{reason=\"source_lost\"}", 0.0).await;
    database.execute("insert into t values (3)").await;
    wait_for("the row behind the gap", SOON, async || {
        let page = rowcast.get("/v1/events?from=last:1&limit=1").await.json();
        let row: &Value = &page["events"][0]["after"]["id"];
        if *row == 3 { Ok(()) } else { Err(page.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn a_budget_has_a_unit_and_needs_the_right_to_drop() {
    let refused = |set: &'static str, more: &'static str| async move {
        let source = ["check", "--source", "postgres://me@127.0.0.1:1/d", "--set", set, "--set", more];
        let output = command(&source).await;
        assert_eq!(output.code, 2, "{output:?}");
        output.stderr
    };
    let error = refused("source.wal_budget=50", "source.slot=s").await;
    assert!(error.contains("source.wal_budget") && error.contains("has no unit"), "{error}");
    let error = refused("source.wal_budget=50GB", "source.manage=false").await;
    assert!(error.contains("source.manage is false"), "{error}");
    let error = refused("source.wal_bugdet=50GB", "source.slot=s").await;
    assert!(error.contains("Did you mean source.wal_budget?"), "{error}");
}
