//! Sinks as a person commands them, and what yields when one of them cannot keep up.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::database::Table;
use crate::support::kafka::Record;
use crate::support::ndjson::page;
use crate::support::rowcast::{Output, command};
use crate::support::{
    Database, Door, Follower, Kafka, KafkaReader, Postgres, Rowcast, SOON, Tables, http, own_servers,
    wait_for,
};

/// Long enough to fill the journal before it is over, and to see capture pause then, on a busy machine, too.
const STALLED_AFTER: Duration = Duration::from_secs(40);

/// Runs `rowcast sink …` on a running rowcast.
async fn sink(rowcast: &Rowcast, arguments: &[&str]) -> Output {
    let data = rowcast.data().display().to_string();
    command(&[&["sink"], arguments, &["--data", &data]].concat()).await
}

/// Likewise, and it has to succeed.
async fn done(rowcast: &Rowcast, arguments: &[&str]) -> String {
    let output = sink(rowcast, arguments).await;
    assert_eq!(output.code, 0, "{arguments:?}: {output:?}");
    output.stdout
}

async fn listed(rowcast: &Rowcast) -> Value {
    let output = done(rowcast, &["list", "--json"]).await;
    serde_json::from_str::<Value>(&output).expect("JSON")["sinks"][0].clone()
}

async fn wait_delivered(rowcast: &Rowcast) {
    wait_for("Kafka to have everything", SOON * 2, async || {
        let standing = listed(rowcast).await;
        let there = standing["state"] == "running" && standing["position"] == standing["newest"];
        // The newest commit may still be on its way here.
        if there && standing["behind_events"] == 0 { Ok(()) } else { Err(standing.to_string()) }
    })
    .await;
}

fn id(record: &Record) -> u64 {
    record.headers["rowcast.id"].parse().expect("a number")
}

/// The ids of rows, in the order in which they come.
async fn rows(reader: &mut KafkaReader, count: usize) -> Vec<i64> {
    let mut rows = Vec::new();
    while rows.len() < count {
        let record = reader.next(SOON).await.unwrap_or_else(|| panic!("{count} records, not {rows:?}"));
        rows.push(record.key["id"].as_i64().unwrap_or_else(|| panic!("a row, not {record:?}")));
    }
    rows
}

#[tokio::test]
async fn a_sink_is_listed_paused_resumed_and_moved_by_command() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("commanded");
    let database = Postgres::shared().await.create_database("commanded").await;
    database.execute("create table orders (id integer primary key)").await;
    let mut rowcast = Rowcast::of(&database).kafka(kafka, &prefix).start().await;
    database.execute("insert into orders select generate_series(1, 3)").await;
    let mut reader = KafkaReader::start(kafka, &prefix);
    assert_eq!(rows(&mut reader, 3).await, [1, 2, 3]);
    wait_delivered(&rowcast).await;
    let table = done(&rowcast, &["list"]).await;
    let words: Vec<_> = table.lines().nth(1).expect("a line").split_whitespace().collect();
    assert!(words.starts_with(&["kafka", "kafka", "running"]) && words.ends_with(&["nothing"]), "{table}");

    // Paused it stays, whatever happens to the program.
    let paused = done(&rowcast, &["pause", "kafka"]).await;
    assert!(
        paused.contains("The sink kafka is paused at ") && paused.contains("sink resume kafka"),
        "{paused}"
    );
    database.execute("insert into orders select generate_series(4, 5)").await;
    rowcast.kill9().await;
    rowcast.resume().await;
    rowcast.wait_streaming().await;
    wait_for("the paused sink to be behind", SOON, async || {
        let standing = listed(&rowcast).await;
        let behind = standing["state"] == "paused" && standing["behind_events"] == 2;
        if behind && standing["behind_since"].is_i64() { Ok(()) } else { Err(standing.to_string()) }
    })
    .await;
    let health = rowcast.get("/v1/health/flow").await;
    assert!(
        health.status == 503 && health.text().contains("The door kafka is paused: It was paused by hand")
    );
    let resumed = done(&rowcast, &["resume", "kafka"]).await;
    assert!(resumed.starts_with("The sink kafka is "), "{resumed}");
    assert_eq!(rows(&mut reader, 2).await, [4, 5]);
    wait_delivered(&rowcast).await;

    // Only when it is meant.
    let asked = sink(&rowcast, &["rewind", "kafka", "--from", "last:2"]).await;
    assert_eq!(asked.code, 2, "{asked:?}");
    assert!(
        asked.stderr.contains("2 events will be delivered again") && asked.stderr.contains("--yes"),
        "{asked:?}"
    );
    let moved = done(&rowcast, &["rewind", "kafka", "--from", "last:2", "--yes"]).await;
    assert!(
        moved.contains("The sink kafka was moved from ") && moved.contains("2 events will be"),
        "{moved}"
    );
    assert_eq!(rows(&mut reader, 2).await, [4, 5]);
    wait_delivered(&rowcast).await;
    done(&rowcast, &["pause", "kafka"]).await;
    database.execute("insert into orders values (6)").await;
    wait_for("the row to be held", SOON, async || {
        let behind = listed(&rowcast).await["behind_events"].clone();
        if behind == 1 { Ok(()) } else { Err(behind.to_string()) }
    })
    .await;
    let skipped = done(&rowcast, &["rewind", "kafka", "--from", "latest", "--yes"]).await;
    assert!(skipped.contains("1 event will not be delivered") && skipped.contains("is paused"), "{skipped}");
    done(&rowcast, &["resume", "kafka"]).await;
    let told = reader.next(SOON).await.expect("the gap");
    assert_eq!(told.topic, format!("{prefix}.rowcast"));
    assert_eq!(told.value.as_ref().expect("a value")["reason"], "skipped");
    database.execute("insert into orders values (7)").await;
    assert_eq!(rows(&mut reader, 1).await, [7]);

    refusals(&rowcast).await;
}

