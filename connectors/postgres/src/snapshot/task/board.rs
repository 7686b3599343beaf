//! What is told of the tables that are left.

use std::collections::BTreeMap;

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
    shown.condition_bytes = job.condition_bytes();
    shown.sinks.clone_from(&job.sinks);
    shown.since = match job.since {
        Since::Event(id) if job.keyless => Some(id),
        _ => None,
    };
}

/// Takes those out that are not left. Gives the ones that have been read, for everybody, with their rows: who had read them
/// may have ended with the connection, before he could say so. What was not read to its end somebody has cancelled.
fn take_ended(board: &mut BTreeMap<String, Shown>, left: impl Fn(&String) -> bool) -> Vec<(String, u64)> {
    let gone = board.extract_if(.., |note, _| !left(note));
    let of_all = gone.filter(|(_, shown)| shown.sinks.is_empty());
    of_all.filter_map(|(_, shown)| Some((shown.channel, shown.whole?))).collect()
}

impl Desk {
    /// Brings the board up to date: what is not being read, and what is not wanted any more.
    pub(super) fn show(&mut self, jobs: &Jobs) {
        let Self { around, stops, failed, tables, .. } = self;
        let mut ended = Vec::new();
        around.status.snapshots(|board| {
            // Before all have been listed none is known to be unwanted. And a reading that has not ended has not said yet
            // how many rows there were.
            let left = |note: &String| {
                jobs.all.is_some() || jobs.tables.contains_key(note) || tables.contains_key(note)
            };
            ended = take_ended(board, left);
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
        ended.iter().for_each(|(channel, rows)| around.status.note_read(channel, *rows));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_to_its_end_has_not_been_cancelled() {
        let shown = |channel: &str, sinks: &[&str], whole| Shown {
            channel: channel.to_owned(),
            sinks: sinks.iter().map(ToString::to_string).collect(),
            whole,
            ..Shown::default()
        };
        let mut board = BTreeMap::from([
            ("a".to_owned(), shown("public.read", &[], Some(7))),
            ("b".to_owned(), shown("public.cancelled", &[], None)),
            ("c".to_owned(), shown("public.of_a_sink", &["s"], Some(7))),
            ("d".to_owned(), shown("public.left", &[], Some(7))),
        ]);
        assert_eq!(take_ended(&mut board, |note| note == "d"), [("public.read".to_owned(), 7)]);
        assert_eq!(board.into_keys().collect::<Vec<_>>(), ["d"]);
    }
}
