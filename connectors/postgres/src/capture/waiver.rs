//! `source.confirm = "sinks"` where what the server keeps has a limit, ours (`source.wal_budget`) or its own. Before the slot
//! goes for what sinks lack, the server may forget what the journal has: for as long, a lost disk costs what it costs by
//! default. A slot that is dropped costs changes.

use rowcast_engine::Lsn;
use rowcast_engine::ingest::Ingest;
use rowcast_engine::status::Status;
use rowcast_engine::units::show_size;

use super::concern::rounded;
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
    /// The server keeps so much for the slot, and so much of it for what the journal has.
    kept: u64,
    held: u64,
    /// So far the sinks lie behind the journal; `None`: not known.
    behind: Option<u64>,
}

impl Seen {
    /// Before the limit is reached, since the slot goes there; and only where it helps. How much is given back by it cannot be
    /// seen: what is kept for a transaction that ran when the sinks stood still is kept for them alone since it has ended.
    fn asks_for_it(&self, limit: u64) -> bool {
        self.kept > limit / 4 * 3
            && self.held > limit / 4
            && self.behind.is_none_or(|behind| behind > limit / 8 * 3)
    }

    /// Well below that, so that it does not come and go.
    fn lets_it_go(&self, limit: u64) -> bool {
        self.behind.is_some_and(|behind| behind <= limit / 4)
    }
}

/// Above this the slot goes: by rowcast's own hand, or by the server's.
fn limit(budget: Option<u64>, observed: &Observed) -> Option<(u64, &'static str)> {
    let own = budget.map(|budget| (budget, "source.wal_budget"));
    let servers = observed.keep.map(|keep| (keep, "max_slot_wal_keep_size"));
    own.into_iter().chain(servers).min_by_key(|(bytes, _)| *bytes)
}

impl Waiver {
    pub(super) fn new(ingest: Ingest, status: Status, budget: Option<u64>) -> Self {
        Self { ingest, status, budget }
    }

    /// Takes a look in. `confirms`: what is confirmed is told to the server. Gives whether it begins, and what stands still
    /// may move.
    pub(super) fn look(&self, observed: &Observed, confirms: bool) -> bool {
        let confirmed = observed.slot.as_ref().and_then(|slot| slot.confirmed_flush_lsn);
        let (Some((limit, name)), Some(kept), Some(confirmed)) =
            (limit(self.budget, observed), observed.retained(), confirmed)
        else {
            // Nothing is kept for anybody, and for a slot that is made anew the sinks count.
            self.ingest.waive(false);
            self.tell(None, false);
            return false;
        };
        let (sinks, reached) = self.ingest.held();
        let durable = *self.ingest.journal().durable().borrow();
        let from = |lsn: Lsn| durable.0.saturating_sub(lsn.0);
        let seen = Seen { kept, held: from(confirmed), behind: reached.map(from) };
        // What it sends again is confirmed when that is through, whatever the journal has.
        let mut repeats = false;
        self.status.source(|source| repeats = source.repeated > 0);
        if confirms && !repeats && !sinks.is_empty() && seen.asks_for_it(limit) {
            return self.begin(&sinks, seen.held, &format!("{name} ({})", show_size(limit)));
        }
        if seen.lets_it_go(limit) {
            self.end(reached >= Some(confirmed));
        }
        false
    }

    fn begin(&self, sinks: &[String], held: u64, limit: &str) -> bool {
        if !self.ingest.waive(true) {
            return false;
        }
        let text = format!(
            "The server kept {} of its log for what the sinks lack ({}), near {limit}: until they have caught up it may \
             forget what the journal has, as with source.confirm = \"journal\"",
            rounded(held),
            sinks.join(", "),
        );
        tracing::warn!("{text}");
        self.tell(Some(text), true);
        true
    }

    /// They have nearly caught up. `all`: what they lack the server has, too; until then it is the journal's alone.
    fn end(&self, all: bool) {
        if self.ingest.waive(false) {
            tracing::info!("The sinks have caught up: the server keeps again what they lack");
            let text =
                "The server has forgotten what the sinks lack, and the journal has: they are catching up";
            self.tell(Some(text.to_owned()), false);
        }
        if all {
            self.tell(None, false);
        }
    }

    fn tell(&self, text: Option<String>, waives: bool) {
        self.status.source(|source| (source.waived, source.waives) = (text, waives));
    }
}

