//! Whose turn it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::Desk;
use crate::snapshot::job::{Job, Jobs};
use crate::snapshot::wishes;

impl Desk {
    /// Those whose turn it is, in their order, one of each table: tables with rows come when those without are done with.
    pub(super) fn ready(&mut self, jobs: Jobs) -> Vec<(String, Job)> {
        let before = wishes::before_others(&jobs);
        let mut taken: BTreeSet<String> = self.tables.values().cloned().collect();
        let now = Instant::now();
        let may = |note: &String, job: &Job| {
            !job.paused
                && self.failed.get(note).is_none_or(|failure| failure.again <= now)
                && before.get(&job.channel()).is_none_or(|first| first == note)
        };
        // One whose table is being read for somebody else holds nobody up.
        let begins =
            |note: &String, job: &Job| self.stops.contains_key(note) || !taken.contains(&job.channel());
        let first: BTreeSet<u64> = jobs
            .tables
            .iter()
            .filter(|(note, job)| job.rowless && may(note, job) && begins(note, job))
            .map(|(_, job)| job.snapshot)
            .collect();
        let is_ready = |(note, job): &(String, Job)| {
            may(note, job)
                && !self.stops.contains_key(note)
                && (job.rowless || !first.contains(&job.snapshot))
        };
        let mut ready: Vec<_> = jobs.tables.into_iter().filter(is_ready).collect();
        self.hold_back(&mut ready);
        ready.sort_by_key(|(_, job)| (job.snapshot, !job.rowless, !job.keyless, job.place));
        ready.retain(|(_, job)| taken.insert(job.channel()));
        ready
    }

    /// Takes those out whose sinks are far behind, and says so, until they have come by: others are read meanwhile.
    fn hold_back(&mut self, ready: &mut Vec<(String, Job)>) {
        // Thousands of tables are for the same ones.
        let mut known: BTreeMap<Vec<String>, Option<String>> = BTreeMap::new();
        let mut held = BTreeMap::new();
        ready.retain(|(note, job)| {
            let crowded =
                known.entry(job.sinks.clone()).or_insert_with(|| self.around.journal.crowded_for(&job.sinks));
            if let Some(reason) = crowded {
                held.insert(note.clone(), reason.clone());
            }
            crowded.is_none()
        });
        if held.is_empty() && self.held_back.is_empty() {
            return;
        }
        let before = std::mem::take(&mut self.held_back);
        self.around.status.snapshots(|board| {
            for (note, shown) in board.iter_mut() {
                if let Some(reason) = held.remove(note) {
                    shown.reason = Some(reason);
                    self.held_back.insert(note.clone());
                } else if before.contains(note) && !self.stops.contains_key(note) {
                    shown.reason = None;
                }
            }
        });
    }
}
