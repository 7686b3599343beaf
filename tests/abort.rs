//! The whole program killed at every place where a crash could do harm, and started again: nothing lost, nothing
//! doubled, order kept, and the same numbers for those who had seen them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use rowcast_engine::abort::{Point, VARIABLE};
use tokio_postgres::Client;

use crate::support::rowcast::command;
use crate::support::witness::{Memory, Witness};
use crate::support::{Database, Kafka, KafkaReader, Postgres, Rowcast, SOON, http, wait_for};

/// SIGKILL, as the shell tells it.
pub(crate) const KILLED: i32 = 128 + 9;

/// For one point to be reached, on a busy machine.
const REACHED: Duration = Duration::from_secs(60);

/// Above the size at which a transaction gets a file of its own.
const LARGE_ROWS: i64 = 400;

/// Nothing new is written for so long after a start.
const ALONE: Duration = Duration::from_millis(400);

/// A transaction of several parts: 3 MB.
const MEDIUM_ROWS: i64 = 60;

/// Bytes of each row of a large or medium transaction: 400 are 20 MB.
const ROW_BYTES: i64 = 50_000;

/// Where a point can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scene {
    /// At the first start of an installation alone.
    First,
    /// With segments so many that old ones go.
    Retention,
    /// On a disk that is full: `full.rs`.
    Full,
    /// With a sink.
    Sink,
    /// While tables are read: `filling.rs`.
    Snapshot,
    /// In ordinary work.
    Usual,
}

fn scene(point: Point) -> Scene {
    match point.name().split_once('.') {
        _ if matches!(point, Point::OpenInstallation | Point::SourceClaimed | Point::SourceCreated) => {
            Scene::First
        }
        Some(("retention", _)) => Scene::Retention,
        Some(("full", _)) => Scene::Full,
        Some(("sink" | "cursor", _)) => Scene::Sink,
        Some(("snapshot", _)) => Scene::Snapshot,
        _ => Scene::Usual,
    }
}

pub(crate) fn points(wanted: Scene) -> Vec<Point> {
    Point::ALL.iter().copied().filter(|point| scene(*point) == wanted).collect()
}

/// Which passages of a point are deadly. What is passed with each transaction is also tried in the midst of others.
fn counts(point: Point) -> &'static [u32] {
    match point.name().split_once('.') {
        // The first append is the position's; the next is of several parts, of which the second has followers.
        Some(("append", _)) => &[1, 2, 3, 6],
        Some(("sync" | "show", _)) => &[1, 6],
        Some(("source", _)) if point != Point::SourceRecorded && point != Point::SourceIdentified => &[1, 3],
        _ => &[1],
    }
}

/// An application, and the program that is killed under it.
pub(crate) struct House {
    database: Database,
    client: Client,
    pub(crate) rowcast: Rowcast,
    /// Custom events: the number that each was answered with; `None` where the answer never came.
    published: BTreeMap<i64, Option<u64>>,
    next_custom: AtomicI64,
}

impl House {
    /// With segments of a megabyte, and what `build` adds; nothing is started yet.
    pub(crate) async fn new(name: &str, build: impl FnOnce(Rowcast) -> Rowcast) -> Self {
        let database = Postgres::shared().await.create_database(name).await;
        database
            .execute("create table few (id serial primary key, v text); create table many (id serial primary key, v text)")
            .await;
        let client = database.client().await;
        let rowcast = build(Rowcast::of(&database).set("journal.segment_size=1MB"));
        Self { database, client, rowcast, published: BTreeMap::new(), next_custom: AtomicI64::new(1) }
    }

    /// A small transaction and a custom event beside it, then one of 200 kB or 3 MB.
    pub(crate) async fn work(&mut self) {
        let number = self.next_custom.fetch_add(1, Ordering::Relaxed);
        let (address, body) = (self.rowcast.address(), number.to_string());
        let small = self.client.batch_execute("insert into few (v) values ('a')");
        let custom = http::post(address, "/v1/channels/custom.event/events", &body);
        let (small, custom) = tokio::join!(small, custom);
        small.expect("the database is well");
        // No answer: it may be stored or not.
        let answered = match custom {
            Ok(answer) if answer.status == 201 => answer.json()["id"].as_u64(),
            _ => None,
        };
        self.published.insert(number, answered);
        // Of one part, and now and then of several.
        self.insert("many", if number % 8 == 0 { MEDIUM_ROWS } else { 4 }).await;
    }

