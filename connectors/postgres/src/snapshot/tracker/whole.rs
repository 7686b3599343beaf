//! What happens to a table that is read in one piece, since nothing tells its rows apart.
//!
//! The rows that are written are those of the table where the stream stands then, P, without those that a consumer has
//! already who began with an empty table where the snapshot was wanted, and followed its events. The table at P is what
//! the snapshot saw, and what transactions did that it does not see and that were streamed since the window was opened;
//! what was streamed before, the snapshot must see. What the consumer has is what he had when the window was opened
//! ([`Told`], in the hands of the reader meanwhile), and what was streamed since.
//!
//! Of a row only counts are kept. His own follow `has = max(has + net, least)` for any run of events: `net` is what they
//! add, `least` what they leave to one who had none, since he takes away no more than he has.

mod settle;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rowcast_engine::Lsn;
use rowcast_engine::event::Op;

use super::ring::Ring;
use crate::snapshot::told::{Print, Shape, Told, Unlisted, print, rows_of, tuples_of};
use crate::snapshot::visible::{Commit, Visible};
pub(crate) use settle::{Changes, ReadWhole};

/// What a row takes that has come since the window was opened, in a table that is half full, and a note before it is known
/// what the snapshot sees.
const SINCE_BYTES: usize = 160;
const NOTE_BYTES: usize = 48;

/// Why a reading of such a table is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Nobody knows of a commit whether a standby's snapshot sees it.
    Doubt,
    /// The table was emptied or altered around the snapshot.
    Changed,
    /// For good: more has come than memory should hold.
    TooMuch,
    /// For good: an event does not say whole rows.
    Unsaid,
    /// For good: events came of rows of several shapes.
    Shapes,
    /// For good: events have told rows that are not in the table.
    Excess,
}

/// An opened window.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) window: u64,
    /// What the consumer has.
    pub(crate) told: Told,
    /// What is read is of no use any more.
    pub(crate) spoilt: Arc<AtomicBool>,
    /// Transactions that were streamed before.
    streamed: Ring,
    /// A place in the newest commit record that had been streamed.
    reached: Option<Lsn>,
}

impl Opened {
    /// Whether a snapshot is of no use: it does not see something that was streamed before it.
    pub(crate) fn is_unseen_by(&self, visible: &Visible) -> bool {
        let lies_behind = |replayed| self.reached.is_some_and(|reached| reached >= replayed);
        !self.streamed.is_seen_by(visible) || visible.replayed().is_some_and(lies_behind)
    }
}

/// What a snapshot sees, and on a standby how far it had replayed when that was taken.
#[derive(Clone, Debug)]
struct Seen {
    visible: Visible,
    behind: Lsn,
}

#[derive(Debug)]
struct Window {
    number: u64,
    flaw: Option<Flaw>,
    spoilt: Arc<AtomicBool>,
    seen: Option<Seen>,
    /// What came before that was known.
    pending: Vec<(Commit, Did)>,
    /// By a transaction that the snapshot does not see.
    emptied: bool,
    /// By one that it does.
    cleared: bool,
}

#[derive(Clone, Copy, Debug)]
enum Did {
    Changed(Print, i64),
    Emptied,
}

/// What has come of a row since the window was opened.
#[derive(Debug, Default)]
struct Since {
    /// For the consumer.
    net: i64,
    least: i64,
    /// For the rows that the snapshot saw: by transactions that it does not see.
    unseen: i64,
    /// The row, where it may have to be told.
    row: Option<Box<[u8]>>,
}

impl Since {
    fn count(&mut self, by: i64) {
        self.net += by;
        self.least = (self.least + by).max(0);
    }

    /// What he has now who had so many.
    fn left_of(&self, has: i64) -> i64 {
        (has + self.net).max(self.least)
    }
}

/// What a consumer had up to the window.
#[derive(Debug)]
enum Before {
    /// It is being looked up in the journal.
    Unknown,
    Here(Told),
    /// Its reader has it: so many bytes, and whether that is nothing.
    Away(usize, bool),
}

