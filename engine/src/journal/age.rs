//! How long ago something was, whatever becomes of the clock that people set.

use std::time::{Duration, Instant};

use crate::event::Micros;

/// The age of something, which grows with the time that passes. The clock is asked once, so that one that is set forward
/// makes nothing old, and one that was ahead keeps nothing young.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Age {
    known: Duration,
    since: Instant,
}

impl Age {
    /// Of what was `at` some time before `now`; by a clock that was ahead then, just now.
    pub(crate) fn of(at: Micros, now: Micros) -> Self {
        let known = u64::try_from(now.saturating_sub(at)).unwrap_or(0);
        Self { known: Duration::from_micros(known), since: Instant::now() }
    }

    pub(crate) fn so_far(self) -> Duration {
        self.known.saturating_add(self.since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::segment::{Segment, SegmentHeader};
    use crate::lsn::Lsn;

    const DAY: Micros = 86_400_000_000;
    const NOW: Micros = 20_000 * DAY;

    fn segment() -> Segment {
        Segment::new(SegmentHeader::default(), std::path::PathBuf::new(), 0, Lsn::ZERO)
    }

    #[test]
    fn what_has_been_closed_a_moment_ago_is_young_whatever_the_clock_says_later() {
        let segment = segment();
        assert_eq!(segment.age(), None);
        // The clock stood ten years behind, and has been set since.
        segment.close(NOW - 3650 * DAY);
        assert!(segment.age().unwrap() < Duration::from_secs(60));
    }

    #[test]
    fn what_is_found_is_as_old_as_the_clock_says_and_never_younger_than_nothing() {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let segment = segment();
        segment.close_before(NOW - 3 * DAY, NOW);
        assert!((days(3)..days(4)).contains(&segment.age().unwrap()));
        segment.close_before(NOW + 30 * DAY, NOW);
        assert!(segment.age().unwrap() < days(1));
        let before = segment.age().unwrap();
        std::thread::sleep(Duration::from_millis(2));
        assert!(segment.age().unwrap() > before, "it ages");
    }
}
