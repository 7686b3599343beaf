//! What the stream does to the tables that are being read, so that no row of a snapshot undoes a newer event and no
//! value is missing that no event carries.
//!
//! The rules, and what breaks without each, are those of `snapshot/model.rs`. A *window* is open from before a
//! chunk's snapshot is taken until its rows are written. The *ring* has the transactions that were streamed and may
//! still be invisible to a snapshot: a commit is decoded before it is seen.

mod again;
#[cfg(test)]
mod altered;
#[cfg(test)]
mod bulk;
#[cfg(test)]
mod doubt;
#[cfg(test)]
mod hot;
mod newer;
#[cfg(test)]
mod partly;
mod ring;
mod whole;
mod window;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use rowcast_engine::Lsn;
use rowcast_engine::event::Op;
use rowcast_engine::record::{Tuple, Value};
use rowcast_engine::schema::{Identity, Schema, SchemaId};

use super::rows::{key_behind, key_bytes};
use super::told::{Form, Shape, Told};
use super::visible::{Commit, Visible};
pub(crate) use again::Again;
use ring::Ring;
use whole::Whole;
pub(crate) use whole::{Changes, Flaw, Opened, ReadWhole};
use window::Table;
pub(crate) use window::{Read, Verdict};

/// Memory for what open windows note, of all tables. Beyond it their chunks are read again, smaller.
const NOTED_MAX: usize = 64 << 20;

/// Memory for what is known of tables that are read in one piece, of all of them: what a consumer has of each, and what comes
/// meanwhile. Beyond it the one that has most is given up. It is enough for some 800,000 rows that were told since the
/// snapshot was wanted.
pub(crate) const WHOLE_NOTED_MAX: usize = 64 << 20;

/// A table as this connection's stream describes it.
#[derive(Clone, Debug)]
struct Described {
    schema: SchemaId,
    form: Form,
    shape: Shape,
    key: Arc<[u16]>,
    /// Its old rows are whole where the server says so.
    full: bool,
}

/// The stream's side of all snapshots. Costs a look at a flag for each change while there is none.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    tables: HashMap<u32, Table>,
    /// Those that are read in one piece.
    wholes: HashMap<u32, Whole>,
    described: HashMap<u32, Described>,
    /// `None`: nobody reads.
    ring: Option<Ring>,
    /// A place in the newest commit record that was streamed, over this connection or before.
    reached: Option<Lsn>,
    /// The transaction that is being taken in.
    arriving: Option<Commit>,
    noted: usize,
}

impl Tracker {
    /// Of a stream whose transactions up to here have been taken in before.
    pub(crate) fn behind(position: Lsn) -> Self {
        // Of a record that ends there, the last place.
        Self { reached: position.0.checked_sub(1).map(Lsn), ..Self::default() }
    }

    /// Whether changes have to be told.
    pub(crate) fn is_watching(&self) -> bool {
        !self.tables.is_empty() || !self.wholes.is_empty()
    }

    /// From here on all that is streamed is noted, until [`Self::rest`].
    pub(crate) fn watch(&mut self) {
        self.ring.get_or_insert_default();
    }

    /// Transactions that were streamed before, and may still be invisible.
    pub(crate) fn seed(&mut self, streamed: &[Commit]) {
        self.watch();
        if let Some(ring) = &mut self.ring {
            streamed.iter().for_each(|commit| ring.push(*commit));
        }
    }

    /// Forgets what every snapshot sees that is taken from now on: one that was taken on the same server saw it.
    pub(crate) fn forget(&mut self, visible: &Visible) {
        if let Some(ring) = &mut self.ring {
            ring.forget(visible);
        }
    }

    /// Nobody reads any more.
    pub(crate) fn rest(&mut self) {
        if !self.is_watching() {
            self.ring = None;
        }
    }

    /// A table is going to be read, or read on.
    pub(crate) fn begin(&mut self, relation: u32) {
        self.tables.insert(relation, Table::default());
    }

    /// A table is going to be read in one piece.
    pub(crate) fn begin_whole(&mut self, relation: u32) {
        self.wholes.insert(relation, Whole::new());
    }

    /// These keys wait to be read again, from what came before.
    pub(crate) fn read_again(&mut self, relation: u32, keys: impl IntoIterator<Item = Box<[u8]>>) {
        if let Some(table) = self.tables.get_mut(&relation) {
            keys.into_iter().for_each(|key| table.again.insert(key));
        }
    }

    /// It is read no more.
    pub(crate) fn end(&mut self, relation: u32) {
        if let Some(table) = self.tables.remove(&relation) {
            self.noted -= table.bytes();
        }
        self.wholes.remove(&relation);
    }

