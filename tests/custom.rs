//! Custom events: in commit order with the rows of their transaction, at every door, and never after a rollback.

use hyper::Method;
use serde_json::{Value, json};

use crate::support::ndjson::{Ndjson, page};
use crate::support::sse::Sse;
use crate::support::websocket::WebSocket;
use crate::support::{Kafka, KafkaReader, Postgres, Rowcast, SOON, http};

/// What is told of an event here: number, channel, and row or payload.
fn told(event: &Value) -> (u64, String, Value) {
    let content = if event["op"] == "message" { &event["payload"] } else { &event["after"] };
    (event["id"].as_u64().unwrap(), event["channel"].as_str().unwrap().to_owned(), content.clone())
}

#[tokio::test]
async fn custom_events_arrive_in_commit_order_at_every_door() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("custom");
    let mut records = KafkaReader::start(kafka, &prefix);
    let database = Postgres::shared().await.create_database("custom").await;
    database.execute("create table orders (id integer primary key)").await;
    let rowcast = Rowcast::of(&database).kafka(kafka, &prefix).start().await;
    let address = rowcast.address();
    let mut sse = Sse::open(address, "/v1/events?channel=*").await;
    let mut ndjson = Ndjson::open(address, "/v1/events?channel=*").await.unwrap();
    ndjson.expect("open").await;
    let mut socket = WebSocket::open(address).await.unwrap();
    socket.send(&json!({"type": "subscribe", "id": "a", "channel": "*"})).await;
    socket.expect_type("subscribed").await;

    for script in [
        "begin; insert into orders values (1); select rowcast.publish('orders.shipped', '{\"id\": 7}');
         insert into orders values (2); select rowcast.publish('Odd-Channel', '[1, \"two\\n\", null]'); commit",
        "begin; insert into orders values (3); select rowcast.publish('orders.shipped', '{\"id\": 8}'); rollback",
        "begin; savepoint s; select rowcast.publish('orders.shipped', '{\"id\": 9}'); rollback to s; commit",
        "select rowcast.publish('orders.end', 'true')",
    ] {
        database.execute(script).await;
    }
    let mut expected = Vec::new();
    for _ in 0..5 {
        expected.push(sse.expect_event("message").await.json());
    }
    let contents: Vec<_> =
        expected.iter().map(told).map(|(_, channel, content)| (channel, content)).collect();
    let channels = ["public.orders", "orders.shipped", "public.orders", "Odd-Channel", "orders.end"];
    let values =
        [json!({"id": 1}), json!({"id": 7}), json!({"id": 2}), json!([1, "two\n", null]), json!(true)];
    assert_eq!(contents, channels.map(ToOwned::to_owned).into_iter().zip(values).collect::<Vec<_>>());
    let transaction: Vec<_> =
        expected.iter().map(|event| (&event["tx"]["lsn"], event["tx"]["seq"].as_u64())).collect();
    assert!(
        transaction[..4].iter().all(|(lsn, _)| *lsn == transaction[0].0)
            && transaction[4].0 != transaction[0].0
    );
    assert_eq!(transaction.iter().map(|(_, seq)| seq.unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3, 0]);

    for event in &expected {
        assert_eq!(&ndjson.expect("the same in NDJSON").await, event);
        let mut message = socket.expect_type("event").await;
        assert_eq!(message["sub"], "a");
        let members = message.as_object_mut().unwrap();
        members.remove("type");
        members.remove("sub");
        assert_eq!(&message, event);
    }
    let page = page(address, "/v1/events?channel=*&from=earliest").await.unwrap();
    assert_eq!(page["events"], json!(expected));

    let mut found = Vec::new();
    for _ in 0..5 {
        let record = records.next(SOON).await.expect("a record");
        let id: u64 = record.headers["rowcast.id"].parse().unwrap();
        let topic = record.topic.strip_prefix(&format!("{prefix}.")).unwrap().to_owned();
        let value = record.value.expect("a value");
        let content = if topic == "public.orders" { value["after"].clone() } else { value };
        found.push((id, topic, content));
    }
    // Topics have no order among each other, and no blanks in their names.
    found.sort_by_key(|(id, ..)| *id);
    let expected =
        expected.iter().map(told).map(|(id, channel, content)| (id, channel.replace(' ', "_"), content));
    assert_eq!(found, expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn custom_events_can_be_posted() {
    let database = Postgres::shared().await.create_database("posted").await;
    database.execute("create table orders (id integer primary key)").await;
    let rowcast = Rowcast::of(&database).start().await;
    let address = rowcast.address();
    let mut events = Sse::open(address, "/v1/events?channel=greetings.*&channel=public.orders").await;
    let answer =
        http::post(address, "/v1/channels/greetings.new/events", "{\"hello\":\n \"wörld\"}").await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    let event = events.expect_event("message").await.json();
    assert_eq!((&event["id"], &event["tx"]), (&answer.json()["id"], &Value::Null));
    assert_eq!((&event["op"], &event["payload"]), (&json!("message"), &json!({"hello": "wörld"})));
    for (path, body, status) in [
        ("/v1/channels/public.orders/events", "{}", 409),
        ("/v1/channels/rowcast.rejected/events", "{}", 400),
        ("/v1/channels/greetings.new/events", "no json", 400),
        ("/v1/channels/greetings.new/events", "", 400),
    ] {
        let answer = http::post(address, path, body).await.unwrap();
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text());
        assert!(answer.json()["error"]["message"].is_string());
    }
    // A page of somebody else's must not publish.
    let foreign = [("origin", "https://evil.example"), ("content-type", "text/plain")];
    let answer = http::request(address, Method::POST, "/v1/channels/greetings.new/events", &foreign, "{}")
        .await
        .unwrap();
    assert_eq!(answer.status, 403);
    database.execute("insert into orders values (1)").await;
    assert_eq!(
        events.expect_event("message").await.json()["after"],
        json!({"id": 1}),
        "nothing came of the refused"
    );
}

