//! Reads one chunk of a table: rows, what the snapshot saw, and how far the stream has to come for them.

mod whole;

use std::time::{Duration, Instant};

use futures_util::{StreamExt, pin_mut};
use rowcast_engine::record::Tuple;
use rowcast_engine::schema::Schema;
use rowcast_engine::{Error, Lsn, Result};
use tokio_postgres::{Client, IsolationLevel, Transaction};

use super::job::Job;
use super::moment::{self, Moment};
use super::rows::{Rows, key_texts, key_values};
use super::visible::Visible;
use crate::catalog::{self, KeyOrder, Shown};
use crate::tables::{Tables, identifier, qualified};
use crate::wire::{row_error, sql_error};
pub(crate) use whole::{Piece, Table, WholeOutcome};

/// Whoever changes the table's definition is waited for no longer than this at a time: those who come behind would
/// wait for us. What a function in a condition has to say may be of the rows, and is heard by nobody.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '2s'; set local client_min_messages = error";

/// The values of a database without encoding come as they are, as the stream has them; else the server would check
/// them, and refuse.
const UNENCODED: &str = " with (encoding 'SQL_ASCII')";

/// A chunk takes no more memory, whatever its rows are like, in megabytes. It is read again with fewer rows when it
/// would; a single row takes what it takes.
pub(crate) const CHUNK_MB: u32 = 32;
const CHUNK_MAX: usize = (CHUNK_MB as usize) << 20;

/// A chunk that was read.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) schema: Schema,
    pub(crate) rows: Rows,
    pub(crate) visible: Visible,
    /// A position of that moment.
    pub(crate) lsn: Lsn,
    /// All that the snapshot saw has been streamed when the stream has come here.
    pub(crate) due: Lsn,
    /// More rows follow.
    pub(crate) more: bool,
    /// The key of its last row.
    pub(crate) last: Option<Vec<String>>,
    /// How many rows the table is thought to have.
    pub(crate) estimate: u64,
    /// What reading took.
    pub(crate) took: Duration,
}

/// What is to be read.
#[derive(Debug)]
pub(crate) enum Range {
    /// So many rows behind the cursor.
    Next(u32),
    /// Rows with these keys.
    Keys(Vec<Vec<String>>),
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    Read(Box<Chunk>),
    /// The rows are too large: so many were too many.
    TooLarge(usize),
    /// Of no use: the standby was promoted meanwhile.
    Promoted,
    /// The table is gone, or in no publication of ours.
    Gone,
    /// It has no key.
    Keyless,
    /// Its key is another one than the job's.
    OtherKey(Vec<String>),
}

/// Where and what to read.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) client: &'a mut Client,
    pub(crate) publications: &'a [String],
    /// Those that are captured.
    pub(crate) tables: &'a Tables,
    pub(crate) version: u32,
}

impl Reader<'_> {
    /// Reads a chunk, in a transaction that writes nothing.
    ///
    /// # Errors
    ///
    /// What the server says.
    pub(crate) async fn read(&mut self, job: &Job, range: &Range) -> Result<Outcome> {
        let replayed = moment::replayed(self.client).await?;
        let read = self.read_behind(replayed, job, range).await;
        if replayed.is_some() { read.map_err(moment::explained) } else { read }
    }

    async fn read_behind(&mut self, replayed: Option<Lsn>, job: &Job, range: &Range) -> Result<Outcome> {
        let started = Instant::now();
        let failed = |error| sql_error(format!("Cannot read a part of {}", job.channel()), error);
        let transaction = self
            .client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await
            .map_err(failed)?;
        // Before the snapshot is taken: a definition that is changed behind it would show no rows at all.
        let table = qualified(&job.schema, &job.table);
        let lock = format!("{LOCK_TIMEOUT}; lock table {table} in access share mode");
        transaction.batch_execute(&lock).await.map_err(failed)?;
        let Some(moment) = moment::take(&transaction, replayed).await? else { return Ok(Outcome::Promoted) };
        let Moment { visible, lsn, due, unencoded } = moment;
        let oid = job.progress.relation;
        let shown = catalog::show(&transaction, oid, self.publications, self.version).await?;
        let Some(shown) = shown else { return Ok(Outcome::Gone) };
        let key: Vec<String> = names(&shown.schema, &shown.schema.key);
        if !is_of(job, &shown, self.tables) {
            return Ok(Outcome::Gone);
        }
        if key.is_empty() {
            return Ok(Outcome::Keyless);
        }
        if key != job.progress.key {
            return Ok(Outcome::OtherKey(key));
        }
        let order = catalog::key_order(&transaction, oid, &key).await?;
        let (sql, limit) = statement(job, &shown, &order, range);
        let sql = format!("copy ({sql}) to stdout{}", if unencoded { UNENCODED } else { "" });
        let rows = copy(&transaction, &sql, shown.schema.columns.len()).await?;
        let mut rows = match rows {
            Ok(rows) => rows,
            // What is still to come is not read: the connection ends with the chunk.
            Err(rows) => return Ok(Outcome::TooLarge(rows)),
        };
        transaction.commit().await.map_err(failed)?;
        let more = limit.is_some_and(|limit| rows.len() > limit);
        if more {
            rows.pop();
        }
        let last = last_key(&rows, &shown.schema)?;
        let Shown { schema, estimate, .. } = shown;
        let took = started.elapsed();
        Ok(Outcome::Read(Box::new(Chunk { schema, rows, visible, lsn, due, more, last, estimate, took })))
    }
}

