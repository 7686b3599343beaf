//! One table that is being read: its open windows, and the keys to be read again.

use std::borrow::Cow;
use std::collections::VecDeque;

use rowcast_engine::Lsn;
use rowcast_engine::schema::SchemaId;

use super::again::Again;
use super::newer::{Newer, Row, newer, superseded};
use super::ring::Ring;
use crate::snapshot::rows::Rows;
use crate::snapshot::told::Form;
use crate::snapshot::visible::{Commit, Visible};

/// What a note takes beside its key, about.
const NOTE_BYTES: usize = 56;

/// Keys that one chunk may add to those that are read again. More come of a bulk update that leaves TOASTed values as
/// they are: reading the chunk again is less than reading its rows by their keys.
const AGAIN_OF_CHUNK: usize = 2_000;

/// A chunk that has been read.
#[derive(Debug)]
pub(crate) struct Read<'a> {
    pub(crate) relation: u32,
    pub(crate) window: u64,
    /// What its snapshot saw.
    pub(crate) visible: &'a Visible,
    /// The version of the table that its rows are of.
    pub(crate) schema: SchemaId,
    pub(crate) form: Form,
    /// The key's columns.
    pub(crate) key: &'a [u16],
    pub(crate) rows: &'a Rows,
    /// The keys that it was asked for, where it reads some again.
    pub(crate) asked: &'a [Box<[u8]>],
    /// Behind it every row of the table has been told, but for the keys that wait to be read again.
    pub(crate) all_read: bool,
}

/// What becomes of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its rows have been given out.
    Written,
    /// To be read again: a transaction that was streamed before it was read was invisible in it.
    Unseen,
    /// To be read again: the table has changed meanwhile.
    Changed,
    /// To be read again, smaller: too much was changed meanwhile.
    TooMuch,
    /// The table has to be read anew from its beginning.
    Void,
}

/// A key that was changed.
#[derive(Debug)]
pub(super) struct Noted {
    pub(super) key: Box<[u8]>,
    pub(super) commit: Commit,
    pub(super) incomplete: bool,
    /// The row's tuple behind an update that left it where it was, of a key that waits to be read again.
    pub(super) values: Option<Values>,
}

/// A row's tuple, and how its values are written.
pub(super) type Values = (Form, Box<[u8]>);

impl Noted {
    fn byte_len(&self) -> usize {
        NOTE_BYTES + self.key.len() + self.values.as_ref().map_or(0, |(_, values)| values.len())
    }
}

#[derive(Debug)]
struct Window {
    number: u64,
    /// The first note that counts.
    from: u64,
    ring: Ring,
    /// A place in the newest commit record that had been streamed.
    reached: Option<Lsn>,
    /// The version that the table came to be first; one that it came to be after another is as good as none.
    version: Option<SchemaId>,
    /// It came to be several.
    unsteady: bool,
    overflown: bool,
}

/// What is known of a table.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Keys to be read again.
    pub(super) again: Again,
    /// Notes of all open windows, the first of which has the number `first`.
    notes: VecDeque<Noted>,
    first: u64,
    /// Transactions that emptied the table, with the number of the note that came next.
    truncates: Vec<(u64, Commit)>,
    windows: VecDeque<Window>,
    opened: u64,
    bytes: usize,
    lost: bool,
    /// A consumer has every row whole, but for those of the keys to be read again.
    all_read: bool,
}

impl Table {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_open(&self) -> bool {
        !self.windows.is_empty()
    }

    /// Something happened that cannot be made up for: all has to be read anew.
    pub(super) fn lose(&mut self) {
        self.lost = true;
        self.again.clear();
    }

    pub(super) fn open(&mut self, ring: Ring, reached: Option<Lsn>) -> u64 {
        self.opened += 1;
        let (number, from) = (self.opened, self.first + self.notes.len() as u64);
        self.windows.push_back(Window {
            number,
            from,
            ring,
            reached,
            version: None,
            unsteady: false,
            overflown: false,
        });
        number
    }