    /// Opens a window; `None` for a table that is not being read.
    pub(crate) fn open(&mut self, relation: u32) -> Option<u64> {
        let streamed = self.streamed();
        Some(self.tables.get_mut(&relation)?.open(streamed, self.reached))
    }

    /// What a consumer of such a table had where it began to be looked after.
    pub(crate) fn tell(&mut self, relation: u32, told: Told) -> Result<(), Flaw> {
        let Some(whole) = self.wholes.get_mut(&relation) else { return Ok(()) };
        whole.tell(told);
        self.bound_wholes();
        self.wholes.get(&relation).map_or(Ok(()), Whole::soundness)
    }

    /// Opens the window of a table that is read in one piece; `None` for one that is not.
    pub(crate) fn open_whole(&mut self, relation: u32) -> Option<Result<Opened, Flaw>> {
        let streamed = self.streamed();
        self.wholes.get_mut(&relation)?.open(streamed, self.reached).transpose()
    }

    /// What the snapshot sees that was taken in a window of such a table, with the position asked behind it.
    pub(crate) fn know(&mut self, relation: u32, window: u64, visible: &Visible, behind: Lsn) {
        if let Some(whole) = self.wholes.get_mut(&relation) {
            whole.know(window, visible, behind);
        }
    }

    /// Closes a window of such a table whose rows are not written.
    pub(crate) fn close_whole(&mut self, relation: u32, window: u64, told: Told) {
        if let Some(whole) = self.wholes.get_mut(&relation) {
            whole.close(window, told);
        }
    }

    /// What has been streamed and may be invisible. Of the one that arrives some changes have been taken in and are in no
    /// window's notes.
    fn streamed(&self) -> Ring {
        let mut streamed = self.ring.clone().unwrap_or_default();
        self.arriving.into_iter().for_each(|commit| streamed.push(commit));
        streamed
    }

    /// Closes a window whose chunk is not written.
    pub(crate) fn close(&mut self, relation: u32, window: u64) {
        if let Some(table) = self.tables.get_mut(&relation) {
            self.noted -= table.close(window);
        }
    }

    /// The stream has described a table, again maybe.
    pub(crate) fn describe(&mut self, schema: &Schema) {
        let (form, shape) = (Form::of(schema), Shape::of(schema));
        let (key, full) = (schema.key.as_slice().into(), schema.identity == Identity::Full);
        let described = Described { schema: schema.id, form, shape, key, full };
        let before = self.described.insert(schema.relation, described);
        if before.is_some_and(|before| before.schema == schema.id) {
            return;
        }
        if let Some(table) = self.tables.get_mut(&schema.relation) {
            table.become_version(schema.id);
        }
    }

    /// A change has been taken in; `raw` is what follows the relation id in pgoutput's message.
    pub(crate) fn change(&mut self, relation: u32, commit: Commit, op: Op, raw: &[u8]) {
        if let Some(whole) = self.wholes.get_mut(&relation) {
            // A part of an old row is no row.
            let says_rows = |is: &&Described| is.full || raw.first() != Some(&b'O');
            let shape = self.described.get(&relation).filter(says_rows).map(|described| &described.shape);
            whole.change(commit, op, raw, shape);
            return self.bound_wholes();
        }
        let Some(table) = self.tables.get_mut(&relation) else { return };
        let described = self.described.get(&relation).filter(|described| !described.key.is_empty());
        let touched = described.and_then(|is| Some((is.form, Touched::by(op, raw, &is.key, is.full)?)));
        let Some((form, Touched { old, new, values, incomplete })) = touched else {
            // Nobody can say which row it was.
            table.lose();
            return;
        };
        let moved = old.is_some() && new.is_some() && old != new;
        if let (true, Some(old), Some(new)) = (moved && incomplete, &old, &new) {
            table.moved(old, new);
        }
        if table.is_open() {
            let stays = op == Op::Update && !moved;
            if let Some(new) = new {
                let values = values.filter(|_| stays).map(|values| (form, values));
                self.noted += table.note(new, commit, incomplete, values);
            }
            if let Some(old) = old.filter(|_| moved || op == Op::Delete) {
                self.noted += table.note(old, commit, false, None);
            }
            if self.noted > NOTED_MAX {
                self.noted = 0;
                self.tables.values_mut().for_each(Table::overflow);
            }
        }
    }

    /// A table was emptied.
    pub(crate) fn truncate(&mut self, relation: u32, commit: Commit) {
        if let Some(table) = self.tables.get_mut(&relation) {
            table.truncate(commit);
        }
        if let Some(whole) = self.wholes.get_mut(&relation) {
            whole.truncate(commit);
        }
    }

