use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::support::{Server, Socket};

fn ids(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["id"].as_u64().expect("an id")).collect()
}

#[tokio::test]
async fn hello_is_answered() {
    let server = Server::start().await;
    let newest = server.publish("a", 1).await[0];
    let mut socket = Socket::open(server.address).await;
    assert_eq!(socket.protocol.as_deref(), Some("rowcast.v1"));
    socket.send(&json!({"type": "hello", "client": "test"})).await;
    let welcome = socket.expect("welcome").await;
    assert_eq!((&welcome["newest"], &welcome["oldest"]), (&json!(newest), &json!(newest)));
    assert_eq!(welcome["limits"]["subscriptions"], json!(100));
    assert!(welcome["session"].is_string() && welcome["ping"].is_number());
    socket.send(&json!({"type": "ping", "t": [1]})).await;
    assert_eq!(socket.expect("pong").await, json!({"type": "pong", "t": [1]}));
}

#[tokio::test]
async fn subscriptions_on_one_connection_are_apart() {
    let server = Server::start().await;
    let a = server.publish("a", 3).await;
    server.publish("b", 3).await;
    let mut socket = Socket::open_with(server.address, &[]).await.expect("without a subprotocol");
    let (subscribed, events) =
        socket.subscribe(&json!({"type": "subscribe", "id": "x", "channel": "a", "from": a[0]})).await;
    assert_eq!(
        (&subscribed["id"], &subscribed["from"], &subscribed["gap"]),
        (&json!("x"), &json!(a[0]), &json!(null))
    );
    assert_eq!(ids(&events), a[1..]);
    assert!(events.iter().all(|event| event["sub"] == "x" && event["op"] == "message"));
    let (_, events) =
        socket.subscribe(&json!({"type": "subscribe", "id": "y", "channels": ["b", "a"]})).await;
    assert!(events.is_empty());

    let both = server.publish("a", 1).await[0];
    let mut seen = vec![socket.expect("event").await, socket.expect("event").await];
    seen.sort_by_key(|event| event["sub"].to_string());
    assert_eq!((&seen[0]["sub"], &seen[1]["sub"]), (&json!("x"), &json!("y")));
    assert_eq!(ids(&seen), [both, both]);

    socket.send(&json!({"type": "unsubscribe", "id": "x"})).await;
    let gone = socket.expect("unsubscribed").await;
    assert_eq!((&gone["id"], &gone["code"], &gone["pos"]), (&json!("x"), &json!("ok"), &json!(both)));
    let next = server.publish("a", 1).await[0];
    let event = socket.expect("event").await;
    assert_eq!((&event["sub"], &event["id"]), (&json!("y"), &json!(next)));
    // The name is free again.
    let (_, events) =
        socket.subscribe(&json!({"type": "subscribe", "id": "x", "channel": "a", "from": both})).await;
    assert_eq!(ids(&events), [next]);
}

#[tokio::test]
async fn the_short_form_needs_no_name() {
    let server = Server::start().await;
    let mut socket = Socket::open(server.address).await;
    let short = json!({"type": "subscribe", "topics": ["public.orders", "public.log"]});
    let (subscribed, _) = socket.subscribe(&short).await;
    assert_eq!((&subscribed["id"], &subscribed["inserts_only"]), (&json!("1"), &json!(["public.log"])));
    let (subscribed, _) = socket.subscribe(&json!({"type": "subscribe", "topics": ["new"]})).await;
    assert_eq!((&subscribed["id"], &subscribed["unknown"]), (&json!("2"), &json!(["new"])));
    let id = server.publish("new", 1).await[0];
    assert_eq!(socket.expect("event").await["id"], json!(id));
}

#[tokio::test]
async fn the_address_can_hold_a_first_subscription() {
    let server = Server::start().await;
    let a = server.publish("a", 3).await;
    let open = async |query: &str| Socket::open_at(server.address, query, &[]).await.expect("a WebSocket");
    let mut socket = open("?channel=a&channel=b&from=last:1&id=x").await;
    let subscribed = socket.expect("subscribed").await;
    assert_eq!((&subscribed["id"], &subscribed["from"]), (&json!("x"), &json!(a[1])));
    assert_eq!(socket.expect("event").await["id"], a[2]);
    socket.expect("synced").await;
    // It is one like others.
    let (subscribed, _) = socket.subscribe(&json!({"type": "subscribe", "channel": "c"})).await;
    assert_eq!(subscribed["id"], "1");
    socket.send(&json!({"type": "unsubscribe", "id": "x"})).await;
    assert_eq!(socket.expect("unsubscribed").await["id"], "x");

    // What is wrong with it is said, and the connection stays.
    for (query, field, hint) in [
        ("?chanel=a", "chanel", "Did you mean channel?"),
        ("?channel=*.a", "channel", "public.*"),
        ("?channel=a&id=", "id", ""),
        ("?id=x&id=y", "id", ""),
        ("?channel=a&limit=1", "limit", "Leave it out"),
    ] {
        let mut socket = open(query).await;
        let error = socket.expect("error").await;
        assert_eq!(error["field"], field, "{error}");
        assert!(error["hint"].as_str().unwrap_or_default().contains(hint), "{error}");
        socket.subscribe(&json!({"type": "subscribe", "channel": "a"})).await;
    }
}

