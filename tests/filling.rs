//! Tables that are full are read while an application writes to them as fast as it can and rowcast is killed again and
//! again: whoever follows any door ends with the tables.

mod application;
mod left;
mod network;

use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;
use rowcast_engine::abort::{Point, VARIABLE};
use serde_json::Value;

use crate::abort::{KILLED, Scene, points};
use crate::flow::Followers;
use crate::support::database::Table;
use crate::support::rowcast::command;
use crate::support::{Database, Kafka, Postgres, Rowcast, http, random, wait_for};
use crate::workload::alone;
use application::{Application, create};
use left::{Left, Rest};
use network::Network;

/// Each in the midst of the reading, further on than the one before.
const KILLS: u32 = 10;

/// What may come of the tables at the beginning of a life, in bytes, however late somebody looks: of some 79 MB.
const LIFE: u64 = 1 << 20;

/// And more with each look, until it has come as far as it is to come.
const LOOK: u64 = 256 << 10;

/// For a snapshot to get on, or to its end, beside the application and on a busy machine.
const READ: Duration = Duration::from_secs(120);

/// The database with its application, and rowcast with everybody who follows it.
struct House {
    start: Instant,
    rng: StdRng,
    kafka: &'static Kafka,
    prefix: String,
    database: Database,
    network: Network,
    tables: Vec<Table>,
    application: Application,
    rowcast: Rowcast,
    /// What was left of the reading at each death.
    left: Vec<Left>,
}

impl House {
    async fn new(name: &str) -> Self {
        let (start, mut rng) = (Instant::now(), random(name));
        let kafka = Kafka::shared().await;
        let prefix = kafka.prefix(name);
        let database = Postgres::shared().await.create_database(name).await;
        let tables = create(&database).await;
        let application = Application::start(&database, &mut rng);
        let (network, url) = Network::before(&database).await;
        network.grant(LIFE);
        let rowcast = Rowcast::on(&url)
            .set(&format!("source.slot={}", database.name()))
            .filled(kafka, &prefix)
            .set("kafka.debezium.skipped.operations=none");
        let left = Vec::new();
        Self { start, rng, kafka, prefix, database, network, tables, application, rowcast, left }
    }

    /// Once there is a slot.
    fn follow(&self) -> Followers {
        self.application.rewrites();
        Followers::filling(&self.rowcast, self.kafka, &self.prefix, &self.tables)
    }

    /// What is told of snapshots.
    async fn told(&self) -> Result<Value, String> {
        Ok(http::get(self.rowcast.address(), "/v1/snapshots").await?.json())
    }

    /// Waits until some table is half read that was not, or not so far, at the death before.
    async fn gets_on(&self) {
        wait_for("the snapshot to get on", READ, async || {
            let told = self.told().await?;
            let is_new = |table: &Value| {
                let (rows, estimate) = (table["rows"].as_u64(), table["estimate"].as_u64());
                let channel = table["channel"].as_str().unwrap_or_default();
                let before = self.left.last().and_then(|left| left.rows(channel));
                rows > Some(0) && rows < estimate && rows != before
            };
            let tables = told["tables"].as_array().ok_or("no tables")?;
            if tables.iter().any(is_new) {
                return Ok(());
            }
            self.network.grant(LOOK);
            Err(told.to_string())
        })
        .await;
    }

