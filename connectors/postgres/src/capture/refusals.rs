//! How often messages are refused. Every role may send them, ten million in a transaction: each is counted and told as an
//! event, the log has a line of each reason now and then.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// Between two lines of one reason.
const EVERY: Duration = Duration::from_secs(60);

/// What has been said, by its reason; there are about ten of them.
#[derive(Debug, Default)]
pub(super) struct Refusals(HashMap<&'static str, Said>);

#[derive(Debug)]
struct Said {
    at: Instant,
    /// Since then, without a line.
    unsaid: u64,
}

impl Refusals {
    /// Counts one. Where it is to have a line in the log: how many have had none since the line before.
    pub(super) fn note(&mut self, reason: &'static str) -> Option<u64> {
        metrics::counter!("rowcast_source_rejected_messages_total").increment(1);
        self.note_at(reason, Instant::now())
    }

    fn note_at(&mut self, reason: &'static str, now: Instant) -> Option<u64> {
        let Some(said) = self.0.get_mut(reason) else {
            self.0.insert(reason, Said { at: now, unsaid: 0 });
            return Some(0);
        };
        if now.duration_since(said.at) < EVERY {
            said.unsaid += 1;
            return None;
        }
        said.at = now;
        Some(std::mem::take(&mut said.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_each_reason_a_minute() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        assert_eq!(refusals.note_at("a", start), Some(0));
        for _ in 0..1000 {
            assert_eq!(refusals.note_at("a", start + EVERY / 2), None);
        }
        assert_eq!(refusals.note_at("b", start + EVERY / 2), Some(0));
        assert_eq!(refusals.note_at("a", start + EVERY), Some(1000));
        assert_eq!(refusals.note_at("a", start + EVERY), None);
        assert_eq!(refusals.note_at("a", start + EVERY * 3), Some(1));
    }
}
