//! Reads one chunk of a table: rows, what the snapshot saw, and how far the stream has to come for them.

mod estimate;
mod whole;

use std::time::{Duration, Instant};

use futures_util::future::{join4, try_join};
use futures_util::{StreamExt, TryFutureExt, pin_mut};
use rowcast_engine::record::Tuple;
use rowcast_engine::schema::Schema;
use rowcast_engine::{Error, Lsn, Result};
use tokio_postgres::{Client, CopyOutStream, IsolationLevel, Transaction};

use super::job::{Job, Progress};
use super::moment::{self, Moment};
use super::rows::{Rows, key_texts, key_values};
use super::visible::Visible;
use crate::catalog::{self, Asked, KeyOrder, Shown, Statements};
use crate::tables::{Tables, identifier, qualified};
use crate::wire::{row_error, sql_error};
pub(crate) use whole::{Piece, Table, WholeOutcome};

/// Whoever changes the table's definition is waited for no longer than this at a time: those who come behind would
/// wait for us. What a function in a condition has to say may be of the rows, and is heard by nobody.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '2s'; set local client_min_messages = error";

/// The values of a database without encoding come as they are, as the stream has them; else the server would check
/// them, and refuse.
const UNENCODED: &str = " with (encoding 'SQL_ASCII')";

const CANNOT_READ_ROWS: &str = "Cannot read rows";

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
    /// Conditions were tried on so many rows, as far as that is known.
    pub(crate) looked_at: Option<usize>,
    /// What reading took, and what of that its rows did.
    pub(crate) took: Duration,
    pub(crate) copying: Duration,
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
    /// Its key is another one than the job's, or has another order.
    OtherKey(Vec<String>, String),
}

/// Where and what to read.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) client: &'a mut Client,
    /// The client's.
    pub(crate) statements: &'a Statements,
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
        let (oid, name) = (job.progress.relation, (&*job.schema, &*job.table));
        let asked = Asked { transaction: &transaction, statements: self.statements };
        // In this order, and all at once: what a chunk takes beside its rows is ways to the server and back.
        let (locked, moment, shown, guessed) = join4(
            transaction.batch_execute(&lock),
            Box::pin(moment::take(&transaction, replayed)),
            Box::pin(catalog::show(asked, (oid, name), self.publications, self.version)),
            Box::pin(order_of(asked, oid, &job.progress.key)),
        )
        .await;
        locked.map_err(failed)?;
        let Some(moment) = moment? else { return Ok(Outcome::Promoted) };
        let Moment { visible, lsn, due, unencoded } = moment;
        let Some(shown) = shown? else { return Ok(Outcome::Gone) };
        let key: Vec<String> = names(&shown.schema, &shown.schema.key);
        if !is_of(job, &shown, self.tables) {
            return Ok(Outcome::Gone);
        }
        if key.is_empty() {
            return Ok(Outcome::Keyless);
        }
        let guessed = guessed.filter(|_| key == job.progress.key);
        let order =
            if let Some(order) = guessed { order } else { catalog::key_order(asked, oid, &key).await };
        let order = order?;
        if !is_same_key(job, &key, &order) {
            return Ok(Outcome::OtherKey(key, order.described()));
        }
        let estimate = estimate::of(&transaction, job, &shown).await?;
        let copying = Instant::now();
        let looks = (&shown, &order, unencoded);
        let bound = bound_of(&transaction, job, range, looks).await?;
        let sql = copied(&statement(job, &shown, &order, (range, &bound)), unencoded);
        let lines = transaction.copy_out(&sql).await.map_err(|error| row_error(CANNOT_READ_ROWS, error))?;
        // Said before the rows have come: nothing is asked behind them.
        let committed = transaction.commit().map_err(|error| Broken::By(failed(error)));
        let copied = async {
            let copied = collect(lines, (shown.schema.columns.len(), bound.kept())).await?;
            Ok((copied, copying.elapsed()))
        };
        let (Copied { rows, more }, copying) = match try_join(copied, committed).await {
            Ok((copied, ())) => copied,
            // What is still to come is not read: the connection ends with the chunk.
            Err(Broken::TooLarge(rows)) => return Ok(Outcome::TooLarge(rows)),
            Err(Broken::By(error)) => return Err(error),
        };
        let looked_at = bound.looked_at(range);
        let (more, last) = bound.end((&rows, more), &shown.schema)?;
        let (schema, took) = (shown.schema, started.elapsed());
        let chunk = Chunk { schema, rows, visible, lsn, due, more, last, estimate, looked_at, took, copying };
        Ok(Outcome::Read(Box::new(chunk)))
    }
}

