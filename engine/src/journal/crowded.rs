//! Whether somebody who could write much at any time, such as a snapshot, should wait for the push doors.

use crate::journal::holds::WorkedOn;
use crate::journal::{Journal, retention};

/// A door that is further behind than this, and moves, has enough to do.
const BEHIND_MAX: u64 = 1 << 30;

/// How far behind a door may be. One that stands still may stand for days: others have their rows meanwhile. But none is
/// pushed beyond what the journal may take, where it would lose what it has not fetched.
fn behind_max(still: bool, max_size: u64) -> u64 {
    if still { max_size / 2 } else { BEHIND_MAX.min(max_size / 2) }
}

impl Journal {
    /// Why, if so: a door that somebody works on lacks more than half of what the journal may take, or, if it moves, more
    /// than a gigabyte. What nobody needs does not count, since retention takes it.
    pub fn crowded(&self) -> Option<String> {
        self.crowded_for(&[])
    }

    /// Likewise, where what is to be written is for these doors alone: they are waited for also while nobody works on
    /// them, since it would only lie here.
    pub fn crowded_for(&self, doors: &[String]) -> Option<String> {
        let max_size = self.max_size();
        let segments = self.shared.segments.load();
        self.shared.holds.worked_on(doors).into_iter().find_map(|WorkedOn { door, above, still }| {
            let lacking = segments.iter().filter(|segment| segment.last() > above);
            let bytes: u64 = lacking.map(|segment| segment.stored()).sum();
            let how = if still { ", and does not move" } else { "" };
            (bytes > behind_max(still, max_size))
                .then(|| format!("the sink {door} is {} MB behind{how}", bytes >> 20))
        })
    }

    /// Whether there is a push door that may be waited for. Where there is none, nothing holds back who writes much.
    pub fn waits_for_doors(&self) -> bool {
        !self.shared.holds.worked_on(&[]).is_empty()
    }

    /// What all segments together may take.
    pub fn max_size(&self) -> u64 {
        retention::max_size(&self.shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stands_still_is_waited_for_only_where_it_would_lose() {
        let large = 10 * BEHIND_MAX;
        assert_eq!((behind_max(false, large), behind_max(true, large)), (BEHIND_MAX, 5 * BEHIND_MAX));
        let small = BEHIND_MAX;
        assert_eq!((behind_max(false, small), behind_max(true, small)), (small / 2, small / 2));
    }
}