    async fn insert(&self, table: &str, rows: i64) {
        let sql = format!(
            "insert into {table} (v) select repeat(md5(i::text), {}) from generate_series(1, {rows}) i",
            ROW_BYTES / 32
        );
        self.client.batch_execute(&sql).await.expect("the database is well");
    }

    /// Starts the program so that it dies at the point, and works until it has.
    async fn die_at(&mut self, point: Point, count: u32) {
        // What comes behind others may be written with them: this is the first that it meets.
        let needs_large = matches!(point.name().split_once('.'), Some(("spill" | "adopt", _)));
        self.insert("many", if needs_large { LARGE_ROWS } else { MEDIUM_ROWS }).await;
        self.rowcast.set_env(VARIABLE, Some(&format!("{}:{count}", point.name())));
        self.rowcast.spawn();
        let start = Instant::now();
        for round in 1.. {
            if let Some(code) = self.rowcast.ended() {
                assert_eq!(code, KILLED, "rowcast ends at {}:{count}", point.name());
                break;
            }
            assert!(start.elapsed() < REACHED, "{}:{count} is reached", point.name());
            tokio::time::sleep(Duration::from_millis(20)).await;
            // Others come when it has had time for what was there.
            if start.elapsed() > ALONE {
                self.work().await;
            }
            if round % 100 == 0 {
                self.insert("many", LARGE_ROWS).await;
            }
        }
        println!("{}:{count} after {:?}", point.name(), start.elapsed());
    }

    /// Starts the ended program as it is, and lets it capture the rest.
    pub(crate) async fn live(&mut self) {
        self.rowcast.set_env(VARIABLE, None);
        self.rowcast.resume().await;
        self.work().await;
        let last = self.published.last_key_value().expect("something was published");
        assert!(last.1.is_some(), "a living rowcast answers");
    }

    async fn last_row(&self, table: &str) -> i64 {
        let sql = format!("select coalesce(max(id), 0)::bigint from {table}");
        self.client.query_one(&sql, &[]).await.expect("the table").get(0)
    }

    /// Waits until the witness has the last row, or the program has ended.
    async fn witnessed(&mut self, witness: &Witness) {
        let row = self.last_row("many").await;
        wait_for("the witness, or the end", SOON, async || {
            let told = witness.look(|memory| memory.keys("public.many").last().copied().unwrap_or(0) == row);
            if told || self.rowcast.ended().is_some() { Ok(()) } else { Err(format!("row {row}")) }
        })
        .await;
    }

    /// Waits until the witness has everything.
    pub(crate) async fn all_told(&self, witness: &Witness) {
        let (few, many) = (self.last_row("few").await, self.last_row("many").await);
        let (custom, _) = self.published.last_key_value().expect("something was published");
        let last = |memory: &Memory, channel: &str| memory.keys(channel).last().copied().unwrap_or(0);
        wait_for("the witness to be told everything", SOON * 3, async || {
            witness.look(|memory| {
                let told =
                    [last(memory, "public.few"), last(memory, "public.many"), last(memory, "custom.event")];
                if told == [few, many, *custom] {
                    Ok(())
                } else {
                    Err(format!("{told:?} of {few}, {many}, {custom}"))
                }
            })
        })
        .await;
    }

    /// Asserts that everything was told once, in order, and is told again in the same way.
    pub(crate) async fn assert_sound(&mut self, witness: &Witness) {
        self.all_told(witness).await;
        let told = witness.look(Memory::clone);
        told.assert_has_rows(&self.database, "few").await;
        told.assert_has_rows(&self.database, "many").await;
        self.assert_published(&told);
        let until = told.told.last().expect("an event").id;
        told.assert_told_again(&Memory::replay(self.rowcast.address(), until).await);
        let status = self.rowcast.status().await;
        assert_eq!(status["healthy"], true, "{status}");
        self.assert_clean().await;
    }