    /// Kills it at a moment of chance while it reads. Whether that was in the midst of a table, and further on than before:
    /// what was seen may have been done by then, or not be on the disk.
    async fn kill(&mut self) -> bool {
        self.gets_on().await;
        tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..500))).await;
        self.rowcast.kill9().await;
        let before = self.left.last().cloned().unwrap_or_default();
        let left = self.look("killed").await;
        left.is_midway() && left.is_further_than(&before)
    }

    /// Starts it, of four times once after a start on whose way to the stream it is killed.
    async fn start_again(&mut self) {
        if self.rng.random_ratio(1, 4) {
            self.network.grant(LIFE);
            self.rowcast.spawn();
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..500))).await;
            self.rowcast.kill9().await;
            self.look("killed on its way").await;
        }
        self.network.grant(LIFE);
        self.rowcast.launch().await;
    }

    /// Has it read until it comes to where it is to die, the `count`-th time.
    async fn die_at(&mut self, point: &str, count: u32) {
        self.rowcast.set_env(VARIABLE, Some(&format!("{point}:{count}")));
        self.network.grant(LIFE);
        self.rowcast.launch().await;
        wait_for(&format!("{point} to be reached"), READ, async || {
            self.network.grant(LOOK);
            if self.rowcast.ended().is_some() { Ok(()) } else { Err(String::from("it reads")) }
        })
        .await;
        assert_eq!(self.rowcast.ended(), Some(KILLED));
        self.rowcast.set_env(VARIABLE, None);
        self.look(&format!("{point}, time {count}")).await;
    }

    /// Has it read on until keys wait to be read again in the table that is next, and only that, or more, remains of it.
    async fn until_keys_wait(&mut self, rest: Rest) -> String {
        loop {
            match self.left.last().and_then(Left::waiting) {
                Some((table, found)) if found == rest => return table.to_owned(),
                _ => self.die_at(Point::SnapshotNoted.name(), 1).await,
            }
        }
    }

    /// Looks what the dead rowcast has left: a part of the one reading, and of no table less than before.
    async fn look(&mut self, death: &str) -> &Left {
        let left = Left::by(&self.rowcast.data()).await;
        println!("{:?}: {death}, {} transactions: {left}", self.start.elapsed(), self.application.done());
        left.assert_is_of(self.left.first().unwrap_or(&left));
        left.assert_goes_on_from(self.left.last().unwrap_or(&left));
        self.left.push(left);
        self.left.last().expect("it was put there")
    }

    /// A row that comes behind everything so far.
    async fn mark(&self, number: i64) -> i64 {
        self.database.execute(&format!("insert into marker values ({number})")).await;
        number
    }

    /// Reads to the end; then everybody must have the tables. Nobody asks for rows once more: they would make up for what was
    /// lost.
    async fn finish(mut self, followers: &Followers) {
        assert!(self.left.iter().any(|left| left.again() > 0), "no key waited to be read again at any death");
        self.network.mend();
        // For a moment behind its start nothing is told of what is left.
        let left = self.left.last().expect("a death");
        // However long that takes on a busy machine, it gets on.
        let rows = |told: &Value| -> Vec<Value> {
            told["tables"].as_array().into_iter().flatten().map(|table| table["rows"].clone()).collect()
        };
        let mut told = Value::Null;
        while !left.channels().all(|channel| told["read"].get(channel).is_some()) {
            told = wait_for("the snapshot to get on", READ, async || {
                let now = self.told().await?;
                let is_further = now["read"] != told["read"] || rows(&now) != rows(&told);
                if is_further { Ok(now) } else { Err(now.to_string()) }
            })
            .await;
        }
        println!("{:?}: all is read, {} transactions", self.start.elapsed(), self.application.done());
        // From here on every change has to fit what came before, over one more kill.
        followers.wait_last(self.mark(1).await).await;
        followers.filled();
        self.rowcast.kill9().await;
        self.rowcast.launch().await;
        self.rowcast.wait_streaming().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let transactions = self.application.stop().await;
        self.database.execute("insert into marker values (2)").await;
        followers.wait_equal(&self.database, 2).await;
        let (events, again) = (followers.events(), followers.repeated());
        println!(
            "{:?}: {transactions} transactions, {events} events; Kafka got {again} records again",
            self.start.elapsed()
        );
        assert_eq!(self.rowcast.terminate().await, 0);
        let data = self.rowcast.data().display().to_string();
        let checked = command(&["journal", "check", "--data", &data]).await;
        assert_eq!(checked.code, 0, "{checked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_ten_times_under_full_load_a_snapshot_ends_with_the_tables() {
    let _alone = alone().await;
    let mut house = House::new("filling").await;
    // Two tables at once would have less than a chunk each.
    house.rowcast = house.rowcast.set("source.snapshot_tables=1").start().await;
    let followers = house.follow();
    let mut kills = 0;
    while kills < KILLS {
        kills += u32::from(house.kill().await);
        house.start_again().await;
    }
    house.finish(&followers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_step_of_a_snapshot_it_ends_with_the_tables() {
    let _alone = alone().await;
    let mut house = House::new("steps").await;
    let mut points: Vec<_> = points(Scene::Snapshot).iter().map(|point| point.name()).collect();
    // All tables are listed but once.
    let first = points.remove(0);
    house.die_at(first, 1).await;
    let followers = house.follow();
    for point in points {
        for count in [1, 4] {
            house.die_at(point, count).await;
        }
    }
    house.rowcast.launch().await;
    house.finish(&followers).await;
}

/// Both while a chunk of other rows is read, and while those keys are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_step_while_keys_wait_it_ends_with_the_tables() {
    let _alone = alone().await;
    let mut house = House::new("waiting").await;
    house.rowcast = house.rowcast.set("source.snapshot_tables=1");
    let mut points = points(Scene::Snapshot);
    let first = points.remove(0);
    house.die_at(first.name(), 1).await;
    let followers = house.follow();
    for rest in [Rest::Rows, Rest::Keys] {
        for point in &points {
            let table = house.until_keys_wait(rest).await;
            house.die_at(point.name(), 1).await;
            let left = house.left.last().expect("a death");
            // Of the last two the chunk may be on the disk.
            let told = rest == Rest::Keys && matches!(point, Point::SnapshotHeard | Point::SnapshotNoted);
            let waits = left.waiting().is_some_and(|(waiting, _)| waiting == table);
            assert!(waits || told, "{}, {rest:?}: {left}", point.name());
        }
    }
    house.rowcast.launch().await;
    house.finish(&followers).await;
}
