//! The tables that the stream has described, strictly by OID.
//!
//! A description is looked up in the catalog at the first change that uses it: of a partition tree published
//! through its root the leaves are described too and never used.

use std::collections::HashMap;
use std::sync::Arc;

use rowcast_engine::schema::{Schema, SchemaId};

use super::composite::{self, Composite};
use crate::pgoutput::Relation;
use crate::snapshot::visible::Commit;

/// OIDs from here on are of what somebody has made (`FirstNormalObjectId`, access/transam.h).
const FIRST_MADE: u32 = 16384;

/// Everything that the stream has described on this connection.
#[derive(Debug, Default)]
pub(super) struct Relations {
    entries: HashMap<u32, Entry>,
    /// Those that are asked for again at the next transaction.
    unsure: Vec<u32>,
    /// Descriptions so far, those within open transactions included.
    described: u64,
}

#[derive(Debug)]
struct Entry {
    /// The Relation message.
    message: Arc<[u8]>,
    width: u16,
    state: State,
    /// The catalog is believed when it shows this transaction, which has described the table.
    after: Option<Commit>,
    /// What did not fit when the catalog was asked again.
    misfits: Vec<(usize, usize)>,
    /// Which description it is, in the order of the stream.
    order: u64,
}

#[derive(Debug)]
enum State {
    /// The catalog has not been asked.
    Described,
    /// Nobody wants it.
    Unwanted,
    /// Ready for changes; `made`: there are types in it that somebody has made, and may change.
    Known { schema: SchemaId, composites: Vec<Composite>, made: bool },
}

/// What a change needs to know of its table.
#[derive(Debug)]
pub(super) enum Lookup<'a> {
    /// To be left out.
    Unwanted,
    /// To be taken in.
    Known(Known<'a>),
    /// The catalog has to be asked first.
    Ask,
    /// The stream has never described it.
    Undescribed,
}

/// A table that is ready.
#[derive(Debug)]
pub(super) struct Known<'a> {
    pub(super) schema: SchemaId,
    pub(super) width: u16,
    pub(super) composites: &'a [Composite],
}

impl Relations {
    /// Takes a description in; the old one of the same table is void.
    pub(super) fn describe(&mut self, relation: &Relation<'_>, message: &[u8], within: Option<Commit>) {
        let (width, order) = (relation.width(), self.next_order());
        let (state, message) = (State::Described, message.into());
        let entry = Entry { message, width, state, after: within, misfits: Vec::new(), order };
        self.entries.insert(relation.id, entry);
    }

    /// The place of another description, within an open transaction.
    pub(super) fn next_order(&mut self) -> u64 {
        self.described += 1;
        self.described
    }

    /// What a table is that has this very description and was looked up: its schema version, none when nobody wants it.
    pub(super) fn settled(&self, id: u32, message: &[u8]) -> Option<(Option<SchemaId>, &[Composite])> {
        let entry = self.entries.get(&id).filter(|entry| *entry.message == *message)?;
        match &entry.state {
            State::Described => None,
            State::Unwanted => Some((None, &[])),
            State::Known { schema, composites, .. } => Some((Some(*schema), composites)),
        }
    }

    /// Takes over a description from a transaction that has committed, unless a later one is there. When it is
    /// `new`, the catalog is asked at its next change, as for any. Gives whether it was taken over.
    pub(super) fn take_over(
        &mut self,
        id: u32,
        message: &Arc<[u8]>,
        width: u16,
        (order, new, commit): (u64, bool, Commit),
    ) -> bool {
        let known = self.entries.get(&id);
        if known.is_some_and(|known| known.order > order || (!new && known.message == *message)) {
            return false;
        }
        let message = Arc::clone(message);
        let (state, after) = (State::Described, Some(commit));
        self.entries.insert(id, Entry { message, width, state, after, misfits: Vec::new(), order });
        true
    }

    pub(super) fn find(&self, id: u32) -> Lookup<'_> {
        let Some(entry) = self.entries.get(&id) else { return Lookup::Undescribed };
        match &entry.state {
            State::Described => Lookup::Ask,
            State::Unwanted => Lookup::Unwanted,
            State::Known { schema, composites, .. } => {
                Lookup::Known(Known { schema: *schema, width: entry.width, composites })
            }
        }
    }

    /// The Relation message of a table, and the transaction that has to be seen when it is looked up.
    pub(super) fn message(&self, id: u32) -> Option<(Arc<[u8]>, Option<Commit>)> {
        self.entries.get(&id).map(|entry| (Arc::clone(&entry.message), entry.after))
    }

    /// What the catalog said; `None` when nobody wants the table.
    pub(super) fn settle(&mut self, id: u32, schema: Option<&Schema>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.state = match schema {
            None => State::Unwanted,
            Some(schema) => {
                let mut composites = composite::columns(schema);
                for (column, fields) in &entry.misfits {
                    composite::accept(&mut composites, *column, *fields);
                }
                let made = schema.columns.iter().any(|column| column.ty.oid >= FIRST_MADE);
                State::Known { schema: schema.id, composites, made }
            }
        };
    }

    /// What the catalog said is not what the stream stands at: it is asked again at the next transaction.
    pub(super) fn doubt_later(&mut self, id: u32) {
        self.unsure.push(id);
    }

    /// Likewise of all.
    pub(super) fn doubt_all_later(&mut self) {
        self.unsure = self.entries.keys().copied().collect();
    }

    /// The next transaction begins.
    pub(super) fn look_again(&mut self) {
        for id in std::mem::take(&mut self.unsure) {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.state = State::Described;
            }
        }
    }

    /// A type has changed, which may be one of theirs: the catalog has to be asked again.
    pub(super) fn doubt_types(&mut self) {
        for entry in self.entries.values_mut() {
            if matches!(entry.state, State::Known { made: true, .. }) {
                entry.state = State::Described;
            }
        }
    }

    /// A value has another number of fields than its type: the catalog has to be asked again.
    pub(super) fn doubt(&mut self, id: u32, misfit: (usize, usize), within: Commit) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.after = Some(within);
            // Of each column the newest: several can have been changed since.
            entry.misfits.retain(|(column, _)| *column != misfit.0);
            entry.misfits.push(misfit);
            entry.state = State::Described;
        }
    }
}
