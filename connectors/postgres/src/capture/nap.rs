//! Reading late: it makes a backlog come faster, and transactions that come densely cost less. Whoever has caught up with
//! a slower stream does not: somebody may be waiting for what comes next.

use std::time::Duration;

use metrics::Counter;
use rowcast_engine::event::Micros;
use tokio::time::Instant;

/// A client that reads late makes the server's sends larger and thereby several times as fast, over TCP: with the
/// window closed its kernel gathers small messages into large segments. Long enough to close the window by single rows,
/// and for many to gather behind it.
const TCP: Duration = Duration::from_millis(8);

/// What is worth a read without a nap: half of what the receive buffer holds on one machine, so that what has gathered
/// is taken at once. In bytes.
const WORTH_READING: u64 = 64 * 1024;

/// Over a Unix socket the server stands still when the socket is full, so only as long as it takes to fill.
const UNIX: Duration = Duration::from_micros(100);

/// What was sent so long after its commit comes from a backlog; then reading late costs nobody anything. Larger than
/// a commit takes on its way, smaller than what a person notices.
const BEHIND: Micros = 20_000;

/// Whether what was `sent` had waited on the server since it was `committed`: there is a backlog.
pub(super) fn is_behind(sent: Micros, committed: Micros) -> bool {
    sent - committed > BEHIND
}

/// How late to read; `waiting` are the bytes that the kernel has over TCP.
pub(super) fn wanted(is_behind: bool, waiting: Option<u64>) -> Option<Duration> {
    match waiting {
        _ if !is_behind => None,
        Some(WORTH_READING..) => None,
        Some(_) => Some(TCP),
        None => Some(UNIX),
    }
}

/// Where transactions come densely, each gives up this time at most, so that others share its wake-ups, its write and its
/// sync. On a machine whose processors are busy with the transactions themselves that is half of what rowcast takes from
/// them (`docs/performance.md`).
pub(super) const GATHER: Duration = Duration::from_millis(4);

/// Transactions in a second from which on they are gathered: four and more in each such time.
const DENSE: u64 = 1000;

/// The pace is taken anew after this time: a burst does not count, and its end is soon noticed.
const LOOK: Duration = Duration::from_millis(100);

/// How densely transactions come.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    ended: u64,
    dense: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, ended: 0, dense: false }
    }

    /// `ended`: transactions so far.
    pub(super) fn is_dense(&mut self, ended: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        if passed >= LOOK {
            let passed = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
            self.dense = (ended - self.ended).saturating_mul(1000) >= DENSE.saturating_mul(passed);
            (self.since, self.ended) = (now, ended);
        }
        self.dense
    }
}

/// The naps that were taken.
pub(super) struct Naps {
    behind: Counter,
    dense: Counter,
}

impl Naps {
    pub(super) fn new() -> Self {
        Self {
            behind: metrics::counter!("rowcast_source_naps_total"),
            dense: metrics::counter!("rowcast_source_gathers_total"),
        }
    }

    /// The thread sleeps, not the task: a sleeping task's runtime is woken by each packet that arrives (seen: 25 times a
    /// nap), which is the very cost that the nap is to save. The thread is capture's own.
    pub(super) fn take(&self, nap: Duration) {
        if nap == GATHER { &self.dense } else { &self.behind }.increment(1);
        std::thread::sleep(nap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_backlog_is_read_late() {
        let committed = 1_795_000_000_000_000;
        for (waited, tcp, unix) in [
            (0, None, None),
            (BEHIND, None, None),
            (BEHIND + 1, Some(TCP), Some(UNIX)),
            (3_600_000_000, Some(TCP), Some(UNIX)),
            // A clock that was set back.
            (-1_000_000, None, None),
        ] {
            let behind = is_behind(committed + waited, committed);
            assert_eq!((wanted(behind, Some(0)), wanted(behind, None)), (tcp, unix), "{waited}");
            assert_eq!(wanted(behind, Some(WORTH_READING)), None, "what has gathered is taken at once");
        }
        assert!(!is_behind(0, 0), "before the first message");
    }

    #[test]
    fn transactions_are_gathered_while_they_come_densely() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        let at = |ms| begun + Duration::from_millis(ms);
        for (ms, ended, dense) in [
            (1, 90, false),
            // Less than a tenth of a second tells nothing.
            (99, 900, false),
            (100, 900, true),
            (150, 900, true),
            (200, 999, false),
            (300, 1099, true),
            (1000, 1798, false),
            (1100, 1898, true),
            (61_000, 1899, false),
        ] {
            assert_eq!(pace.is_dense(ended, at(ms)), dense, "after {ms} ms");
        }
    }
}