#[tokio::test]
async fn a_custom_name_that_is_a_table_is_rejected() {
    let database = Postgres::shared().await.create_database("rejected").await;
    database.execute("create table orders (id integer primary key)").await;
    let rowcast = Rowcast::of(&database).start().await;
    let mut events = Sse::open(rowcast.address(), "/v1/events?channel=*").await;
    database.execute("select rowcast.publish('public.orders', '{\"id\": 1}')").await;
    database.execute("select pg_logical_emit_message(true, 'rowcast.event.raw', 'no json')").await;
    database.execute("select pg_logical_emit_message(true, 'somebody.else', 'x')").await;
    // JSON that hardly any program has a value for.
    database.execute("select rowcast.publish('public.orders', '[1e400]')").await;
    let nested = format!("{}{}", "[".repeat(300), "]".repeat(300));
    database.execute(&format!("select rowcast.publish('public.orders', '{nested}')")).await;
    database.execute("select rowcast.publish('end', '0')").await;
    let forged = events.expect_event("message").await.json();
    assert_eq!((&forged["channel"], &forged["op"]), (&json!("rowcast.rejected"), &json!("message")));
    assert_eq!(forged["payload"]["channel"], "public.orders");
    assert_eq!(forged["payload"]["payload"], json!({"id": 1}));
    assert!(forged["payload"]["reason"].as_str().unwrap().contains("captured table"), "{forged}");
    let raw = events.expect_event("message").await.json();
    assert_eq!((&raw["channel"], &raw["payload"]["channel"]), (&json!("rowcast.rejected"), &json!("raw")));
    for told in ["[1000000", &nested] {
        let data = events.expect_event("message").await.data;
        assert!(data.contains("rowcast.rejected") && data.contains(&format!("\"payload\":{told}")), "{data}");
    }
    assert_eq!(events.expect_event("message").await.json()["channel"], "end");
    assert_eq!(rowcast.metric("rowcast_source_rejected_messages_total").await, Some(4.0));
}
