//! The HTTP door beside its streams: WebSocket messages, who may come in, health, status and metrics.

use hyper::Method;
use serde_json::json;

use crate::support::http::{get, request};
use crate::support::sse::Sse;
use crate::support::websocket::WebSocket;
use crate::support::{Database, Postgres, Rowcast, SOON, wait_for};

async fn captured(name: &str) -> (Database, Rowcast) {
    let database = Postgres::shared().await.create_database(name).await;
    database
        .execute("create table orders (id integer primary key); create table items (id integer primary key)")
        .await;
    let rowcast = Rowcast::of(&database).start().await;
    (database, rowcast)
}

#[tokio::test]
async fn one_websocket_carries_several_subscriptions() {
    let (database, rowcast) = captured("socket").await;
    let mut socket = WebSocket::open(rowcast.address()).await.unwrap();
    socket.send(&json!({"type": "hello", "client": "test"})).await;
    let welcome = socket.expect_type("welcome").await;
    assert!(welcome["newest"].is_u64(), "{welcome}");

    // The short form, whose subscription the server names.
    socket.send(&json!({"type": "subscribe", "topics": ["public.orders"]})).await;
    let short = socket.expect_type("subscribed").await["id"].clone();
    socket.send(&json!({"type": "subscribe", "id": "all", "channel": "public.*", "op": ["insert"]})).await;
    assert_eq!(socket.expect_type("subscribed").await["id"], "all");
    database.execute("insert into orders values (1); insert into items values (2)").await;
    let mut told = Vec::new();
    for _ in 0..3 {
        let event = socket.expect_type("event").await;
        told.push((event["sub"].to_string(), event["channel"].as_str().unwrap().to_owned()));
    }
    told.sort();
    let expected =
        [("\"all\"", "public.items"), ("\"all\"", "public.orders"), (&short.to_string(), "public.orders")];
    let mut expected = expected.map(|(sub, channel)| (sub.to_owned(), channel.to_owned()));
    expected.sort();
    assert_eq!(told, expected);

    socket.send(&json!({"type": "unsubscribe", "id": "all"})).await;
    assert_eq!(socket.expect_type("unsubscribed").await["id"], "all");
    database.execute("insert into items values (3); insert into orders values (4)").await;
    let event = socket.expect_type("event").await;
    assert_eq!((&event["sub"], &event["after"]), (&short, &json!({"id": 4})));
    socket.send(&json!({"type": "subscribe", "id": "x", "chanel": "public.orders"})).await;
    let error = socket.expect_type("error").await;
    assert_eq!(
        (&error["id"], &error["field"], &error["retry"]),
        (&json!("x"), &json!("chanel"), &json!(false))
    );
    socket.send(&json!({"type": "nonsense"})).await;
    while socket.next().await.is_some() {}
    assert_eq!(socket.closed.as_ref().map(|(code, _)| *code), Some(4400));
}

#[tokio::test]
async fn pages_of_others_are_kept_out() {
    let (_database, rowcast) = captured("guard").await;
    let address = rowcast.address();
    let own = format!("http://{address}");
    let evil = "https://evil.example";
    for (method, path) in [(Method::GET, "/v1/events?limit=1"), (Method::POST, "/v1/channels/a/events")] {
        for (headers, allowed) in [
            (vec![("origin", own.as_str())], true),
            (vec![("origin", evil)], false),
            (vec![("origin", "null")], false),
            (vec![("host", "evil.example")], false),
            (vec![("host", "localhost:1234")], true),
        ] {
            let answer = request(address, method.clone(), path, &headers, "{}").await.unwrap();
            assert_eq!(answer.status != 403, allowed, "{method} {path} {headers:?}: {}", answer.text());
        }
    }
    assert!(Sse::resume(address, "/v1/events", None).await.is_ok());
    for (name, value) in [("origin", evil), ("host", "evil.example")] {
        // Refused at once, or after the upgrade, so that a browser learns why.
        let opened = WebSocket::open_with(address, "/v1/ws", &[(name, value)]).await;
        let Ok(mut socket) = opened else { continue };
        assert_eq!(socket.next().await, None, "{name}");
    }
}

#[tokio::test]
async fn health_status_and_metrics_tell_how_it_is() {
    let database = Postgres::shared().await.create_database("health").await;
    database.execute("create table orders (id integer primary key)").await;
    // The server asks for none.
    let url = database.url().replacen("postgres://postgres@", "postgres://postgres:sesame@", 1);
    let slot = format!("source.slot={}", database.name());
    let rowcast = Rowcast::on(&url).set(&slot).start().await;
    let address = rowcast.address();
    let mut events = Sse::open(address, "/v1/events?channel=*").await;
    database.execute("insert into orders select generate_series(1, 10)").await;
    for _ in 0..10 {
        events.expect_event("message").await;
    }
    for path in ["/healthz", "/readyz", "/v1/health/flow", "/v1/status", "/metrics", "/v1/channels"] {
        assert_eq!(get(address, path).await.unwrap().status, 200, "{path}");
    }
    let status = rowcast.status().await;
    assert_eq!((&status["healthy"], &status["reasons"]), (&json!(true), &json!([])));
    assert_eq!(
        (&status["source"]["state"], &status["journal"]["state"]),
        (&json!("streaming"), &json!("open"))
    );
    assert_eq!(status["doors"]["http"]["clients"], 1);
    assert_eq!(status["source"]["tables"]["public.orders"], json!({"inserts_only": false}));
    assert!(!status.to_string().contains("sesame"));
    assert_eq!(rowcast.metric("rowcast_healthy").await, Some(1.0));
    assert_eq!(rowcast.metric("rowcast_http_clients{kind=\"sse\"}").await, Some(1.0));
    assert!(rowcast.metric("rowcast_journal_newest_id").await.is_some_and(|id| id > 1.0));
    let metrics = rowcast.get("/metrics").await.text();
    for sample in metrics.lines().filter(|line| line.starts_with("rowcast_")) {
        let name = sample.split(['{', ' ']).next().unwrap_or_default();
        // Of a histogram the name is told once.
        let parts = ["_bucket", "_sum", "_count"];
        let plain = parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
        let told = |name: &str| metrics.lines().any(|line| line.starts_with(&format!("# HELP {name} ")));
        assert!(told(name) || told(plain), "{name} has no HELP in:\n{metrics}");
    }
    wait_for("the position to be confirmed", SOON * 2, async || {
        let client = database.client().await;
        let sql = "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = $1";
        let row = client.query_one(sql, &[&database.name()]).await.map_err(|error| error.to_string())?;
        let (slot, status) = (row.get::<_, String>(0), rowcast.status().await);
        let told = status["source"]["confirmed_lsn"].as_str().unwrap_or_default().to_owned();
        if slot == told { Ok(()) } else { Err(format!("{slot} is confirmed, {told} is told")) }
    })
    .await;
}
