//! Tables that are full are read while an application writes to them as fast as it can and rowcast is killed again and
//! again: whoever follows any door ends with the tables.

mod application;

use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;
use rowcast_engine::abort::VARIABLE;
use serde_json::Value;

use crate::abort::{KILLED, Scene, points};
use crate::flow::Followers;
use crate::support::database::Table;
use crate::support::rowcast::command;
use crate::support::{Database, Kafka, Postgres, Rowcast, http, random, wait_for};
use crate::workload::alone;
use application::{Application, create};

const KILLS: u32 = 10;

/// A snapshot goes on after the last kill, beside the application.
const READ: Duration = Duration::from_secs(60);

/// The database with its application, and rowcast with everybody who follows it.
struct House {
    start: Instant,
    rng: StdRng,
    kafka: &'static Kafka,
    prefix: String,
    database: Database,
    tables: Vec<Table>,
    application: Application,
    rowcast: Rowcast,
}

impl House {
    async fn new(name: &str) -> Self {
        let (start, mut rng) = (Instant::now(), random(name));
        let kafka = Kafka::shared().await;
        let prefix = kafka.prefix(name);
        let database = Postgres::shared().await.create_database(name).await;
        let tables = create(&database).await;
        let application = Application::start(&database, &mut rng);
        let rowcast =
            Rowcast::of(&database).filled(kafka, &prefix).set("kafka.debezium.skipped.operations=none");
        Self { start, rng, kafka, prefix, database, tables, application, rowcast }
    }

    /// Once there is a slot.
    fn follow(&self) -> Followers {
        self.application.rewrites();
        Followers::filling(&self.rowcast, self.kafka, &self.prefix, &self.tables)
    }

    /// The tables that are not done. Rowcast may be dead.
    async fn unfinished(&self) -> Result<Vec<Value>, String> {
        let status = http::get(self.rowcast.address(), "/v1/status").await?.json();
        if status["source"]["state"] == "streaming" {
            return Ok(status["snapshots"].as_array().cloned().unwrap_or_default());
        }
        Err(status["source"].to_string())
    }

    /// Asks for all tables, unless some are under way.
    async fn ask(&self) -> Result<(), String> {
        let data = self.rowcast.data().display().to_string();
        let asked = command(&["snapshot", "*", "--detach", "--data", &data]).await;
        let done = asked.code == 0 || asked.stderr.contains("under way already");
        if done { Ok(()) } else { Err(format!("{asked:?}")) }
    }

    /// Waits until a snapshot is being read, and for a moment more; what it was doing then.
    async fn while_it_reads(&mut self) -> String {
        loop {
            self.rowcast.wait_streaming().await;
            if self.unfinished().await.unwrap().is_empty() {
                self.ask().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..1500))).await;
            let doing = self.unfinished().await.unwrap();
            if !doing.is_empty() {
                let doing = doing.iter().map(|table| format!("{} {}", table["channel"], table["rows"]));
                return doing.collect::<Vec<_>>().join(", ");
            }
        }
    }

    /// Kills it at a moment of chance: of four times once on its way to the stream, else while it reads.
    async fn kill(&mut self) -> String {
        let told = if self.rng.random_ratio(1, 4) {
            let moment = Duration::from_millis(self.rng.random_range(0..500));
            self.rowcast.kill9().await;
            self.rowcast.spawn();
            tokio::time::sleep(moment).await;
            format!("{moment:?} after its start")
        } else {
            self.while_it_reads().await
        };
        self.rowcast.kill9().await;
        self.rowcast.launch().await;
        told
    }

    /// Has it read until it comes to where it is to die, the `count`-th time.
    async fn die_at(&mut self, point: &str, count: u32) {
        self.rowcast.kill9().await;
        self.rowcast.set_env(VARIABLE, Some(&format!("{point}:{count}")));
        self.rowcast.launch().await;
        wait_for(&format!("{point} to be reached"), READ, async || {
            if self.rowcast.ended().is_some() {
                return Ok(());
            }
            // It may be dying.
            if self.unfinished().await?.is_empty() {
                self.ask().await?;
            }
            Err(String::from("it reads"))
        })
        .await;
        assert_eq!(self.rowcast.ended(), Some(KILLED));
        self.rowcast.set_env(VARIABLE, None);
    }

    /// A row that comes behind everything so far.
    async fn mark(&self, number: i64) -> i64 {
        self.database.execute(&format!("insert into marker values ({number})")).await;
        number
    }

    /// Reads to the end; then everybody must have the tables.
    async fn finish(mut self, followers: &Followers) {
        self.rowcast.wait_streaming().await;
        self.ask().await.unwrap();
        wait_for("the snapshot to be done", READ, async || {
            let left = self.unfinished().await?;
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
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
    house.rowcast = house.rowcast.start().await;
    house.rowcast.wait_streaming().await;
    let followers = house.follow();
    for number in 1..=KILLS {
        let told = house.kill().await;
        let done = house.application.done();
        println!("{:?}: kill {number} after {done} transactions: {told}", house.start.elapsed());
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
    house.rowcast.set_env(VARIABLE, Some(&format!("{first}:1")));
    house.rowcast.launch().await;
    assert_eq!(house.rowcast.wait_end().await, KILLED);
    let followers = house.follow();
    for point in points {
        for count in [1, 4] {
            house.die_at(point, count).await;
            println!("{:?}: {point}, time {count}", house.start.elapsed());
        }
    }
    house.rowcast.launch().await;
    house.finish(&followers).await;
}