    /// What was answered is there under its number; what was not, at most once.
    fn assert_published(&self, told: &Memory) {
        let mut stored = BTreeMap::new();
        for event in told.told.iter().filter(|told| told.channel == "custom.event") {
            assert_eq!(stored.insert(event.key, event.id), None, "{} is stored once", event.key);
        }
        for (number, id) in &self.published {
            if id.is_some() {
                assert_eq!(stored.get(number), id.as_ref(), "{number} has the number that was answered");
            }
        }
        assert!(stored.keys().all(|number| self.published.contains_key(number)));
    }

    /// Ends the program in order; asserts that its files are sound and that none is left over.
    async fn assert_clean(&mut self) {
        assert_eq!(self.rowcast.terminate().await, 0);
        let journal = self.rowcast.data().join("journal");
        assert_eq!(left_over(&journal), BTreeSet::new());
        let data = self.rowcast.data().display().to_string();
        let output = command(&["journal", "check", "--data", &data]).await;
        assert_eq!(output.code, 0, "{output:?}");
    }
}

/// Files that belong to no segment.
fn left_over(journal: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(journal).expect("the journal").flatten();
    let names: BTreeSet<_> = entries.map(|entry| entry.file_name().into_string().expect("a name")).collect();
    let known = |name: &str| match name.rsplit_once('.') {
        Some((_, "seg")) => true,
        Some((base, "idx")) => names.contains(&format!("{base}.seg")),
        _ => matches!(name, "lock" | "installation" | "removed" | "taken"),
    };
    names.iter().filter(|name| !known(name)).cloned().collect()
}

/// One program and one journal for many deaths, each of which the next start has to live with.
async fn killed_again_and_again(name: &str, points: &[Point]) {
    let mut house = House::new(name, |rowcast| rowcast).await;
    house.rowcast = house.rowcast.start().await;
    let witness = Witness::start(house.rowcast.address());
    house.work().await;
    house.rowcast.kill9().await;
    for point in points {
        for count in counts(*point) {
            house.die_at(*point, *count).await;
        }
    }
    house.live().await;
    house.assert_sound(&witness).await;
    println!("{:?} in {} connections", witness.counts(), witness.connections());
}

