//! What is told of the tables that are left.

use rowcast_engine::journal::Journal;
use rowcast_engine::snapshots::{Shown, State};
use rowcast_engine::status::Status;

use super::Desk;
use crate::snapshot::job::{Job, Jobs, Since, note_of};

/// Tells what the journal's notes want, before anybody reads it. Whoever waits until nothing is left must not find
/// nothing because the source has just been started, or is away.
pub fn show_left(journal: &Journal, status: &Status) {
    // Notes that cannot be read are told by those who are to read the tables.
    let Ok(jobs) = Jobs::read(&journal.notes()) else { return };
    let unlisted = jobs.all.iter().flat_map(|_| status.tables().into_keys());
    status.snapshots(|board| {
        for channel in unlisted {
            let note = note_of(&channel, &[]);
            board.entry(note).or_default().channel = channel;
        }
        for (note, job) in &jobs.tables {
            let shown = board.entry(note.clone()).or_default();
            describe(shown, job, (0, 0));
            shown.state = if job.paused { State::Paused } else { State::Waiting };
        }
    });
}

/// As its note says; rows and estimate may be known to be more.
fn describe(shown: &mut Shown, job: &Job, (rows, estimate): (u64, u64)) {
    shown.channel = job.channel();
    shown.rows = job.progress.rows.max(rows);
    shown.estimate = job.progress.estimate.max(shown.rows).max(estimate);
    shown.ad_hoc = job.ad_hoc;
    shown.sinks.clone_from(&job.sinks);
    shown.since = match job.since {
        Since::Event(id) if job.keyless => Some(id),
        _ => None,
    };
}

impl Desk {
    /// Brings the board up to date: what is not being read, and what is not wanted any more.
    pub(super) fn show(&mut self, jobs: &Jobs) {
        let Self { around, stops, failed, tables, .. } = self;
        around.status.snapshots(|board| {
            // Before all have been listed none is known to be unwanted. And a reading that has not ended has not said yet
            // how many rows there were.
            board.retain(|note, _| {
                jobs.all.is_some() || jobs.tables.contains_key(note) || tables.contains_key(note)
            });
            for (note, job) in &jobs.tables {
                let shown = board.entry(note.clone()).or_default();
                let is_read = stops.contains_key(note);
                let progress = &job.progress;
                // Of a table that is read in one piece the note says nothing before the end.
                let told = if is_read { (shown.rows, shown.estimate) } else { (0, 0) };
                describe(shown, job, told);
                if let Some(failure) = failed.get_mut(note) {
                    let before = failure.rows.replace(progress.rows).unwrap_or(progress.rows);
                    // Rows of a table that is read in one piece are not written yet, but they may be read again.
                    failure.lasting &= !is_read || shown.rows <= progress.rows;
                    if progress.rows > before {
                        failed.remove(note);
                    }
                }
                let failure = failed.get(note);
                // What the reader says of itself is newer than what has passed by itself.
                if let Some(failure) = failure.filter(|failure| !is_read || failure.lasting) {
                    shown.reason = Some(failure.failing.reason.clone());
                }
                shown.failing = failure.map(|failure| failure.failing.clone());
                if !is_read {
                    shown.rows_per_second = 0;
                }
                shown.state = match (job.paused, failure) {
                    (true, _) => State::Paused,
                    (false, Some(failure)) if failure.lasting => State::Failed,
                    (false, _) if is_read && shown.reason.is_none() => State::Reading,
                    (false, _) => State::Waiting,
                };
            }
        });
    }
}
