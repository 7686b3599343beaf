//! Reading late, which makes a backlog come faster. Whoever has caught up does not: somebody may be waiting for what
//! comes next.

use std::time::Duration;

use metrics::Counter;
use rowcast_engine::event::Micros;

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

/// The naps that were taken.
pub(super) struct Naps(Counter);

impl Naps {
    pub(super) fn new() -> Self {
        Self(metrics::counter!("rowcast_source_naps_total"))
    }

    /// The thread sleeps, not the task: a sleeping task's runtime is woken by each packet that arrives (seen: 25 times a
    /// nap), which is the very cost that the nap is to save. The thread is capture's own.
    pub(super) fn take(&self, nap: Duration) {
        self.0.increment(1);
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
}
