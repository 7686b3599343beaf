//! The rows that are there before: read for a target that is filled, and again behind a gap where that is the policy.

use serde_json::{Value, json};

use crate::support::ndjson::page;
use crate::support::postgres::Stop;
use crate::support::process::Directory;
use crate::support::rowcast::command;
use crate::support::{Kafka, KafkaReader, Postgres, Rowcast, SOON, http, own_servers, wait_for};

async fn next(records: &mut KafkaReader) -> (String, Value, Value) {
    let value = records.next(SOON).await.expect("a record").value.expect("no tombstone");
    let marks = value["source"]["snapshot"].clone();
    (value["op"].as_str().unwrap().to_owned(), value["after"]["id"].clone(), marks)
}

#[tokio::test]
async fn a_topic_is_filled_with_the_rows_and_goes_on_with_the_changes() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("filled");
    let mut records = KafkaReader::start(kafka, &prefix);
    let database = Postgres::shared().await.create_database("filled").await;
    database
        .execute("create table orders (id integer primary key); insert into orders values (1), (2), (3)")
        .await;
    let rowcast = Rowcast::of(&database).filled(kafka, &prefix).start().await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(next(&mut records).await);
    }
    let read = |id: i32, marks: &str| ("r".to_owned(), json!(id), json!(marks));
    assert_eq!(seen, [read(1, "first"), read(2, "true"), read(3, "last")]);
    database.execute("insert into orders values (4)").await;
    let (op, id, _) = next(&mut records).await;
    assert_eq!((op.as_str(), id), ("c", json!(4)));
    let page = page(rowcast.address(), "/v1/events?channel=public.orders&from=earliest").await.unwrap();
    let told: Vec<(&str, &Value)> = page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (event["op"].as_str().unwrap(), &event["after"]["id"]))
        .collect();
    let ids = [json!(1), json!(2), json!(3), json!(4)];
    assert_eq!(told, ["read", "read", "read", "insert"].into_iter().zip(&ids).collect::<Vec<_>>());
    let chunks = rowcast.metric("rowcast_snapshot_chunk_seconds_count").await;
    let seconds = rowcast.metric("rowcast_snapshot_chunk_seconds_sum").await;
    assert!(chunks >= Some(1.0) && seconds > Some(0.0), "{chunks:?} in {seconds:?}");
}

#[tokio::test]
async fn one_that_only_reads_ends_by_itself() {
    let database = Postgres::shared().await.create_database("only").await;
    database
        .execute("create table orders (id integer primary key); insert into orders values (1), (2)")
        .await;
    let (directory, slot) = (Directory::new("only"), format!("source.slot={}", database.name()));
    let data = directory.path().to_str().unwrap();
    let run = ["run", "--source", database.url(), "--listen", "127.0.0.1:0", "--data", data, "--set", &slot];
    let ended = command(&[&run[..], &["--set", "source.snapshot=only"]].concat()).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let shown = command(&["journal", "show", "--data", data, "--from", "earliest"]).await;
    assert_eq!((shown.code, shown.stdout.matches("\"op\":\"read\"").count()), (0, 2), "{shown:?}");
    // Where a history has begun already nothing is read by it, which is said.
    assert!(ended.stderr.contains("All tables have been read"), "{ended:?}");
    let again = command(&[&run[..], &["--set", "source.snapshot=only"]].concat()).await;
    assert!(again.code == 0 && again.stderr.contains("Nothing was left to be read"), "{again:?}");
}

