//! Tables that are read in one piece: their rows are brought to where the stream stands, and written whole.

use rowcast_engine::abort::{self, Point};
use rowcast_engine::event::Micros;
use rowcast_engine::journal::Spill;
use rowcast_engine::record::{Builder, Part};
use rowcast_engine::{Lsn, Result};
use tokio::sync::oneshot;

use super::{Emitter, is_filed, marks};
use crate::snapshot::group::Filed;
use crate::snapshot::order::{Ready, Whole, Written};
use crate::snapshot::rows::Rows;
use crate::snapshot::told::Shape;
use crate::snapshot::tracker::{Changes, Flaw, ReadWhole, Tracker};

/// All rows of a table but those of its end in a file, which is to become a part of the journal before the stream goes on.
pub(in crate::capture) struct Ending {
    pub(in crate::capture) file: Spill,
    pub(in crate::capture) parts: Vec<Part>,
    pub(in crate::capture) at: Micros,
    /// The notes that go with it.
    pub(in crate::capture) notes: Vec<String>,
    pub(in crate::capture) reader: Waiting,
}

/// Who waits for it.
pub(in crate::capture) struct Waiting {
    rows: u64,
    answer: oneshot::Sender<Written>,
}

impl Waiting {
    /// It is on its way to the disk. The reader may be gone.
    pub(in crate::capture) fn tell(self) {
        let _ = self.answer.send(Written::Yes(None, self.rows));
    }
}

impl Emitter {
    /// Whether the stream has passed the position of rows that are in a file.
    pub(in crate::capture) fn has_file_due(&self, passed: Lsn) -> bool {
        self.waiting.iter().any(|(ready, _)| is_filed(ready) && ready.due <= passed)
    }

    /// Brings such rows to where the stream stands, which must be between two transactions: up to `passed` all has been
    /// taken in. `None`: nothing is left to be done, they go another way.
    pub(in crate::capture) fn end_file(
        &mut self,
        passed: Lsn,
        tracker: &mut Tracker,
        builder: &mut Builder,
    ) -> Result<Option<Ending>> {
        let due = |(ready, _): &(Box<Ready>, _)| is_filed(ready) && ready.due <= passed;
        let at = self.waiting.iter().position(due);
        let Some((mut ready, answer)) = at.and_then(|at| self.waiting.remove(at)) else { return Ok(None) };
        self.due = self.next_due();
        let Some(mut whole) = ready.whole.take() else { return Ok(None) };
        let filed = whole.filed.take();
        let (changes, rest) = match settle(&ready, whole, tracker) {
            Ok(settled) => settled,
            Err(flaw) => {
                let _ = answer.send(Written::Flawed(flaw));
                return Ok(None);
            }
        };
        match filed.filter(|_| !changes.emptied) {
            Some(filed) => self.end(&ready, filed, (changes, rest), (passed, answer), tracker),
            // Of the rows in the file none is left.
            None => {
                let written = self.write_changed(&ready, (changes, rest), passed, tracker, builder)?;
                let _ = answer.send(written);
                Ok(None)
            }
        }
    }

    fn end(
        &mut self,
        ready: &Ready,
        mut filed: Filed,
        (changes, rest): (Changes, Rest),
        (passed, answer): (Lsn, oneshot::Sender<Written>),
        tracker: &mut Tracker,
    ) -> Result<Option<Ending>> {
        let now = changes.apply(&ready.rows, rest.left_out.as_ref());
        if now.excess > 0 {
            let _ = answer.send(Written::Flawed(Flaw::Excess));
            return Ok(None);
        }
        let schema = ready.schema.id;
        // Of rows that are in the file, before its last ones.
        for row in &now.gone {
            filed.builder.read_gone(schema, passed, row);
        }
        let kept = now.kept.iter().map(|row| (ready.lsn, *row));
        let all: Vec<(Lsn, &[u8])> = kept.chain(now.added.iter().map(|row| (passed, &**row))).collect();
        let ends_all = self.is_last(&ready.job);
        for (at, (lsn, row)) in all.iter().enumerate() {
            let last = at + 1 == all.len();
            let marks = marks(ready.job.ad_hoc, (false, last), (false, ends_all));
            filed.builder.read(schema, *lsn, marks, row);
        }
        let rows = (filed.count + all.len() as u64).saturating_sub(now.gone.len() as u64);
        let notes = self.ended(ready, rows, tracker);
        let parts = filed.builder.finish_open(Lsn::ZERO);
        let reader = Waiting { rows, answer };
        Ok(Some(Ending { file: filed.file, parts, at: ready.at, notes, reader }))
    }

    /// Likewise where all of them are in memory.
    pub(super) fn write_whole(
        &mut self,
        ready: &Ready,
        whole: Whole,
        passed: Lsn,
        tracker: &mut Tracker,
        builder: &mut Builder,
    ) -> Result<Written> {
        match settle(ready, whole, tracker) {
            Ok(settled) => self.write_changed(ready, settled, passed, tracker, builder),
            Err(flaw) => Ok(Written::Flawed(flaw)),
        }
    }

    fn write_changed(
        &mut self,
        ready: &Ready,
        (changes, rest): (Changes, Rest),
        passed: Lsn,
        tracker: &mut Tracker,
        builder: &mut Builder,
    ) -> Result<Written> {
        let now = changes.apply(&ready.rows, rest.left_out.as_ref());
        // All that was read is here: what is gone and is not was told by events alone.
        if rest.exact && (!now.gone.is_empty() || now.excess > 0) {
            return Ok(Written::Flawed(Flaw::Excess));
        }
        let kept = now.kept.iter().map(|row| (ready.lsn, *row));
        let all: Vec<(Lsn, &[u8])> = kept.chain(now.added.iter().map(|row| (passed, &**row))).collect();
        let ends_all = self.is_last(&ready.job);
        if !all.is_empty() {
            builder.begin_snapshot_for(&ready.job.sinks, ready.at, ready.lsn, ready.visible.xmin());
            for (at, (lsn, row)) in all.iter().enumerate() {
                let ends = (at == 0, at + 1 == all.len());
                builder.read(
                    ready.schema.id,
                    *lsn,
                    marks(ready.job.ad_hoc, ends, (ready.first, ends_all)),
                    row,
                );
            }
            builder.commit(Lsn::ZERO);
        }
        let rows = all.len() as u64;
        let notes = self.ended(ready, rows, tracker);
        notes.iter().for_each(|note| builder.note(note, b""));
        Ok(Written::Yes(None, rows))
    }

    /// The table has been read. Gives the notes that go with the rows.
    fn ended(&mut self, ready: &Ready, rows: u64, tracker: &mut Tracker) -> Vec<String> {
        let notes = self.note_end(&ready.job, rows);
        abort::point(Point::SnapshotEmitted);
        tracker.end(ready.relation);
        notes
    }
}

/// What is left of all rows of a table when they have been settled.
struct Rest {
    left_out: Option<Rows>,
    exact: bool,
}

/// What is of no use is given back, for the next try.
fn settle(
    ready: &Ready,
    Whole { told, left_out, exact, .. }: Whole,
    tracker: &mut Tracker,
) -> Result<(Changes, Rest), Flaw> {
    let (relation, window) = (ready.relation, ready.window);
    let settled = tracker.settle_whole(&ReadWhole {
        relation,
        window,
        visible: &ready.visible,
        shape: Shape::of(&ready.schema),
        told: &told,
        left_out: left_out.as_ref(),
        exact,
    });
    if settled.is_err() {
        tracker.close_whole(relation, window, told);
    }
    settled.map(|changes| (changes, Rest { left_out, exact }))
}
