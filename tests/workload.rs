//! A random mix of everything that an application does to its tables, the same again for the same seed.

use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::sync::{Mutex, MutexGuard};
use tokio_postgres::{Client, Error};

use crate::support::Database;
use crate::support::database::Table;

/// Tables of 27 column types, with every kind of replica identity that can tell updates and deletes.
const SCHEMA: &str = include_str!("data/workload.sql");

/// What the mix plays with.
const TABLES: [Shape; 5] = [
    Shape {
        name: "wide",
        key: &["id"],
        updates: &[
            "n = n + 1, d = d / 2",
            "big = -big, flag = not flag",
            "t = word(id, $salt, 90, 6000)",
            "t = null, by = convert_to(word(id, $salt, 91, 5000), 'UTF8')",
            "jb = jsonb_build_object('long', word(id, $salt, 92, 4000)), m = 'happy'",
            "n = n",
        ],
    },
    Shape {
        name: "whole",
        key: &["id"],
        updates: &["n = n + 1", "note = word(id, $salt, 93, 3000)", "note = null, at = at + '1 day'"],
    },
    Shape {
        name: "keyless",
        key: &[],
        updates: &["a = a + 1", "b = 'y', c = null", "long = word(a, $salt, 94, 3000)"],
    },
    Shape {
        name: "coded",
        key: &["code"],
        updates: &["note = note || 'x'", "code = code || '.'", "code = code || ':', note = null"],
    },
    Shape {
        name: "parts",
        key: &["id", "region"],
        updates: &[
            "v = v + 1",
            "region = case region when 'eu' then 'us' else 'eu' end",
            "note = word(id, $salt, 95, 3000)",
        ],
    },
];

/// One table of the mix. Each has a function `make_NAME(number, salt)` that gives a row.
struct Shape {
    name: &'static str,
    /// What tells its rows apart in the stream.
    key: &'static [&'static str],
    /// Assignments of an UPDATE.
    updates: &'static [&'static str],
}

impl Shape {
    /// The column that holds the number of a row.
    fn number(&self) -> &'static str {
        if self.name == "keyless" { "a" } else { "id" }
    }
}

/// Scenarios that need the whole machine, one at a time.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// Creates the tables, and tells how the stream shows them.
pub(crate) async fn create(database: &Database) -> Vec<Table> {
    database.execute(SCHEMA).await;
    let mut tables = database.tables().await;
    // Partitions appear under the name of their root.
    tables.retain(|table| !matches!(table.channel.as_str(), "public.parts_us" | "public.parts_rest"));
    for table in &mut tables {
        if table.channel == "public.parts_eu" {
            table.channel = "public.parts".into();
        }
        // Debezium shows a domain as its base type.
        for (_, ty) in table.columns.iter_mut().filter(|(_, ty)| ty == "cents") {
            *ty = "numeric(12,2)".into();
        }
        let name = table.channel.trim_start_matches("public.");
        if let Some(shape) = TABLES.iter().find(|shape| shape.name == name) {
            table.key = shape.key.iter().map(ToString::to_string).collect();
        }
    }
    tables
}

/// The application.
pub(crate) struct Workload {
    rng: StdRng,
    /// The number of the next row.
    next: i64,
}

impl Workload {
    /// The same for the same chance.
    pub(crate) fn new(rng: StdRng) -> Self {
        Self { rng, next: 1 }
    }

    /// One transaction; or a few statements, each a transaction of its own.
    pub(crate) async fn step(&mut self, client: &Client) -> Result<(), Error> {
        match self.rng.random_range(0..100) {
            0..50 => self.transaction(client).await,
            50..62 => {
                let rows = self.size(500);
                self.copy(client, rows).await
            }
            62..64 => self.truncate(client).await,
            _ => {
                let statement = self.statement(50);
                client.batch_execute(&statement).await
            }
        }
    }

    /// A transaction of 10,000 rows, and one that changes most of them.
    pub(crate) async fn huge(&mut self, client: &Client) -> Result<(), Error> {
        let salt = self.rng.random::<u32>();
        let insert = self.insert(&TABLES[0], 10_000);
        client.batch_execute(&insert).await?;
        let wide = "with newest as (select id from wide order by id desc limit 10000)
            update wide set n = n + 1 from newest where newest.id = wide.id";
        client
            .batch_execute(&format!("begin; {wide}; delete from wide where id % 5 = {}; commit", salt % 5))
            .await
    }