#[tokio::test]
async fn one_that_only_reads_ends_when_its_sinks_have_all() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("only");
    let database = Postgres::shared().await.create_database("only_sink").await;
    database
        .execute(
            "create table orders (id integer primary key, note text);
             insert into orders select i, repeat('x', 500) from generate_series(1, 40000) i",
        )
        .await;
    // Nobody listens there: all is read, and nothing delivered.
    let nowhere = ["--kafka", "127.0.0.1:1", "--topic-prefix", &prefix];
    let mut rowcast = Rowcast::of(&database).set("source.snapshot=only").with(&nowhere);
    rowcast.spawn();
    let data = rowcast.data();
    wait_for("all to be read", SOON, async || {
        let log = rowcast.log();
        if log.contains("waiting until the sinks have it") { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(rowcast.ended(), None, "it waits");
    assert_eq!(rowcast.terminate().await, 0);
    // The next start delivers what is left, and ends.
    let slot = format!("source.slot={}", database.name());
    let ended = command(&[
        "run",
        "--source",
        database.url(),
        "--listen",
        "127.0.0.1:0",
        "--data",
        data.to_str().unwrap(),
        "--set",
        &slot,
        "--set",
        "source.snapshot=only",
        "--kafka",
        kafka.brokers(),
        "--topic-prefix",
        &prefix,
    ])
    .await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let mut records = KafkaReader::start(kafka, &prefix);
    for id in 1..=40_000 {
        assert_eq!(next(&mut records).await.1, json!(id));
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_told_to_whoever_asks() {
    let database = Postgres::shared().await.create_database("unreadable").await;
    database
        .execute("create table orders (id integer primary key, note text); insert into orders values (1, '4111-secret')")
        .await;
    let rowcast = Rowcast::of(&database).start().await;
    let data = rowcast.data().to_str().unwrap().to_owned();
    let asked = command(&["snapshot", "public.orders", "--where", "note::int > 5", "--data", &data]).await;
    assert_eq!(asked.code, 1, "{asked:?}");
    assert!(asked.stderr.contains("22P02") && !asked.stderr.contains("4111"), "{asked:?}");
    assert!(!rowcast.log().contains("4111"));
    let listed = rowcast.get("/v1/snapshots").await.json();
    assert_eq!((&listed["tables"], &listed["read"]), (&json!([]), &json!({})));
    assert!(listed["dropped"]["public.orders"].as_str().unwrap().contains("22P02"), "{listed}");
    assert_eq!(command(&["snapshot", "public.orders", "--data", &data]).await.code, 0);
    let listed = rowcast.get("/v1/snapshots").await.json();
    assert_eq!(listed, json!({"tables": [], "read": {"public.orders": 1}, "dropped": {}}));
    assert!(rowcast.get("/metrics").await.text().contains("rowcast_snapshot_failed_tables 0"));
}

#[tokio::test]
async fn one_that_is_asked_for_is_waited_for_and_can_be_paused() {
    let database = Postgres::shared().await.create_database("asked").await;
    database
        .execute(
            "create table orders (id integer primary key, note text);
             insert into orders select i, repeat('x', 100) from generate_series(1, 60000) i",
        )
        .await;
    let rowcast = Rowcast::of(&database).start().await;
    let data = rowcast.data().to_str().unwrap().to_owned();
    let snapshot =
        async |arguments: &[&str]| command(&[&["snapshot"], arguments, &["--data", &data]].concat()).await;
    let some = snapshot(&["public.orders", "--where", "id <= 10"]).await;
    assert_eq!((some.code, some.stdout.as_str()), (0, "public.orders: 10 rows\n"), "{some:?}");
    let wrong = snapshot(&["public.orders", "--where", "nothing = 1"]).await;
    assert!(wrong.code != 0 && wrong.stderr.contains("nothing"), "{wrong:?}");
    let unknown = snapshot(&["public.nothing"]).await;
    assert!(unknown.code != 0 && unknown.stderr.contains("No captured table matches"), "{unknown:?}");
    // Behind the first chunk, of 2,000 rows, each takes its time: some seconds in all, and a pause is ordered at once.
    let slow = "case when id > 2000 and id % 10 = 0 then pg_sleep(0.001) is not null else true end";
    assert_eq!(snapshot(&["public.orders", "--where", slow, "--detach"]).await.code, 0);
    let standing = async || http::get(rowcast.address(), "/v1/snapshots").await.unwrap().json();
    wait_for("some rows", SOON, async || {
        let standing = standing().await;
        if standing["tables"][0]["rows"].as_u64() > Some(0) { Ok(()) } else { Err(standing.to_string()) }
    })
    .await;
    let paused = snapshot(&["public.orders", "--pause"]).await;
    assert_eq!(paused.code, 0, "{paused:?}");
    let standing = standing().await;
    let table = standing["tables"][0].clone();
    assert_eq!(
        (&table["channel"], &table["state"]),
        (&json!("public.orders"), &json!("paused")),
        "{standing}"
    );
    let number = |of: &str| table[of].as_f64().unwrap_or_else(|| panic!("{standing}"));
    let (rows, estimate, percent) = (number("rows"), number("estimate"), number("percent"));
    assert!((2_000.0..60_000.0).contains(&rows) && rows <= estimate, "{standing}");
    assert!((percent - 100.0 * rows / estimate).abs() < 0.1, "{standing}");
    let shown = snapshot(&["--status"]).await;
    assert!(shown.stdout.contains("public.orders") && shown.stdout.contains("paused"), "{shown:?}");
    for (name, value) in [("rows", rows), ("estimated_rows", estimate), ("percent", percent)] {
        let metric = format!("rowcast_snapshot_table_{name}{{table=\"public.orders\"}}");
        let found = rowcast.metric(&metric).await.unwrap_or_else(|| panic!("no {metric}"));
        assert!((found - value).abs() < 0.1, "{metric}: {found}, not {value}");
    }
    assert_eq!(snapshot(&["public.orders", "--resume"]).await.code, 0);
    wait_for("all rows", SOON, async || {
        let left = rowcast.status().await["snapshots"].clone();
        if left == json!([]) { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
    let page = page(rowcast.address(), "/v1/events?channel=public.orders&from=last:1").await.unwrap();
    assert_eq!(page["events"][0]["after"]["id"], 60000);
    assert_eq!(page["events"][0]["snapshot"]["kind"], "ad_hoc");
    let refused = http::post(rowcast.address(), "/v1/snapshots", "{\"tables\": [\"*\"]}").await.unwrap();
    assert_eq!(refused.status, 403);
}

/// Whoever waits until nothing is left is not told so by a program that has just been started.
#[tokio::test]
async fn what_is_left_is_told_before_the_source_is_there() {
    if !own_servers("snapshots without their source") {
        return;
    }
    let mut server = Postgres::start(&[]).await;
    let database = server.create_database("left").await;
    database
        .execute("create table orders (id integer primary key); insert into orders select generate_series(1, 20000)")
        .await;
    // Read in the order of the key, and behind the first chunk not before somebody else gives that lock up.
    for setting in ["enable_seqscan", "jit"] {
        database.execute(&format!("alter database \"{}\" set {setting} = off", database.name())).await;
    }
    let locker = database.client().await;
    locker.batch_execute("select pg_advisory_lock(7)").await.unwrap();
    let mut rowcast = Rowcast::of(&database).start().await;
    let data = rowcast.data().to_str().unwrap().to_owned();
    let first = "id <= 2000 or pg_advisory_xact_lock_shared(7) is not null";
    let order = ["snapshot", "public.orders", "--where", first, "--detach", "--data", &data];
    assert_eq!(command(&order).await.code, 0);
    wait_for("the first chunk to be stored", SOON, async || {
        let last = page(rowcast.address(), "/v1/events?channel=public.orders&from=last:1").await?;
        if last["events"][0]["after"]["id"] == 2_000 { Ok(()) } else { Err(last.to_string()) }
    })
    .await;
    rowcast.kill9().await;
    server.stop(Stop::Fast).await;
    rowcast.launch().await;
    let first = rowcast.status().await;
    let (shown, source) = (&first["snapshots"][0], &first["source"]["state"]);
    assert_eq!((&shown["channel"], &shown["state"]), (&json!("public.orders"), &json!("waiting")), "{first}");
    assert_ne!(source, "streaming");
    assert_eq!(shown["rows"], 2_000, "{first}");
    assert_eq!(rowcast.get("/v1/snapshots").await.json()["tables"][0]["rows"], 2_000);
    assert_eq!(rowcast.metric("rowcast_snapshot_unfinished_tables").await, Some(1.0));
    let listed = command(&["snapshot", "--status", "--data", &data]).await;
    assert!(listed.stdout.contains("public.orders") && listed.stdout.contains("waiting"), "{listed:?}");
    server.resume().await;
    wait_for("all rows", SOON, async || {
        let status = rowcast.status().await;
        let done = rowcast.get("/v1/snapshots").await.json()["read"] == json!({"public.orders": 20_000});
        assert!(done || status["snapshots"] != json!([]), "nothing is left, and not all is read: {status}");
        if done { Ok(()) } else { Err(status["snapshots"].to_string()) }
    })
    .await;
}

/// As `curl --unix-socket` does it.
#[tokio::test]
async fn one_is_asked_for_over_http() {
    let database = Postgres::shared().await.create_database("over_http").await;
    database
        .execute(
            "create table orders (id integer primary key); insert into orders select generate_series(1, 9)",
        )
        .await;
    let mut rowcast = Rowcast::of(&database).set("source.snapshot=never").start().await;
    rowcast.wait_streaming().await;
    let socket = rowcast.data().join("rowcast.sock");
    let order = async |path: &str, body: Value| {
        http::post_as_owner(&socket, &format!("/v1/snapshots{path}"), &body.to_string()).await.unwrap()
    };
    let asked = order("", json!({"tables": ["public.*"], "where": "id > 7"})).await;
    assert_eq!(
        (asked.status.as_u16(), &asked.json()["tables"]),
        (200, &json!(["public.orders"])),
        "{asked:?}"
    );
    wait_for("the rows", SOON, async || {
        let listed = rowcast.get("/v1/snapshots").await.json();
        if listed["read"] == json!({"public.orders": 2}) { Ok(()) } else { Err(listed.to_string()) }
    })
    .await;
    let page = page(rowcast.address(), "/v1/events?from=earliest").await.unwrap();
    let read = |event: &Value| json!([event["op"], event["after"]["id"], event["snapshot"]["kind"]]);
    let told: Vec<Value> = page["events"].as_array().unwrap().iter().map(read).collect();
    assert_eq!(told, [json!(["read", 8, "ad_hoc"]), json!(["read", 9, "ad_hoc"])]);
    for (path, body) in [
        ("", json!({"tables": []})),
        ("", json!({"table": "public.orders"})),
        ("/pause", json!({"tables": ["public.orders"], "where": "true"})),
    ] {
        let refused = order(path, body).await;
        assert_eq!(refused.status.as_u16(), 400, "{refused:?}");
    }
}

/// Large transactions are sent before they commit, but for as long as rows are read.
#[tokio::test]
async fn transactions_are_sent_early_again_when_the_rows_have_been_read() {
    let database = Postgres::shared().await.create_database("early").await;
    let settings = format!("alter database \"{}\" set logical_decoding_work_mem = '64kB'", database.name());
    database.execute(&settings).await;
    database.execute("create table orders (id integer primary key, note text)").await;
    let rowcast = Rowcast::of(&database).set("source.streaming=on").start().await;
    let data = rowcast.data().to_str().unwrap().to_owned();
    let large = async |from: u32| {
        let rows = format!("generate_series({from}, {}) i", from + 1999);
        database.execute(&format!("insert into orders select i, repeat('x', 500) from {rows}")).await;
    };
    let early = async |count: f64| {
        wait_for("it to be sent early", SOON, async || {
            match rowcast.metric("rowcast_source_streamed_transactions_total").await {
                Some(found) if found >= count => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    };
    large(1).await;
    early(1.0).await;
    let read = command(&["snapshot", "public.orders", "--data", &data]).await;
    assert_eq!((read.code, read.stdout.as_str()), (0, "public.orders: 2000 rows\n"), "{read:?}");
    wait_for("another connection", SOON, async || {
        let source = rowcast.status().await["source"].clone();
        let again = source["reconnects"].as_u64() >= Some(2) && source["state"] == "streaming";
        if again { Ok(()) } else { Err(source.to_string()) }
    })
    .await;
    large(10_001).await;
    early(2.0).await;
}
