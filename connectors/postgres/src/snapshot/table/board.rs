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
        let rate = self.pace.note(Instant::now(), rows);
        let estimate = self.job.progress.estimate;
        self.around.status.snapshots(|board| {
            let shown = board.entry(self.job.note()).or_default();
            (shown.rows, shown.estimate, shown.reason) = (rows, estimate.max(rows), None);
            shown.rows_per_second = rate;
        });
    }

    pub(super) fn say(&self, reason: Option<&str>) {
        say(&self.around.status, &self.job, reason);
    }
}

/// Puts on the board what a table waits for.
pub(super) fn say(status: &Status, job: &Job, reason: Option<&str>) {
    status.snapshots(|board| {
        if let Some(shown) = board.get_mut(&job.note()) {
            shown.reason = reason.map(str::to_owned);
        }
    });
}
