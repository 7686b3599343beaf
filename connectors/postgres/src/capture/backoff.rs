//! How long to wait before connecting again.

use std::time::Duration;

use rand::Rng;

/// The first wait is drawn from zero to this: a server that was only restarted is back in moments.
const FIRST: Duration = Duration::from_millis(500);

/// No wait is longer, so that a source that comes back is noticed within the minute.
const LONGEST: Duration = Duration::from_secs(30);

/// Doubles up to a bound, with full jitter, so that many clients do not come back in the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    ceiling: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { ceiling: FIRST }
    }

    /// To be called on progress only: a connection that breaks again at once is no progress.
    pub(super) fn reset(&mut self) {
        self.ceiling = FIRST;
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

    #[test]
    fn grows_to_its_bound_and_starts_over() {
        let mut backoff = Backoff::new();
        for _ in 0..20 {
            assert!(backoff.next() <= LONGEST);
        }
        assert_eq!(backoff.ceiling, LONGEST);
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
