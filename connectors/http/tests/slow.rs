use serde_json::json;

use crate::support::{Lines, Server, Socket, Sse, send};

/// More than all the buffers of sockets between two ends of a connection hold.
const PAYLOADS: usize = 64;

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    line.split_whitespace().nth(1).and_then(|size| size.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_costs_nothing_and_misses_nothing() {
    let server = Server::start().await;
    let mut stalled = Vec::new();
    for _ in 0..30 {
        stalled.push(send(server.address, "GET", "/v1/events", &[("accept", "text/event-stream")], "").await);
    }
    let mut late = Lines::open(server.address, "").await;
    let mut late_socket = Socket::open(server.address).await;
    late_socket.subscribe(&json!({"type": "subscribe", "id": "a"})).await;
    let mut reader = Sse::open(server.address, "").await;
    reader.expect("open").await;

    let large = format!("\"{}\"", "x".repeat(1 << 20));
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(server.journal.publish(&[("a", large.as_bytes())], 0).await.expect("an id"));
        assert_eq!(reader.ids(1).await, ids[ids.len() - 1..]);
    }
    // Caches and sockets are full now; the rest has to cost nothing.
    let before = resident();
    for _ in 4..PAYLOADS {
        ids.push(server.journal.publish(&[("a", large.as_bytes())], 0).await.expect("an id"));
        assert_eq!(reader.ids(1).await, ids[ids.len() - 1..]);
    }
    let grown = resident().saturating_sub(before) >> 10;
    // Thirty queues would hold 1,800 MB; the journal's cache may fill up, and the stalled hold a batch or two. So may the
    // caches of the tests beside this one.
    assert!(grown < 600, "grown by {grown} MB");

    late.expect().await;
    for id in &ids {
        assert_eq!(late.expect().await["id"], json!(id));
    }
    for id in &ids {
        assert_eq!(late_socket.expect("event").await["id"], json!(id));
    }
    drop(stalled);
}

#[tokio::test]
async fn many_readers_get_the_same() {
    let server = Server::start().await;
    let mut readers = Vec::new();
    for _ in 0..100 {
        let mut sse = Sse::open(server.address, "channel=a").await;
        sse.expect("open").await;
        readers.push(sse);
    }
    let ids = server.publish("a", 50).await;
    for reader in &mut readers {
        assert_eq!(reader.ids(50).await, ids);
    }
}
