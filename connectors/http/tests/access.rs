use std::os::unix::fs::PermissionsExt;

use rowcast_engine::Kind;
use rowcast_http::{Auth, Config, Door};
use serde_json::json;
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::Error;

use crate::support::{Server, Setup, Socket, request, request_over};

#[tokio::test]
async fn other_peoples_pages_are_kept_out() {
    let server = Server::start().await;
    let evil = [("origin", "https://evil.example")];
    for (method, path) in [
        ("GET", "/v1/events?limit=1"),
        ("GET", "/v1/status"),
        ("POST", "/v1/channels/a/events"),
        ("OPTIONS", "/v1/channels/a/events"),
    ] {
        let answer = request(server.address, method, path, &evil, "1").await;
        assert_eq!(answer.status, 403, "{method} {path}");
        assert_eq!(answer.header("access-control-allow-origin"), "");
        let error = &answer.json()["error"];
        assert_eq!(error["code"], "forbidden_origin");
        assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("origins")), "{error}");
    }
    let rebound = [("host", "evil.example:8080"), ("origin", "http://evil.example:8080")];
    let answer = request(server.address, "GET", "/v1/events?limit=1", &rebound, "").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["code"]), (403, &json!("forbidden_host")));
    let own = format!("http://{}", server.address);
    assert_eq!(
        request(server.address, "GET", "/v1/events?limit=1", &[("origin", &own)], "").await.status,
        200
    );
    // Probes come by whatever name.
    assert_eq!(request(server.address, "GET", "/healthz", &rebound, "").await.status, 200);
}

#[tokio::test]
async fn a_websocket_of_another_page_learns_why_it_is_closed() {
    let server = Server::start().await;
    let evil = [("origin", "https://evil.example")];
    let mut socket = Socket::open_with(server.address, &evil).await.expect("an upgrade");
    let (code, reason) = socket.next().await.expect_err("a close");
    assert_eq!(code, 1008);
    assert!(reason.contains("evil.example"), "{reason}");
    // Without a page there is no browser: the status tells it.
    let other = Socket::open_with(server.address, &[("host", "evil.example")]).await;
    let Err(error) = other else { panic!("let in") };
    assert!(matches!(*error, Error::Http(response) if response.status() == 403));
}

#[tokio::test]
async fn pages_that_are_listed_may_come() {
    let config = Config {
        hosts: vec!["rowcast".to_owned()],
        origins: vec!["https://app.example.com".to_owned()],
        ..Config::default()
    };
    let server = Server::with(Setup { config, ..Setup::default() }).await;
    let app = [("host", "rowcast:8080"), ("origin", "https://app.example.com")];
    let answer = request(server.address, "GET", "/v1/events?limit=1", &app, "").await;
    assert_eq!((answer.status.as_u16(), answer.header("vary")), (200, "origin"));
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example.com");
    let answer = request(server.address, "OPTIONS", "/v1/channels/a/events", &app, "").await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-methods")), (204, "GET, POST"));
    Socket::open_with(server.address, &app).await.expect("a WebSocket").send(&json!({"type": "hello"})).await;
}

#[tokio::test]
async fn the_unix_socket_is_for_its_owner_and_asks_no_names() {
    let server = Server::with(Setup { admin: true, ..Setup::default() }).await;
    let mode = std::fs::metadata(&server.admin).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let stream = UnixStream::connect(&server.admin).await.expect("a connection");
    let answer = request_over(stream, "GET", "/v1/status", &[("host", "whatever")]).await;
    assert_eq!(answer.status, 200);
    let second = Door::bind(free_port(), Some(server.admin.clone())).await;
    assert!(second.is_err_and(|error| error.remedy().is_some()), "a second door on the socket");
    let admin = server.admin.clone();
    server.stop();
    server.stopped().await;
    assert!(!admin.exists());
}

#[tokio::test]
async fn what_a_dead_process_left_is_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists());
    Door::bind(free_port(), Some(path)).await.expect("a door");
}

#[tokio::test]
async fn a_door_that_cannot_be_opened_says_why() {
    let open = Config { listen: "0.0.0.0:0".to_owned(), ..Config::default() };
    let error = Door::bind(open.clone(), None).await.expect_err("no auth");
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.remedy().is_some_and(|hint| hint.contains("auth = \"none\"")));
    Door::bind(Config { auth: Some(Auth::None), ..open }, None).await.expect("a door");

    let first = Door::bind(free_port(), None).await.expect("a door");
    let taken = Config { listen: first.address().to_string(), ..Config::default() };
    let error = Door::bind(taken, None).await.expect_err("the port is taken");
    assert_eq!(error.kind(), Kind::Failed);
    assert!(error.remedy().is_some_and(|hint| hint.contains("--listen")), "{error}");

    let wrong = Config { listen: "nowhere".to_owned(), ..Config::default() };
    assert_eq!(Door::bind(wrong, None).await.expect_err("no address").kind(), Kind::Usage);
}

fn free_port() -> Config {
    Config { listen: "127.0.0.1:0".to_owned(), ..Config::default() }
}
