//! Sinks that rows are for, and that are far behind.

use std::time::{Duration, Instant};

use rowcast_engine::Result;
use tokio::time::sleep;

use super::Reading;

/// Between two looks whether sinks have come by.
const CROWDED_PAUSE: Duration = Duration::from_millis(500);

/// For so long a reading keeps its place while it waits for them.
pub(super) const CROWDED_MAX: Duration = Duration::from_secs(10);

impl Reading {
    /// Waits for sinks that are far behind. False when that takes longer than `patience`: others, whose sinks are not, are
    /// read meanwhile.
    pub(super) async fn make_room(&mut self, patience: Duration) -> Result<bool> {
        let (mut told, begun) = (false, Instant::now());
        while let Some(reason) = self.around.journal.crowded_for(&self.job.sinks) {
            if self.stopped.is_stopped() {
                return Ok(true);
            }
            if begun.elapsed() > patience {
                return Ok(false);
            }
            self.close_early().await?;
            if !told {
                tracing::info!(table = self.job.channel(), "The snapshot waits: {reason}");
                told = true;
            }
            self.say(Some(&reason));
            sleep(CROWDED_PAUSE).await;
        }
        Ok(true)
    }
}
