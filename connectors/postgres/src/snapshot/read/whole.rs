//! Reads all of a table in one transaction, where nothing tells its rows apart.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, pin_mut};
use rowcast_engine::event::Marks;
use rowcast_engine::journal::{Journal, State};
use rowcast_engine::schema::{Identity, Schema};
use rowcast_engine::{Error, Lsn, Result, Stop};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_postgres::{IsolationLevel, Transaction};

use super::{LOCK_TIMEOUT, Reader, UNENCODED, estimate, is_of};
use crate::catalog::{self, Asked, Shown};
use crate::snapshot::group::{Group, Shared};
use crate::snapshot::job::{Job, note_unless_replaced};
use crate::snapshot::moment::{self, Moment};
use crate::snapshot::order::{Order, Orders, Taken};
use crate::snapshot::told::Shape;
use crate::snapshot::tracker::Opened;
use crate::snapshot::visible::Visible;
use crate::tables::{identifier, qualified};
use crate::wire::{row_error, sql_error};

/// As a reader's transactions are.
const BEGIN: &str = "begin isolation level repeatable read, read only";

/// Rows between two words of how far it has come.
const TELL_EVERY: u64 = 1_000;

/// The journal is waited for so long, with the table's lock held, before it is looked whether it has no room.
const ROOM_PATIENCE: Duration = Duration::from_secs(2);

/// A reading that has gone on for so long counts: it was more than a try.
const COUNTED_AFTER: Duration = Duration::from_secs(10);

/// How many snapshots of a standby are taken before one is put up with while which something was applied. Each takes a way
/// to the server and back, which is nothing beside waiting for the stream to judge it.
const MOMENTS: u32 = 50;

/// Before a standby that has nothing to send is asked how far it is.
const ASK_AFTER: Duration = Duration::from_millis(200);

/// How often it is, before rows are read without a word from it.
const ASKED: u32 = 5;

/// What stands around the reading.
pub(crate) struct Piece<'a> {
    pub(crate) journal: &'a Journal,
    pub(crate) stopped: &'a Stop,
    pub(crate) opened: &'a mut Opened,
    pub(crate) orders: &'a Orders,
    /// The first row is the first of the whole snapshot.
    pub(crate) first: bool,
}

impl Piece<'_> {
    /// Has the stream know what the snapshot sees.
    async fn tell(&self, job: &Job, visible: &Visible, behind: Lsn) -> Result<()> {
        let known = Order::Know(job.progress.relation, self.opened.window, visible.clone(), behind);
        self.orders.send(known).await.map_err(|_| gone())
    }

    /// Whether it is known of all that the stream brings whether a standby's snapshot sees it. Waits until that has come,
    /// but not for long: our lock may be what the standby's replay waits for. Then it is judged when the rows are there.
    async fn is_known(&self, job: &Job, moment: &Moment) -> Result<bool> {
        let taken = Taken { relation: job.progress.relation, due: moment.due };
        let (sender, mut answer) = oneshot::channel();
        self.orders.send(Order::Judge(Box::new(taken), sender)).await.map_err(|_| gone())?;
        for _ in 0..ASKED {
            match timeout(ASK_AFTER, &mut answer).await {
                Ok(known) => return known.map_err(|_| gone()),
                // It says how far it is when it is asked.
                Err(_) => self.orders.send(Order::Ask).await.map_err(|_| gone())?,
            }
        }
        Ok(true)
    }

    /// Counts the reading, also for those who come after a crash. Behind nothing of it that is to be written.
    async fn count(&self, job: &Job) -> Result<()> {
        let mut job = job.clone();
        job.progress.readings += 1;
        note_unless_replaced(self.journal, &job, &job.json()?).await
    }

    /// Waits for the journal, which may have no room for long: who wants the table for himself does not wait for that.
    async fn while_there_is_room(
        &self,
        wait: impl Future<Output = Result<()>>,
    ) -> Result<Result<(), WholeOutcome>> {
        let mut wait = pin!(wait);
        loop {
            tokio::select! {
                done = &mut wait => return done.map(Ok),
                () = self.stopped.stopped() => return Ok(Err(WholeOutcome::Stopped)),
                () = sleep(ROOM_PATIENCE) => {}
            }
            if matches!(*self.journal.state().borrow(), State::Full(_)) {
                return Ok(Err(WholeOutcome::Roomless));
            }
        }
    }

    /// Whether what is read is of no use any more.
    fn is_spoilt(&self) -> bool {
        self.opened.spoilt.load(Ordering::Relaxed)
    }
}

