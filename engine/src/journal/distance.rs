//! How far apart positions are.

use crate::error::Result;
use crate::event::Micros;
use crate::journal::{Journal, Read};

impl Journal {
    /// Events held here with numbers above `after` and not above `to`. Numbers alone do not say: some were never given.
    pub fn count(&self, after: u64, to: u64) -> u64 {
        let segments = self.shared.segments.load();
        let within = segments.iter().filter(|segment| segment.events() > 0).map(|segment| {
            let (first, last) = (segment.header.base.max(after.saturating_add(1)), segment.last().min(to));
            (last + 1).saturating_sub(first)
        });
        within.sum()
    }

    /// Commit time of the first event held after `after`; `None` when there is none. Blocks on the disk.
    pub fn waiting_since(&self, after: u64) -> Result<Option<Micros>> {
        let mut position = after;
        loop {
            match self.read(position)? {
                Read::Batches(batches) => return Ok(batches.first().map(|batch| batch.header().time_min)),
                Read::Gone(gone) => position = gone.to,
                Read::AtHead => return Ok(None),
            }
        }
    }
}
