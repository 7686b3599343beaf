//! Tables of which not all rows were read, where that is all that is wanted (`source.snapshot = "only"`): whoever has a
//! database copied must not take what there is for all of it, also behind a restart. Notes of the journal.

use std::collections::BTreeMap;

use rowcast_engine::Error;
use rowcast_engine::journal::Journal;

use super::job::{self, Job};
use super::task::Surroundings;
use crate::config::SnapshotMode;

/// Before the channel in the name of a note, which says why.
const PREFIX: &str = "not read ";

/// Each reading has its own: a table can be wanted for everybody, and for some sinks.
fn name_of(channel: &str, sinks: &[String]) -> String {
    match sinks {
        [] => format!("{PREFIX}{channel}"),
        sinks => format!("{PREFIX}{channel} for {}", sinks.join(" ")),
    }
}

impl Surroundings {
    /// The note that says so of a table, where reading is all that is wanted, or was when it could not be read before.
    pub(super) fn unread(&self, channel: &str, sinks: &[String], why: &str) -> Option<(String, Vec<u8>)> {
        let name = name_of(channel, sinks);
        let is_wanted =
            self.source.snapshot == SnapshotMode::Only || self.journal.note_named(&name).is_some();
        let why = job::json(&why).ok().filter(|_| is_wanted)?;
        Some((name, why))
    }
}

/// The note that goes when all rows of a table have been read after all, where there is one.
pub(crate) fn read(journal: &Journal, job: &Job) -> Option<String> {
    let name = name_of(&job.channel(), &job.sinks);
    (job.condition.is_none() && journal.note_named(&name).is_some()).then_some(name)
}

/// What is noted where a table is going to be read for everybody: sinks for which it could not be read have its rows with
/// that, or with none.
pub(super) fn for_everybody(journal: &Journal, job: &Job) -> Vec<(String, Vec<u8>)> {
    let everybody = name_of(&job.channel(), &[]);
    let of_sinks = format!("{everybody} for ");
    if job.condition.is_some() || !journal.any_note(|name, _| name.starts_with(&of_sinks)) {
        return Vec::new();
    }
    let notes = journal.notes();
    let of_sinks = notes.iter().filter(|(name, _)| name.starts_with(&of_sinks));
    of_sinks.flat_map(|(name, why)| [(name.clone(), Vec::new()), (everybody.clone(), why.to_vec())]).collect()
}

/// What is missing, behind the end of all that was to be read; none where all was.
pub fn not_all_read(journal: &Journal) -> Option<Error> {
    let notes = journal.notes();
    let missing: BTreeMap<&str, String> = notes
        .iter()
        .filter_map(|(name, why)| {
            Some((name.strip_prefix(PREFIX)?, serde_json::from_slice(why).unwrap_or_default()))
        })
        .collect();
    if missing.is_empty() {
        return None;
    }
    let told: Vec<String> = missing.iter().map(|(channel, why)| format!("{channel} {why}")).collect();
    let hint = "Mend that, then begin anew in an empty data directory; or have the rest read: start with source.snapshot = \
                \"never\", and `rowcast snapshot TABLE`";
    Some(Error::failed(format!("Not all was read: {}", told.join("; "))).hint(hint))
}