    /// The last transaction: readers that have its row have everything. Gives the row's number.
    pub(crate) async fn finish(&mut self, client: &Client) -> Result<i64, Error> {
        self.next += 1;
        client.batch_execute(&format!("insert into marker values ({})", self.next)).await?;
        Ok(self.next)
    }

    /// How many rows: most often a few, seldom `most`.
    fn size(&mut self, most: i64) -> i64 {
        let most = match self.rng.random_range(0..10) {
            0..7 => most.min(20),
            7..9 => most.min(200),
            _ => most,
        };
        self.rng.random_range(1..=most)
    }

    async fn transaction(&mut self, client: &Client) -> Result<(), Error> {
        let mut script = String::from("begin;");
        for number in 0..self.rng.random_range(1..8) {
            let statement = self.statement(300);
            if self.rng.random_ratio(1, 8) {
                script += &format!("savepoint s{number}; {statement}; rollback to s{number};");
            } else {
                script += &format!("{statement};");
            }
        }
        script += if self.rng.random_ratio(1, 8) { "rollback" } else { "commit" };
        let result = client.batch_execute(&script).await;
        if result.is_err() && !client.is_closed() {
            client.batch_execute("rollback").await?;
        }
        result
    }

    fn statement(&mut self, most: i64) -> String {
        let shape = TABLES.choose(&mut self.rng).expect("tables");
        match self.rng.random_range(0..10) {
            0..4 => {
                let rows = self.size(most);
                self.insert(shape, rows)
            }
            4..8 => self.update(shape),
            8 => self.renumber(shape),
            _ => self.delete(shape),
        }
    }

    /// Rows of the table in a FROM list, as `r`.
    fn rows(&mut self, shape: &Shape, count: i64) -> String {
        let (first, last) = (self.next, self.next + count - 1);
        self.next += count;
        let salt = self.rng.random::<u32>();
        format!("generate_series({first}, {last}) i, lateral make_{}(i, {salt}) r", shape.name)
    }

    fn insert(&mut self, shape: &Shape, count: i64) -> String {
        if shape.name == "keyless" && self.rng.random() {
            // Several rows in one statement, some of them equal.
            let row = format!("({}, 'twin', 1.500, null, null)", self.next);
            return format!(
                "insert into keyless values {row}, {row}, ({}, null, null, null, null)",
                self.next
            );
        }
        format!("insert into {} select r.* from {}", shape.name, self.rows(shape, count))
    }

    /// Some rows: about one in `most`.
    fn some(&mut self, shape: &Shape, most: u32) -> String {
        let modulus = self.rng.random_range(5..most);
        format!("{} % {modulus} = {}", shape.number(), self.rng.random_range(0..modulus))
    }

    fn update(&mut self, shape: &Shape) -> String {
        let assignment = shape.updates.choose(&mut self.rng).expect("updates");
        let assignment = assignment.replace("$salt", &self.rng.random::<u32>().to_string());
        format!("update {} set {assignment} where {}", shape.name, self.some(shape, 100))
    }

    /// Gives rows a new number: a change of the key.
    fn renumber(&mut self, shape: &Shape) -> String {
        const MOST: i64 = 200;
        let (name, column, some) = (shape.name, shape.number(), self.some(shape, 200));
        let first = self.next;
        self.next += MOST + 1;
        format!(
            "with moved as (select {column} as old, {first} + row_number() over (order by {column}) as new
                 from {name} where {some} order by {column} limit {MOST})
             update {name} set {column} = moved.new from moved where {column} = moved.old"
        )
    }

    fn delete(&mut self, shape: &Shape) -> String {
        format!("delete from {} where {}", shape.name, self.some(shape, 20))
    }

    async fn truncate(&mut self, client: &Client) -> Result<(), Error> {
        let first = TABLES.choose(&mut self.rng).expect("tables").name;
        let second = TABLES.choose(&mut self.rng).expect("tables").name;
        let both = if first == second { first.to_owned() } else { format!("{first}, {second}") };
        client.batch_execute(&format!("truncate {both} restart identity")).await
    }

    /// COPY, whose rows share positions in the log.
    async fn copy(&mut self, client: &Client, count: i64) -> Result<(), Error> {
        let shape = TABLES.choose(&mut self.rng).expect("tables");
        let rows = self.rows(shape, count);
        let out = client.copy_out(&format!("copy (select r.* from {rows}) to stdout")).await?;
        let data: Vec<Bytes> = out.try_collect().await?;
        let sink = client.copy_in(&format!("copy {} from stdin", shape.name)).await?;
        let mut sink = std::pin::pin!(sink);
        for piece in data {
            sink.send(piece).await?;
        }
        sink.close().await
    }
}
