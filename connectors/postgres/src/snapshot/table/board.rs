//! What is said of a table that is being read.

use std::time::Instant;

use rowcast_engine::status::Status;

use super::Reading;
use crate::snapshot::job::Job;

impl Reading {
    pub(super) fn finish(&self, rows: u64) {
        let took = self.started.elapsed();
        tracing::info!(
            table = self.job.channel(),
            sinks = self.job.sinks.join(" "),
            rows,
            seconds = took.as_secs_f64(),
            "The snapshot of a table is done"
        );
        if self.job.sinks.is_empty() {
            self.around.status.note_read(&self.job.channel(), rows);
        }
    }

    /// Brings the board up to date.
    pub(super) fn note(&mut self, rows: u64) {
        metrics::counter!("rowcast_snapshot_rows_total")
            .increment(rows.saturating_sub(self.job.progress.rows));
        self.tell(rows, self.job.progress.estimate);
    }

    /// How far it has come, whether or not that is written.
    pub(super) fn tell(&mut self, rows: u64, estimate: u64) {
        self.unseen_since = None;
        let rate = self.pace.note(Instant::now(), rows);
        self.around.status.snapshots(|board| {
            let shown = board.entry(self.job.note()).or_default();
            (shown.rows, shown.estimate, shown.reason) = (rows, estimate.max(rows), None);
            shown.rows_per_second = rate;
            if self.anew_since.is_none() && self.waiting.is_none() {
                shown.still = None;
            }
        });
    }

    /// A table that begins anew again and again may never end.
    pub(super) fn too_much_changed(&mut self) {
        self.beginnings += 1;
        let (table, times) = (self.job.channel(), self.beginnings);
        tracing::warn!(table, times, "The snapshot of a table begins anew: too much of it has changed");
        if times >= BEGINNINGS_MAX {
            let since = *self.anew_since.get_or_insert_with(Instant::now);
            self.stands_still(since, &format!("it has begun anew {times} times, since more of it has changed than can be kept (rows that get other keys). Have it read while less is changed: rowcast snapshot {table} --pause, and --resume"));
        }
    }

    /// Keys that are read again and wait again, no fewer of them than before, may do so for ever.
    pub(super) fn note_waiting(&mut self) {
        let count = self.job.progress.again.len();
        if count == 0 || !self.settles_first() {
            self.waiting = None;
            return;
        }
        let Some((_, since)) = self.waiting.filter(|(least, _)| *least <= count) else {
            // The first of them, or fewer than ever: that is no trouble yet.
            self.waiting = Some((count, Instant::now()));
            return;
        };
        let table = self.job.channel();
        self.stands_still(since, &format!("{count} rows that were updated while they were read are read again, and updated again. Have them read while less is changed: rowcast snapshot {table} --pause, and --resume"));
    }

    /// It does not get on: where that lasts for a minute, health says so.
    pub(super) fn stands_still(&self, since: Instant, reason: &str) {
        self.around.status.snapshots(|board| {
            if let Some(shown) = board.get_mut(&self.job.note()) {
                shown.still = Some((since, reason.to_owned()));
            }
        });
    }

    pub(super) fn say(&self, reason: Option<&str>) {
        say(&self.around.status, &self.job, reason);
    }
}

/// A table that begins anew so often is told to whoever looks after it: it may never end.
const BEGINNINGS_MAX: u32 = 3;

/// Puts on the board what a table waits for.
pub(super) fn say(status: &Status, job: &Job, reason: Option<&str>) {
    status.snapshots(|board| {
        if let Some(shown) = board.get_mut(&job.note()) {
            shown.reason = reason.map(str::to_owned);
            if reason.is_some() {
                shown.rows_per_second = 0;
            }
        }
    });
}