#[tokio::test]
async fn gaps_are_told() {
    let server = Server::start().await;
    let first = server.publish("a", 1).await[0];
    let lost = server.journal.record_gap("a", "source_lost", "The slot is gone", 0).await.expect("an id");
    let mut socket = Socket::open(server.address).await;
    let from = lost + 7;
    let (subscribed, _) = socket.subscribe(&json!({"type": "subscribe", "id": "z", "from": from})).await;
    assert_eq!(subscribed["gap"], json!({"from": lost + 1, "to": from, "reason": "ahead"}));
    socket.send(&json!({"type": "subscribe", "id": "a", "channel": "a", "from": "earliest"})).await;
    socket.expect("subscribed").await;
    assert_eq!(socket.expect("event").await["id"], json!(first));
    let gap = socket.expect("gap").await;
    assert_eq!(
        (&gap["id"], &gap["from"], &gap["reason"]),
        (&json!("a"), &json!(lost), &json!("source_lost"))
    );
}

#[tokio::test]
async fn a_wrong_wish_is_answered_and_the_rest_goes_on() {
    let server = Server::start().await;
    let mut socket = Socket::open(server.address).await;
    socket.subscribe(&json!({"type": "subscribe", "id": "a"})).await;
    for (message, code, field) in [
        (json!({"type": "subscribe", "id": "b", "chanel": "a"}), "bad_parameter", json!("chanel")),
        (json!({"type": "subscribe", "id": "b", "from": -1}), "bad_parameter", json!("from")),
        (json!({"type": "subscribe", "id": "b", "topics": []}), "bad_parameter", json!("topics")),
        (json!({"type": "subscribe", "id": "a"}), "id_in_use", json!("id")),
        (json!({"type": "unsubscribe", "id": "b"}), "unknown_subscription", json!("id")),
    ] {
        socket.send(&message).await;
        let error = socket.expect("error").await;
        assert_eq!((&error["code"], &error["field"], &error["id"]), (&json!(code), &field, &message["id"]));
        assert_eq!(error["retry"], json!(false));
    }
    let id = server.publish("a", 1).await[0];
    assert_eq!(socket.expect("event").await["id"], json!(id));
}

#[tokio::test]
async fn what_is_no_message_ends_the_connection() {
    let server = Server::start().await;
    for text in ["subscribe", "{}", r#"{"type":"subscrib"}"#] {
        let mut socket = Socket::open(server.address).await;
        socket.send_frame(Message::text(text)).await;
        assert_eq!(socket.expect("error").await["code"], "bad_request", "{text}");
        assert!(socket.next().await.is_err_and(|(code, _)| code == 4400), "{text}");
    }
    let mut socket = Socket::open(server.address).await;
    socket.send_frame(Message::binary(vec![1])).await;
    assert!(socket.next().await.is_err_and(|(code, _)| code == 1003));
    let mut socket = Socket::open(server.address).await;
    socket.send_frame(Message::text(" ".repeat(70_000))).await;
    assert!(socket.next().await.is_err_and(|(code, _)| code == 1009));
}

#[tokio::test]
async fn a_close_is_answered_with_its_code() {
    let server = Server::start().await;
    for (code, reason) in [(1000, "done"), (1001, ""), (4123, "own")] {
        let mut socket = Socket::open(server.address).await;
        socket.subscribe(&json!({"type": "subscribe", "channel": "a"})).await;
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        socket.send_frame(Message::Close(Some(frame))).await;
        assert_eq!(socket.next().await, Err((code, reason.to_owned())));
    }
}

#[tokio::test]
async fn what_is_no_frame_is_told_so() {
    let server = Server::start().await;
    let cases: [(&[u8], u16); 3] =
        // Without a mask; of no known kind; a text that is not UTF-8.
        [(b"\x81\x01a", 1002), (b"\x83\x80\0\0\0\0", 1002), (b"\x81\x81\0\0\0\0\xff", 1007)];
    for (bytes, code) in cases {
        let mut socket = Socket::open(server.address).await;
        socket.send_bytes(bytes).await;
        let closed = socket.next().await;
        assert!(closed.as_ref().is_err_and(|(told, _)| *told == code), "{bytes:?}: {closed:?}");
    }
}

#[tokio::test]
async fn a_long_replay_does_not_hold_up_the_others() {
    let server = Server::start().await;
    let payload = format!("\"{}\"", "x".repeat(10_000));
    let many: Vec<(&str, &[u8])> = vec![("long", payload.as_bytes()); 50];
    for _ in 0..60 {
        server.journal.publish(&many, 0).await.expect("an id");
    }
    let mut socket = Socket::open(server.address).await;
    socket.subscribe(&json!({"type": "subscribe", "id": "live", "channel": "live"})).await;
    socket.send(&json!({"type": "subscribe", "id": "replay", "channel": "long", "from": "earliest"})).await;
    socket.expect("subscribed").await;
    socket.expect("event").await;
    let id = server.publish("live", 1).await[0];
    let (mut replayed, mut at) = (1, None);
    loop {
        let message = socket.next().await.expect("a message");
        match (message["type"].as_str(), message["sub"].as_str()) {
            (Some("event"), Some("live")) => {
                assert_eq!(message["id"], json!(id));
                at = Some(replayed);
            }
            (Some("event"), _) => replayed += 1,
            (Some("synced"), _) => break,
            _ => panic!("{message}"),
        }
    }
    assert_eq!(replayed, 3000);
    // Behind what the sockets' buffers held, and long before the end.
    assert!(at.is_some_and(|at| at < 2500), "{at:?}");
}

#[tokio::test]
async fn subscriptions_have_a_limit() {
    let config = rowcast_http::Config { max_subscriptions: 2, ..rowcast_http::Config::default() };
    let server = Server::with(crate::support::Setup { config, ..Default::default() }).await;
    let mut socket = Socket::open(server.address).await;
    for _ in 0..2 {
        socket.subscribe(&json!({"type": "subscribe"})).await;
    }
    socket.send(&json!({"type": "subscribe"})).await;
    assert_eq!(socket.expect("error").await["code"], "too_many_subscriptions");
}
