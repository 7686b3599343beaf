//! The broker of the program's tests, and a journal with a table in it.

#![allow(dead_code, reason = "the shared files hold more than this package needs")]

#[path = "../../../tests/support/kafka.rs"]
pub(crate) mod kafka;
#[path = "../../../tests/support/port.rs"]
pub(crate) mod port;
#[path = "../../../tests/support/process.rs"]
pub(crate) mod process;
#[path = "../../../tests/support/wait.rs"]
pub(crate) mod wait;

use std::path::PathBuf;
use std::sync::Arc;

use rowcast_engine::event::{Marks, Op};
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Journal, Options, StreamPosition};
use rowcast_engine::record::{Builder, TxStart};
use rowcast_engine::schema::{Column, Identity, Schema, Type};
use rowcast_engine::sinks::Sinks;
use rowcast_engine::status::{Door, Status};
use rowcast_engine::{Lsn, Result, Stopper, stop};
use rowcast_kafka::{Config, Start};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

pub(crate) use kafka::{Kafka, KafkaReader, Record};
pub(crate) use wait::{SOON, wait_for};

/// Where a broker of somebody else is named.
pub(crate) const KAFKA: &str = "ROWCAST_TEST_KAFKA";

/// A journal, and changes to put into it.
pub(crate) struct Fixture {
    pub(crate) journal: Journal,
    ingest: Ingest,
    lsn: u64,
    directory: tempfile::TempDir,
}

/// `id int4` and `v text`; the first is the primary key, or nothing is.
pub(crate) fn table(name: &str, keyed: bool) -> Schema {
    let column = |name: &str, oid, ty: &str, identity| Column {
        name: name.to_owned(),
        ty: Type::base(oid, ty),
        typmod: -1,
        identity,
        not_null: identity,
    };
    let key = if keyed { vec![0] } else { vec![] };
    Schema {
        id: 0,
        relation: 16384,
        database: "db".to_owned(),
        schema: "public".to_owned(),
        table: name.to_owned(),
        channel: format!("public.{name}"),
        identity: if keyed { Identity::Default } else { Identity::Full },
        inserts_only: false,
        columns: vec![column("id", 23, "int4", true), column("v", 25, "text", !keyed)],
        primary_key: key.clone(),
        key,
        unique_key: Vec::new(),
    }
}

