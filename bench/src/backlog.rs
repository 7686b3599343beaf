//! Changes that wait in a slot, and copies of that slot to drain.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use rowcast_engine::{Error, Result};
use tokio_postgres::Client;

/// The slot and the publication that rowcast made before there was anything to drain.
pub(crate) const SLOT: &str = "bench";
/// The slot that keeps the place, and is never read.
const KEPT: &str = "bench_kept";

/// The table of all measurements.
const NARROW: &str = "create table bench(id bigint primary key, a int, b text, c timestamptz, d numeric)";

/// How the table looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Columns {
    /// Five columns, about 75 bytes of text a row.
    Narrow,
    /// Thirty columns, about 570 bytes of text a row.
    Wide,
}

/// What happens to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Change {
    /// It is inserted.
    Insert,
    /// Two of its columns change; the server sends the new row.
    Update,
    /// Two of its columns change; the server sends the old row, too.
    UpdateFull,
}

/// What a backlog is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Rows in it.
    pub(crate) rows: u64,
    /// Rows of one transaction.
    pub(crate) per_transaction: u64,
    pub(crate) columns: Columns,
    pub(crate) change: Change,
}

/// Where the backlog ends.
#[derive(Clone, Debug)]
pub(crate) struct Backlog {
    /// Rows in it.
    pub(crate) rows: u64,
    /// The log's position behind it, as Postgres prints it.
    pub(crate) end: String,
}

/// Makes the narrow table, empty.
pub(crate) async fn create_table(client: &Client) -> Result<()> {
    execute(client, NARROW).await
}

impl Load {
    /// Transactions in it: the last one is as long as the others.
    fn transactions(&self) -> u64 {
        self.rows.div_ceil(self.per_transaction)
    }

    /// For people.
    pub(crate) fn shown(&self) -> String {
        let Self { rows, per_transaction, .. } = self;
        let change = match self.change {
            Change::Insert => "inserts",
            Change::Update => "updates (identity default)",
            Change::UpdateFull => "updates (identity full)",
        };
        let columns = if self.columns == Columns::Wide { 30 } else { 5 };
        format!("Backlog of {rows} {change} of {columns} columns, {per_transaction} per transaction")
    }

    /// Makes the table, with the rows that are to be changed.
    pub(crate) async fn prepare(&self, client: &Client) -> Result<()> {
        match self.columns {
            Columns::Narrow => create_table(client).await?,
            Columns::Wide => execute(client, &wide_table()).await?,
        }
        if self.change == Change::Insert {
            return Ok(());
        }
        if self.change == Change::UpdateFull {
            execute(client, "alter table bench replica identity full").await?;
        }
        let rows = self.transactions() * self.per_transaction;
        execute(client, &format!("{} from generate_series(1, {rows}) i", self.insert())).await?;
        execute(client, "vacuum analyze bench").await
    }

    fn insert(&self) -> String {
        match self.columns {
            Columns::Narrow => {
                "insert into bench select i, i % 1000, md5(i::text), clock_timestamp(), (i % 100000)::numeric / 100"
                    .to_owned()
            }
            Columns::Wide => format!("insert into bench select i, {}", wide_columns().map(|(_, value)| value).join(", ")),
        }
    }

    /// What one transaction runs, `n` being its number.
    fn transaction(&self) -> String {
        let per = self.per_transaction;
        let (first, last) = (format!("n * {per} + 1"), format!("(n + 1) * {per}"));
        match (self.change, self.columns) {
            (Change::Insert, _) => format!("{} from generate_series({first}, {last}) i", self.insert()),
            (_, Columns::Narrow) => {
                format!(
                    "update bench set a = a + 1, c = clock_timestamp() where id between {first} and {last}"
                )
            }
            (_, Columns::Wide) => {
                format!(
                    "update bench set i1 = i1 + 1, t4 = clock_timestamp() where id between {first} and {last}"
                )
            }
        }
    }

    /// Runs all of it behind the slot's position.
    pub(crate) async fn fill(&self, client: &Client) -> Result<Backlog> {
        execute(client, &format!("select pg_copy_logical_replication_slot('{SLOT}', '{KEPT}')")).await?;
        execute(client, "set synchronous_commit = off").await?;
        let (transactions, run) = (self.transactions(), self.transaction());
        let fill =
            format!("do $$ begin for n in 0 .. {transactions} - 1 loop {run}; commit; end loop; end $$");
        execute(client, &fill).await?;
        execute(client, "set synchronous_commit = on").await?;
        // Behind the backlog, so that a reader of its end is told that it has passed it.
        let end = client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await;
        let end = end.map_err(|error| failed("pg_current_wal_insert_lsn", error))?.get(0);
        execute(client, "create table bench_end()").await?;
        execute(client, "checkpoint").await?;
        Ok(Backlog { rows: transactions * self.per_transaction, end })
    }
}

/// Type and value of each column of the wide table behind its key; `i` is the row's number.
fn wide_columns() -> [(String, String); 29] {
    std::array::from_fn(|at| {
        let n = at + 1;
        let (kind, value) = match at % 6 {
            0 => ("int", format!("(i % {n}000)::int")),
            1 | 2 => ("text", format!("md5((i + {n})::text)")),
            3 => ("timestamptz", "clock_timestamp()".to_owned()),
            4 => ("numeric", format!("(i % {n}00000)::numeric / 100")),
            _ => ("boolean", format!("i % {n} = 0")),
        };
        (kind.to_owned(), value)
    })
}

fn wide_table() -> String {
    let columns = wide_columns().into_iter().enumerate();
    let columns =
        columns.map(|(at, (kind, _))| format!("{}{} {kind}", &kind[..1], at + 1)).collect::<Vec<_>>();
    format!("create table bench(id bigint primary key, {})", columns.join(", "))
}

/// Makes `name` a slot at the backlog's beginning.
pub(crate) async fn rewind(client: &Client, name: &str) -> Result<()> {
    drop_slot(client, name).await?;
    execute(client, &format!("select pg_copy_logical_replication_slot('{KEPT}', '{name}')")).await
}

/// How long a walsender may take to notice that its client has gone.
const LEAVES_WITHIN: Duration = Duration::from_secs(20);

/// Removes a slot if it is there, once nobody reads from it any more.
pub(crate) async fn drop_slot(client: &Client, name: &str) -> Result<()> {
    let begun = Instant::now();
    while walsender(client, name).await?.is_some() && begun.elapsed() < LEAVES_WITHIN {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name =";
    execute(client, &format!("{drop} '{name}'")).await
}

/// The process that serves a slot.
pub(crate) async fn walsender(client: &Client, slot: &str) -> Result<Option<u32>> {
    let query = "select active_pid from pg_replication_slots where slot_name = $1";
    let row = client.query_opt(query, &[&slot]).await.map_err(|error| failed(query, error))?;
    let pid = row.and_then(|row| row.get::<_, Option<i32>>(0));
    Ok(pid.and_then(|pid| u32::try_from(pid).ok()))
}

/// Runs statements.
pub(crate) async fn execute(client: &Client, sql: &str) -> Result<()> {
    client.batch_execute(sql).await.map_err(|error| failed(sql, error))
}

fn failed(sql: &str, error: tokio_postgres::Error) -> Error {
    Error::failed(format!("Postgres refuses: {sql}")).because(error)
}