async fn refusals(rowcast: &Rowcast) {
    let unknown = sink(rowcast, &["pause", "kafak"]).await;
    assert!(unknown.code == 1 && unknown.stderr.contains("There is kafka."), "{unknown:?}");
    let gone = sink(rowcast, &["rewind", "kafka", "--from", "yesterday", "--yes"]).await;
    assert!(gone.code == 2 && gone.stderr.contains("not a place to start from"), "{gone:?}");
    let url = format!("http://{}", rowcast.address());
    let seen = command(&["sink", "list", "--url", &url]).await;
    assert!(seen.code == 0 && seen.stdout.contains("running"), "{seen:?}");
    let refused = command(&["sink", "pause", "kafka", "--url", &url]).await;
    assert!(
        refused.code == 1 && refused.stderr.contains("rowcast sink pause NAME --data DIR"),
        "{refused:?}"
    );
    let nobody = command(&["sink", "list", "--data", "/nonexistent"]).await;
    assert!(
        nobody.stderr.contains("No rowcast runs at") && nobody.stderr.contains("rowcast run"),
        "{nobody:?}"
    );
}

/// Rows that no compression makes smaller, some 10 kB each.
pub(crate) async fn grow(database: &Database, from: u32, to: u32) {
    let text = "(select string_agg(md5(random()::text || i || j), '') from generate_series(1, 300) j)";
    for start in (from..=to).step_by(50) {
        let rows = format!("generate_series({start}, {}) i", (start + 49).min(to));
        database.execute(&format!("insert into orders select i, {text} from {rows}")).await;
    }
}