#[cfg(test)]
mod tests {
    use rowcast_engine::journal::Options;

    use super::*;
    use crate::setup::slot::Slot;
    use crate::snapshot::scan::tests::with_ten;

    #[test]
    fn it_begins_before_the_slot_goes_and_only_where_it_helps() {
        let asks = |kept, held, behind| Seen { kept, held, behind }.asks_for_it(100);
        assert!(asks(76, 76, Some(76)) && asks(101, 60, None) && asks(76, 50, Some(51)));
        assert!(!asks(75, 75, Some(75)), "there is time");
        assert!(asks(76, 40, Some(40)), "a transaction that ran when the sinks stood still has ended maybe");
        assert!(!asks(200, 25, Some(25)), "it is kept for a transaction that runs");
        assert!(!asks(90, 90, Some(36)), "they are catching up");
        let over = |behind| Seen { kept: 90, held: 0, behind }.lets_it_go(100);
        assert!(over(Some(25)) && !over(Some(26)) && !over(None));
    }

    /// Where the journal's newest transaction ends.
    const END: Lsn = Lsn(2000);

    /// A slot that has confirmed so much, for which the server keeps everything from 1000 on.
    fn observed(confirmed: Lsn, keep: Option<u64>) -> Observed {
        let slot =
            Slot { restart_lsn: Some(Lsn(1000)), confirmed_flush_lsn: Some(confirmed), ..Slot::default() };
        Observed { slot: Some(slot), end: END, keep, ..Observed::default() }
    }

    fn told(status: &Status) -> (Option<String>, bool) {
        let mut told = (None, false);
        status.source(|source| told = (source.waived.clone(), source.waives));
        told
    }

    /// A journal of ten transactions, and a sink that has none of them.
    async fn waiting(directory: &std::path::Path) -> (Ingest, Status) {
        let mut options = Options::new(directory);
        options.holds.insert("k".to_owned(), 0);
        (with_ten(options).await.required(vec!["k".to_owned()]), Status::default())
    }

    #[tokio::test]
    async fn it_goes_by_the_smaller_limit_and_by_what_the_server_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let (ingest, status) = waiting(directory.path()).await;
        let waiver = |budget| Waiver::new(ingest.clone(), status.clone(), budget);
        let at = Lsn(1100);
        // 1000 are kept, 900 of those for what the sink lacks.
        assert!(!waiver(Some(2000)).look(&observed(at, None), true), "there is time");
        assert!(!waiver(None).look(&observed(at, None), true), "there is no limit");
        assert!(!waiver(Some(1200)).look(&observed(at, None), false), "the server would not be told");
        status.source(|source| source.repeated = 1);
        assert!(!waiver(Some(1200)).look(&observed(at, None), true), "it would not, either");
        status.source(|source| source.repeated = 0);
        assert_eq!(told(&status), (None, false));
        // The server's own limit is nearer.
        assert!(waiver(Some(2000)).look(&observed(at, Some(1200)), true));
        let (text, waives) = told(&status);
        let text = text.unwrap();
        assert!(
            waives && text.contains("900 B of its log") && text.contains("max_slot_wal_keep_size"),
            "{text}"
        );
        assert!(!waiver(Some(1200)).look(&observed(at, None), true), "it has begun");
        ingest.journal().close().await;
    }

    #[tokio::test]
    async fn it_ends_with_the_slot_and_when_the_sinks_have_caught_up() {
        let directory = tempfile::tempdir().unwrap();
        let (ingest, status) = waiting(directory.path()).await;
        let waiver = Waiver::new(ingest.clone(), status.clone(), Some(1200));
        assert!(waiver.look(&observed(Lsn(1100), None), true));
        assert!(!waiver.look(&Observed::default(), true));
        assert_eq!(told(&status), (None, false), "there is no slot");

        assert!(waiver.look(&observed(Lsn(1100), None), true), "another one");
        // It has been told what the journal has; the sink has nearly all of it.
        let journal = ingest.journal().clone();
        let number = |lacks: u64| journal.newest() - lacks;
        journal.hold_above("k", number(1));
        assert!(!waiver.look(&observed(END, None), true));
        let (text, waives) = told(&status);
        assert!(!waives && text.is_some_and(|text| text.contains("they are catching up")));
        journal.hold_above("k", number(0));
        assert!(!waiver.look(&observed(END, None), true));
        assert_eq!(told(&status), (None, false));
        journal.close().await;
    }
}
