use serde_json::json;

use crate::support::{Server, Socket, Sse, soon};

#[tokio::test]
async fn health_follows_the_source_and_readiness_does_not() {
    let server = Server::start().await;
    let flow = server.get("/v1/health/flow").await;
    assert_eq!((flow.status.as_u16(), flow.json()), (200, json!({"healthy": true, "reasons": []})));
    server.status.source(|source| {
        source.state = "reconnecting";
        source.reason = Some("the server is away".to_owned());
    });
    let flow = server.get("/v1/health/flow").await;
    assert_eq!(flow.status, 503);
    assert!(flow.json()["reasons"][0].as_str().is_some_and(|reason| reason.contains("the server is away")));
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(server.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn status_counts_clients() {
    let server = Server::start().await;
    let mut sse = Sse::open(server.address, "").await;
    sse.expect("open").await;
    let socket = Socket::open(server.address).await;
    let ids = server.publish("a", 3).await;
    assert_eq!(sse.ids(3).await, ids);
    let status = server.get("/v1/status").await.json();
    assert_eq!(status["clients"], json!({"sse": 1, "ndjson": 0, "page": 0, "websocket": 1}));
    let door = &status["doors"]["http"];
    assert_eq!(
        (&door["kind"], &door["state"], &door["clients"]),
        (&json!("http"), &json!("running"), &json!(2))
    );
    assert_eq!((&door["delivered"], &status["journal"]["newest"]), (&json!(3), &json!(ids[2])));
    assert!(status["now"].as_i64().is_some_and(|now| now > 1_700_000_000_000_000));
    drop((sse, socket));
    let gone = async {
        while server.get("/v1/status").await.json()["doors"]["http"]["clients"] != json!(0) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    soon("the clients to be gone", gone).await;
}

#[tokio::test]
async fn metrics_are_for_prometheus() {
    let server = Server::start().await;
    let metrics = server.get("/metrics").await;
    assert_eq!((metrics.status.as_u16(), metrics.text()), (200, "rowcast_healthy 1\n".to_owned()));
    assert!(metrics.header("content-type").starts_with("text/plain"));
}

#[tokio::test]
async fn the_page_needs_nobody_else() {
    let server = Server::start().await;
    let page = server.get("/").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    let mut files = vec![page.text()];
    for path in ["/page/app.js", "/page/style.css"] {
        assert!(files[0].contains(path), "{path}");
        let file = server.get(path).await;
        assert_eq!(file.status, 200, "{path}");
        files.push(file.text());
    }
    for file in files {
        assert!(!file.is_empty());
        let elsewhere = file.replace("http://www.w3.org/2000/svg", "");
        assert!(!elsewhere.contains("://"), "an address of another server");
        assert!(!file.contains("innerHTML"), "row values may be hostile HTML");
    }
}