/// The numbers of all events held.
async fn held(rowcast: &Rowcast) -> Vec<u64> {
    let (mut ids, mut from) = (Vec::new(), "earliest".to_owned());
    loop {
        let page =
            page(rowcast.address(), &format!("/v1/events?limit=200&from={from}")).await.expect("a page");
        let events = page["events"].as_array().expect("events");
        if events.is_empty() {
            return ids;
        }
        ids.extend(events.iter().map(|event| event["id"].as_u64().expect("an id")));
        from = page["next"].to_string();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capture_goes_on_without_a_sink_whose_broker_stays_away() {
    if !own_servers("capture_goes_on_without_a_sink_whose_broker_stays_away") {
        return;
    }
    let (database, mut kafka) =
        tokio::join!(async { Postgres::shared().await.create_database("away").await }, Kafka::start());
    database.execute("create table orders (id integer primary key, note text)").await;
    let mut rowcast = Rowcast::of(&database)
        .kafka(&kafka, "away")
        .set("journal.segment_size=1MB")
        .set("journal.max_size=4MB")
        .set(&format!("journal.stalled_after={}s", STALLED_AFTER.as_secs()))
        .start()
        .await;
    let table = Table {
        channel: "public.orders".to_owned(),
        columns: vec![("id".to_owned(), "integer".to_owned()), ("note".to_owned(), "text".to_owned())],
        key: vec!["id".to_owned()],
    };
    let live = Follower::start(Door::Sse, rowcast.address(), Tables::new(&[table]));
    grow(&database, 1, 3).await;
    wait_for("the first rows to be delivered", SOON, async || {
        let standing = listed(&rowcast).await;
        if standing["delivered"] == 3 { Ok(()) } else { Err(standing.to_string()) }
    })
    .await;
    let delivered = listed(&rowcast).await["position"].as_u64().expect("a position");

    // First capture waits for it, and says so; then it goes on without.
    kafka.kill().await;
    let growing = async {
        grow(&database, 4, 1200).await;
        database.execute("insert into orders values (1201, 'the last one')").await;
    };
    tokio::join!(growing, paused(&rowcast));
    live.wait_equal(&database, SOON * 6).await;
    let reason = wait_stopped(&rowcast).await;
    assert!(reason.contains(&format!("Retention has removed the events {} to ", delivered + 1)), "{reason}");
    let lost = rowcast.metric("rowcast_sink_hold_lost_total{sink=\"kafka\"}").await;
    assert!(lost.is_some_and(|lost| lost >= 1.0), "{lost:?}");
    let removed = rowcast.metric("rowcast_journal_segments_removed_total{reason=\"stalled_sink\"}").await;
    assert!(removed.is_some_and(|removed| removed >= 1.0), "{removed:?}");
    assert!(rowcast.log().contains("The sink kafka has lost events"), "{}", rowcast.log());
    let status = rowcast.status().await;
    assert_eq!(status["source"]["state"], "streaming", "{status}");
    assert_eq!(status["source"]["reconnects"], 0, "capture was not disturbed: {status}");

    // Neither a restart nor the broker's return makes it skip anything by itself.
    assert_eq!(rowcast.terminate().await, 0);
    rowcast.resume().await;
    wait_stopped(&rowcast).await;
    assert_eq!(listed(&rowcast).await["position"], delivered);
    kafka.resume().await;
    rowcast.wait_streaming().await;
    assert_eq!(listed(&rowcast).await["state"], "stopped");

    let (held, gap) = settled(&rowcast).await;
    done(&rowcast, &["resume", "kafka"]).await;
    wait_delivered(&rowcast).await;
    check_topics(&kafka, delivered, &gap, &held).await;
    let status = rowcast.status().await;
    assert_eq!(status["healthy"], json!(true), "{status}");
}

/// Waits until capture pauses for the sink, which everybody is told.
async fn paused(rowcast: &Rowcast) {
    wait_for("capture to pause", STALLED_AFTER * 2, async || {
        let status = rowcast.status().await;
        let said = status["reasons"].to_string();
        let paused = said.contains("the journal is at its max_size (4 MB), and sink kafka still needs");
        let pauses = rowcast.metric("rowcast_journal_pauses_total{reason=\"max_size\"}").await;
        let counted = pauses >= Some(1.0);
        if paused && counted && status["journal"]["state"] == "full" { Ok(()) } else { Err(said) }
    })
    .await;
    assert!(rowcast.log().contains("Capture pauses, readers are served: the journal is at its max_size"));
    let answer = http::post(rowcast.address(), "/v1/channels/notes/events", "1").await.expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "5"));
    assert!(answer.text().contains("The journal takes no events now"), "{}", answer.text());
}

async fn wait_stopped(rowcast: &Rowcast) -> String {
    wait_for("the sink to stop at its gap", SOON, async || {
        let standing = listed(rowcast).await;
        let reason = standing["reason"].as_str().unwrap_or_default().to_owned();
        if standing["state"] == "stopped" { Ok(reason) } else { Err(standing.to_string()) }
    })
    .await
}

/// What is held, and the gap before it, which the reason names: retention may have gone on for a moment.
async fn settled(rowcast: &Rowcast) -> (Vec<u64>, Value) {
    wait_for("retention to rest", SOON, async || {
        let before = listed(rowcast).await;
        let held = held(rowcast).await;
        let standing = listed(rowcast).await;
        let gap = &standing["gap"];
        let reason = standing["reason"].as_str().unwrap_or_default();
        let named = reason.contains(&format!("the events {} to {} before", gap[0], gap[1]));
        if named && before == standing {
            Ok((held, gap.clone()))
        } else {
            Err(format!("{before}, {standing}"))
        }
    })
    .await
}

/// What lies on the topics: everything, or a gap that says that it does not.
async fn check_topics(kafka: &Kafka, delivered: u64, gap: &Value, held: &[u64]) {
    let mut reader = KafkaReader::start(kafka, "away");
    let (mut ids, mut told) = (Vec::new(), None);
    while ids.last() != held.last() || told.is_none() {
        let record = reader.next(SOON).await.unwrap_or_else(|| panic!("{told:?}, {ids:?}, but not {held:?}"));
        if record.topic == "away.rowcast" {
            told = record.value;
        } else if !ids.contains(&id(&record)) {
            ids.push(id(&record));
        }
    }
    let told = told.expect("a gap");
    assert_eq!((&told["op"], &told["reason"]), (&json!("gap"), &json!("retention")));
    assert_eq!((&told["from"], &told["to"]), (&gap[0], &gap[1]));
    let behind: Vec<u64> =
        ids.iter().copied().filter(|id| *id > gap[1].as_u64().expect("a number")).collect();
    assert_eq!(behind, held, "everything that is held, in order");
    assert_eq!(ids.iter().filter(|id| **id <= delivered).count(), 3, "and what came before");
}
