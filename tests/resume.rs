//! Readers that come back, start anywhere, are late, are slow, or ask for what is not there.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};

use crate::support::ndjson::{Ndjson, page};
use crate::support::sse::Sse;
use crate::support::websocket::WebSocket;
use crate::support::{Database, Postgres, Rowcast, SOON, browser, http, wait_for};

/// A database with a captured table `t`.
async fn captured(name: &str, settings: &[&str]) -> (Database, Rowcast) {
    let database = Postgres::shared().await.create_database(name).await;
    database.execute("create table t (id integer primary key, v text)").await;
    let rowcast = Rowcast::of(&database).with(settings).start().await;
    (database, rowcast)
}

/// Inserts the rows `first` to `last`, each in a transaction of its own when told so.
async fn insert(database: &Database, first: u32, last: u32) {
    database.execute(&format!("insert into t select i, 'v' from generate_series({first}, {last}) i")).await;
}

/// All events held, as one page.
async fn held(address: SocketAddr) -> Vec<Value> {
    let page = page(address, "/v1/events?from=earliest&limit=10000").await.unwrap();
    page["events"].as_array().unwrap().clone()
}

/// Waits until so many events are held.
async fn wait_held(address: SocketAddr, count: usize) -> Vec<Value> {
    wait_for("the events", SOON, async || {
        let events = held(address).await;
        if events.len() == count { Ok(events) } else { Err(format!("{} of {count}", events.len())) }
    })
    .await
}

fn rows(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["after"]["id"].as_u64().unwrap()).collect()
}

/// The rows of the next events of a stream.
async fn next_rows(stream: &mut Sse, count: usize) -> Vec<u64> {
    let mut events = Vec::new();
    for _ in 0..count {
        events.push(stream.expect_event("message").await.json());
    }
    rows(&events)
}

#[tokio::test]
async fn streams_start_where_they_are_told() {
    let (database, rowcast) = captured("resume", &[]).await;
    let address = rowcast.address();
    insert(&database, 1, 5).await;
    database.execute("select pg_sleep(0.01)").await;
    insert(&database, 6, 8).await;
    let events = wait_held(address, 8).await;
    let id = |row: usize| events[row - 1]["id"].as_u64().unwrap();
    let time = events[5]["ts"].as_str().unwrap().to_owned();

    for (query, first) in [
        ("from=earliest".to_owned(), 1),
        ("replay=-2".into(), 1),
        (format!("from={}", id(3)), 4),
        (format!("replay={}", id(5)), 6),
        (format!("from={}", id(1) - 1), 1),
        (format!("from={time}"), 6),
        (format!("from={}", time.replace('Z', "%2B00:00")), 6),
        ("from=last:2".into(), 7),
        ("from=last:1000".into(), 1),
    ] {
        let mut stream = Sse::open(address, &format!("/v1/events?channel=public.t&{query}")).await;
        let open = stream.expect("open").await;
        assert_eq!(open.event, "open");
        let expected: Vec<u64> = (first..=8).collect();
        assert_eq!(next_rows(&mut stream, expected.len()).await, expected, "{query}");
    }
    // In the middle of a transaction, and in place of the address that still holds the first wish.
    let resumed = Sse::resume(address, "/v1/events?from=earliest", Some(&id(2).to_string())).await;
    assert_eq!(next_rows(&mut resumed.unwrap(), 6).await, [3, 4, 5, 6, 7, 8]);

    for query in ["from=latest", "replay=-1", "", &format!("from={}", id(8))] {
        let mut stream = Sse::open(address, &format!("/v1/events?{query}")).await;
        let open = stream.expect("open").await;
        assert_eq!(
            (open.id.clone(), &open.json()["newest"]),
            (Some(id(8).to_string()), &json!(id(8))),
            "{query}"
        );
    }
    let mut live = Sse::open(address, "/v1/events?replay=-1").await;
    insert(&database, 9, 9).await;
    assert_eq!(next_rows(&mut live, 1).await, [9]);
    for wrong in ["from=-1", "from=yesterday", "replay=-3", "chanel=x", "limit=3"] {
        let accept = [("accept", "text/event-stream")];
        let answer =
            http::request(address, Method::GET, &format!("/v1/events?{wrong}"), &accept, "").await.unwrap();
        assert_eq!(answer.status, 400, "{wrong}: {}", answer.text());
    }
}

#[tokio::test]
async fn pages_lead_from_one_to_the_next_and_wait() {
    let (database, rowcast) = captured("pages", &[]).await;
    let address = rowcast.address();
    insert(&database, 1, 8).await;
    wait_held(address, 8).await;
    let (mut found, mut next) = (Vec::new(), String::from("earliest"));
    for expected in [3, 3, 2, 0] {
        let page = page(address, &format!("/v1/events?from={next}&limit=3")).await.unwrap();
        let events = page["events"].as_array().unwrap();
        assert_eq!(events.len(), expected);
        found.extend(rows(events));
        next = page["next"].to_string();
    }
    assert_eq!(found, (1..=8).collect::<Vec<_>>());

    let start = Instant::now();
    let empty = page(address, &format!("/v1/events?from={next}&wait=500ms")).await.unwrap();
    assert_eq!(empty["events"], json!([]));
    assert!(start.elapsed() >= Duration::from_millis(500) && start.elapsed() < SOON);
    let path = format!("/v1/events?from={next}&wait=30s");
    let poll = page(address, &path);
    let change = async {
        // The poll is there first, most often; the result is the same if not.
        tokio::time::sleep(Duration::from_millis(200)).await;
        insert(&database, 9, 10).await;
    };
    let (answer, ()) = tokio::join!(poll, change);
    assert_eq!(rows(answer.unwrap()["events"].as_array().unwrap()), [9, 10]);
    assert!(start.elapsed() < SOON);
}

