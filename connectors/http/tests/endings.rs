use std::time::{Duration, Instant};

use rowcast_http::Config;
use serde_json::json;

use crate::support::{Server, Setup, Socket, Sse, request, send};

#[tokio::test]
async fn at_the_end_everybody_is_told_to_come_back() {
    let server = Server::start().await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut sse = Sse::open(server.address, "").await;
        sse.expect("open").await;
        streams.push(sse);
    }
    let mut socket = Socket::open(server.address).await;
    socket.subscribe(&json!({"type": "subscribe", "topics": ["*"]})).await;
    let newest = server.publish("a", 1).await[0];
    for sse in &mut streams {
        assert_eq!(sse.ids(1).await, [newest]);
    }
    socket.expect("event").await;
    let started = Instant::now();
    let waiting = tokio::spawn(request_page(server.address));
    while server.get("/v1/status").await.json()["clients"]["page"] != json!(1) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.stop();
    let mut times = Vec::new();
    for sse in &mut streams {
        let end = sse.expect("end").await;
        assert_eq!(end.id, Some(newest));
        assert_eq!(end.json(), json!({"reason": "shutdown", "retry": true}));
        times.extend(end.retry);
        assert_eq!(sse.next().await, None);
    }
    let notice = socket.expect("notice").await;
    assert_eq!(notice["code"], "shutdown");
    assert!(notice["reconnect_in"]["max"].as_u64() > notice["reconnect_in"]["min"].as_u64());
    assert_eq!(socket.next().await, Err((1001, "shutdown".to_owned())));
    assert_eq!(waiting.await.expect("no panic"), 200);
    server.stopped().await;
    assert!(started.elapsed() < Duration::from_secs(15));
    times.dedup();
    assert!(times.len() > 10, "all come back at once: {times:?}");
    assert!(times.iter().all(|time| (500..5000).contains(time)));
}

async fn request_page(address: std::net::SocketAddr) -> u16 {
    request(address, "GET", "/v1/events?wait=60s", &[], "").await.status.as_u16()
}

#[tokio::test]
async fn who_does_not_read_does_not_hold_up_the_end() {
    let server = Server::start().await;
    let large = format!("\"{}\"", "x".repeat(1 << 20));
    let stalled = send(server.address, "GET", "/v1/events", &[("accept", "text/event-stream")], "").await;
    let mut socket = Socket::open(server.address).await;
    socket.send(&json!({"type": "subscribe"})).await;
    socket.expect("subscribed").await;
    for _ in 0..30 {
        server.journal.publish(&[("a", large.as_bytes())], 0).await.expect("an id");
    }
    let started = Instant::now();
    server.stop();
    server.stopped().await;
    // The whole of the grace, which is shorter than five seconds; not as long as somebody does not read.
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    drop((stalled, socket));
}

#[tokio::test]
async fn streams_are_rotated_at_different_times() {
    let config = Config { rotate: Duration::from_secs(1), ..Config::default() };
    let server = Server::with(Setup { config, ..Setup::default() }).await;
    let started = Instant::now();
    let mut sse = Sse::open(server.address, "").await;
    let mut socket = Socket::open(server.address).await;
    sse.expect("open").await;
    assert_eq!(sse.expect("end").await.json(), json!({"reason": "rotate", "retry": true}));
    assert_eq!(sse.next().await, None);
    assert_eq!(socket.expect("notice").await["code"], "rotate");
    assert_eq!(socket.next().await, Err((4601, "rotate".to_owned())));
    let lived = started.elapsed();
    assert!(lived > Duration::from_millis(700) && lived < Duration::from_secs(10), "{lived:?}");
}

#[tokio::test]
async fn too_many_clients_are_sent_away_for_now() {
    let config = Config { max_connections: 1, ..Config::default() };
    let server = Server::with(Setup { config, ..Setup::default() }).await;
    let mut first = Sse::open(server.address, "").await;
    first.expect("open").await;
    // A browser gives up for ever on any status but 200.
    let mut second = Sse::open(server.address, "").await;
    let end = second.expect("end").await;
    assert_eq!(end.json(), json!({"reason": "busy", "retry": true}));
    assert!(end.retry.is_some() && end.id.is_none());
    assert_eq!(second.next().await, None);
    let lines = request(server.address, "GET", "/v1/events", &[("accept", "application/x-ndjson")], "").await;
    assert_eq!((lines.status.as_u16(), lines.header("retry-after")), (503, "5"));
    assert!(Socket::open_with(server.address, &[]).await.is_err());
    let own = format!("http://{}", server.address);
    let mut socket = Socket::open_with(server.address, &[("origin", &own)]).await.expect("an upgrade");
    assert!(socket.next().await.is_err_and(|(code, _)| code == 1013));
    // What is no stream is served all the same.
    assert_eq!(server.get("/v1/status").await.status, 200);
}