fn gone() -> Error {
    Error::transient("The stream that the snapshot stands beside has ended")
}

/// All rows of a table.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) group: Group,
    pub(crate) shared: Shared,
    pub(crate) schema: Arc<Schema>,
    pub(crate) visible: Visible,
    /// All that the snapshot saw has been streamed when the stream has come here.
    pub(crate) due: Lsn,
    pub(crate) estimate: u64,
    /// All that is done to the table is published.
    pub(crate) exact: bool,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum WholeOutcome {
    Read(Box<Table>),
    /// Something that was streamed before is not visible yet.
    Unseen,
    /// Of no use: the standby was promoted meanwhile.
    Promoted,
    /// The table is gone, or in no publication of ours.
    Gone,
    /// It has a key by now.
    Keyed,
    /// It has been altered since events have told rows of it, and nothing compares those with what it has now.
    Altered,
    /// It is not wanted now.
    Stopped,
    /// The journal has no room for it now.
    Roomless,
    /// Too much has come meanwhile, or what cannot be reckoned with.
    Spoilt,
    /// On a standby: nobody knows of a commit whether the snapshot sees it.
    Doubt,
}

impl Reader<'_> {
    /// Reads the table, in a transaction that writes nothing. What is read is told as it grows, with an estimate of all.
    ///
    /// # Errors
    ///
    /// What the server says.
    pub(crate) async fn read_whole(
        &mut self,
        job: &Job,
        piece: &mut Piece<'_>,
        tell: impl FnMut(u64, u64),
    ) -> Result<WholeOutcome> {
        let replayed = moment::replayed(self.client).await?;
        let read = self.read_whole_behind(replayed, job, piece, tell).await;
        if replayed.is_some() { read.map_err(moment::explained) } else { read }
    }

    async fn read_whole_behind(
        &mut self,
        replayed: Option<Lsn>,
        job: &Job,
        piece: &mut Piece<'_>,
        tell: impl FnMut(u64, u64),
    ) -> Result<WholeOutcome> {
        let failed = |error| sql_error(format!("Cannot read {}", job.channel()), error);
        // Before the snapshot is taken: a definition that is changed behind it would show no rows at all.
        let lock =
            format!("{LOCK_TIMEOUT}; lock table {} in access share mode", qualified(&job.schema, &job.table));
        let taken = match replayed {
            None => None,
            Some(_) => match self.take_at_once(&format!("{BEGIN}; {lock}")).await? {
                Some(taken) => Some(taken),
                None => return Ok(WholeOutcome::Promoted),
            },
        };
        // Where a transaction has begun this is that one, and is looked after from here on.
        let begun = self.client.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
        let transaction = begun.read_only(true).start().await.map_err(failed)?;
        let moment = match taken {
            None => {
                transaction.batch_execute(&lock).await.map_err(failed)?;
                moment::take(&transaction, None).await?.map(|moment| (moment.lsn, moment))
            }
            Some(taken) => {
                let behind = taken.behind;
                moment::of_taken(&transaction, taken).await?.map(|moment| (behind, moment))
            }
        };
        let Some((behind, moment)) = moment else { return Ok(WholeOutcome::Promoted) };
        // Known before a row is read, which for a large table is worth a lot.
        if piece.opened.is_unseen_by(&moment.visible) {
            return Ok(WholeOutcome::Unseen);
        }
        piece.tell(job, &moment.visible, behind).await?;
        // On a standby this is the only way to a snapshot of which all is known, and it takes a while.
        if moment.visible.replayed().is_some() && !piece.is_known(job, &moment).await? {
            return Ok(WholeOutcome::Doubt);
        }
        let (oid, name) = (job.progress.relation, (&*job.schema, &*job.table));
        let asked = Asked { transaction: &transaction, statements: self.statements };
        let shown = catalog::show(asked, (oid, name), self.publications, self.version).await?;
        let Some(shown) = shown.filter(|shown| is_of(job, shown, self.tables)) else {
            return Ok(WholeOutcome::Gone);
        };
        if !shown.schema.key.is_empty() {
            return Ok(WholeOutcome::Keyed);
        }
        // It would be found when all of it has been read, again and again.
        let (told, shape) = (&piece.opened.told, Shape::of(&shown.schema));
        if !told.is_empty() && told.shape.as_ref().is_none_or(|told| !told.is_like(&shape)) {
            return Ok(WholeOutcome::Altered);
        }
        let read = copy_whole(&transaction, job, (shown, moment), piece, tell).await?;
        if matches!(read, WholeOutcome::Read(_)) {
            transaction.commit().await.map_err(failed)?;
        }
        Ok(read)
    }
}