    fn bound_wholes(&mut self) {
        if self.wholes.values().map(Whole::bytes).sum::<usize>() > WHOLE_NOTED_MAX
            && let Some(largest) = self.wholes.values_mut().max_by_key(|whole| whole.bytes())
        {
            largest.spoil(Flaw::TooMuch);
        }
    }

    /// A transaction is going to be taken in.
    pub(crate) fn arrives(&mut self, commit: Commit) {
        self.arriving = Some(commit);
        self.reached = Some(commit.at);
    }

    /// A transaction has been taken in whole.
    pub(crate) fn delivered(&mut self, commit: Commit) {
        self.arriving = None;
        self.reached = Some(commit.at);
        if let Some(ring) = &mut self.ring {
            ring.push(commit);
        }
    }

    /// A transaction has been taken in that was sent before it committed, of whose changes nothing was told.
    pub(crate) fn delivered_untold(&mut self, commit: Commit) {
        self.delivered(commit);
        self.tables.values_mut().for_each(Table::lose);
        self.wholes.values_mut().for_each(|whole| whole.spoil(Flaw::Unsaid));
    }

    /// Goes through the rows of a chunk, once the stream has passed its position: gives those to `keep` that are not
    /// older than an event that was streamed. Closes the window, but for [`Verdict::Unseen`]: what was streamed before it
    /// will be seen by a snapshot that is taken in it later, while there is always something that came before a new one.
    pub(crate) fn settle<'a>(&mut self, read: &Read<'a>, keep: impl FnMut(Cow<'a, [u8]>)) -> Verdict {
        let Some(table) = self.tables.get_mut(&read.relation) else { return Verdict::Void };
        let verdict = table.settle(read, keep);
        let verdict = if table.again.is_too_much() { Verdict::Void } else { verdict };
        if verdict != Verdict::Unseen {
            self.noted -= table.close(read.window);
        }
        self.forget(read.visible);
        verdict
    }

    /// Whether nobody knows if the snapshot of such a table sees what has come for it.
    pub(crate) fn is_in_doubt(&self, relation: u32) -> bool {
        self.wholes.get(&relation).is_none_or(Whole::is_in_doubt)
    }

    /// Says what has become of a table since all of its rows were read, once the stream has passed the position of that.
    pub(crate) fn settle_whole(&mut self, read: &ReadWhole<'_>) -> Result<Changes, Flaw> {
        let whole = self.wholes.get_mut(&read.relation).ok_or(Flaw::Changed)?;
        let settled = whole.settle(read);
        self.forget(read.visible);
        settled
    }

    /// The keys that wait to be read again.
    pub(crate) fn again(&self, relation: u32) -> impl Iterator<Item = &[u8]> {
        self.tables.get(&relation).into_iter().flat_map(|table| table.again.iter())
    }
}

/// The rows that a change is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Touched<'a> {
    /// The row's key before; none for an insert.
    pub(super) old: Option<Box<[u8]>>,
    /// And after; none for a delete.
    pub(super) new: Option<Box<[u8]>>,
    /// Its tuple after, of a change that says no other key of before.
    pub(super) values: Option<&'a [u8]>,
    /// The event lacks values that it did not change.
    pub(super) incomplete: bool,
}

impl<'a> Touched<'a> {
    /// `None` when the change does not say which row it is.
    pub(super) fn by(op: Op, raw: &'a [u8], key: &[u16], is_full: bool) -> Option<Self> {
        let (mut old, mut new, mut full, mut values) = (None, None, false, None);
        let mut rest = raw;
        while let Some((tag, after)) = rest.split_first() {
            let from = after;
            let (tuple, after) = Tuple::split(after)?;
            match tag {
                // Whatever was logged of the row as it was, of all of it or of nothing.
                b'N' => (new, values) = (Some(tuple), from.get(..from.len() - after.len())),
                _ => (old, full) = (Some(tuple), is_full && *tag == b'O'),
            }
            rest = after;
        }
        let unchanged = |tuple: Tuple<'_>| tuple.values().any(|value| value == Value::Unchanged);
        let incomplete = !full && new.is_some_and(unchanged);
        let before = old.map(|old| key_bytes(old, key));
        let after = match new {
            None => None,
            Some(new) => Some(key_behind(new, old, key)?),
        };
        let before = match (before, op) {
            (Some(before), _) => Some(before?),
            (None, Op::Update) => after.clone(),
            (None, Op::Delete) => return None,
            (None, _) => None,
        };
        let values = values.filter(|_| raw.first() != Some(&b'K'));
        Some(Self { old: before, new: after, values, incomplete })
    }
}
