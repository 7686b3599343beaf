//! What a source keeps beside its events: JSON under a name, durable with the batch that changes it.
//!
//! Every segment begins with all notes that there are, so that any of them can be read when all older ones are gone.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use crate::error::Result;
use crate::journal::{Journal, Shared, gone};
use crate::record::Note;

/// All notes by name.
pub(crate) type Notes = BTreeMap<String, Arc<[u8]>>;

/// Takes in what a batch says: empty JSON removes a note.
pub(crate) fn apply(notes: &mut Notes, (name, json): Note) {
    if json.is_empty() {
        notes.remove(&name);
    } else {
        notes.insert(name, json);
    }
}

impl Journal {
    /// The source's notes that are durable, JSON by name.
    pub fn notes(&self) -> BTreeMap<String, Arc<[u8]>> {
        self.shared.notes()
    }

    /// Waits until a note that is durable, or gone, is what is waited for. Cancel safe.
    pub async fn noted(&self, name: &str, is: impl Fn(Option<&[u8]>) -> bool) -> Result<()> {
        let mut changes = self.shared.noted.subscribe();
        loop {
            changes.mark_unchanged();
            if is(self.shared.notes().get(name).map(AsRef::as_ref)) {
                return Ok(());
            }
            changes.changed().await.map_err(|_| gone())?;
        }
    }
}

impl Shared {
    pub(crate) fn notes(&self) -> Notes {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What has become durable.
    pub(crate) fn note(&self, changed: Vec<Note>) {
        if !changed.is_empty() {
            let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
            changed.into_iter().for_each(|note| apply(&mut notes, note));
            drop(notes);
            self.noted.send_modify(|count| *count += 1);
        }
    }
}
