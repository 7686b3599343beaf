//! What a source keeps beside its events: JSON under a name, durable with the batch that changes it.
//!
//! Every segment begins with all notes that there are, so that any of them can be read when all older ones are gone.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use tokio::sync::watch;

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

    /// One of them.
    pub fn note_named(&self, name: &str) -> Option<Arc<[u8]>> {
        self.shared.locked_notes().get(name).cloned()
    }

    /// Whether there is one like this among them, by name and JSON. Holds up who changes notes.
    pub fn any_note(&self, mut is: impl FnMut(&str, &[u8]) -> bool) -> bool {
        self.shared.locked_notes().iter().any(|(name, json)| is(name, json))
    }

    /// Changes whenever notes have.
    pub fn note_changes(&self) -> watch::Receiver<u64> {
        self.shared.noted.subscribe()
    }

    /// Waits until a note that is durable, or gone, is what is waited for. Cancel safe.
    pub async fn noted(&self, name: &str, is: impl Fn(Option<&[u8]>) -> bool) -> Result<()> {
        let mut changes = self.note_changes();
        loop {
            changes.mark_unchanged();
            if is(self.note_named(name).as_deref()) {
                return Ok(());
            }
            changes.changed().await.map_err(|_| gone())?;
        }
    }
}

impl Shared {
    fn locked_notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn notes(&self) -> Notes {
        self.locked_notes().clone()
    }

    /// What has become durable.
    pub(crate) fn note(&self, changed: Vec<Note>) {
        if !changed.is_empty() {
            let mut notes = self.locked_notes();
            changed.into_iter().for_each(|note| apply(&mut notes, note));
            drop(notes);
            self.noted.send_modify(|count| *count += 1);
        }
    }
}
