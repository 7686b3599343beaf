//! Where a sink begins that is added later: with the rows, with all that is held, or with what comes next.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::Rng;
use serde_json::{Value, json};

use crate::support::debezium::DebeziumTables;
use crate::support::ndjson::page;
use crate::support::rowcast::command;
use crate::support::{
    Database, Door, Follower, Kafka, KafkaReader, Postgres, Rowcast, SOON, Tables, random, wait_for,
};

/// Adds a sink into Kafka for the next start.
pub(crate) fn add(rowcast: Rowcast, kafka: &Kafka, name: &str, prefix: &str, start: &str) -> Rowcast {
    let key = |key: &str, value: &str| format!("sinks.{name}.{key}={value}");
    rowcast
        .set(&key("type", "kafka"))
        .set(&key("brokers", kafka.brokers()))
        .set(&key("topic_prefix", prefix))
        .set(&key("start", start))
}

/// How a sink stands, by name.
pub(crate) async fn standing(rowcast: &Rowcast, name: &str) -> Value {
    let sinks = rowcast.get("/v1/sinks").await.json()["sinks"].clone();
    let found = sinks.as_array().expect("sinks").iter().find(|sink| sink["name"] == name);
    found.unwrap_or_else(|| panic!("no sink {name}: {sinks}")).clone()
}

/// Waits until a sink has all that is there, and all rows that it began with.
async fn wait_filled(rowcast: &Rowcast, name: &str) {
    wait_for(&format!("{name} to be filled"), SOON * 4, async || {
        let standing = standing(rowcast, name).await;
        let there = standing["state"] == "running" && standing["position"] == standing["newest"];
        if there && standing["filling"].is_null() { Ok(()) } else { Err(standing.to_string()) }
    })
    .await;
}

/// The next records as op and id.
async fn next(reader: &mut KafkaReader, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let record = reader.next(SOON).await.unwrap_or_else(|| panic!("{count} records, not {seen:?}"));
        let value = record.value.expect("no tombstone");
        seen.push(format!("{} {}", value["op"].as_str().expect("an op"), value["after"]["id"]));
    }
    seen
}

#[tokio::test]
async fn an_added_sink_begins_with_the_rows_with_what_is_held_or_with_what_comes() {
    let kafka = Kafka::shared().await;
    let prefixes = ["first", "rows", "held", "next"].map(|name| kafka.prefix(&format!("start-{name}")));
    let database = Postgres::shared().await.create_database("started").await;
    database.execute("create table orders (id integer primary key)").await;
    database.execute("insert into orders select generate_series(1, 3)").await;
    let mut rowcast = Rowcast::of(&database).kafka(kafka, &prefixes[0]).start().await;
    let mut readers = prefixes.each_ref().map(|prefix| KafkaReader::start(kafka, prefix));
    database.execute("insert into orders select generate_series(4, 5)").await;
    assert_eq!(next(&mut readers[0], 2).await, ["c 4", "c 5"]);
    wait_filled(&rowcast, "kafka").await;
    assert_eq!(standing(&rowcast, "kafka").await["started"]["how"], "earliest");

    assert_eq!(rowcast.terminate().await, 0);
    rowcast = add(rowcast, kafka, "rows", &prefixes[1], "snapshot");
    rowcast = add(rowcast, kafka, "held", &prefixes[2], "earliest");
    rowcast = add(rowcast, kafka, "next", &prefixes[3], "latest");
    rowcast.resume().await;
    rowcast.wait_streaming().await;
    wait_filled(&rowcast, "rows").await;
    database.execute("insert into orders values (6)").await;
    assert_eq!(next(&mut readers[0], 1).await, ["c 6"]);
    assert_eq!(next(&mut readers[1], 6).await, ["r 1", "r 2", "r 3", "r 4", "r 5", "c 6"]);
    assert_eq!(next(&mut readers[2], 3).await, ["c 4", "c 5", "c 6"]);
    assert_eq!(next(&mut readers[3], 1).await, ["c 6"]);

    // Nobody else has seen the rows.
    let page = page(rowcast.address(), "/v1/events?channel=*&from=earliest").await.unwrap();
    let told = page["events"].as_array().unwrap().iter().map(|event| event["op"].as_str().unwrap());
    assert_eq!(told.collect::<Vec<_>>(), ["insert"; 3]);
    let data = rowcast.data().display().to_string();
    let list = command(&["sink", "list", "--data", &data]).await.stdout;
    let started = |name: &str| {
        let line = list.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{list}"));
        line.split_whitespace().nth(5).map(str::to_owned)
    };
    wait_filled(&rowcast, "kafka").await;
    for (name, how) in [("held", "earliest"), ("next", "latest"), ("rows", "snapshot")] {
        wait_filled(&rowcast, name).await;
        assert_eq!(started(name).as_deref(), Some(how), "{list}");
        let delivered = standing(&rowcast, name).await["delivered"].clone();
        let expected = if name == "rows" {
            6
        } else if name == "held" {
            3
        } else {
            1
        };
        assert_eq!(delivered, expected, "{name}");
    }
    assert_eq!(rowcast.metric("rowcast_sink_snapshot_tables_left{sink=\"rows\"}").await, Some(0.0));
    assert!(rowcast.log().contains("The rows of all captured tables are read for rows alone"));

    // And they are not read again.
    rowcast.kill9().await;
    rowcast.resume().await;
    rowcast.wait_streaming().await;
    database.execute("insert into orders values (7)").await;
    for reader in &mut readers {
        assert_eq!(next(reader, 1).await, ["c 7"]);
    }
    assert_eq!(rowcast.terminate().await, 0);
    let shown = command(&["journal", "show", "--data", &data, "--from", "earliest"]).await.stdout;
    assert_eq!(shown.matches("\"sinks\":[\"rows\"]").count(), 5, "{shown}");
}

