use serde_json::json;

use crate::support::{Lines, Server};

#[tokio::test]
async fn lines_are_events_and_the_others_have_a_type() {
    let server = Server::start().await;
    let ids = server.publish("a", 3).await;
    let mut lines = Lines::open(server.address, "channel=a&from=earliest").await;
    let open = lines.expect().await;
    assert_eq!((&open["type"], &open["newest"]), (&json!("open"), &json!(ids[2])));
    for id in &ids {
        let event = lines.expect().await;
        assert_eq!((&event["id"], &event["type"]), (&json!(id), &json!(null)));
    }
    let more = server.publish("a", 1).await;
    assert_eq!(lines.expect().await["id"], json!(more[0]));
    server.stop();
    let end = lines.expect().await;
    assert_eq!(
        (&end["type"], &end["reason"], &end["id"]),
        (&json!("end"), &json!("shutdown"), &json!(more[0]))
    );
    assert!(lines.next().await.is_none());
    server.stopped().await;
}

#[tokio::test]
async fn a_gap_is_a_line() {
    let server = Server::start().await;
    let newest = server.publish("a", 1).await[0];
    let mut lines = Lines::open(server.address, &format!("from={}", newest + 5)).await;
    assert_eq!(lines.expect().await["from"], json!(newest + 5));
    let gap = json!({"type": "gap", "from": newest + 1, "to": newest + 5, "reason": "ahead"});
    assert_eq!(lines.expect().await, gap);
}
