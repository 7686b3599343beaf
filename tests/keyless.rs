//! A table without a key, too large for memory, read in one piece while it is written to and rowcast is killed at every
//! step of that: whoever begins with an empty table where it was asked for, and follows, has as many of each row.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::Rng;
use rowcast_engine::abort::{Point, VARIABLE};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::abort::KILLED;
use crate::support::ndjson::page;
use crate::support::rowcast::command;
use crate::support::{Database, Postgres, Rowcast, random, wait_for};

/// A table of 14 MB is read, beside others.
const READ: Duration = Duration::from_secs(60);

const TABLE: &str = "create table log (n integer, v text); alter table log replica identity full;
    insert into log select i % 900, repeat((i % 7)::text, 700) from generate_series(1, 20000) i";

/// What the writers have made small or removed, so that it stays too large for memory however long they write.
const TOP_UP: &str =
    "insert into log select i % 900, repeat((i % 7)::text, 700) from generate_series(1, greatest(0,
    20000 - (select count(*) from log where length(v) = 700))) i";

/// A client that began with an empty table behind an event, and remembers where it is: how often it has each row.
#[derive(Default)]
struct Follower {
    after: u64,
    rows: BTreeMap<String, i64>,
}

impl Follower {
    fn behind(event: u64) -> Self {
        Self { after: event, ..Self::default() }
    }

    fn apply(&mut self, event: &Value) {
        self.after = event["id"].as_u64().expect("a number");
        match event["op"].as_str().expect("an op") {
            "read" | "insert" => self.add(&event["after"]),
            "delete" => self.remove(&event["before"]),
            "update" => {
                self.remove(&event["before"]);
                self.add(&event["after"]);
            }
            op => panic!("{op}: {event}"),
        }
    }

    fn add(&mut self, row: &Value) {
        *self.rows.entry(row.to_string()).or_insert(0) += 1;
    }

    /// No more than it has.
    fn remove(&mut self, row: &Value) {
        if let Some(count) = self.rows.get_mut(&row.to_string()) {
            *count = 0.max(*count - 1);
        }
    }

    /// Reads all that is there.
    async fn follow(&mut self, rowcast: &Rowcast) -> Result<(), String> {
        loop {
            let from = if self.after == 0 { "earliest".to_owned() } else { self.after.to_string() };
            let page = page(rowcast.address(), &format!("/v1/events?from={from}&limit=5000")).await?;
            let events = page["events"].as_array().ok_or("no events")?;
            if events.is_empty() {
                return Ok(());
            }
            events.iter().for_each(|event| self.apply(event));
        }
    }

    /// Whether it has the table, to which nobody writes.
    async fn compare(&self, database: &Database) -> Result<(), String> {
        let mut rows = BTreeMap::new();
        for row in database.rows("log").await {
            *rows.entry(row.to_string()).or_insert(0) += 1;
        }
        let differs = |row: &&String| self.rows.get(*row).unwrap_or(&0) != rows.get(*row).unwrap_or(&0);
        let differing = self.rows.keys().chain(rows.keys()).find(differs);
        differing.map_or(Ok(()), |row| Err(row.chars().take(60).collect()))
    }
}

/// Writes until it is told to stop.
async fn writer(database: &Database, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (client, stop) = (database.client().await, Arc::clone(stop));
    tokio::spawn(async move {
        for round in 0_i64.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let n = round * 13 % 900;
            let sql = format!(
                "insert into log select {n}, 'new' from generate_series(0, {}); update log set v = 'changed' where ctid in
                 (select ctid from log where n = {} limit 3); delete from log where ctid in
                 (select ctid from log where n = {} limit 2)",
                round % 5,
                (n + 100) % 900,
                (n + 200) % 900
            );
            client.batch_execute(&sql).await.expect("the database is well");
        }
    })
}

async fn unfinished(rowcast: &Rowcast) -> Result<usize, String> {
    let status = crate::support::http::get(rowcast.address(), "/v1/status").await?.json();
    if status["source"]["state"] == "streaming" {
        return Ok(status["snapshots"].as_array().map_or(0, Vec::len));
    }
    Err(status["source"].to_string())
}

