//! The stream's side of snapshots: rows that were read are written between two transactions, once the stream has passed
//! the position that all of them lie below.

use std::collections::VecDeque;

use rowcast_engine::Lsn;
use rowcast_engine::Result;
use rowcast_engine::abort::{self, Point};
use rowcast_engine::event::Marks;
use rowcast_engine::journal::Journal;
use rowcast_engine::record::Builder;
use tokio::sync::{mpsc, oneshot};

use crate::snapshot::job::{Job, Jobs};
use crate::snapshot::order::{Order, Ready, Why, Written};
use crate::snapshot::rows::key_texts;
use crate::snapshot::tracker::{Read, Tracker, Verdict};

/// Chunks that were read and wait for the stream.
#[derive(Debug)]
pub(super) struct Emitter {
    orders: mpsc::Receiver<Order>,
    waiting: VecDeque<(Box<Ready>, oneshot::Sender<Written>)>,
    /// Who waits for the next place between two transactions: the reader of a table, or of none yet. As many as ask at a
    /// time.
    beginning: Vec<(Option<u32>, oneshot::Sender<Lsn>)>,
    /// The lowest position that one of them waits for.
    pub(super) due: Lsn,
    /// Nothing is left to be done.
    pub(super) done: bool,
    /// Transactions are sent before they commit, of which a snapshot is told nothing.
    streams: bool,
    /// A snapshot is wanted, and cannot be made beside this connection.
    pub(super) unfit: bool,
    journal: Journal,
    /// Tables whose ends are written and may not be in the journal's notes yet: note and snapshot.
    ended: Vec<(String, u64)>,
}

impl Emitter {
    pub(super) fn new(orders: mpsc::Receiver<Order>, streams: bool, journal: Journal) -> Self {
        let (waiting, ended) = (VecDeque::new(), Vec::new());
        Self {
            orders,
            waiting,
            beginning: Vec::new(),
            due: NEVER,
            done: false,
            streams,
            unfit: false,
            journal,
            ended,
        }
    }

    /// The next order. Cancel safe; never comes when nobody gives orders any more.
    pub(super) async fn order(&mut self) -> Order {
        match self.orders.recv().await {
            Some(order) => order,
            None => std::future::pending().await,
        }
    }

    /// Carries an order out, or keeps its chunk. The one who gave it may be gone; then nobody waits for the answer.
    pub(super) fn take(&mut self, order: Order, tracker: &mut Tracker) {
        match order {
            // Whoever asked ends with the connection.
            Order::Watch(_) if self.streams => self.unfit = true,
            Order::Watch(begun) => self.begin_between(None, begun),
            Order::Begin(relation, begun) => self.begin_between(Some(relation), begun),
            Order::Seed(streamed) => tracker.seed(&streamed),
            Order::Again(relation, again) => tracker.read_again(relation, again),
            Order::Open(relation, opened) => {
                let _ = opened.send(tracker.open(relation));
            }
            Order::Close(relation, window) => tracker.close(relation, window),
            Order::Write(ready, written) => {
                self.due = self.due.min(ready.due);
                self.waiting.push_back((ready, written));
            }
            Order::End(relation) => tracker.end(relation),
            Order::Rest => tracker.rest(),
            Order::Done => self.done = true,
            // The session does.
            Order::Ask => {}
        }
    }

    /// Between two transactions: of none a part is noted and a part is not in the journal.
    fn begin_between(&mut self, relation: Option<u32>, begun: oneshot::Sender<Lsn>) {
        self.due = Lsn::ZERO;
        self.beginning.push((relation, begun));
    }

    /// Writes what the stream has passed. It must stand between two transactions; all that ended up to `passed` has
    /// been taken in, and `last` is the end of the last of them.
    pub(super) fn emit(
        &mut self,
        (passed, last): (Lsn, Lsn),
        tracker: &mut Tracker,
        builder: &mut Builder,
    ) -> Result<()> {
        for (relation, begun) in self.beginning.drain(..) {
            match relation {
                Some(relation) => tracker.begin(relation),
                None => tracker.watch(),
            }
            // The reader may be gone.
            let _ = begun.send(last);
        }
        let mut at = 0;
        while let Some((ready, _)) = self.waiting.get(at) {
            if ready.due > passed {
                at += 1;
            } else if let Some((ready, answer)) = self.waiting.remove(at) {
                let written = self.write(*ready, passed, tracker, builder)?;
                // The reader may be gone.
                let _ = answer.send(written);
            }
        }
        self.due = self.waiting.iter().map(|(ready, _)| ready.due).min().unwrap_or(NEVER);
        Ok(())
    }

