//! `source.confirm = "sinks"` and `source.wal_budget` together. Before the slot is given up for what sinks lack, the server may forget what
//! the journal has: for as long, a lost disk costs what it costs by default. A slot that is dropped costs changes.

use rowcast_engine::Lsn;
use rowcast_engine::ingest::Ingest;
use rowcast_engine::status::Status;
use rowcast_engine::units::show_size;

use super::guard::rounded;
use crate::setup::slot::Observed;

/// Looks with the guard.
pub(super) struct Waiver {
    ingest: Ingest,
    status: Status,
    budget: Option<u64>,
}

/// What one look has shown, in bytes of the server's log.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// The server keeps so much for the slot, and would keep so much less if it were told what the journal has.
    kept: u64,
    held: u64,
    /// So far the sinks lie behind the journal; `None`: not known.
    behind: Option<u64>,
}

impl Seen {
    /// Before the budget is reached, since the slot goes there; and only where it helps.
    fn asks_for_it(&self, budget: u64) -> bool {
        self.kept > budget / 4 * 3
            && self.kept.saturating_sub(self.held) <= budget / 2
            && self.behind.is_none_or(|behind| behind > budget / 2)
    }

    /// Well below that, so that it does not come and go.
    fn lets_it_go(&self, budget: u64) -> bool {
        self.behind.is_some_and(|behind| behind <= budget / 4)
    }
}

impl Waiver {
    pub(super) fn new(ingest: Ingest, status: Status, budget: Option<u64>) -> Self {
        Self { ingest, status, budget }
    }

    /// Takes a look in. `streams`: what is confirmed is told to the server. Gives whether it begins, and what stands still may move.
    pub(super) fn look(&self, observed: &Observed, streams: bool) -> bool {
        let confirmed = observed.slot.as_ref().and_then(|slot| slot.confirmed_flush_lsn);
        let (Some(budget), Some(kept), Some(confirmed)) = (self.budget, observed.retained(), confirmed)
        else {
            return false;
        };
        let (sinks, reached) = self.ingest.held();
        let durable = *self.ingest.journal().durable().borrow();
        let from = |lsn: Lsn| durable.0.saturating_sub(lsn.0);
        let seen = Seen { kept, held: from(confirmed), behind: reached.map(from) };
        // What it sends again is confirmed when that is through, whatever the journal has.
        let mut repeats = false;
        self.status.source(|source| repeats = source.repeated > 0);
        if streams && !repeats && !sinks.is_empty() && seen.asks_for_it(budget) {
            return self.begin(&sinks, kept, budget);
        }
        if seen.lets_it_go(budget) && self.ingest.waive(false) {
            tracing::info!("The sinks have caught up: the server keeps again what they lack");
        }
        // What they lack until then is still the journal's alone.
        if seen.lets_it_go(budget) && reached.is_some_and(|reached| reached >= confirmed) {
            self.status.source(|source| source.waived = None);
        }
        false
    }

    fn begin(&self, sinks: &[String], kept: u64, budget: u64) -> bool {
        if !self.ingest.waive(true) {
            return false;
        }
        let text = format!(
            "The server kept {} of its log for what the sinks lack ({}), near source.wal_budget ({}): until they have caught up it may \
             forget what the journal has, as with source.confirm = \"journal\"",
            rounded(kept),
            sinks.join(", "),
            show_size(budget)
        );
        tracing::warn!("{text}");
        self.status.source(|source| source.waived = Some(text));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_before_the_slot_goes_and_only_where_it_helps() {
        let asks = |kept, held, behind| Seen { kept, held, behind }.asks_for_it(100);
        assert!(asks(76, 76, Some(76)) && asks(101, 60, None) && asks(76, 26, Some(51)));
        assert!(!asks(75, 75, Some(75)), "there is time");
        assert!(!asks(200, 100, Some(100)), "it is kept for a transaction that runs");
        assert!(!asks(90, 90, Some(50)), "they are catching up");
        let over = |behind| Seen { kept: 90, held: 0, behind }.lets_it_go(100);
        assert!(over(Some(25)) && !over(Some(26)) && !over(None));
    }
}