/// Whether a table is the one that is wanted, by its name, and still captured.
fn is_of(job: &Job, shown: &Shown, tables: &Tables) -> bool {
    let Schema { schema, table, .. } = &shown.schema;
    (schema, table) == (&job.schema, &job.table) && tables.takes(schema, table, &shown.names)
}

fn names(schema: &Schema, columns: &[u16]) -> Vec<String> {
    columns.iter().filter_map(|at| schema.columns.get(usize::from(*at))).map(|c| c.name.clone()).collect()
}

/// The query of a chunk, and how many rows it wants, where that is limited. One more is asked for, to know whether
/// there are more.
fn statement(job: &Job, shown: &Shown, order: &KeyOrder, range: &Range) -> (String, Option<usize>) {
    let columns: Vec<String> = shown.schema.columns.iter().map(|column| identifier(&column.name)).collect();
    let only = if shown.partitioned { "" } else { "only " };
    let table = qualified(&job.schema, &job.table);
    let filters = [shown.filter.as_ref(), job.condition.as_ref()];
    let mut conditions: Vec<String> = filters.into_iter().flatten().map(|sql| format!("({sql}\n)")).collect();
    let tail = match range {
        Range::Next(count) => {
            conditions.extend(job.progress.cursor.as_ref().and_then(|cursor| order.behind(cursor)));
            format!(" order by {} limit {}", order.sorted(), u64::from(*count) + 1)
        }
        Range::Keys(keys) => {
            conditions.push(order.among(keys));
            String::new()
        }
    };
    let filter =
        if conditions.is_empty() { String::new() } else { format!(" where {}", conditions.join(" and ")) };
    let limit = match range {
        Range::Next(count) => Some(*count as usize),
        Range::Keys(_) => None,
    };
    (format!("select {} from {only}{table}{filter}{tail}", columns.join(", ")), limit)
}

/// The rows, or how many there were when they became too large.
async fn copy(transaction: &Transaction<'_>, sql: &str, columns: usize) -> Result<Result<Rows, usize>> {
    let failed = |error| row_error("Cannot read rows", error);
    let columns = u16::try_from(columns).unwrap_or(u16::MAX);
    let lines = transaction.copy_out(sql).await.map_err(failed)?;
    pin_mut!(lines);
    let mut rows = Rows::default();
    while let Some(line) = lines.next().await {
        let line = line.map_err(failed)?;
        rows.push(&line, columns).ok_or_else(|| {
            Error::failed("COPY gave a row that has another number of columns than its table")
        })?;
        if rows.byte_len() > CHUNK_MAX && rows.len() > 1 {
            return Ok(Err(rows.len()));
        }
    }
    Ok(Ok(rows))
}

fn last_key(rows: &Rows, schema: &Schema) -> Result<Option<Vec<String>>> {
    let Some((tuple, _)) = rows.iter().next_back().and_then(Tuple::split) else { return Ok(None) };
    let texts = key_values(tuple, &schema.key).map(|value| String::from_utf8(value?.to_vec()).ok());
    let texts: Option<Vec<String>> = texts.collect();
    let unreadable = || {
        Error::failed(format!("A key of {} is no UTF-8: its snapshot cannot go on behind it", schema.channel))
            .hint("Convert the database from SQL_ASCII, or take its rows without a snapshot (source.snapshot = \"never\")")
    };
    texts.map(Some).ok_or_else(unreadable)
}

/// For keys as the stream has them.
pub(crate) fn texts_of<'a>(keys: impl Iterator<Item = &'a [u8]>, count: usize) -> Vec<Vec<String>> {
    keys.filter_map(key_texts).take(count).collect()
}