impl Reader<'_> {
    /// Begins a transaction on a standby and takes its snapshot, at a moment at which nothing is applied, if there is one
    /// soon. `None`: it is no standby any more.
    async fn take_at_once(&mut self, begin: &str) -> Result<Option<moment::Taken>> {
        let failed = |error| sql_error("Cannot take another snapshot", error);
        let mut number = 1;
        loop {
            let taken = moment::take_at_once(self.client, begin).await;
            let is_good = |taken: &moment::Taken| taken.is_still() || number == MOMENTS;
            if matches!(&taken, Ok(Some(taken)) if is_good(taken)) {
                return taken;
            }
            // Nobody looks after what has begun.
            self.client.batch_execute("rollback").await.map_err(failed)?;
            if taken?.is_none() {
                return Ok(None);
            }
            number += 1;
        }
    }
}

async fn copy_whole(
    transaction: &Transaction<'_>,
    job: &Job,
    (shown, moment): (Shown, Moment),
    piece: &mut Piece<'_>,
    mut tell: impl FnMut(u64, u64),
) -> Result<WholeOutcome> {
    let failed = |error| row_error("Cannot read rows", error);
    let exact = shown.schema.identity == Identity::Full && !shown.schema.inserts_only;
    let sql = statement(job, &shown, moment.unencoded);
    let columns = u16::try_from(shown.schema.columns.len()).unwrap_or(u16::MAX);
    let estimate = estimate::of(transaction, job, &shown).await?;
    let schema = piece.journal.register(shown.schema)?;
    let shared = shared(job, &schema, &moment, piece.first);
    let lines = transaction.copy_out(&sql).await.map_err(failed)?;
    pin_mut!(lines);
    let mut group = Group::new();
    let (mut read, begun, mut counted) = (0, Instant::now(), false);
    while let Some(line) = lines.next().await {
        group.push(&line.map_err(failed)?, columns, &mut piece.opened.told)?;
        // Not for each row: waiting has its price.
        if group.is_full() {
            let relieved = piece.while_there_is_room(group.relieve(piece.journal, &shared)).await?;
            if let Err(outcome) = relieved {
                return Ok(outcome);
            }
        }
        if piece.stopped.is_stopped() {
            return Ok(WholeOutcome::Stopped);
        }
        read += 1;
        if read % TELL_EVERY == 0 {
            tell(group.count(), estimate);
            if !counted && begun.elapsed() > COUNTED_AFTER {
                counted = true;
                if let Err(outcome) = piece.while_there_is_room(piece.count(job)).await? {
                    return Ok(outcome);
                }
            }
            if piece.is_spoilt() {
                return Ok(WholeOutcome::Spoilt);
            }
        }
    }
    let Moment { visible, due, .. } = moment;
    Ok(WholeOutcome::Read(Box::new(Table { group, shared, schema, visible, due, estimate, exact })))
}

fn shared(job: &Job, schema: &Schema, moment: &Moment, first: bool) -> Shared {
    let kind = if job.ad_hoc { Marks::AD_HOC } else { Marks::NONE };
    let of_all = if first { Marks::FIRST } else { Marks::NONE };
    Shared {
        sinks: job.sinks.clone(),
        at: crate::capture::now(),
        lsn: moment.lsn,
        xmin: moment.visible.xmin(),
        schema: schema.id,
        marks: (kind | Marks::FIRST_IN_TABLE | of_all, kind),
    }
}

fn statement(job: &Job, shown: &Shown, unencoded: bool) -> String {
    let columns: Vec<String> = shown.schema.columns.iter().map(|column| identifier(&column.name)).collect();
    let only = if shown.partitioned { "" } else { "only " };
    let filter = shown.filter.as_ref().map_or_else(String::new, |filter| format!(" where ({filter}\n)"));
    let table = qualified(&job.schema, &job.table);
    let encoding = if unencoded { UNENCODED } else { "" };
    format!("copy (select {} from {only}{table}{filter}) to stdout{encoding}", columns.join(", "))
}
