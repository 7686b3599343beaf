//! Whether somebody who could write much at any time, such as a snapshot, should wait for the push doors.

use crate::journal::{Journal, retention};

/// A door that is further behind than this has enough to do.
const BEHIND_MAX: u64 = 1 << 30;

impl Journal {
    /// Why, if so: a door that moves lacks more than a gigabyte, or more than half of what the journal may take. What
    /// nobody needs does not count, since retention takes it.
    pub fn crowded(&self) -> Option<String> {
        self.crowded_for(&[])
    }

    /// Likewise, where what is to be written is for these doors alone: they are waited for also while nobody works on
    /// them, since it would only lie here.
    pub fn crowded_for(&self, doors: &[String]) -> Option<String> {
        let limit = BEHIND_MAX.min(retention::max_size(&self.shared) / 2);
        let segments = self.shared.segments.load();
        self.shared.holds.moving(doors).into_iter().find_map(|(door, above)| {
            let lacking = segments.iter().filter(|segment| segment.last() > above);
            let bytes: u64 = lacking.map(|segment| segment.stored()).sum();
            (bytes > limit).then(|| format!("the sink {door} is {} MB behind", bytes >> 20))
        })
    }
}
