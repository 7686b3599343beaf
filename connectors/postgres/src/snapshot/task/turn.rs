//! Whose turn it is.

use std::collections::BTreeSet;
use std::time::Instant;

use super::Desk;
use crate::snapshot::job::{Job, Jobs};
use crate::snapshot::table::say;
use crate::snapshot::wishes;

impl Desk {
    /// Those whose turn it is, in their order, one of each table: tables with rows come when those without are done with.
    pub(super) fn ready(&self, jobs: Jobs) -> Vec<(String, Job)> {
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
                && self.finds_sinks_near(job)
        };
        let mut ready: Vec<_> = jobs.tables.into_iter().filter(is_ready).collect();
        ready.sort_by_key(|(_, job)| (job.snapshot, !job.rowless, !job.keyless, job.place));
        ready.retain(|(_, job)| taken.insert(job.channel()));
        ready
    }

    /// Whether the sinks that rows are for have come by with what is there; what they lack is said. Until then others are
    /// read.
    fn finds_sinks_near(&self, job: &Job) -> bool {
        let crowded = self.around.journal.crowded_for(&job.sinks);
        if let Some(reason) = &crowded {
            say(&self.around.status, job, Some(reason));
        }
        crowded.is_none()
    }
}
