//! Histories: where the source's log is not the one that the journal has followed so far, a new one begins.
//!
//! Numbers go on rising over it; positions in the source's log need not, so whoever looks for a position looks at the
//! segments of its own history only. A history begins with a segment of its own, whose header says so and whose first
//! batch holds the gap and the new position. It is written aside and renamed into place: after a crash either all of
//! it is there, or nothing.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use metrics::counter;
use tokio::sync::oneshot;

use crate::answer::answered;
use crate::error::{Error, Result};
use crate::event::Micros;
use crate::journal::position::StreamPosition;
use crate::journal::rolling::{cannot_create, install, json_of};
use crate::journal::segment::{SEGMENT_HEADER, Segment, SegmentHeader};
use crate::journal::writer::{Active, Writer, now};
use crate::journal::{Command, Journal, Shared, gone};
use crate::lsn::Lsn;
use crate::record::{Builder, Header, Note, Part, seal};

/// Removed at opening when it is found.
pub(super) const ASIDE: &str = "history.tmp";

/// A new history, as it was asked for.
#[derive(Debug)]
pub(crate) struct NewHistory {
    position: StreamPosition,
    /// Of the gap: for programs, for people, and its time.
    reason: String,
    detail: String,
    at: Micros,
    /// What becomes durable with it.
    notes: Vec<Note>,
    /// Told the number of the gap once it is durable.
    reply: oneshot::Sender<Result<u64>>,
}

impl NewHistory {
    /// Its first batch: the gap, the position, and all notes, since the file may take the place of the only one that has
    /// them.
    fn beginning(&self, shared: &Shared) -> Result<Part> {
        let mut builder = Builder::new();
        builder.begin_local(self.at);
        builder.gap("", &self.reason, &self.detail);
        builder.commit(Lsn::ZERO);
        builder.position(self.position.lsn, &json_of(&self.position, shared.registry.highest())?);
        for (name, json) in shared.notes().iter().chain(self.notes.iter().map(|(name, json)| (name, json))) {
            builder.note(name, json);
        }
        builder.take().pop().ok_or_else(|| Error::failed("Built a history without a beginning"))
    }
}

impl Journal {
    /// Ends the history of the source and begins another one at `position`, which may lie anywhere: with a gap, of
    /// which every reader is told. Gives the gap's number. All that was handed over before must be durable.
    pub(crate) async fn begin_history(
        &self,
        position: StreamPosition,
        (reason, detail): (&str, &str),
        at: Micros,
        notes: &[(&str, &[u8])],
    ) -> Result<u64> {
        let notes = notes.iter().map(|(name, json)| ((*name).to_owned(), (*json).into())).collect();
        let (reply, answer) = oneshot::channel();
        let new = NewHistory { position, reason: reason.into(), detail: detail.into(), at, notes, reply };
        self.commands.send(Command::History(Box::new(new))).await.map_err(|_| gone())?;
        answered(&self.commands, answer).await.ok_or_else(gone)?
    }
}

impl Writer {
    pub(super) fn begin_history(&mut self, new: NewHistory) -> Result<()> {
        let Part { mut bytes, notes, .. } = new.beginning(&self.shared)?;
        let NewHistory { position, reply, .. } = new;
        self.end_segment()?;
        self.store_sidecar();
        let previous = Arc::clone(&self.active.segment);
        seal(&mut bytes, 0);
        let batch =
            Header::parse(&bytes).ok_or_else(|| Error::failed("Built a batch that cannot be read back"))?;
        self.active = loop {
            match create(&self.shared, self.next, &previous, (position.lsn, &bytes)) {
                Ok(active) => break active,
                Err(error) if self.waits_for_history(&error)? => {}
                Err(error) => return Err(cannot_create(&self.shared, self.next, error)),
            }
        };
        let first = self.next;
        self.next += u64::from(batch.events);
        self.shared.turn_to(position);
        counter!("rowcast_journal_bytes_total").increment(bytes.len() as u64);
        counter!("rowcast_events_total").increment(u64::from(batch.events));
        self.show(Bytes::from(bytes), &batch)?;
        self.shared.head.send_replace(self.active.segment.last());
        self.shared.note(notes);
        // Nobody may be waiting any more.
        let _ = reply.send(Ok(first));
        Ok(())
    }
}

impl Writer {
    fn waits_for_history(&self, error: &io::Error) -> Result<bool> {
        let what = "there is no room for a new history";
        // Of an empty segment it may have taken the name; there is nothing to lose in it.
        if self.active.segment.header.base == self.next {
            self.shared.waits_out(error, what)
        } else {
            self.waits_out(error, what)
        }
    }
}

impl Shared {
    /// From here on positions are of another history.
    fn turn_to(&self, position: StreamPosition) {
        let lsn = position.lsn;
        let mut held = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        *held = position;
        self.submitted.store(lsn.0, Ordering::Release);
        self.last_tx_end.store(0, Ordering::Release);
        // Whoever has all before the gap lacks nothing that the new history begins with.
        self.marks.begin(*self.head.borrow(), lsn);
        self.durable.send_replace(lsn);
    }
}

/// Makes the segment, durably.
fn create(
    shared: &Arc<Shared>,
    base: u64,
    previous: &Segment,
    (lsn, batch): (Lsn, &[u8]),
) -> io::Result<Active> {
    let header = SegmentHeader {
        base,
        previous_last: previous.last(),
        created: now(),
        installation: shared.installation,
        history: Some(lsn),
        ..SegmentHeader::default()
    };
    let dir = &shared.options.dir;
    let (aside, target) = (dir.join(ASIDE), Segment::path_in(dir, base));
    // An empty segment has the same name; what is known of it must not be believed of this one.
    let _ = shared.disk.remove(&target.with_extension("idx"));
    let made = shared.disk.create(&aside).and_then(|file| {
        let header = SegmentHeader { born: file.born()?, ..header };
        file.write_at(&header.encode(), 0)?;
        file.write_at(batch, SEGMENT_HEADER as u64)?;
        file.sync()?;
        shared.disk.rename(&aside, &target)?;
        shared.disk.sync_dir(dir).inspect_err(|_| {
            // Behind a segment that somebody takes meanwhile it would stand behind a hole, which the next opening refuses.
            if target != previous.path {
                let _ = shared.disk.remove(&target);
            }
        })?;
        Ok((file, header))
    });
    let (file, header) = made.inspect_err(|_| {
        // Removed at the next opening if it cannot be now.
        let _ = shared.disk.remove(&aside);
    })?;
    let segment = Arc::new(Segment::new(header, target, previous.time_max(), Lsn::ZERO).behind(previous));
    install(shared, &segment);
    Ok(Active::new(segment, file, (SEGMENT_HEADER + batch.len()) as u64))
}

/// The segments of one history.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) segments: Range<usize>,
    /// The next history shares it up to here, and goes its own way from there.
    pub(super) until: Lsn,
}

/// The newest history, with as much of those before it as it shares above `lsn`, the oldest one first.
pub(super) fn lineage(segments: &[Arc<Segment>], lsn: Lsn) -> Vec<Stretch> {
    let mut found = Vec::new();
    let (mut end, mut until) = (segments.len(), Lsn(u64::MAX));
    while end > 0 {
        let before = segments.get(..end).unwrap_or_default();
        let start = before.iter().rposition(|segment| segment.header.history.is_some()).unwrap_or(0);
        found.push(Stretch { segments: start..end, until });
        match segments.get(start).and_then(|segment| segment.header.history) {
            Some(from) if from > lsn => until = until.min(from),
            _ => break,
        }
        end = start;
    }
    found.reverse();
    found
}
