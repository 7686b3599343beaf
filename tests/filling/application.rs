//! An application that writes as fast as it can, in all the ways that could fool whoever reads the tables meanwhile.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use crate::support::Database;
use crate::support::database::Table;
use crate::support::postgres::connect;

const SCHEMA: &str = include_str!("../data/filling.sql");

/// Numbers that rows are made of.
const NUMBERS: i64 = 24_000;

/// Sessions that write at the same time.
const WRITERS: usize = 2;

/// One table.
struct Shape {
    name: &'static str,
    /// What tells its rows apart in the stream.
    key: &'static [&'static str],
    /// The key of the row of number `$k`.
    at: &'static str,
}

const TABLES: [Shape; 7] = [
    Shape { name: "numbers", key: &["id"], at: "$k" },
    Shape { name: "words", key: &["word"], at: "word_of($k)" },
    Shape { name: "pairs", key: &["id", "region"], at: "$k / 3, region_of($k)" },
    Shape { name: "uuids", key: &["id"], at: "md5('$k')::uuid" },
    Shape { name: "coded", key: &["code"], at: "word_of($k)" },
    Shape { name: "whole", key: &["id"], at: "$k" },
    Shape { name: "parts", key: &["id", "region"], at: "$k / 3, region_of($k)" },
];

impl Shape {
    fn columns(&self) -> String {
        self.key.join(", ")
    }

    fn at(&self, number: i64) -> String {
        self.at.replace("$k", &number.to_string())
    }

    /// A condition that the row of a number meets.
    fn is(&self, number: i64) -> String {
        format!("({}) = ({})", self.columns(), self.at(number))
    }

    /// A condition of some rows that follow each other in the order of the key.
    fn range(&self, number: i64, count: i64) -> String {
        let (name, key, at) = (self.name, self.columns(), self.at(number));
        format!("({key}) in (select {key} from {name} where ({key}) >= ({at}) order by {key} limit {count})")
    }

    fn insert(&self, first: i64, last: i64, salt: u32) -> String {
        let name = self.name;
        format!(
            "insert into {name} select r.* from generate_series({first}, {last}) k, lateral make_{name}(k, {salt}) r
             on conflict do nothing"
        )
    }
}

/// A partition whose columns stand in another order than its root's: version 14 may crash over it.
const TURNED: (&str, &str) = (
    "parts_us (big text, region text not null, n integer, id integer not null)",
    "parts_us (id integer not null, region text not null, n integer, big text)",
);

/// Creates the tables with their rows, and tells how the stream shows them.
pub(super) async fn create(database: &Database) -> Vec<Table> {
    let turns = database.version().await >= 150_000;
    assert!(SCHEMA.contains(TURNED.0));
    database.execute(&if turns { SCHEMA.into() } else { SCHEMA.replace(TURNED.0, TURNED.1) }).await;
    let mut tables = database.tables().await;
    // Partitions appear under the name of their root.
    tables.retain(|table| !matches!(table.channel.as_str(), "public.parts_us" | "public.parts_rest"));
    for table in &mut tables {
        if table.channel == "public.parts_eu" {
            table.channel = "public.parts".into();
        }
        let shape = TABLES.iter().find(|shape| table.channel == format!("public.{}", shape.name));
        table.key = shape.map_or(&["id"][..], |shape| shape.key).iter().map(ToString::to_string).collect();
    }
    tables
}

/// The application. It ends when it is told to, or dropped.
pub(super) struct Application {
    stop: Arc<AtomicBool>,
    rewrites: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    writers: Vec<JoinHandle<()>>,
}

impl Application {
    /// Tables keep their files until it is told otherwise.
    pub(super) fn start(database: &Database, rng: &mut StdRng) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let rewrites = Arc::<AtomicBool>::default();
        let writer = |_| {
            let rng = StdRng::seed_from_u64(rng.random());
            let writer = Writer { rng, rewrites: Arc::clone(&rewrites) };
            tokio::spawn(writer.run(database.url().to_owned(), Arc::clone(&stop), Arc::clone(&done)))
        };
        Self { writers: (0..WRITERS).map(writer).collect(), stop, rewrites, done }
    }

    /// From here on it empties tables and rewrites them, too. Not before the slot is there: Postgres 14 was seen to fail
    /// for ever to decode what had been rewritten while it was made (`could not map filenode`).
    pub(super) fn rewrites(&self) {
        self.rewrites.store(true, Ordering::Relaxed);
    }

    /// Transactions so far, those that were rolled back included.
    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(super) async fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            writer.await.expect("the application goes on");
        }
        self.done()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.writers.iter().for_each(JoinHandle::abort);
    }
}

/// One session.
struct Writer {
    rng: StdRng,
    rewrites: Arc<AtomicBool>,
}

