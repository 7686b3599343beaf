//! The stream's side of snapshots: rows that were read are written between two transactions, once the stream has passed
//! the position that all of them lie below.

mod whole;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use rowcast_engine::Lsn;
use rowcast_engine::Result;
use rowcast_engine::abort::{self, Point};
use rowcast_engine::event::Marks;
use rowcast_engine::journal::Journal;
use rowcast_engine::record::Builder;
use rowcast_engine::status::Status;
use tokio::sync::{mpsc, oneshot};

use crate::snapshot::job::{Job, is_job};
use crate::snapshot::order::{Order, Ready, Taken, Whole, Why, Written};
use crate::snapshot::rows::key_texts;
use crate::snapshot::told::Form;
use crate::snapshot::tracker::{Read, Tracker, Verdict};
use crate::snapshot::unread;
pub(super) use whole::Ending;

/// Chunks that were read and wait for the stream.
#[derive(Debug)]
pub(super) struct Emitter {
    orders: mpsc::Receiver<Order>,
    waiting: VecDeque<(Box<Ready>, oneshot::Sender<Written>)>,
    /// Snapshots that wait for the stream to be judged.
    taken: Vec<(Box<Taken>, oneshot::Sender<bool>)>,
    /// Who waits for the next place between two transactions. As many as ask at a time.
    beginning: Vec<(Beginning, oneshot::Sender<Lsn>)>,
    /// The lowest position that one of them waits for.
    pub(super) due: Lsn,
    /// Nothing is left to be done.
    pub(super) done: bool,
    /// Transactions are sent before they commit, of which a snapshot is told nothing.
    streams: bool,
    /// A snapshot is wanted, and cannot be made beside this connection.
    pub(super) unfit: bool,
    journal: Journal,
    status: Status,
    /// Tables whose ends are written and may not be in the journal's notes yet: note and snapshot.
    ended: Vec<(String, u64)>,
}

/// What begins between two transactions.
#[derive(Clone, Copy, Debug)]
enum Beginning {
    /// To note what is streamed.
    Watch,
    /// To look after a table.
    Table(u32),
    /// To look after one that is read in one piece.
    Whole(u32),
}

impl Emitter {
    pub(super) fn new(
        orders: mpsc::Receiver<Order>,
        streams: bool,
        (journal, status): (Journal, Status),
    ) -> Self {
        let (waiting, ended) = (VecDeque::new(), Vec::new());
        Self {
            orders,
            waiting,
            taken: Vec::new(),
            beginning: Vec::new(),
            due: NEVER,
            done: false,
            streams,
            unfit: false,
            journal,
            status,
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
            Order::Watch(begun) => self.begin_between(Beginning::Watch, begun),
            Order::Begin(relation, begun) => self.begin_between(Beginning::Table(relation), begun),
            Order::BeginWhole(relation, begun) => self.begin_between(Beginning::Whole(relation), begun),
            Order::Seed(streamed) => tracker.seed(&streamed),
            Order::Seen(visible) => tracker.forget(&visible),
            Order::Again(relation, again) => tracker.read_again(relation, again),
            Order::Open(relation, opened) => {
                let _ = opened.send(tracker.open(relation));
            }
            Order::OpenWhole(relation, opened) => {
                let _ = opened.send(tracker.open_whole(relation));
            }
            Order::Tell(relation, told, sound) => {
                let _ = sound.send(tracker.tell(relation, *told));
            }
            Order::Know(relation, window, visible, behind) => {
                tracker.know(relation, window, &visible, behind);
            }
            Order::CloseWhole(relation, window, told) => tracker.close_whole(relation, window, *told),
            Order::Judge(taken, judged) => {
                self.due = self.due.min(taken.due);
                self.taken.push((taken, judged));
            }
            Order::Close(relation, window) => tracker.close(relation, window),
            Order::Write(ready, written) => {
                self.due = self.due.min(ready.due);
                self.waiting.push_back((ready, written));
            }
            Order::End(relation) => {
                self.forget(relation);
                tracker.end(relation);
            }
            Order::Rest => tracker.rest(),
            Order::Done => self.done = true,
            // The session does.
            Order::Ask => {}
        }
    }

    /// What a reading that has ended has left behind is not the next one's, whose windows count anew.
    fn forget(&mut self, relation: u32) {
        self.waiting.retain(|(ready, _)| ready.relation != relation);
        self.taken.retain(|(taken, _)| taken.relation != relation);
        let is_of = |what| matches!(what, Beginning::Table(of) | Beginning::Whole(of) if of == relation);
        self.beginning.retain(|(what, _)| !is_of(*what));
    }

    /// Between two transactions: of none a part is noted and a part is not in the journal.
    fn begin_between(&mut self, what: Beginning, begun: oneshot::Sender<Lsn>) {
        self.due = Lsn::ZERO;
        self.beginning.push((what, begun));
    }