#[tokio::test]
async fn a_number_of_another_history_is_told_as_a_gap() {
    let (database, rowcast) = captured("ahead", &[]).await;
    let address = rowcast.address();
    insert(&database, 1, 1).await;
    let newest = wait_held(address, 1).await[0]["id"].as_u64().unwrap();
    let ahead = newest + 1_000_000_000_000;
    let expected = |gap: &Value| {
        assert_eq!((&gap["reason"], &gap["to"]), (&json!("ahead"), &json!(ahead)), "{gap}");
        assert_eq!(gap["from"], newest + 1, "{gap}");
    };
    let path = format!("/v1/events?from={ahead}");
    let mut sse = Sse::resume(address, "/v1/events", Some(&ahead.to_string())).await.unwrap();
    assert_eq!(sse.expect("open").await.event, "open");
    let gap = sse.expect("gap").await;
    assert_eq!((gap.event.as_str(), gap.id.as_deref()), ("gap", Some(newest.to_string().as_str())));
    expected(&gap.json());
    let mut ndjson = Ndjson::open(address, &path).await.unwrap();
    assert_eq!(ndjson.expect("open").await["type"], "open");
    let gap = ndjson.expect("gap").await;
    assert_eq!(gap["type"], "gap");
    expected(&gap);
    expected(&page(address, &path).await.unwrap()["gap"]);
    let mut socket = WebSocket::open(address).await.unwrap();
    socket.send(&json!({"type": "subscribe", "id": "a", "channel": "*", "from": ahead})).await;
    expected(&socket.expect_type("subscribed").await["gap"]);

    insert(&database, 2, 2).await;
    assert_eq!(next_rows(&mut sse, 1).await, [2]);
    assert_eq!(ndjson.expect("the event").await["after"]["id"], 2);
    assert_eq!(socket.expect_type("event").await["after"]["id"], 2);
}

#[tokio::test]
async fn what_retention_took_is_told_as_a_gap() {
    let settings = ["--set", "journal.segment_size=1MB", "--set", "journal.max_size=3MB"];
    let (database, rowcast) = captured("retention", &settings).await;
    let address = rowcast.address();
    insert(&database, 1, 1).await;
    let first = wait_held(address, 1).await[0]["id"].as_u64().unwrap();
    for part in 0..12 {
        let (from, to) = (2 + part * 500, 501 + part * 500);
        let sql =
            format!("insert into t select i, repeat(md5(i::text), 32) from generate_series({from}, {to}) i");
        database.execute(&sql).await;
    }
    let last = 1 + 12 * 500;
    wait_for("all rows", SOON, async || {
        let page = page(address, "/v1/events?from=last:1").await?;
        if page["events"][0]["after"]["id"] == last { Ok(()) } else { Err(page["events"].to_string()) }
    })
    .await;
    // Nothing is written any more: once the journal is no larger than it may be, nothing goes any more.
    wait_for("retention to rest", SOON, async || {
        let size = rowcast.status().await["journal"]["bytes"].as_u64().expect("a size");
        if size <= 3 << 20 { Ok(()) } else { Err(format!("{size} bytes are kept")) }
    })
    .await;
    let oldest =
        page(address, "/v1/events?from=last:1").await.unwrap()["oldest"].as_u64().expect("an oldest");
    assert!(oldest > first, "{oldest} is held, and {first} should be gone");
    let gone = removed(&rowcast, "size", oldest - 1).await;
    assert!(gone.len() > 1 && gone.is_sorted_by(|a, b| a.1 < b.0), "each is named once, in order: {gone:?}");

    let mut sse = Sse::resume(address, "/v1/events", Some(&first.to_string())).await.unwrap();
    let open = sse.expect("open").await;
    assert_eq!(open.id, Some(first.to_string()), "a client cut off here is told of the gap again");
    let gap = sse.expect("gap").await;
    assert_eq!(gap.event, "gap");
    let told = gap.json();
    let end = oldest - 1;
    assert_eq!(told, json!({"from": first + 1, "to": end, "reason": "retention"}));
    assert_eq!(gap.id, Some(end.to_string()));
    let next = sse.expect_event("message").await;
    assert_eq!(next.id, Some(oldest.to_string()));
    let page = page(address, &format!("/v1/events?from={first}&limit=1")).await.unwrap();
    assert_eq!((&page["gap"], &page["events"][0]["id"]), (&told, &json!(oldest)));
    let mut earliest = Sse::open(address, "/v1/events?from=earliest").await;
    assert_eq!(earliest.expect("open").await.event, "open");
    assert_eq!(earliest.expect("no gap: it asks for what there is").await.id, Some(oldest.to_string()));
}

