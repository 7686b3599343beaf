use serde_json::json;

use crate::support::{Lines, Server, Setup, Socket, Sse};

#[tokio::test]
async fn a_stream_opens_at_once_and_brings_what_comes() {
    let server = Server::start().await;
    let old = server.publish("orders.shipped", 2).await;
    let mut sse = Sse::open(server.address, "channel=orders.shipped").await;
    assert_eq!(sse.headers["cache-control"], "no-store");
    assert_eq!(sse.headers["x-accel-buffering"], "no");
    assert_eq!(sse.headers["rowcast-last-event-id"], old[1].to_string());
    let open = sse.expect("open").await;
    assert_eq!((open.id, open.retry), (Some(old[1]), Some(2000)));
    let data = open.json();
    assert_eq!(
        (&data["from"], &data["newest"], &data["oldest"]),
        (&json!(old[1]), &json!(old[1]), &json!(old[0]))
    );
    assert!(data["server"].as_str().is_some_and(|server| server.starts_with("rowcast/")));

    let ids = server.publish("orders.shipped", 3).await;
    assert_eq!(sse.ids(3).await, ids);
}

#[tokio::test]
async fn an_event_is_the_native_object() {
    let server = Server::start().await;
    server.journal.publish(&[("notes", br#"{"text": "two\nlines"}"#)], 0).await.expect("an id");
    let mut sse = Sse::open(server.address, "from=earliest").await;
    sse.expect("open").await;
    let event = sse.expect("").await.json();
    assert_eq!(event["channel"], "notes");
    assert_eq!(event["op"], "message");
    assert_eq!(event["payload"], json!({"text": "two\nlines"}));
    assert_eq!(event["ts"], "1970-01-01T00:00:00.000000Z");
    assert_eq!(event["tx"], json!(null));
}

#[tokio::test]
async fn the_last_event_id_resumes_whatever_the_address_says() {
    let server = Server::start().await;
    let ids = server.publish("a", 5).await;
    let last = ids[1].to_string();
    let mut sse = Sse::open_with(server.address, "from=earliest", &[("last-event-id", last.as_str())]).await;
    assert_eq!(sse.expect("open").await.id, Some(ids[1]));
    assert_eq!(sse.ids(3).await, ids[2..]);

    let mut sse = Sse::open(server.address, &format!("from=earliest&last_event_id={}", ids[3])).await;
    sse.expect("open").await;
    assert_eq!(sse.ids(1).await, ids[4..]);
}

#[tokio::test]
async fn every_place_to_start_from() {
    let server = Server::start().await;
    let ids = server.publish("a", 5).await;
    server.publish("b", 5).await;
    let past = 1_700_000_000_000_000;
    let later = server.journal.publish(&[("a", b"null")], past + 2_000_000).await.expect("an id");
    let all: Vec<u64> = ids.iter().copied().chain([later]).collect();
    for (from, expected) in [
        ("from=earliest", &all[..]),
        ("replay=-2", &all[..]),
        ("from=last:2", &all[4..]),
        ("from=2023-11-14T22:13:21Z", &all[5..]),
        (&format!("from={}", ids[3]), &all[4..]),
        (&format!("replay={}", ids[3]), &all[4..]),
    ] {
        let mut sse = Sse::open(server.address, &format!("channel=a&{from}")).await;
        assert!(sse.expect("open").await.id.is_some_and(|id| id < expected[0]), "{from}");
        assert_eq!(sse.ids(expected.len()).await, expected, "{from}");
    }
    for from in ["from=latest", "replay=-1", "from=last:0"] {
        let mut sse = Sse::open(server.address, &format!("channel=a&{from}")).await;
        assert_eq!(sse.expect("open").await.id, Some(later), "{from}");
    }
}

#[tokio::test]
async fn a_position_above_the_newest_is_a_gap() {
    let server = Server::start().await;
    let newest = server.publish("a", 1).await[0];
    let ahead = newest + 1000;
    let mut sse = Sse::open(server.address, &format!("from={ahead}")).await;
    assert_eq!(sse.expect("open").await.id, Some(ahead));
    let gap = sse.expect("gap").await;
    // Whoever comes back with this id gets what was written meanwhile.
    assert_eq!(gap.id, Some(newest));
    assert_eq!(gap.json(), json!({"from": newest + 1, "to": ahead, "reason": "ahead"}));
    let ids = server.publish("a", 1).await;
    assert_eq!(sse.ids(1).await, ids);
}

#[tokio::test]
async fn what_retention_took_is_a_gap_before_the_rest() {
    let server = Server::with(Setup { small: Some(8192), ..Setup::default() }).await;
    let first = server.publish("a", 1).await[0];
    let mut newest = first;
    while server.journal.oldest() <= first {
        newest = *server.publish("a", 50).await.last().expect("an id");
    }
    let oldest = server.journal.oldest();
    let mut sse = Sse::open(server.address, &format!("from={first}")).await;
    assert_eq!(sse.expect("open").await.id, Some(first));
    let gap = sse.expect("gap").await;
    assert_eq!(gap.json(), json!({"from": first + 1, "to": oldest - 1, "reason": "retention"}));
    assert_eq!(gap.id, Some(oldest - 1));
    let count = usize::try_from(newest - oldest + 1).expect("some");
    assert_eq!(sse.ids(count).await, (oldest..=newest).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_break_in_the_history_is_told_where_it_is() {
    let server = Server::start().await;
    let before = server.publish("a", 1).await;
    let gap = server.journal.record_gap("", "source_lost", "The slot is gone", 0).await.expect("an id");
    let after = server.publish("a", 1).await;
    let mut sse = Sse::open(server.address, "channel=a&op=message&from=earliest").await;
    sse.expect("open").await;
    assert_eq!(sse.ids(1).await, before);
    let told = sse.expect("gap").await;
    assert_eq!((told.id, told.json()["reason"].as_str()), (Some(gap), Some("source_lost")));
    assert_eq!(sse.ids(1).await, after);
}

/// A client that gets nothing learns how far the journal is, so that it does not come back for what it does not want.
#[tokio::test]
async fn silence_ends_with_a_position_on_every_stream() {
    let server = Server::start().await;
    let a = server.publish("a", 1).await[0];
    let mut sse = Sse::open(server.address, "channel=a").await;
    let mut lines = Lines::open(server.address, "channel=a").await;
    let mut socket = Socket::open(server.address).await;
    sse.expect("open").await;
    lines.expect().await;
    socket.subscribe(&json!({"type": "subscribe", "id": "x", "channel": "a"})).await;
    let b = *server.publish("b", 5).await.last().expect("an id");
    let (event, line, message) =
        tokio::join!(sse.expect("position"), lines.expect(), socket.expect("position"));
    assert_eq!((event.id, event.json()), (Some(b), json!({"newest": b})));
    assert_eq!(line, json!({"type": "position", "id": b}));
    assert_eq!(message, json!({"type": "position", "id": "x", "pos": b}));
    assert!(a < b);
    // Nothing is missed by going on there.
    let more = server.publish("a", 1).await;
    let mut again = Sse::open(server.address, &format!("channel=a&from={b}")).await;
    again.expect("open").await;
    assert_eq!(again.ids(1).await, more);
}

#[tokio::test]
async fn filters_let_through_what_was_asked_for() {
    let server = Server::start().await;
    let mut sse = Sse::open(server.address, "channel=a&channel=b.*&op=message,insert").await;
    let mut inserts = Sse::open(server.address, "op=insert").await;
    let open = sse.expect("open").await.json();
    assert_eq!(open["unknown"], json!(["a"]));
    inserts.expect("open").await;
    let a = server.publish("a", 1).await;
    server.publish("c", 1).await;
    let b = server.publish("b.x", 1).await;
    assert_eq!(sse.ids(2).await, [a[0], b[0]]);
}

#[tokio::test]
async fn opening_names_what_is_unknown_and_what_is_incomplete() {
    let server = Server::start().await;
    server.publish("seen", 1).await;
    // The door has noted the channel when it lists it.
    let listed = async {
        while !server.get("/v1/channels").await.text().contains("seen") {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    crate::support::soon("the list of channels", listed).await;
    let query = "channel=public.orders&channel=public.log&channel=publc.orders&channel=seen";
    let open = Sse::open(server.address, query).await.expect("open").await.json();
    assert_eq!(open["unknown"], json!(["publc.orders"]));
    assert_eq!(open["inserts_only"], json!(["public.log"]));
}
