//! How long to wait before connecting again.

use std::time::Duration;

use rand::Rng;

/// The first wait is drawn from zero to this: a server that was only restarted is back in moments.
const FIRST: Duration = Duration::from_millis(500);

/// No wait is longer, so that a source that comes back is noticed within the minute.
const LONGEST: Duration = Duration::from_secs(30);

/// A connection that lasted so long was no hot loop, even if nothing came over it.
const STEADY: Duration = Duration::from_secs(60);

/// Doubles up to a bound, with full jitter, so that many clients do not come back in the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    ceiling: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { ceiling: FIRST }
    }

    /// Starts over if the connection that has ended was of use: one that breaks again at once is not.
    pub(super) fn note_connection(&mut self, has_progressed: bool, lasted: Duration) {
        if has_progressed || lasted >= STEADY {
            self.ceiling = FIRST;
        }
    }

    pub(super) fn next(&mut self) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = (ceiling * 2).min(LONGEST);
        rand::rng().random_range(Duration::ZERO..=ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients that lost the same server do not come back together.
    #[test]
    fn waits_are_spread_over_all_that_they_may_be() {
        let mut backoff = Backoff { ceiling: LONGEST };
        let waits: Vec<_> = (0..400).map(|_| backoff.next()).collect();
        for quarter in 0..4 {
            let range = LONGEST / 4 * quarter..LONGEST / 4 * (quarter + 1);
            // A hundred are due; that none of 400 comes here has a chance of one in 10^49.
            assert!(waits.iter().any(|wait| range.contains(wait)), "{range:?}: {waits:?}");
        }
    }

    #[test]
    fn grows_to_its_bound_and_starts_over() {
        let mut backoff = Backoff::new();
        for _ in 0..20 {
            assert!(backoff.next() <= LONGEST);
        }
        assert_eq!(backoff.ceiling, LONGEST);
        backoff.note_connection(false, Duration::from_secs(1));
        assert_eq!(backoff.ceiling, LONGEST);
        backoff.note_connection(true, Duration::ZERO);
        assert!(backoff.next() <= FIRST);
    }
}
