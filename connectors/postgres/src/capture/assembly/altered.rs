//! Types that change, of which the stream itself says nothing.

use super::Assembly;
use crate::snapshot::visible::Commit;

/// Those that nobody sees yet are waited for; more than one is rare, and then they follow each other.
const MAX_ALTERED: usize = 100;

impl Assembly {
    /// The name of the slot that is read.
    pub(in crate::capture) fn slot(&self) -> &str {
        &self.identity.slot
    }

    /// A transaction that has committed has changed a type: whatever may have it is looked up anew.
    pub(in crate::capture) fn note_altered(&mut self, commit: Commit) {
        if self.altered.len() >= MAX_ALTERED {
            self.altered.remove(0);
        }
        self.altered.push(commit);
        self.relations.doubt_types();
        self.streams.doubt_descriptions();
    }
}