    /// Writes what the stream has passed, but for what is in files. It must stand between two transactions; all that ended
    /// up to `passed` has been taken in, and `last` is the end of the last of them.
    pub(super) fn emit(
        &mut self,
        (passed, last): (Lsn, Lsn),
        tracker: &mut Tracker,
        builder: &mut Builder,
    ) -> Result<()> {
        for (what, begun) in self.beginning.drain(..) {
            match what {
                Beginning::Watch => tracker.watch(),
                Beginning::Table(relation) => tracker.begin(relation),
                Beginning::Whole(relation) => tracker.begin_whole(relation),
            }
            // The reader may be gone.
            let _ = begun.send(last);
        }
        for (taken, judged) in self.taken.extract_if(.., |(taken, _)| taken.due <= passed) {
            let _ = judged.send(!tracker.is_in_doubt(taken.relation));
        }
        let mut at = 0;
        while let Some((ready, _)) = self.waiting.get(at) {
            if ready.due > passed || is_filed(ready) {
                at += 1;
            } else if let Some((mut ready, answer)) = self.waiting.remove(at) {
                let written = match ready.whole.take() {
                    Some(whole) => self.write_whole(&ready, whole, passed, tracker, builder)?,
                    None => self.write(*ready, passed, tracker, builder)?,
                };
                // The reader may be gone.
                let _ = answer.send(written);
            }
        }
        self.due = self.next_due();
        Ok(())
    }

    fn next_due(&self) -> Lsn {
        let rows = self.waiting.iter().map(|(ready, _)| ready.due);
        rows.chain(self.taken.iter().map(|(taken, _)| taken.due)).min().unwrap_or(NEVER)
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
            form: Form::of(&ready.schema),
            key: &ready.schema.key,
            rows: &ready.rows,
            asked: &ready.asked,
            all_read: ready.job.progress.at_end,
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
        let Some(again) = again else { return Ok(Written::NoText) };
        let ends = job.progress.at_end && again.is_empty();
        let ends_all = ends && self.is_last(&job);
        let count = kept.len();
        if count > 0 {
            builder.begin_snapshot_for(&job.sinks, ready.at, ready.lsn, ready.visible.xmin());
            for (at, row) in kept.into_iter().enumerate() {
                let first = at == 0 && job.progress.rows == 0;
                let last = at + 1 == count && ends;
                let marks = marks(job.ad_hoc, (first, last), (ready.first, ends_all));
                // One that was brought up is as it is here.
                let lsn = if matches!(row, Cow::Owned(_)) { passed } else { ready.lsn };
                builder.read(ready.schema.id, lsn, marks, &row);
            }
            builder.commit(Lsn::ZERO);
        }
        // Its rows are the builder's now.
        drop(ready.memory);
        job.progress.rows += count as u64;
        job.progress.again = again;
        job.progress.lsn = passed;
        if ends {
            let notes = self.note_end(&job, job.progress.rows);
            notes.iter().for_each(|note| builder.note(note, b""));
            abort::point(Point::SnapshotEmitted);
            tracker.end(ready.relation);
            return Ok(Written::Yes(None, job.progress.rows));
        }
        let (json, rows) = (Arc::<[u8]>::from(job.json()?), job.progress.rows);
        builder.note(&job.note(), &json);
        abort::point(Point::SnapshotEmitted);
        Ok(Written::Yes(Some((Box::new(job), json)), rows))
    }

    /// All rows of a table are about to be in the journal, whether or not its reader lives to hear of it. Gives the notes that go
    /// with them.
    fn note_end(&mut self, job: &Job, rows: u64) -> Vec<String> {
        let note = job.note();
        self.status.snapshots(|board| {
            board.get_mut(&note).into_iter().for_each(|shown| shown.whole = Some(rows));
        });
        self.ended.push((note.clone(), job.snapshot));
        [note].into_iter().chain(unread::read(&self.journal, job)).collect()
    }

    /// Whether no other table of the snapshot is left, now that this one ends.
    fn is_last(&mut self, job: &Job) -> bool {
        let journal = &self.journal;
        let is_of = |noted: &[u8], snapshot| Job::snapshot_of(noted) == Some(snapshot);
        self.ended.retain(|(note, snapshot)| {
            journal.note_named(note).is_some_and(|noted| is_of(&noted, *snapshot))
        });
        let (mine, ended) = (job.note(), &self.ended);
        // With thousands of tables left the first one says it.
        !journal.any_note(|note, noted| {
            let has_ended = || ended.iter().any(|(name, snapshot)| name == note && *snapshot == job.snapshot);
            is_job(note) && note != mine && is_of(noted, job.snapshot) && !has_ended()
        })
    }
}

fn is_filed(ready: &Ready) -> bool {
    matches!(&ready.whole, Some(Whole { filed: Some(_), .. }))
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
