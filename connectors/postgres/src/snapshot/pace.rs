//! How fast rows come: over the last seconds, since what was long ago tells nobody how long it will take.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So far back.
const OVER: Duration = Duration::from_secs(5);

/// Counts with their times; a few more than fit into [`OVER`] at the shortest chunks.
const COUNTS: usize = 1_000;

#[derive(Debug)]
pub(super) struct Pace(VecDeque<(Instant, u64)>);

impl Pace {
    pub(super) fn new(now: Instant, rows: u64) -> Self {
        Self(VecDeque::from([(now, rows)]))
    }

    /// There are so many rows now; gives how many came a second.
    pub(super) fn note(&mut self, now: Instant, rows: u64) -> u64 {
        if self.0.back().is_some_and(|(_, before)| *before > rows) {
            // It began anew.
            self.0.clear();
        }
        self.0.push_back((now, rows));
        let is_old = |(at, _): &(Instant, u64)| now.duration_since(*at) >= OVER;
        while self.0.len() > COUNTS || self.0.get(1).is_some_and(is_old) {
            self.0.pop_front();
        }
        let Some((at, before)) = self.0.front() else { return 0 };
        let seconds = now.duration_since(*at).as_secs_f64().max(0.001);
        ((rows - before) as f64 / seconds) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_long_ago_does_not_count() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(start, 100);
        assert_eq!(pace.note(at(2), 300), 100);
        assert_eq!(pace.note(at(4), 700), 150);
        // Five seconds and more ago: those before the newest such count are forgotten.
        assert_eq!(pace.note(at(9), 750), 10);
        assert_eq!(pace.note(at(100), 841), 1);
        assert_eq!(pace.note(at(101), 0), 0);
        for rows in 0..5_000 {
            pace.note(at(101), rows);
        }
        assert!(pace.0.len() <= COUNTS);
    }
}