    /// Gives how many bytes of notes went with it.
    pub(super) fn close(&mut self, window: u64) -> usize {
        self.windows.retain(|open| open.number != window);
        let needed = self.windows.front().map_or(u64::MAX, |oldest| oldest.from);
        let before = self.bytes;
        while self.first < needed
            && let Some(noted) = self.notes.pop_front()
        {
            self.first += 1;
            self.bytes -= noted.byte_len();
        }
        self.truncates.retain(|(at, _)| *at >= needed);
        before - self.bytes
    }

    pub(super) fn become_version(&mut self, version: SchemaId) {
        for window in &mut self.windows {
            window.unsteady |= *window.version.get_or_insert(version) != version;
        }
    }

    /// A row was moved by an event without all values. Once all has been read, whoever follows has them from the row as
    /// it was before, unless that waits itself: else a table whose keys change all the time would never be read.
    pub(super) fn moved(&mut self, old: &[u8], new: &[u8]) {
        if !self.all_read || self.again.contains(old) {
            self.again.insert(new.into());
            if self.again.is_too_much() {
                self.lose();
            }
        }
    }

    /// `values`: of a row that was updated and has its key still, and how they are written. Gives how many bytes it takes.
    pub(super) fn note(
        &mut self,
        key: Box<[u8]>,
        commit: Commit,
        incomplete: bool,
        values: Option<(Form, &[u8])>,
    ) -> usize {
        let values = values.filter(|_| self.again.contains(&key));
        let values = values.map(|(form, values)| (form, values.into()));
        let noted = Noted { key, commit, incomplete, values };
        let bytes = noted.byte_len();
        self.bytes += bytes;
        self.notes.push_back(noted);
        bytes
    }

    /// What is noted does not fit: open windows are of no use.
    pub(super) fn overflow(&mut self) {
        self.first += self.notes.len() as u64;
        self.notes.clear();
        self.bytes = 0;
        self.windows.iter_mut().for_each(|window| window.overflown = true);
    }

    pub(super) fn truncate(&mut self, commit: Commit) {
        if self.is_open() {
            self.truncates.push((self.first + self.notes.len() as u64, commit));
        }
    }

    pub(super) fn settle<'a>(&mut self, read: &Read<'a>, mut keep: impl FnMut(Cow<'a, [u8]>)) -> Verdict {
        let Some(window) = self.windows.iter().find(|open| open.number == read.window) else {
            return Verdict::Changed;
        };
        if self.lost {
            return Verdict::Void;
        }
        if window.overflown {
            return Verdict::TooMuch;
        }
        if window.unsteady || window.version.is_some_and(|version| version != read.schema) {
            return Verdict::Changed;
        }
        // A standby's stream tells what that has replayed. One that was started again, or another one that answers at the
        // same address, may lie behind it.
        let lies_behind = |replayed| window.reached.is_some_and(|reached| reached >= replayed);
        if !window.ring.is_seen_by(read.visible) || read.visible.replayed().is_some_and(lies_behind) {
            return Verdict::Unseen;
        }
        let from = window.from;
        let newer = newer(&self.notes, from.saturating_sub(self.first), read.visible);
        let emptied = self.truncates.iter().any(|(at, commit)| *at >= from && !read.visible.sees(*commit));
        let rows = if emptied || newer.is_empty() { None } else { Some(superseded(read, &newer)) };
        let again: Vec<&[u8]> = rows.iter().flatten().filter_map(Row::again).collect();
        // Smaller, the chunk is read when what was changed is seen. It ends: so many rows cannot have more such keys.
        if again.len() > AGAIN_OF_CHUNK {
            return Verdict::TooMuch;
        }
        // One that a newer event without all values came for meanwhile waits on: the row need not be in this chunk.
        for key in read.asked.iter().filter(|key| !newer.get(&***key).is_some_and(Newer::is_incomplete)) {
            self.again.remove(key);
        }
        again.into_iter().for_each(|key| self.again.insert(key.into()));
        match rows {
            _ if emptied => {}
            None => read.rows.iter().map(Cow::Borrowed).for_each(keep),
            Some(rows) => {
                for row in rows {
                    match row {
                        Row::Kept(row) => keep(Cow::Borrowed(row)),
                        Row::BroughtUp(key, row) => {
                            self.again.remove(key);
                            keep(Cow::Owned(row));
                        }
                        Row::Replaced | Row::Again(_) => {}
                    }
                }
            }
        }
        self.all_read |= read.all_read;
        Verdict::Written
    }
}
