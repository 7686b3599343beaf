use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rowcast_engine::deliver::{Delivery, deliver};
use rowcast_engine::record::Batch;
use rowcast_engine::sink::{Missing, OnGap, Sink, SinkError, Start};
use rowcast_engine::{Stopper, stop};
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::support::{Server, Setup, request, send_over, soon};

/// Takes everything.
struct Taker;

impl Sink for Taker {
    fn name(&self) -> &str {
        "taker"
    }

    async fn resume(&mut self) -> Result<Option<u64>, SinkError> {
        Ok(None)
    }

    async fn send(&mut self, _: &Arc<Batch>, _: u64) -> Result<(), SinkError> {
        Ok(())
    }

    async fn gap(&mut self, _: Missing) -> Result<(), SinkError> {
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

fn start(server: &Server) -> Stopper {
    let (stopper, stop) = stop();
    let (journal, status) = (server.journal.clone(), server.status.clone());
    let seat = server.sinks.seat("taker", journal.installation());
    status.door("taker", |door| (door.kind, door.state) = ("test", "starting"));
    let delivery = Delivery { journal, seat, status, stop, start: Start::Earliest, on_gap: OnGap::Stop };
    tokio::spawn(deliver(Taker, delivery));
    stopper
}

async fn order(server: &Server, path: &str, body: &str) -> (u16, Value) {
    let stream = UnixStream::connect(&server.admin).await.expect("a connection");
    let answer = soon(path, async { send_over(stream, "POST", path, &[], body).await.answer().await }).await;
    (answer.status.as_u16(), answer.json())
}

async fn sink(server: &Server) -> Value {
    server.get("/v1/sinks").await.json()["sinks"][0].clone()
}

/// Waits until the sink is at this event.
async fn at(server: &Server, position: u64) {
    soon("the sink to move", async {
        while sink(server).await["position"] != position {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn sinks_are_listed_paused_resumed_and_moved() {
    let server = Server::with(Setup { admin: true, ..Setup::default() }).await;
    assert_eq!(server.get("/v1/sinks").await.json()["sinks"], json!([]));
    let ids = server.publish("c", 10).await;
    let _stopper = start(&server);
    at(&server, ids[9]).await;
    let standing = json!({"name": "taker", "kind": "test", "state": "running", "reason": null, "position": ids[9],
        "newest": ids[9], "behind_events": 0, "behind_since": null, "gap": null, "delivered": 10, "started": null, "filling": null});
    let mut shown = sink(&server).await;
    let started = shown["started"].take();
    assert_eq!((&started["how"], started["at"].is_i64()), (&json!("earliest"), true), "{started}");
    assert_eq!(shown, standing);

    let (status, paused) = order(&server, "/v1/sinks/taker/pause", "").await;
    assert_eq!((status, &paused["state"], &paused["position"]), (200, &json!("paused"), &json!(ids[9])));
    let more = server.publish("c", 2).await;
    let standing = sink(&server).await;
    assert_eq!(
        (&standing["behind_events"], &standing["behind_since"]),
        (&json!(2), &json!(1_700_000_000_000_000_i64))
    );

    // Only said, then done.
    let rewind = "/v1/sinks/taker/rewind";
    let from = |place: &str, dry_run| json!({"from": place, "dry_run": dry_run}).to_string();
    let (status, said) = order(&server, rewind, &from("last:5", true)).await;
    assert_eq!((status, &said["before"], &said["position"]), (200, &json!(ids[9]), &json!(ids[6])), "{said}");
    assert_eq!((&said["repeats"], &said["skips"]), (&json!(3), &json!(0)));
    assert_eq!(sink(&server).await["position"], ids[9]);
    let (_, done) = order(&server, rewind, &from("latest", false)).await;
    assert_eq!((&done["repeats"], &done["skips"], &done["state"]), (&json!(0), &json!(2), &json!("paused")));
    let (_, done) = order(&server, rewind, &from(&ids[2].to_string(), false)).await;
    assert_eq!(
        (&done["repeats"], &done["before"], &done["position"]),
        (&json!(9), &json!(more[1]), &json!(ids[2]))
    );
    let (status, resumed) = order(&server, "/v1/sinks/taker/resume", "").await;
    assert_eq!((status, &resumed["position"]), (200, &json!(ids[2])));
    at(&server, more[1]).await;
}

#[tokio::test]
async fn what_cannot_be_ordered_is_refused_with_what_can() {
    let server = Server::with(Setup { admin: true, small: Some(1 << 16), ..Setup::default() }).await;
    let (_, none) = order(&server, "/v1/sinks/kafka/pause", "").await;
    assert!(none["error"]["hint"].as_str().unwrap().contains("--kafka HOST:PORT"), "{none}");
    let _stopper = start(&server);
    let first = server.publish("c", 1).await[0];
    at(&server, first).await;
    for (path, body, status, words) in [
        ("/v1/sinks/takr/pause", "", 404, "There is taker."),
        ("/v1/sinks/takr/rewind", "{}", 404, "There is taker."),
        ("/v1/sinks/taker/rewind", "{}", 400, "missing field `from`"),
        ("/v1/sinks/taker/rewind", r#"{"from": "yesterday"}"#, 400, "not a place to start from"),
        ("/v1/sinks/taker/rewind", r#"{"from": "9000000000000000"}"#, 400, "lies above the newest one"),
        ("/v1/sinks/taker/rewind", r#"{"from": "earliest", "force": true}"#, 400, "unknown field `force`"),
    ] {
        let (found, told) = order(&server, path, body).await;
        assert!(found == status && told.to_string().contains(words), "{path} {body}: {found} {told}");
    }
    // By everybody who reaches the port they are read, not commanded.
    for (command, place) in [("pause", ""), ("resume", ""), ("rewind", " --from PLACE")] {
        let path = format!("/v1/sinks/taker/{command}");
        let answer = request(server.address, "POST", &path, &[], r#"{"from": "earliest"}"#).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["code"]), (403, &json!("not_here")));
        let hint = answer.json()["error"]["hint"].as_str().unwrap().to_owned();
        assert!(hint.contains(&format!("rowcast sink {command} NAME{place} --data DIR")), "{hint}");
    }
    let standing = sink(&server).await;
    assert_eq!((&standing["state"], &standing["position"]), (&json!("running"), &json!(first)));

    let large = format!("\"{}\"", "x".repeat(20_000));
    let since = json!({"from": "2023-01-01T00:00:00Z"}).to_string();
    while server.journal.held_after(first).is_none() {
        server.journal.publish(&[("c", large.as_bytes())], 0).await.unwrap();
        at(&server, server.journal.newest()).await;
    }
    let body = json!({"from": first.to_string()}).to_string();
    let (status, told) = order(&server, "/v1/sinks/taker/rewind", &body).await;
    assert!(status == 400 && told.to_string().contains("is not held any more"), "{told}");
    let (status, told) = order(&server, "/v1/sinks/taker/rewind", &since).await;
    assert!(status == 400 && told.to_string().contains("Of what came since then"), "{told}");
}

/// That is when one asks how they stand.
#[tokio::test]
async fn they_are_listed_where_what_comes_next_cannot_be_read() {
    let server = Server::with(Setup { admin: true, uncached: true, ..Setup::default() }).await;
    let first = server.publish("c", 1).await[0];
    let _stopper = start(&server);
    at(&server, first).await;
    order(&server, "/v1/sinks/taker/pause", "").await;
    server.publish("c", 20).await;
    let files = std::fs::read_dir(server.journal.dir()).unwrap().map(|entry| entry.unwrap().path());
    let path = files.into_iter().find(|path| path.extension().is_some_and(|found| found == "seg")).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let batches = bytes.windows(4).enumerate().filter(|(_, magic)| *magic == b"RCB1");
    let at = batches.map(|(at, _)| at as u64).collect::<Vec<_>>().into_iter().rev().nth(19).unwrap() + 70;
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"garbage!", at).unwrap();
    assert!(server.journal.waiting_since(first).is_err());
    let answer = server.get("/v1/sinks").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let standing = sink(&server).await;
    assert_eq!((&standing["state"], &standing["position"]), (&json!("paused"), &json!(first)));
    assert_eq!((&standing["behind_events"], &standing["behind_since"]), (&json!(20), &Value::Null));
}