impl Writer {
    async fn run(mut self, url: String, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) {
        let client = connect(&url).await.expect("the database");
        client.batch_execute("set deadlock_timeout = '10ms'").await.expect("a superuser");
        while !stop.load(Ordering::Relaxed) {
            let rewrites = self.rewrites.load(Ordering::Relaxed);
            let result = match self.rng.random_range(0..2000) {
                0..160 => self.copy(&client).await,
                // Rows that are gone need not be read.
                160 if rewrites && self.rng.random_ratio(1, 4) => client.batch_execute(&self.refill()).await,
                161..181 if rewrites => client.batch_execute(&self.redefine()).await,
                _ => client.batch_execute(&self.transaction()).await,
            };
            if let Err(error) = result {
                let usual = [
                    SqlState::UNIQUE_VIOLATION,
                    SqlState::T_R_DEADLOCK_DETECTED,
                    // Of a row that another session moves to another partition, at any isolation level.
                    SqlState::T_R_SERIALIZATION_FAILURE,
                ];
                assert!(error.code().is_some_and(|code| usual.contains(code)), "{error:?}");
                client.batch_execute("rollback").await.expect("a session");
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn table(&mut self) -> &'static Shape {
        TABLES.choose(&mut self.rng).expect("tables")
    }

    fn number(&mut self) -> i64 {
        self.rng.random_range(0..=NUMBERS)
    }

    /// A few statements, on one table or on several.
    fn transaction(&mut self) -> String {
        let mut sql = String::from("begin;");
        for _ in 0..self.rng.random_range(1..6) {
            sql += &self.statement();
        }
        sql + if self.rng.random_ratio(1, 12) { "rollback" } else { "commit" }
    }

    fn statement(&mut self) -> String {
        let (shape, salt) = (self.table(), self.rng.random::<u32>());
        let (number, other) = (self.number(), self.number());
        let (name, columns, is) = (shape.name, shape.columns(), shape.is(number));
        match self.rng.random_range(0..100) {
            0..35 => format!("update {name} set n = n + 1 where {is};"),
            // To where the reader has been, or to where it has not.
            35..53 => format!(
                "update {name} set ({columns}) = row({}) where {is} and not exists (select from {name} where {});",
                shape.at(other),
                shape.is(other)
            ),
            53..61 => format!("delete from {name} where {is};"),
            61..73 => format!("{};", shape.insert(number, number, salt)),
            73..81 => format!("delete from {name} where {is}; {};", shape.insert(number, number, salt)),
            81..87 => format!("update {name} set n = n + 1 where {};", shape.range(number, 30)),
            87..92 => format!(
                "savepoint s; update {name} set big = 'lost', n = -1 where {is}; delete from {name} where {};
                 rollback to s;",
                shape.is(other)
            ),
            92..96 => format!("update {name} set big = word({number}, {salt}, 2300) where {is};"),
            _ => format!("{};", shape.insert(number, number + 15, salt)),
        }
    }

    /// Empties a table, or two at once, and fills it again in part.
    fn refill(&mut self) -> String {
        let (shape, other, salt) = (self.table(), self.table(), self.rng.random());
        let both = if shape.name == other.name || self.rng.random() {
            shape.name.to_owned()
        } else {
            format!("{}, {}", shape.name, other.name)
        };
        let first = self.number();
        format!("begin; truncate {both}; {}; commit", shape.insert(first, first + NUMBERS / 4, salt))
    }

    /// Another version of a table, with the same values.
    fn redefine(&mut self) -> String {
        let ty = if self.rng.random() { "bigint" } else { "integer" };
        format!("alter table {} alter n type {ty}", self.table().name)
    }

    /// Rows that come by COPY in place of those that were there: all of them with one position in the log.
    async fn copy(&mut self, client: &Client) -> Result<(), Error> {
        let (shape, first, salt) = (self.table(), self.number(), self.rng.random::<u32>());
        let (name, last) = (shape.name, first + self.rng.random_range(0..60));
        let rows = format!(
            "copy (select r.* from generate_series({first}, {last}) k, lateral make_{name}(k, {salt}) r) to stdout"
        );
        let data: Vec<Bytes> = client.copy_out(&rows).await?.try_collect().await?;
        let numbers: Vec<String> = (first..=last).map(|number| shape.at(number)).collect();
        let delete =
            format!("begin; delete from {name} where ({}) in (({}))", shape.columns(), numbers.join("), ("));
        client.batch_execute(&delete).await?;
        let mut sink = pin!(client.copy_in(&format!("copy {name} from stdin")).await?);
        for piece in data {
            sink.send(piece).await?;
        }
        sink.close().await?;
        client.batch_execute("commit").await
    }
}
