//! Tables that have taken each other's names, while they were to be read.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::Reading;
use crate::snapshot::job::{Job, Progress};
use crate::snapshot::server::name_of;
use crate::snapshot::task::Surroundings;

/// So many names may have gone round.
const RING_MAX: usize = 100;

/// As long as it is there rows of a table may be on their way into the journal, with its note.
pub(super) struct Busy(Arc<Mutex<BTreeSet<String>>>, String);

fn all(busy: &Mutex<BTreeSet<String>>) -> MutexGuard<'_, BTreeSet<String>> {
    busy.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Busy {
    pub(super) fn with(around: &Surroundings, note: String) -> Self {
        all(&around.busy).insert(note.clone());
        Self(Arc::clone(&around.busy), note)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        all(&self.0).remove(&self.1);
    }
}

impl Reading {
    /// The notes by which this table is read under the name that it has now, and the one that is noted there under that which
    /// it has, and so on, until one has a name under which nothing is to be read, or that of this one. `None` where that cannot be
    /// done at once: of one of them rows have been told, or are on their way.
    pub(super) async fn gone_round(
        &self,
        client: &Client,
        renamed: Job,
    ) -> Result<Option<Vec<(String, Vec<u8>)>>> {
        let (mut notes, mut next) = (Vec::new(), renamed);
        loop {
            let note = next.note();
            notes.push((note.clone(), next.json()?));
            if note == self.job.note() {
                return Ok(Some(notes));
            }
            let noted = self.around.journal.note_named(&note);
            let Some(other) = noted.and_then(|noted| serde_json::from_slice::<Job>(&noted).ok()) else {
                return Ok(Some(notes));
            };
            let Progress { relation, history, ref cursor, rows, .. } = other.progress;
            if relation == 0 || relation == next.progress.relation {
                // Who is to have its rows has them by that.
                notes.pop();
                return Ok(Some(notes));
            }
            let is_told = cursor.is_some() || rows > 0 || all(&self.around.busy).contains(&note);
            if is_told || history != self.around.history || notes.len() > RING_MAX {
                return Ok(None);
            }
            let Some((schema, table)) = name_of(client, relation).await? else { return Ok(None) };
            let progress = Progress { relation, history, ..Progress::default() };
            next = Job { schema, table, progress, ..other };
        }
    }
}