/// Asks for the table, and has it wait before it has been read; gives the event behind which it begins.
async fn ask(rowcast: &Rowcast) -> u64 {
    let data = rowcast.data().display().to_string();
    loop {
        let asked = command(&["snapshot", "public.log", "--detach", "--data", &data]).await;
        assert_eq!(asked.code, 0, "{asked:?}");
        let event = asked.stdout.split("(from=").nth(1).and_then(|rest| rest.split(')').next());
        let event = event.and_then(|event| event.parse().ok()).expect("where it begins");
        if command(&["snapshot", "public.log", "--pause", "--data", &data]).await.code == 0 {
            return event;
        }
        // It has been read already.
    }
}

fn steps() -> impl Iterator<Item = (&'static str, u32)> {
    let of = |point: &&Point| {
        let name = point.name();
        **point != Point::SnapshotListed
            && ["snapshot.", "spill.", "adopt."].iter().any(|part| name.starts_with(part))
    };
    let points = Point::ALL.iter().filter(of).map(|point| (point.name(), 1));
    points.chain([("spill.written", 7)])
}

/// Waits until a follower has the table, to which nobody writes.
async fn wait_equal(what: &str, rowcast: &Rowcast, database: &Database, mut follower: Follower) {
    wait_for("the table", READ, async || {
        let left = unfinished(rowcast).await?;
        follower.follow(rowcast).await?;
        follower.compare(database).await.map_err(|row| format!("{row}, {left} tables to be read"))?;
        // The rows are there a moment before their table counts as read.
        if left == 0 { Ok(()) } else { Err(format!("{what}: {left} tables to be read")) }
    })
    .await;
    println!("{what}, {} rows", follower.rows.values().sum::<i64>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_step_it_ends_with_as_many_of_each_row() {
    let database = Postgres::shared().await.create_database("keyless").await;
    database.execute(TABLE).await;
    let mut rowcast = Rowcast::of(&database).set("source.snapshot=initial").start().await;
    let (stop, mut rng) = (Arc::default(), random("keyless"));
    let writing = writer(&database, &stop).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..300))).await;
        rowcast.kill9().await;
        rowcast.launch().await;
        rowcast.wait_streaming().await;
    }
    stop.store(true, Ordering::Relaxed);
    writing.await.expect("the database is well");
    wait_equal("at first", &rowcast, &database, Follower::default()).await;
    for (point, count) in steps() {
        database.execute(TOP_UP).await;
        let stop = Arc::default();
        let writer = writer(&database, &stop).await;
        let since = ask(&rowcast).await;
        rowcast.kill9().await;
        rowcast.set_env(VARIABLE, Some(&format!("{point}:{count}")));
        rowcast.launch().await;
        let data = rowcast.data().display().to_string();
        wait_for(&format!("{point} to be reached"), READ, async || {
            if rowcast.ended().is_some() {
                return Ok(());
            }
            // It may be dying.
            let left = unfinished(&rowcast).await?;
            let _ = command(&["snapshot", "public.log", "--resume", "--data", &data]).await;
            Err(format!("{left} tables to be read"))
        })
        .await;
        assert_eq!(rowcast.ended(), Some(KILLED), "{point}:{count}");
        rowcast.set_env(VARIABLE, None);
        rowcast.launch().await;
        rowcast.wait_streaming().await;
        stop.store(true, Ordering::Relaxed);
        writer.await.expect("the database is well");
        // Nobody asks again: what was on its way is durable, or begins anew by itself.
        wait_equal(&format!("{point}:{count}"), &rowcast, &database, Follower::behind(since)).await;
    }
    assert_eq!(rowcast.terminate().await, 0);
    let data = rowcast.data().display().to_string();
    let checked = command(&["journal", "check", "--data", &data]).await;
    assert_eq!(checked.code, 0, "{checked:?}");
}