#[tokio::test]
async fn two_sinks_of_a_first_start_are_filled_by_one_reading() {
    let kafka = Kafka::shared().await;
    let prefixes = ["one", "two"].map(|name| kafka.prefix(&format!("both-{name}")));
    let database = Postgres::shared().await.create_database("both").await;
    database.execute("create table orders (id integer primary key)").await;
    database.execute("insert into orders select generate_series(1, 3)").await;
    let rowcast = Rowcast::of(&database).filled(kafka, &prefixes[0]);
    let mut rowcast = add(rowcast, kafka, "second", &prefixes[1], "snapshot").start().await;
    let mut readers = prefixes.each_ref().map(|prefix| KafkaReader::start(kafka, prefix));
    for reader in &mut readers {
        assert_eq!(next(reader, 3).await, ["r 1", "r 2", "r 3"]);
    }
    // A position that is not stored yet would have the rows sent again.
    for name in ["kafka", "second"] {
        wait_filled(&rowcast, name).await;
    }
    rowcast.kill9().await;
    rowcast.resume().await;
    rowcast.wait_streaming().await;
    database.execute("insert into orders values (4)").await;
    for reader in &mut readers {
        assert_eq!(next(reader, 1).await, ["c 4"]);
    }
    let page = page(rowcast.address(), "/v1/events?channel=*&from=earliest&op=read").await.unwrap();
    assert_eq!(page["events"].as_array().unwrap().len(), 3);
}

/// Rows of some kB with a value that no update carries.
const TABLES: &str = "
    create table orders (id integer primary key, v integer not null, big text);
    create table lines (code text primary key, v integer not null, big text);
    alter table orders alter big set storage external;
    alter table lines alter big set storage external;
    insert into orders select i, 0, repeat(i || ' ', 700) from generate_series(1, 6000) i;
    insert into lines select 'c' || i, 0, repeat(i || ' ', 700) from generate_series(1, 6000) i";
const ROWS: u64 = 12_000;

/// An application that changes, moves, removes and makes rows.
fn keep_writing(database: &Database, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<u32> {
    let (url, mut random) = (database.url().to_owned(), random("start"));
    tokio::spawn(async move {
        let client = crate::support::postgres::connect(&url).await.expect("a connection");
        let mut done = 0;
        while !stop.load(Ordering::Relaxed) {
            let (id, other) = (random.random_range(1..6000), random.random_range(6001..9000));
            let sql = match random.random_range(0..10) {
                0..5 => format!("update orders set v = v + 1 where id between {id} and {id} + 5"),
                5 => format!("update lines set code = 'm' || code where code = 'c{id}'"),
                6 => format!("delete from lines where code = 'c{id}'"),
                7 => format!(
                    "insert into orders values ({other}, 1, repeat('x', 3000)) on conflict do nothing"
                ),
                _ => format!("update lines set v = v + 1 where code = 'c{id}'"),
            };
            client.batch_execute(&sql).await.expect("a change");
            done += 1;
            // Room for the others on a machine of two cores.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        done
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_it_is_filled_an_added_sink_ends_equal_to_the_tables() {
    let kafka = Kafka::shared().await;
    let prefixes = ["old", "new"].map(|name| kafka.prefix(&format!("fill-{name}")));
    let database = Postgres::shared().await.create_database("fill").await;
    database.execute(TABLES).await;
    let tables = database.tables().await;
    let mut rowcast =
        Rowcast::of(&database).filled(kafka, &prefixes[0]).set("source.snapshot_tables=1").start().await;
    let first = Follower::kafka(kafka, &prefixes[0], DebeziumTables::new(&prefixes[0], &tables));
    let second = Follower::kafka(kafka, &prefixes[1], DebeziumTables::new(&prefixes[1], &tables).filling());
    let live = Follower::start(Door::Sse, rowcast.address(), Tables::new(&tables).filling());
    first.wait_equal(&database, SOON * 6).await;
    wait_filled(&rowcast, "kafka").await;
    let reads = first.look(|tables| tables.reads);
    assert_eq!(reads, ROWS);

    let stop = Arc::new(AtomicBool::new(false));
    let writer = keep_writing(&database, Arc::clone(&stop));
    rowcast.kill9().await;
    rowcast = add(rowcast, kafka, "second", &prefixes[1], "snapshot");
    let (mut kills, mut before) = (0, 0);
    loop {
        rowcast.resume().await;
        let filling = wait_for("rows to be read", SOON * 2, async || {
            let filling = standing(&rowcast, "second").await["filling"].clone();
            let rows = filling["rows"].as_u64().unwrap_or(0);
            if filling.is_null() || rows > 0 && rows != before {
                Ok(filling)
            } else {
                Err(filling.to_string())
            }
        })
        .await;
        if filling.is_null() || kills == 4 {
            break;
        }
        println!("Killed at {filling}");
        before = filling["rows"].as_u64().expect("a number");
        rowcast.kill9().await;
        kills += 1;
    }
    assert!(kills > 0, "it was read before it could be killed");
    wait_filled(&rowcast, "second").await;
    stop.store(true, Ordering::Relaxed);
    println!("{} changes, killed {kills} times", writer.await.expect("the application goes on"));
    second.wait_equal(&database, SOON * 6).await;
    first.wait_equal(&database, SOON * 6).await;
    live.wait_equal(&database, SOON * 6).await;
    assert_eq!(first.look(|tables| tables.reads), reads, "what is read for the second is not for the first");
    let seconds = second.look(|tables| tables.reads);
    println!("{seconds} rows read for the second");
    assert!(seconds > ROWS / 2, "{seconds}");
    assert_eq!(standing(&rowcast, "second").await["started"]["how"], json!("snapshot"));
}
