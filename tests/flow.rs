//! A random mix of changes, and every table rebuilt from what each door tells of it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::database::Table;
use crate::support::debezium::DebeziumTables;
use crate::support::{Database, Door, Follower, Kafka, Postgres, Rowcast, Tables, random, wait_for};
use crate::workload::{Workload, alone, create};

/// Transactions of the mix, beside the huge ones.
const STEPS: u32 = 200;
/// For the slowest reader to have read all of it, on a busy machine.
const DRAINED: Duration = Duration::from_secs(120);

/// Every reader that there is, following all channels from the start.
pub(crate) struct Followers {
    doors: Vec<Follower<Tables>>,
    kafka: Follower<DebeziumTables>,
}

impl Followers {
    /// Of a rowcast that delivers to Kafka under this prefix.
    pub(crate) fn start(rowcast: &Rowcast, kafka: &Kafka, prefix: &str, tables: &[Table]) -> Self {
        let doors = Door::ALL.map(|door| Follower::start(door, rowcast.address(), Tables::new(tables)));
        let kafka = Follower::kafka(kafka, prefix, DebeziumTables::new(prefix, tables));
        Self { doors: doors.into(), kafka }
    }

    /// Of tables that a snapshot is to fill, until [`Self::filled`].
    pub(crate) fn filling(rowcast: &Rowcast, kafka: &Kafka, prefix: &str, tables: &[Table]) -> Self {
        let start = |door| Follower::start(door, rowcast.address(), Tables::new(tables).filling());
        let kafka = Follower::kafka(kafka, prefix, DebeziumTables::new(prefix, tables).filling());
        Self { doors: [Door::Sse, Door::Ndjson].map(start).into(), kafka }
    }

    /// No rows from before are to come: behind the newest row of the table `marker` every change has to fit. All have it.
    pub(crate) fn filled(&self) {
        self.doors.iter().for_each(|door| door.change(|tables| tables.fill(false)));
        self.kafka.change(|tables| tables.filled_behind("public.marker"));
    }

    /// Waits until all have the last transaction, then compares what they rebuilt with the tables.
    pub(crate) async fn wait_equal(&self, database: &Database, last: i64) {
        self.wait_last(last).await;
        for follower in &self.doors {
            follower.wait_equal(database, DRAINED).await;
        }
        self.kafka.wait_equal(database, DRAINED).await;
        // What a later change has covered up would not show in the tables.
        let events = self.events();
        wait_for("Kafka to have every event", DRAINED, async || {
            let told = self.kafka.look(DebeziumTables::events);
            if told == events { Ok(()) } else { Err(format!("{told} of {events}")) }
        })
        .await;
    }

    /// Waits until all have a row of the table `marker`.
    pub(crate) async fn wait_last(&self, last: i64) {
        let (marker, start) = (json!({"id": last}), Instant::now());
        wait_for("the readers to have the last row", DRAINED, async || {
            let lacks = |found: bool, what: String| if found { Ok(()) } else { Err(what) };
            for follower in &self.doors {
                follower.check();
                let found = follower.look(|tables| tables.rows("public.marker").contains(&marker));
                lacks(
                    found,
                    follower.look(|tables| format!("{}: {} events", follower.name(), tables.count)),
                )?;
            }
            self.kafka.check();
            let found = self.kafka.look(|tables| tables.rows("public.marker").contains(&marker));
            lacks(found, self.kafka.look(|tables| format!("Kafka: {} records", tables.count)))
        })
        .await;
        println!("All readers have row {last} {:?} after it was committed", start.elapsed());
    }

    /// How many events each HTTP door told, which has to be the same number.
    pub(crate) fn events(&self) -> u64 {
        let counts: Vec<u64> = self.doors.iter().map(|door| door.look(|tables| tables.count)).collect();
        assert!(counts.windows(2).all(|pair| pair[0] == pair[1]), "Events told by each door: {counts:?}");
        counts[0]
    }

    /// How often each HTTP reader connected.
    pub(crate) fn connections(&self) -> Vec<u64> {
        self.doors.iter().for_each(Follower::check);
        self.doors.iter().map(Follower::connections).collect()
    }

    /// Records that Kafka got again.
    pub(crate) fn repeated(&self) -> u64 {
        self.kafka.look(|tables| tables.repeated)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_door_tells_every_change_once() {
    let _alone = alone().await;
    let mut workload = Workload::new(random("flow"));
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("flow");
    let database = Postgres::shared().await.create_database("flow").await;
    let tables = create(&database).await;
    let types: BTreeSet<_> = tables.iter().flat_map(|table| &table.columns).map(|(_, ty)| ty).collect();
    assert!(types.len() >= 20, "{types:?}");
    let rowcast = Rowcast::of(&database)
        .kafka(kafka, &prefix)
        .set("kafka.debezium.skipped.operations=none")
        .start()
        .await;
    let followers = Followers::start(&rowcast, kafka, &prefix, &tables);

    let client = database.client().await;
    for step in 0..STEPS {
        if step == STEPS / 2 {
            workload.huge(&client).await.unwrap();
        }
        workload.step(&client).await.unwrap();
    }
    let last = workload.finish(&client).await.unwrap();
    followers.wait_equal(&database, last).await;
    println!("{} events; Kafka got {} records again", followers.events(), followers.repeated());
    assert!(followers.events() > 10_000);
}