    fn write(
        &mut self,
        ready: Ready,
        passed: Lsn,
        tracker: &mut Tracker,
        builder: &mut Builder,
    ) -> Result<Written> {
        let read = Read {
            relation: ready.relation,
            window: ready.window,
            visible: &ready.visible,
            schema: ready.schema.id,
            key: &ready.schema.key,
            rows: &ready.rows,
            asked: &ready.asked,
        };
        let mut kept = Vec::new();
        let verdict = tracker.settle(&read, |row| kept.push(row));
        match verdict {
            Verdict::Written => {}
            Verdict::Unseen => return Ok(Written::Repeat(Why::Unseen)),
            Verdict::Changed => return Ok(Written::Repeat(Why::Changed)),
            Verdict::TooMuch => return Ok(Written::Repeat(Why::TooMuch)),
            Verdict::Void => return Ok(Written::Void),
        }
        let mut job = ready.job;
        let again: Option<Vec<_>> = tracker.again(ready.relation).map(key_texts).collect();
        // A key that is no text cannot be asked for again.
        let Some(again) = again else { return Ok(Written::Void) };
        let ends = job.progress.at_end && again.is_empty();
        let ends_all = ends && self.is_last(&job)?;
        let count = kept.len();
        if count > 0 {
            builder.begin_snapshot_for(&job.sinks, ready.at, ready.lsn, ready.visible.xmin());
            for (at, row) in kept.into_iter().enumerate() {
                let first = at == 0 && job.progress.rows == 0;
                let last = at + 1 == count && ends;
                let marks = marks(job.ad_hoc, (first, last), (ready.first, ends_all));
                builder.read(ready.schema.id, ready.lsn, marks, row);
            }
            builder.commit(Lsn::ZERO);
        }
        // Its rows are the builder's now.
        drop(ready.memory);
        job.progress.rows += count as u64;
        job.progress.again = again;
        job.progress.lsn = passed;
        let name = job.note();
        if ends {
            builder.note(&name, b"");
            self.ended.push((name, job.snapshot));
            abort::point(Point::SnapshotEmitted);
            tracker.end(ready.relation);
            return Ok(Written::Yes(None, job.progress.rows));
        }
        let (json, rows) = (job.json()?, job.progress.rows);
        builder.note(&name, &json);
        abort::point(Point::SnapshotEmitted);
        Ok(Written::Yes(Some((Box::new(job), json)), rows))
    }

    /// Whether no other table of the snapshot is left, now that this one ends.
    fn is_last(&mut self, job: &Job) -> Result<bool> {
        let jobs = Jobs::read(&self.journal.notes())?.tables;
        self.ended.retain(|(note, snapshot)| jobs.get(note).is_some_and(|job| job.snapshot == *snapshot));
        let (mine, ended) = (job.note(), &self.ended);
        let is_left = |(note, other): (&String, &Job)| {
            other.snapshot == job.snapshot
                && *note != mine
                && !ended.iter().any(|(name, snapshot)| name == note && *snapshot == other.snapshot)
        };
        Ok(!jobs.iter().any(is_left))
    }
}

/// Nothing waits.
const NEVER: Lsn = Lsn(u64::MAX);

fn marks(ad_hoc: bool, (first, last): (bool, bool), (of_all, ends_all): (bool, bool)) -> Marks {
    let when = |is: bool, mark| if is { mark } else { Marks::NONE };
    when(ad_hoc, Marks::AD_HOC)
        | when(first, Marks::FIRST_IN_TABLE)
        | when(last, Marks::LAST_IN_TABLE)
        | when(first && of_all, Marks::FIRST)
        | when(last && ends_all, Marks::LAST)
}