/// The order of the key by which the rows so far were read, which mostly is the table's still.
async fn order_of(asked: Asked<'_>, oid: u32, key: &[String]) -> Option<Result<KeyOrder>> {
    if key.is_empty() { None } else { Some(catalog::key_order(asked, oid, key).await) }
}

fn copied(sql: &str, unencoded: bool) -> String {
    format!("copy ({sql}) to stdout{}", if unencoded { UNENCODED } else { "" })
}

/// Where a chunk ends.
enum Bound {
    /// With so many rows.
    Count(usize),
    /// At this key, or with the table: where conditions leave rows out, so many would be looked for without end, and who
    /// wants the table for himself, and all who come behind him, would wait.
    At(Option<Vec<String>>),
    /// With those that it names.
    None,
}

impl Bound {
    /// Conditions were tried on so many rows.
    fn looked_at(&self, range: &Range) -> Option<usize> {
        match (range, self) {
            (Range::Next(count), Self::At(_)) => Some(*count as usize),
            _ => None,
        }
    }

    /// How many rows are its own.
    fn kept(&self) -> usize {
        match self {
            Self::Count(limit) => *limit,
            Self::At(_) | Self::None => usize::MAX,
        }
    }

    /// Whether there are more rows than these, and behind which key.
    fn end(self, (rows, more): (&Rows, bool), schema: &Schema) -> Result<(bool, Option<Vec<String>>)> {
        Ok(match self {
            Self::At(last) => (last.is_some(), last),
            Self::Count(_) => (more, last_key(rows, &schema.key, &schema.channel)?),
            Self::None => (false, None),
        })
    }
}

async fn bound_of(
    transaction: &Transaction<'_>,
    job: &Job,
    range: &Range,
    (shown, order, unencoded): (&Shown, &KeyOrder, bool),
) -> Result<Bound> {
    let Range::Next(count) = range else { return Ok(Bound::None) };
    if shown.filter.is_none() && job.condition.is_none() {
        return Ok(Bound::Count(*count as usize));
    }
    let width = shown.schema.key.len();
    let sql = copied(&bound(job, shown, order, *count), unencoded);
    let lines = transaction.copy_out(&sql).await.map_err(|error| row_error(CANNOT_READ_ROWS, error))?;
    let keys = collect(lines, (width, 1)).await.map_err(|broken| match broken {
        Broken::By(error) => error,
        Broken::TooLarge(_) => Error::failed("COPY gave more than one row of one"),
    })?;
    let places: Vec<u16> = (0..).take(width).collect();
    last_key(&keys.rows, &places, &shown.schema.channel).map(Bound::At)
}

/// Whether a table is the one that is wanted, by its name, and still captured.
fn is_of(job: &Job, shown: &Shown, tables: &Tables) -> bool {
    let Schema { schema, table, .. } = &shown.schema;
    (schema, table) == (&job.schema, &job.table) && tables.takes(schema, table, &shown.names)
}

/// Whether the key is that by which the rows so far were read: behind a cursor in another order others would be missing.
fn is_same_key(job: &Job, key: &[String], order: &KeyOrder) -> bool {
    let Progress { key: before, order: ordered, .. } = &job.progress;
    before == key && (ordered.is_empty() || *ordered == order.described())
}

fn names(schema: &Schema, columns: &[u16]) -> Vec<String> {
    columns.iter().filter_map(|at| schema.columns.get(usize::from(*at))).map(|c| c.name.clone()).collect()
}

