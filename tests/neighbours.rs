//! What others do meanwhile: a second rowcast on the database, a Postgres that is away when rowcast starts again.

use serde_json::Value;

use crate::support::ndjson::page;
use crate::support::postgres::Stop;
use crate::support::{Postgres, Rowcast, SOON, own_servers, wait_for};

/// Waits until an event of this row of this channel is held.
async fn wait_row(rowcast: &Rowcast, channel: &str, row: u64) {
    wait_for("the row", SOON, async || {
        let page = page(rowcast.address(), "/v1/events?from=earliest&limit=1000").await?;
        let is = |event: &Value| event["channel"] == channel && event["after"]["id"] == row;
        let found = page["events"].as_array().is_some_and(|events| events.iter().any(is));
        if found { Ok(()) } else { Err(page.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn a_second_rowcast_takes_no_tables_away() {
    let database = Postgres::shared().await.create_database("neighbours").await;
    database
        .execute("create table a (id integer primary key); create table b (id integer primary key)")
        .await;
    let first = Rowcast::of(&database).start().await;
    let slot = format!("source.slot={}_second", database.name());
    let second = Rowcast::on(database.url()).set(&slot).with(&["--tables", "public.b"]).start().await;
    database.execute("insert into a values (1); insert into b values (2)").await;
    wait_row(&first, "public.a", 1).await;
    wait_row(&first, "public.b", 2).await;
    wait_row(&second, "public.b", 2).await;
    let events = page(second.address(), "/v1/events?channel=public.a&from=earliest&limit=10").await.unwrap();
    assert_eq!(events["events"].as_array().map(Vec::len), Some(0), "{events}");
}

#[tokio::test]
async fn a_restart_while_postgres_is_away_serves_what_is_held() {
    if !own_servers("a_restart_while_postgres_is_away_serves_what_is_held") {
        return;
    }
    let mut postgres = Postgres::start(&[]).await;
    let database = postgres.create_database("away").await;
    database.execute("create table t (id integer primary key)").await;
    let mut rowcast = Rowcast::of(&database).start().await;
    database.execute("insert into t values (1)").await;
    wait_row(&rowcast, "public.t", 1).await;
    rowcast.terminate().await;
    postgres.stop(Stop::Fast).await;

    rowcast.launch().await;
    rowcast.wait_ready().await;
    wait_row(&rowcast, "public.t", 1).await;
    let status = rowcast.status().await;
    assert_eq!((&status["healthy"], &status["source"]["state"]), (&false.into(), &"reconnecting".into()));
    assert_eq!(rowcast.get("/v1/health/flow").await.status, 503);
    postgres.resume().await;
    rowcast.wait_streaming().await;
    database.execute("insert into t values (2)").await;
    wait_row(&rowcast, "public.t", 2).await;
}