/// What is known of such a table. There is one window at a time.
#[derive(Debug)]
pub(super) struct Whole {
    before: Before,
    since: HashMap<Print, Since>,
    /// Since that, and before what stands in `since`.
    emptied: bool,
    /// Of what has been told.
    shape: Option<Shape>,
    unlisted: Unlisted,
    window: Option<Window>,
    opened: u64,
    /// What `since` and the window take.
    bytes: usize,
    /// For good.
    flaw: Option<Flaw>,
}

impl Whole {
    pub(super) fn new() -> Self {
        Self {
            before: Before::Unknown,
            since: HashMap::new(),
            emptied: false,
            shape: None,
            unlisted: Unlisted::default(),
            window: None,
            opened: 0,
            bytes: 0,
            flaw: None,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let before = match &self.before {
            Before::Unknown => 0,
            Before::Here(told) => told.byte_len(),
            Before::Away(bytes, _) => *bytes,
        };
        before + self.bytes
    }

    /// What the journal says that a consumer had where the stream began to be noted.
    pub(super) fn tell(&mut self, mut told: Told) {
        if !self.emptied {
            self.unlisted.append(std::mem::take(&mut told.unlisted));
        }
        if let Some(shape) = told.shape.as_ref().filter(|_| !self.emptied && !told.is_empty()) {
            self.become_shape(shape);
        }
        if self.flaw.is_none() {
            self.before = Before::Here(told);
        }
    }

    /// Why it is of no use, if it is not.
    pub(super) fn soundness(&self) -> Result<(), Flaw> {
        self.flaw.map_or(Ok(()), Err)
    }

    /// Opens a window. `Err`: it is of no use, for good. `None`: it is not known what the consumer has.
    pub(super) fn open(&mut self, streamed: Ring, reached: Option<Lsn>) -> Result<Option<Opened>, Flaw> {
        self.soundness()?;
        self.window = None;
        let Before::Here(told) = std::mem::replace(&mut self.before, Before::Unknown) else {
            return Ok(None);
        };
        let mut told = self.brought_up(told);
        if told.is_empty() {
            // What he has had and has no more says nothing of what comes.
            self.shape = None;
        }
        told.shape.clone_from(&self.shape);
        self.before = Before::Away(told.byte_len(), told.is_empty());
        self.opened += 1;
        let spoilt = Arc::<AtomicBool>::default();
        self.window = Some(Window {
            number: self.opened,
            flaw: None,
            spoilt: Arc::clone(&spoilt),
            seen: None,
            pending: Vec::new(),
            emptied: false,
            cleared: false,
        });
        Ok(Some(Opened { window: self.opened, told, spoilt, streamed, reached }))
    }

    /// What he has with all that has come since.
    fn brought_up(&mut self, mut told: Told) -> Told {
        if std::mem::take(&mut self.emptied) {
            told.clear();
        }
        for (row, since) in std::mem::take(&mut self.since) {
            told.change(row, |has| u32::try_from(since.left_of(has.into())).unwrap_or(u32::MAX));
        }
        self.bytes = 0;
        told.begin_reading();
        told
    }

    /// Closes a window whose rows are not written. The reader gives back what it was given.
    pub(super) fn close(&mut self, window: u64, told: Told) {
        if self.window.take_if(|open| open.number == window).is_some() && self.flaw.is_none() {
            self.before = Before::Here(told);
        }
    }

    /// All of it is of no use any more.
    pub(super) fn spoil(&mut self, flaw: Flaw) {
        self.flaw.get_or_insert(flaw);
        if let Some(window) = &self.window {
            window.spoilt.store(true, Ordering::Relaxed);
        }
        *self = Self { opened: self.opened, flaw: self.flaw, window: self.window.take(), ..Self::new() };
        if let Some(window) = &mut self.window {
            window.pending = Vec::new();
        }
    }

    fn become_shape(&mut self, shape: &Shape) {
        let nothing_before = match &self.before {
            Before::Unknown => true,
            Before::Here(told) => told.is_empty(),
            Before::Away(_, nothing) => *nothing,
        };
        let is_bare = self.since.is_empty() && (self.emptied || nothing_before);
        if self.shape.as_ref().is_some_and(|before| !before.is_like(shape)) && !is_bare {
            self.spoil(Flaw::Shapes);
        }
        self.shape = Some(shape.clone());
    }

    /// The window's snapshot has been taken.
    pub(super) fn know(&mut self, window: u64, visible: &Visible, behind: Lsn) {
        let Some(open) = self.window.as_mut().filter(|open| open.number == window) else { return };
        let pending = std::mem::take(&mut open.pending);
        self.bytes -= NOTE_BYTES * pending.len();
        open.seen = Some(Seen { visible: visible.clone(), behind });
        for (commit, did) in pending {
            match did {
                Did::Emptied => self.empty_in_window(commit),
                Did::Changed(row, by) => _ = self.count_in_window(commit, row, by),
            }
        }
    }

    /// Whether the snapshot sees the transaction, as far as that is known.
    fn is_seen(&mut self, commit: Commit) -> Option<bool> {
        let window = self.window.as_mut()?;
        let Seen { visible, behind } = window.seen.as_ref()?;
        if visible.doubts(commit, *behind) {
            window.flaw.get_or_insert(Flaw::Doubt);
        }
        Some(visible.sees(commit))
    }

    /// For the rows that the snapshot saw. Gives whether the row itself may be needed.
    fn count_in_window(&mut self, commit: Commit, row: Print, by: i64) -> bool {
        let Some(seen) = self.is_seen(commit) else { return self.window.is_some() };
        if let Some(since) = self.since.get_mut(&row).filter(|_| !seen) {
            since.unseen += by;
        }
        // What comes behind the snapshot the consumer has, and the rows that are read have not.
        seen || by < 0
    }

    fn empty_in_window(&mut self, commit: Commit) {
        let seen = self.is_seen(commit);
        let Some(window) = &mut self.window else { return };
        match seen {
            Some(true) => window.cleared = true,
            Some(false) => {
                window.emptied = true;
                self.since.values_mut().for_each(|since| since.unseen = 0);
            }
            None => {}
        }
    }

    pub(super) fn change(&mut self, commit: Commit, op: Op, raw: &[u8], shape: Option<&Shape>) {
        if self.flaw.is_some() {
            return;
        }
        let tuples = tuples_of(raw);
        let rows = tuples.and_then(|(old, new)| rows_of(op, old, new));
        let (Some((old, new)), Some(shape), Some((before, after))) = (rows, shape, tuples) else {
            // Nobody can say what row it was.
            return self.spoil(Flaw::Unsaid);
        };
        self.become_shape(shape);
        if !self.unlisted.take_in(shape, before.into_iter().chain(after)) {
            return self.spoil(Flaw::Shapes);
        }
        for (row, by) in [(old, -1), (new, 1)] {
            if let Some(row) = row {
                self.note(commit, row, by);
            }
        }
    }

    fn note(&mut self, commit: Commit, row: Box<[u8]>, by: i64) {
        if self.flaw.is_some() {
            return;
        }
        let name = print(&row);
        let since = self.since.entry(name).or_insert_with(|| {
            self.bytes += SINCE_BYTES;
            Since::default()
        });
        since.count(by);
        self.put_off(commit, Did::Changed(name, by));
        let is_needed = self.count_in_window(commit, name, by);
        if let Some(since) = self.since.get_mut(&name).filter(|since| is_needed && since.row.is_none()) {
            self.bytes += row.len();
            since.row = Some(row);
        }
    }

    /// Until it is known what the snapshot sees.
    fn put_off(&mut self, commit: Commit, did: Did) {
        if let Some(window) = self.window.as_mut().filter(|window| window.seen.is_none()) {
            window.pending.push((commit, did));
            self.bytes += NOTE_BYTES;
        }
    }

    pub(super) fn truncate(&mut self, commit: Commit) {
        if self.flaw.is_some() {
            return;
        }
        self.since.clear();
        (self.emptied, self.shape, self.unlisted) = (true, None, Unlisted::default());
        self.bytes = self.window.as_ref().map_or(0, |window| NOTE_BYTES * window.pending.len());
        self.put_off(commit, Did::Emptied);
        self.empty_in_window(commit);
    }

    /// Whether nobody knows if the window's snapshot sees something that has come since.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.window.as_ref().is_none_or(|window| window.flaw == Some(Flaw::Doubt))
    }
}
