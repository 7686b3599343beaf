//! The tables that the stream has described, strictly by OID.
//!
//! A description is looked up in the catalog at the first change that uses it: of a partition tree published
//! through its root the leaves are described too and never used.

mod parts;

use std::collections::HashMap;
use std::sync::Arc;

use rowcast_engine::schema::{Schema, SchemaId};

use super::composite::{self, Composite};
use crate::catalog::Attributes;
use crate::pgoutput::Relation;
use crate::snapshot::visible::Commit;
pub(super) use parts::Parts;

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
    parts: Parts,
    /// Partitions of which only a key is logged of an old row, with the root under whose name their changes come, which is FULL.
    keyed: HashMap<u32, u32>,
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
    misfits: Vec<Attributes>,
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

impl Entry {
    /// What did not fit before may fit now.
    fn doubt(&mut self) {
        self.misfits.clear();
        self.state = State::Described;
    }
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
        self.keyed.remove(&relation.id);
        self.parts.describe(relation);
        let (state, message) = (State::Described, message.into());
        let entry = Entry { message, width, state, after: within, misfits: Vec::new(), order };
        self.entries.insert(relation.id, entry);
    }

    /// A change of a table has come: it may be a partition's. What the root says of old rows is not what is logged of them.
    pub(super) fn note_change(&mut self, table: u32) {
        if let Some(part) = self.parts.change(table) {
            self.keyed.insert(part, table);
        }
    }

    /// Tables have been emptied.
    pub(super) fn note_truncate(&mut self) {
        self.parts.truncate();
    }

    /// Whether of a partition whose changes come under this name only a key is logged of an old row.
    pub(super) fn is_keyed(&self, id: u32) -> bool {
        self.keyed.values().any(|root| *root == id)
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

    /// Takes over from a transaction that has committed whether a table is such a partition, and of which root, unless a
    /// later description of it is there.
    pub(super) fn take_over_part(&mut self, id: u32, root: Option<u32>, order: u64) {
        if self.entries.get(&id).is_some_and(|known| known.order > order) {
            return;
        }
        let Some(root) = root else {
            self.keyed.remove(&id);
            return;
        };
        let was_known = self.is_keyed(root);
        self.keyed.insert(id, root);
        // What the catalog said of the root was said without that.
        if let Some(entry) = self.entries.get_mut(&root).filter(|_| !was_known) {
            entry.state = State::Described;
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

    /// What did not fit when the catalog was asked again.
    pub(super) fn misfits(&self, id: u32) -> Vec<Attributes> {
        self.entries.get(&id).map(|entry| entry.misfits.clone()).unwrap_or_default()
    }

    /// What the catalog said; `None` when nobody wants the table.
    pub(super) fn settle(&mut self, id: u32, schema: Option<&Schema>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.state = match schema {
            None => State::Unwanted,
            Some(schema) => {
                let mut composites = composite::columns(schema);
                for misfit in &entry.misfits {
                    composite::accept(&mut composites, *misfit);
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
                entry.doubt();
            }
        }
    }

    /// A type has changed, which may be one of theirs: the catalog has to be asked again.
    pub(super) fn doubt_types(&mut self) {
        for entry in self.entries.values_mut() {
            if matches!(entry.state, State::Known { made: true, .. }) {
                entry.doubt();
            }
        }
    }

    /// A value has another number of fields than its type: the catalog has to be asked again.
    pub(super) fn doubt(&mut self, id: u32, misfit: Attributes, within: Commit) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.after = Some(within);
            // Of each column the newest: several can have been changed since.
            entry.misfits.retain(|known| known.column != misfit.column);
            entry.misfits.push(misfit);
            entry.state = State::Described;
        }
    }
}