/// Waits until the log and the metric agree on the segments that have gone for this reason, up to an event, and for no
/// other; gives the first and the last number of each.
async fn removed(rowcast: &Rowcast, reason: &str, until: u64) -> Vec<(u64, u64)> {
    let number = |line: &Value, name: &str| line[name].as_u64().unwrap_or_else(|| panic!("{name}: {line}"));
    wait_for("the removed segments to be told", SOON, async || {
        let log = rowcast.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines: Vec<_> =
            lines.filter(|line| line["message"] == "Removed a segment of the journal").collect();
        assert!(lines.iter().all(|line| line["reason"] == reason && line["level"] == "INFO"), "{lines:?}");
        let gone: Vec<_> = lines.iter().map(|line| (number(line, "first"), number(line, "last"))).collect();
        let metric = format!("rowcast_journal_segments_removed_total{{reason=\"{reason}\"}}");
        let counted = rowcast.metric(&metric).await;
        let agree = counted == Some(gone.len() as f64) && gone.last().is_some_and(|last| last.1 == until);
        if agree { Ok(gone) } else { Err(format!("{counted:?}, {gone:?}, up to {until}")) }
    })
    .await
}

#[tokio::test]
async fn what_is_too_old_goes_and_what_comes_is_told() {
    let (database, rowcast) = captured("aged", &["--set", "journal.retention=4s"]).await;
    let address = rowcast.address();
    insert(&database, 1, 3).await;
    let events = wait_held(address, 3).await;
    let id = |row: usize| events[row - 1]["id"].as_u64().expect("a number");
    let gone = removed(&rowcast, "age", id(3)).await;
    assert!(gone.iter().all(|(first, _)| *first <= id(3)), "{gone:?}");
    let told = page(address, &format!("/v1/events?channel=public.t&from={}", id(1))).await.unwrap();
    let gap = json!({"from": id(2), "to": id(3), "reason": "retention"});
    assert_eq!((&told["gap"], &told["events"], &told["next"]), (&gap, &json!([]), &json!(id(3))));
    let path = format!("/v1/events?channel=public.t&from={}&wait=30s", id(3));
    let (next, ()) = tokio::join!(page(address, &path), insert(&database, 4, 4));
    let next = next.unwrap();
    assert_eq!((&next["gap"], rows(next["events"].as_array().unwrap())), (&Value::Null, vec![4]));
}

#[tokio::test]
async fn a_slow_reader_loses_nothing_and_holds_up_nobody() {
    const STALL: Duration = Duration::from_secs(20);
    let (database, rowcast) = captured("slow", &[]).await;
    let address = rowcast.address();
    let mut slow = Sse::open(address, "/v1/events?channel=public.t").await;
    slow.expect("open").await;
    let mut quick = Sse::open(address, "/v1/events?channel=public.t").await;
    let start = Instant::now();
    // More than the buffers of both ends of a connection hold.
    database
        .execute("insert into t select i, repeat(md5(i::text), 30) from generate_series(1, 30000) i")
        .await;
    assert_eq!(next_rows(&mut quick, 30_000).await, (1..=30_000).collect::<Vec<_>>());
    assert_eq!(rowcast.status().await["healthy"], true);
    tokio::time::sleep(STALL.saturating_sub(start.elapsed())).await;
    assert_eq!(next_rows(&mut slow, 30_000).await, (1..=30_000).collect::<Vec<_>>());
    insert(&database, 30_001, 30_001).await;
    assert_eq!(next_rows(&mut slow, 1).await, [30_001]);
}

async fn connected(rowcast: &Rowcast) {
    wait_for("the judge to connect", SOON, async || {
        let status = rowcast.status().await;
        if status["clients"]["sse"] == 1 { Ok(()) } else { Err(status["clients"].to_string()) }
    })
    .await;
}

/// A client that others wrote comes back by itself after restarts, in order and killed, with all events once.
#[tokio::test]
async fn an_event_source_of_others_loses_and_doubles_nothing() {
    let (database, mut rowcast) = captured("judge", &[]).await;
    let url = format!("http://{}/v1/events?channel=public.t&from=earliest", rowcast.address());
    let judge = tokio::spawn(async move { browser::node("eventsource.mjs", &[&url, "60"]).await });
    connected(&rowcast).await;
    insert(&database, 1, 20).await;
    rowcast.kill9().await;
    insert(&database, 21, 30).await;
    rowcast.resume().await;
    connected(&rowcast).await;
    insert(&database, 31, 40).await;
    assert_eq!(rowcast.terminate().await, 0);
    insert(&database, 41, 50).await;
    rowcast.resume().await;
    connected(&rowcast).await;
    insert(&database, 51, 60).await;
    let seen = judge.await.expect("the judge");
    let (told, opened) = seen.split_at(60);
    assert_eq!(rows(told), (1..=60).collect::<Vec<_>>());
    let ids: Vec<u64> = told.iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    assert_eq!(opened[0]["opened"], 3, "{opened:?}");
}