/// Every `step`-th of the usual points, from `first` on: some tests share them, so that they can run side by side.
async fn usual(first: usize, step: usize) {
    let points: Vec<_> = points(Scene::Usual).into_iter().skip(first).step_by(step).collect();
    assert!(points.len() > 10);
    killed_again_and_again(&format!("abort{first}"), &points).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_point_nothing_is_lost_doubled_or_renumbered() {
    usual(0, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_other_point_too() {
    usual(1, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_its_first_start() {
    let at_start =
        [Point::SourceRecorded, Point::SourceIdentified, Point::SegmentCreated, Point::OpenPosition];
    for point in points(Scene::First).into_iter().chain(at_start) {
        let mut house = House::new("abort_first", |rowcast| rowcast).await;
        house.rowcast.set_env(VARIABLE, Some(&format!("{}:1", point.name())));
        house.rowcast.spawn();
        assert_eq!(house.rowcast.wait_end().await, KILLED, "{}", point.name());
        house.rowcast.set_env(VARIABLE, None);
        house.rowcast = house.rowcast.start().await;
        let witness = Witness::start(house.rowcast.address());
        house.work().await;
        house.rowcast.kill9().await;
        house.live().await;
        house.assert_sound(&witness).await;
    }
}

/// Transactions of which a part is written, and none of which has committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_what_has_not_committed_is_written() {
    let mut house = House::new("abort_streamed", |rowcast| rowcast.set("source.streaming=on")).await;
    // So that the server sends them before they commit.
    let settings =
        format!("alter database \"{}\" set logical_decoding_work_mem = '64kB'", house.database.name());
    house.database.execute(&settings).await;
    house.rowcast = house.rowcast.start().await;
    let witness = Witness::start(house.rowcast.address());
    house.work().await;
    house.rowcast.kill9().await;
    let of_files = |point: &Point| matches!(point.name().split_once('.'), Some(("spill" | "adopt", _)));
    let points: Vec<_> = points(Scene::Usual).into_iter().filter(of_files).collect();
    assert!(points.len() > 3, "{points:?}");
    for point in points {
        house.die_at(point, 1).await;
    }
    house.live().await;
    // One that is rolled back beside one that commits, each with a part that is.
    let other = house.database.client().await;
    let rows = |from: i64| {
        format!(
            "insert into many (v) select repeat(md5(i::text), {}) from generate_series({from}, {from} + 39) i",
            ROW_BYTES / 32
        )
    };
    let undone = format!("savepoint s; {}; rollback to s", rows(1000));
    other.batch_execute(&format!("begin; {}; {undone}", rows(2000))).await.unwrap();
    house
        .client
        .batch_execute(&format!("begin; {}; {undone}; {}; commit", rows(1), rows(100)))
        .await
        .unwrap();
    other.batch_execute("rollback").await.unwrap();
    house.work().await;
    house.all_told(&witness).await;
    let streamed = house.rowcast.metric("rowcast_source_streamed_transactions_total").await;
    assert!(streamed >= Some(1.0), "{streamed:?} were sent before they committed");
    house.assert_sound(&witness).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_old_segments_go() {
    // What a life leaves untold is less than four of these: the next removes none of it before the witness is back.
    let mut house = House::new("abort_old", |rowcast| rowcast.set("journal.max_size=12MB")).await;
    house.rowcast = house.rowcast.start().await;
    let witness = Witness::start(house.rowcast.address());
    for point in points(Scene::Retention) {
        house.rowcast.kill9().await;
        house.rowcast.set_env(VARIABLE, Some(&format!("{}:2", point.name())));
        house.rowcast.resume().await;
        let start = Instant::now();
        // So that nobody is overtaken: the witness is to see everything, also of before.
        house.witnessed(&witness).await;
        while house.rowcast.ended().is_none() {
            assert!(start.elapsed() < REACHED, "{} is reached", point.name());
            house.work().await;
            house.witnessed(&witness).await;
        }
        assert_eq!(house.rowcast.ended(), Some(KILLED));
    }
    house.live().await;
    house.all_told(&witness).await;
    let told = witness.look(Memory::clone);
    told.assert_has_rows(&house.database, "few").await;
    told.assert_has_rows(&house.database, "many").await;
    house.assert_published(&told);
    let until = told.told.last().expect("an event").id;
    let gone = told.assert_told_again(&Memory::replay(house.rowcast.address(), until).await);
    assert!(gone > 0, "old segments have gone");
    assert!(!house.rowcast.log().contains("are missing"), "and are not missed");
    house.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_a_sink_moves_on() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("abort");
    let points = points(Scene::Sink);
    let mut house = House::new("abort_sink", |rowcast| rowcast.kafka(kafka, &prefix)).await;
    let mut reader = KafkaReader::start(kafka, &prefix);
    house.rowcast = house.rowcast.start().await;
    let witness = Witness::start(house.rowcast.address());
    house.work().await;
    house.rowcast.kill9().await;
    for point in points {
        for count in [1, 2] {
            house.die_at(point, count).await;
        }
    }
    house.live().await;
    house.all_told(&witness).await;
    let told = witness.look(Memory::clone);
    let mut expected: BTreeSet<u64> = told.told.iter().map(|told| told.id).collect();
    let (mut newest, mut again) = (BTreeMap::new(), 0);
    while !expected.is_empty() {
        let record =
            reader.next(SOON).await.unwrap_or_else(|| panic!("{} are not delivered", expected.len()));
        let id: u64 = record.headers["rowcast.id"].parse().unwrap();
        assert!(told.told.iter().any(|told| told.id == id), "{id} is an event's number");
        if expected.remove(&id) {
            let before = newest.insert((record.topic, record.partition), id).unwrap_or(0);
            assert!(before < id, "{id} comes for the first time after {before}");
        } else {
            again += 1;
        }
    }
    println!("{again} records came again");
    house.assert_sound(&witness).await;
}
