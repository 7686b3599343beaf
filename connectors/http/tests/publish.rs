use serde_json::json;

use crate::rows::orders;
use crate::support::{Server, Sse, request};

#[tokio::test]
async fn what_is_published_is_an_event() {
    let server = Server::start().await;
    let mut sse = Sse::open(server.address, "channel=orders.shipped").await;
    sse.expect("open").await;
    let answer =
        request(server.address, "POST", "/v1/channels/orders.shipped/events", &[], r#"{"id": 7}"#).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let event = sse.expect("").await;
    assert_eq!(answer.json(), json!({"id": event.id, "channel": "orders.shipped"}));
    assert_eq!(event.json()["payload"], json!({"id": 7}));
    let channels = server.get("/v1/channels").await.json();
    assert_eq!(channels["channels"][2], json!({"channel": "orders.shipped", "kind": "custom"}));
    assert_eq!(
        channels["channels"][0],
        json!({"channel": "public.log", "kind": "table", "inserts_only": true})
    );
}

#[tokio::test]
async fn numbers_are_kept_as_they_are_written() {
    let server = Server::start().await;
    let mut sse = Sse::open(server.address, "channel=a").await;
    sse.expect("open").await;
    let (digits, deep) = ("9".repeat(400), format!("{}{}", "[".repeat(124), "]".repeat(124)));
    for number in ["1e400", "-0.50E+999", &digits, &deep] {
        let answer = request(server.address, "POST", "/v1/channels/a/events", &[], number).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        let told = sse.expect("").await.data;
        assert!(told.contains(&format!("\"payload\":{number}")), "{told}");
    }
    let deeper = format!("[{deep}]");
    let answer = request(server.address, "POST", "/v1/channels/a/events", &[], &deeper).await;
    let error = answer.json()["error"].clone();
    assert_eq!((answer.status.as_u16(), &error["code"]), (400, &json!("bad_payload")));
    assert!(error["message"].as_str().unwrap().contains("124 levels"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_an_event_is_refused() {
    let server = Server::start().await;
    let newest = server.journal.newest();
    let long = format!("/v1/channels/{}/events", "x".repeat(201));
    for (path, body, status, code) in [
        ("/v1/channels/public.orders/events", "1", 409, "is_table"),
        ("/v1/channels/rowcast.rejected/events", "1", 400, "bad_parameter"),
        ("/v1/channels/%20/events", "1", 400, "bad_parameter"),
        ("/v1/channels/a%0Ab/events", "1", 400, "bad_parameter"),
        ("/v1/channels/%ff/events", "1", 400, "bad_request"),
        (&long, "1", 400, "bad_parameter"),
        ("/v1/channels/a/events", "{", 400, "bad_payload"),
        ("/v1/channels/a/events", "", 400, "bad_payload"),
    ] {
        let answer = request(server.address, "POST", path, &[], body).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.json()["error"]["code"], code, "{path}");
    }
    let large = format!("\"{}\"", "x".repeat(1 << 20));
    let answer = request(server.address, "POST", "/v1/channels/a/events", &[], &large).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["code"]), (413, &json!("too_large")));
    assert_eq!(server.journal.newest(), newest);
}

/// As after a restart, before the source has been reached.
#[tokio::test]
async fn a_table_stays_one_while_it_is_not_known_what_is_captured() {
    let server = Server::start().await;
    orders(&server);
    server.status.source(|source| source.tables.clear());
    let newest = server.journal.newest();
    let answer = request(server.address, "POST", "/v1/channels/public.orders/events", &[], "1").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["code"]), (503, &json!("unavailable")));
    assert_eq!(server.journal.newest(), newest);
    let other = request(server.address, "POST", "/v1/channels/orders.shipped/events", &[], "1").await;
    assert_eq!(other.status, 201, "{}", other.text());
    // It has been reached, and nothing is captured any more.
    server.status.source(|source| source.server_version = "15".to_owned());
    let answer = request(server.address, "POST", "/v1/channels/public.orders/events", &[], "1").await;
    assert_eq!(answer.status, 201, "{}", answer.text());
}

#[tokio::test]
async fn a_closed_journal_takes_nothing_and_says_so() {
    let server = Server::start().await;
    server.journal.close().await;
    let answer = request(server.address, "POST", "/v1/channels/a/events", &[], "1").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "5"));
    assert_eq!(answer.json()["error"]["code"], "unavailable");
}