/// A tuple of pgoutput behind its tag; `None` is null.
pub(crate) fn tuple(tag: u8, values: [Option<&str>; 2]) -> Vec<u8> {
    let mut raw = vec![tag, 0, 2];
    for value in values {
        match value {
            None => raw.push(b'n'),
            Some(text) => {
                raw.push(b't');
                raw.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
                raw.extend_from_slice(text.as_bytes());
            }
        }
    }
    raw
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut options = Options::new(directory.path().join("journal"));
        change(&mut options);
        let journal = journal::open(options, Arc::new(RealDisk)).unwrap();
        let ingest = Ingest::new(journal.clone());
        let start = StreamPosition { slot: "rowcast".into(), system: 7, timeline: 1, ..journal.position() };
        ingest.identify(start, &[]).await.unwrap();
        Self { journal, ingest, lsn: 1000, directory }
    }

    pub(crate) fn register(&self, schema: Schema) -> Arc<Schema> {
        self.journal.register(schema).unwrap()
    }

    /// One transaction of row changes, durable when this returns.
    pub(crate) async fn transaction(&mut self, changes: &[(&Schema, Op, Vec<u8>)]) {
        self.commit(|builder, lsn| {
            for (schema, op, raw) in changes {
                builder.change(schema.id, *op, lsn, raw);
            }
        })
        .await;
    }

    /// Rows that a snapshot read, durable when this returns: `values` are TupleData behind a tag.
    pub(crate) async fn snapshot(&mut self, schema: &Schema, rows: &[(Marks, Vec<u8>)]) {
        let mut builder = Builder::new();
        builder.begin_snapshot(1_800_000_000_000_000, Lsn(self.lsn), 741);
        for (marks, raw) in rows {
            builder.read(schema.id, Lsn(self.lsn), *marks, &raw[1..]);
        }
        builder.commit(Lsn(self.lsn));
        self.ingest.room().await.unwrap().append(&self.journal, builder.take(), Lsn(self.lsn));
        // They have no position to wait for; what is handed over behind them has.
        self.commit(|builder, lsn| builder.change(schema.id, Op::Insert, lsn, &rows[0].1)).await;
    }

    /// One transaction that empties a table.
    pub(crate) async fn truncate(&mut self, schema: &Schema) {
        self.commit(|builder, lsn| builder.truncate(schema.id, lsn, false, false)).await;
    }

    async fn commit(&mut self, fill: impl FnOnce(&mut Builder, Lsn)) {
        self.lsn += 100;
        let mut builder = Builder::new();
        builder.begin(TxStart {
            xid: u32::try_from(self.lsn / 100).unwrap(),
            final_lsn: Lsn(self.lsn - 8),
            previous_end_lsn: self.journal.last_tx_end(),
            committed: 1_800_000_000_000_000,
            origin: "",
        });
        fill(&mut builder, Lsn(self.lsn - 50));
        builder.commit(Lsn(self.lsn));
        self.ingest.room().await.unwrap().append(&self.journal, builder.take(), Lsn(self.lsn));
        let lsn = self.lsn;
        self.journal.durable().wait_for(|durable| durable.0 >= lsn).await.unwrap();
    }

    /// One custom event.
    pub(crate) async fn publish(&self, channel: &str, payload: &Value) -> u64 {
        self.journal
            .publish(&[(channel, payload.to_string().as_bytes())], 1_800_000_000_000_000)
            .await
            .unwrap()
    }

    /// Where the positions of doors are.
    pub(crate) fn cursors(&self) -> PathBuf {
        self.directory.path().join("cursors")
    }

    /// Starts the door.
    pub(crate) fn deliver(&self, config: Value) -> Delivering {
        let mut config: Config = serde_json::from_value(config).unwrap();
        // What a test has put into the journal before is delivered, too.
        config.start.get_or_insert(Start::Earliest);
        let (stopper, stop) = stop();
        let status = Status::default();
        let sinks = Sinks::new(self.cursors());
        let (journal, board, commanded) = (self.journal.clone(), status.clone(), sinks.clone());
        let task = tokio::spawn(async move {
            rowcast_kafka::run("kafka".to_owned(), config, journal, board, commanded, stop).await
        });
        Delivering { status, sinks, journal: self.journal.clone(), stopper, task }
    }
}

/// A running door.
pub(crate) struct Delivering {
    status: Status,
    pub(crate) sinks: Sinks,
    journal: Journal,
    stopper: Stopper,
    task: JoinHandle<Result<()>>,
}

impl Delivering {
    pub(crate) fn door(&self) -> Door {
        self.status.report(&self.journal).doors.get("kafka").cloned().unwrap_or_default()
    }

    /// Waits until the door is in this state.
    pub(crate) async fn wait_state(&self, state: &str) -> Door {
        wait_for(&format!("the door to be {state}"), SOON, async || {
            let door = self.door();
            if door.state == state { Ok(door) } else { Err(format!("{door:?}")) }
        })
        .await
    }

    /// Waits until Kafka has all that the journal has.
    pub(crate) async fn wait_delivered(&self) {
        wait_for("delivery", SOON * 2, async || {
            let (door, newest) = (self.door(), self.journal.newest());
            if door.position == Some(newest) { Ok(()) } else { Err(format!("{door:?}, not at {newest}")) }
        })
        .await;
    }

    /// Ends it.
    pub(crate) async fn stop(self) -> Result<()> {
        self.stopper.stop();
        self.ended().await
    }

    /// Waits for its end.
    pub(crate) async fn ended(self) -> Result<()> {
        tokio::time::timeout(SOON, self.task).await.expect("the door ends in time").unwrap()
    }
}

/// The options for a broker.
pub(crate) fn config(kafka: &Kafka, prefix: &str) -> Value {
    json!({"brokers": kafka.brokers(), "topic_prefix": prefix})
}

/// Number and part.
pub(crate) fn identity(record: &Record) -> (u64, u8) {
    let header = |name: &str| record.headers.get(name).unwrap_or_else(|| panic!("no {name}: {record:?}"));
    (header("rowcast.id").parse().unwrap(), header("rowcast.part").parse().unwrap())
}

/// Reads until `count` different records are there; repetitions are left out.
pub(crate) async fn read(reader: &mut KafkaReader, count: usize) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    while records.len() < count {
        let record =
            reader.next(SOON).await.unwrap_or_else(|| panic!("{} of {count} records", records.len()));
        if seen.insert(identity(&record)) {
            records.push(record);
        }
    }
    records
}
