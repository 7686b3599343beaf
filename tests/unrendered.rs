//! A value that cannot be shown stops nothing: it is named, counted, and logged without itself.

use serde_json::json;

use crate::support::postgres::connect;
use crate::support::sse::Sse;
use crate::support::{Postgres, Rowcast};

#[tokio::test]
async fn bytes_that_are_no_text_are_named_counted_and_not_logged() {
    let database = Postgres::shared().await.create_database("unrendered").await;
    let name = format!("{}_ascii", database.name());
    let create = format!("create database {name} template template0 encoding 'SQL_ASCII' locale 'C'");
    database.client().await.batch_execute(&create).await.unwrap();
    let url = database.url().replace(database.name(), &name);
    let client = connect(&url).await.unwrap();
    client.batch_execute("create table t (id integer primary key, v text)").await.unwrap();

    let slot = format!("source.slot={}", database.name());
    let mut rowcast = Rowcast::on(&url).set(&slot).start().await;
    let mut stream = Sse::open(rowcast.address(), "/v1/events?channel=public.t").await;
    stream.expect("open").await;
    // `secret`, then a byte that UTF-8 does not know.
    for id in 1..=3 {
        let row = format!("insert into t values ({id}, convert_from('\\x736563726574e4', 'SQL_ASCII'))");
        client.batch_execute(&row).await.unwrap();
    }
    client.batch_execute("insert into t values (4, 'sound')").await.unwrap();
    for id in 1..=3 {
        let event = stream.expect_event("message").await.json();
        assert_eq!(event["after"], json!({"id": id}));
        assert_eq!(event["errors"], json!([{"column": "v", "reason": "encoding"}]));
    }
    let event = stream.expect_event("message").await.json();
    assert_eq!((&event["after"], event.get("errors")), (&json!({"id": 4, "v": "sound"}), None));

    let metrics = rowcast.get("/metrics").await.text();
    let counted = metrics.lines().find(|line| line.starts_with("rowcast_unrendered_values_total{"));
    let counted = counted.unwrap_or_else(|| panic!("{metrics}"));
    for label in ["format=\"native\"", "reason=\"encoding\""] {
        assert!(counted.contains(label), "{counted}");
    }
    assert!(counted.ends_with(" 3"), "once for each value of the one view: {counted}");
    let log = rowcast.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("A value cannot be shown")).collect();
    assert!(
        lines.len() == 1 && lines[0].contains("\"column\":\"v\"") && !log.contains("secret"),
        "{lines:?}"
    );
    // Its slot would keep the server's log for ever.
    assert_eq!(rowcast.terminate().await, 0);
    drop(client);
    let client = database.client().await;
    client.execute("select pg_drop_replication_slot($1)", &[&database.name()]).await.unwrap();
    client.batch_execute(&format!("drop database {name} with (force)")).await.unwrap();
}
