//! Partitions whose changes come under the name of a root.

use rowcast_engine::schema::Identity;

use crate::pgoutput::Relation;

/// Tells them from other tables by the order of the stream: before a change of theirs come the root's description, right
/// behind it their own, and then the change, which is the root's. A table that has its own name is described before a change
/// of its own, or with others before a TRUNCATE of all of them.
#[derive(Debug, Default)]
pub(in crate::capture) struct Parts {
    /// The table that was described last, where its identity is FULL.
    full: Option<u32>,
    /// The one that was described last, of which only a key is logged of an old row, and the one right before it, which is FULL.
    keyed: Option<(u32, u32)>,
}

impl Parts {
    pub(in crate::capture) fn describe(&mut self, relation: &Relation<'_>) {
        let is_full = relation.identity == Identity::Full;
        let before = self.full.take().filter(|_| !is_full && has_key(relation));
        self.keyed = before.map(|root| (relation.id, root));
        self.full = is_full.then_some(relation.id);
    }

    /// A change of a table has come. Gives the partition that it is of, where that has just been described, only a key is logged
    /// of its old rows, and the table itself is FULL.
    pub(in crate::capture) fn change(&mut self, table: u32) -> Option<u32> {
        self.full = None;
        self.keyed.take().filter(|(_, root)| *root == table).map(|(part, _)| part)
    }

    /// Tables have been emptied: those that were described before it have their own names.
    pub(in crate::capture) fn truncate(&mut self) {
        *self = Self::default();
    }
}

/// Whether something is logged of an old row.
fn has_key(relation: &Relation<'_>) -> bool {
    relation.columns().any(|column| column.identity)
}