/// The query of a chunk. Of so many rows one more is asked for, to know whether there are more.
fn statement(job: &Job, shown: &Shown, order: &KeyOrder, (range, bound): (&Range, &Bound)) -> String {
    let columns: Vec<String> = shown.schema.columns.iter().map(|column| identifier(&column.name)).collect();
    let filters = [shown.filter.as_ref(), job.condition.as_ref()];
    let mut conditions: Vec<String> = filters.into_iter().flatten().map(|sql| format!("({sql}\n)")).collect();
    conditions.extend(behind(job, order, range));
    let tail = match (range, bound) {
        (Range::Keys(keys), _) => {
            conditions.push(order.among(keys));
            String::new()
        }
        (Range::Next(_), Bound::At(last)) => {
            conditions.extend(last.as_ref().and_then(|last| order.up_to(last)));
            format!(" order by {}", order.sorted())
        }
        (Range::Next(count), Bound::Count(_) | Bound::None) => {
            format!(" order by {} limit {}", order.sorted(), u64::from(*count) + 1)
        }
    };
    format!("select {} from {}{}{tail}", columns.join(", "), source(job, shown), all_of(&conditions))
}

/// The query of the key of the last one of so many rows behind the cursor, whatever they are.
fn bound(job: &Job, shown: &Shown, order: &KeyOrder, count: u32) -> String {
    let key: Vec<String> =
        names(&shown.schema, &shown.schema.key).iter().map(|name| identifier(name)).collect();
    let behind: Vec<String> = behind(job, order, &Range::Next(count)).into_iter().collect();
    format!(
        "select {} from {}{} order by {} offset {} limit 1",
        key.join(", "),
        source(job, shown),
        all_of(&behind),
        order.sorted(),
        count.saturating_sub(1)
    )
}

fn behind(job: &Job, order: &KeyOrder, range: &Range) -> Option<String> {
    job.progress
        .cursor
        .as_ref()
        .filter(|_| matches!(range, Range::Next(_)))
        .and_then(|cursor| order.behind(cursor))
}

pub(super) fn source(job: &Job, shown: &Shown) -> String {
    let only = if shown.partitioned { "" } else { "only " };
    format!("{only}{}", qualified(&job.schema, &job.table))
}

pub(super) fn all_of(conditions: &[String]) -> String {
    if conditions.is_empty() { String::new() } else { format!(" where {}", conditions.join(" and ")) }
}

/// Rows that were read.
struct Copied {
    rows: Rows,
    /// One was left where it was.
    more: bool,
}

/// Why rows were not read to their end.
enum Broken {
    By(Error),
    /// So many are too large.
    TooLarge(usize),
}

/// So many of the rows. What comes behind them is not held: it may be as large as all of them.
async fn collect(lines: CopyOutStream, (columns, kept): (usize, usize)) -> Result<Copied, Broken> {
    let failed = |error| Broken::By(row_error(CANNOT_READ_ROWS, error));
    let columns = u16::try_from(columns).unwrap_or(u16::MAX);
    pin_mut!(lines);
    let (mut rows, mut more) = (Rows::default(), false);
    while let Some(line) = lines.next().await {
        let line = line.map_err(failed)?;
        if rows.len() >= kept {
            more = true;
            continue;
        }
        rows.push(&line, columns).ok_or_else(|| {
            Broken::By(Error::failed("COPY gave a row that has another number of columns than its table"))
        })?;
        if rows.byte_len() > CHUNK_MAX && rows.len() > 1 {
            return Err(Broken::TooLarge(rows.len()));
        }
    }
    Ok(Copied { rows, more })
}

fn last_key(rows: &Rows, key: &[u16], channel: &str) -> Result<Option<Vec<String>>> {
    let Some((tuple, _)) = rows.iter().next_back().and_then(Tuple::split) else { return Ok(None) };
    let texts = key_values(tuple, key).map(|value| String::from_utf8(value?.to_vec()).ok());
    let texts: Option<Vec<String>> = texts.collect();
    texts.map(Some).ok_or_else(|| no_text(channel))
}

/// Of a key by which rows cannot be asked for.
pub(crate) fn no_text(channel: &str) -> Error {
    Error::failed(format!("A key of {channel} is no UTF-8: its snapshot cannot go on behind it"))
        .hint("Convert the database from SQL_ASCII, or take its rows without a snapshot (source.snapshot = \"never\")")
}

/// For keys as the stream has them.
pub(crate) fn texts_of<'a>(keys: impl Iterator<Item = &'a [u8]>, count: usize) -> Vec<Vec<String>> {
    keys.filter_map(key_texts).take(count).collect()
}
