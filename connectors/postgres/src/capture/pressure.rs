//! Whether the slot has to be given up: the server keeps more for it than it may, and capture does not make it less.

use std::time::{Duration, Instant};

use rowcast_engine::Lsn;

/// Where it is known that capture cannot go on (it waits for a person, or the journal for room), one look more.
const STILL_FOR_SURE: Duration = Duration::from_secs(8);

/// Elsewhere it may be connecting again, or the server may be reading its log from far back, which can take minutes
/// before anything is sent.
const STILL_PERHAPS: Duration = Duration::from_secs(600);

/// A capture that moves keeps its slot above the budget for so many looks, ten minutes, in which what is kept does not
/// become less: then it is too slow for what is written. The server's log goes in steps, the largest of them a checkpoint
/// apart, so fewer would be a guess.
const LOOKS_ABOVE: u32 = 120;

/// Less is not behind: what an idle server has not told us of.
const BEHIND: u64 = 16 << 20;

/// What one look has shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) streams: bool,
    /// It is known that capture cannot go on.
    pub(super) stuck: bool,
    /// What the slot has confirmed, and what has been received over the newest connection.
    pub(super) at: (Lsn, Lsn),
    /// Bytes that the server keeps for the slot, and of these the ones that capture has not confirmed: the others are
    /// kept for transactions that run.
    pub(super) kept: Option<u64>,
    pub(super) behind: u64,
    /// The server sends again what the journal has: until that is through nothing more is confirmed.
    pub(super) repeats: bool,
}

/// Over the looks.
#[derive(Debug)]
pub(super) struct Pressure {
    still: Still,
    above: Above,
}

impl Pressure {
    pub(super) fn new(now: Instant) -> Self {
        Self { still: Still { at: Default::default(), since: now }, above: Above::default() }
    }

    /// What could not be seen did not stand still.
    pub(super) fn look_away(&mut self, now: Instant) {
        self.still = Still { at: Default::default(), since: now };
    }

    /// Takes a look in; gives whether the slot has to be given up. If so, it is due again only after as long.
    pub(super) fn note(&mut self, seen: &Seen, budget: Option<u64>, now: Instant) -> bool {
        // What the server says of its position while nothing can be stored is no movement of ours.
        let received = if seen.stuck { Lsn::ZERO } else { seen.at.1 };
        let still = self.still.note((seen.at.0, received, seen.stuck), now);
        let kept = seen.kept.filter(|kept| budget.is_some_and(|budget| *kept > budget));
        // Neither is what is kept for other people's transactions slowness of ours, nor what sinks lacked before a restart.
        let is_patient = |kept: u64| seen.repeats && budget.is_some_and(|budget| kept <= budget / 2 * 3);
        let too_slow = self.above.note(kept.filter(|kept| seen.behind >= kept / 2 && !is_patient(*kept)));
        let stands = still >= if seen.stuck { STILL_FOR_SURE } else { STILL_PERHAPS };
        let idle = seen.streams && !seen.stuck && seen.behind < BEHIND;
        let is_due = kept.is_some() && (stands || too_slow) && !idle;
        if is_due {
            *self = Self::new(now);
        }
        is_due
    }
}

/// Since when capture stands where it is, as far as that was seen in one go.
#[derive(Debug)]
struct Still {
    /// With whether it could not go on: what begins to be done then has stood for no time.
    at: (Lsn, Lsn, bool),
    since: Instant,
}

impl Still {
    /// For how long.
    fn note(&mut self, at: (Lsn, Lsn, bool), now: Instant) -> Duration {
        if self.at != at {
            *self = Self { at, since: now };
        }
        now.saturating_duration_since(self.since)
    }
}

/// How often in a row what is kept was above the budget and did not become less.
#[derive(Debug, Default)]
struct Above {
    looks: u32,
    least: u64,
}

impl Above {
    /// Takes in what is kept, if that is above the budget. Gives whether it has been so for too long.
    fn note(&mut self, kept: Option<u64>) -> bool {
        *self = match kept {
            None => Self::default(),
            Some(kept) if self.looks == 0 || kept < self.least => Self { looks: 1, least: kept },
            Some(_) => Self { looks: self.looks + 1, ..*self },
        };
        self.looks >= LOOKS_ABOVE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: u64 = 1 << 30;

    /// Half an hour of looks, each five seconds after the one before: the seconds after which the slot goes.
    fn given_up(budget: Option<u64>, mut look: impl FnMut(u64) -> Seen) -> Option<u64> {
        let begun = Instant::now();
        let mut pressure = Pressure::new(begun);
        (0..=1800)
            .step_by(5)
            .find(|second| pressure.note(&look(*second), budget, begun + Duration::from_secs(*second)))
    }

    fn over() -> Seen {
        let at = (Lsn(7), Lsn(8));
        Seen { streams: true, stuck: false, at, kept: Some(BUDGET + 1), behind: BUDGET, repeats: false }
    }

    #[test]
    fn where_capture_cannot_go_on_it_goes_with_the_next_looks() {
        let stuck = Seen { streams: false, stuck: true, ..over() };
        assert_eq!(given_up(Some(BUDGET), |_| stuck), Some(10));
        // What the server says of its position meanwhile is no movement.
        assert_eq!(given_up(Some(BUDGET), |second| Seen { at: (Lsn(7), Lsn(second)), ..stuck }), Some(10));
        assert_eq!(given_up(None, |_| stuck), None, "nobody has asked for it");
        assert_eq!(given_up(Some(BUDGET), |_| Seen { kept: Some(BUDGET), ..stuck }), None);
        assert_eq!(given_up(Some(BUDGET), |_| Seen { kept: None, ..stuck }), None, "there is no slot");
    }

    #[test]
    fn what_connects_again_or_waits_for_the_server_has_ten_minutes() {
        for streams in [false, true] {
            let stands = Seen { streams, ..over() };
            assert_eq!(
                given_up(Some(BUDGET), |_| stands),
                Some(595),
                "with the first look it is as old as with the 120th"
            );
            // Whatever moves starts the clock again; what is kept has to become less all the same.
            let moves = |second| Seen { at: (Lsn(7), Lsn(second)), ..stands };
            let less = |second| Seen { kept: Some(2 * BUDGET - second), ..moves(second) };
            assert_eq!(given_up(Some(BUDGET), less), None);
            assert_eq!(given_up(Some(BUDGET), moves), Some(595));
        }
    }

    /// It waited for a person for as long as it was below the budget.
    #[test]
    fn what_begins_to_be_done_has_stood_for_no_time() {
        let stuck = Seen { streams: false, stuck: true, at: (Lsn(7), Lsn::ZERO), ..over() };
        let waits = Seen { kept: Some(BUDGET), ..stuck };
        let begins = |second| if second < 900 { waits } else { Seen { stuck: false, ..stuck } };
        assert_eq!(given_up(Some(BUDGET), begins), Some(900 + 595));
        let fails = |second| if second < 1200 { begins(second) } else { stuck };
        assert_eq!(given_up(Some(BUDGET), fails), Some(1200 + 10));
    }

    #[test]
    fn other_peoples_transactions_and_an_idle_server_cost_no_slot() {
        let others = |second| Seen { at: (Lsn(second), Lsn(second)), behind: BUDGET / 2, ..over() };
        assert_eq!(given_up(Some(BUDGET), |second| Seen { kept: Some(2 * BUDGET), ..others(second) }), None);
        let stands = Seen { kept: Some(2 * BUDGET), behind: BUDGET / 2, ..over() };
        assert_eq!(given_up(Some(BUDGET), |_| stands), Some(600), "but not for ever");
        let idle = Seen { behind: BEHIND - 1, ..over() };
        assert_eq!(given_up(Some(BUDGET), |_| idle), None);
        assert!(given_up(Some(BUDGET), |_| Seen { streams: false, ..idle }).is_some(), "nobody reads");
        assert!(given_up(Some(BUDGET), |_| Seen { stuck: true, ..idle }).is_some(), "it is not idle");
    }

    /// What sinks lacked before a restart comes again, and is confirmed when that is through.
    #[test]
    fn what_comes_again_is_waited_for_and_not_without_bound() {
        let comes = |second| Seen { at: (Lsn(7), Lsn(second)), repeats: true, ..over() };
        assert_eq!(given_up(Some(BUDGET), comes), None);
        assert!(given_up(Some(BUDGET), |_| comes(7)).is_some(), "it stands still");
        let grows = |second| {
            let kept = BUDGET + (second << 20);
            Seen { kept: Some(kept), behind: kept, ..comes(second) }
        };
        assert_eq!(given_up(Some(BUDGET), grows), Some(515 + 595), "from half as much again on");
    }

    #[test]
    fn it_is_called_for_again_only_after_as_long() {
        let (begun, mut pressure) = (Instant::now(), Pressure::new(Instant::now()));
        let stuck = Seen { stuck: true, ..over() };
        let mut called = Vec::new();
        for second in (0..40).step_by(5) {
            if pressure.note(&stuck, Some(BUDGET), begun + Duration::from_secs(second)) {
                called.push(second);
            }
        }
        assert_eq!(called, [10, 25]);
        // What nobody could see did not stand still.
        for second in (40..400).step_by(5) {
            pressure.look_away(begun + Duration::from_secs(second));
            assert!(!pressure.note(&stuck, Some(BUDGET), begun + Duration::from_secs(second)));
        }
    }

    #[test]
    fn what_does_not_become_less_is_too_slow() {
        let looks = |kept: &mut dyn FnMut(u32) -> Option<u64>| {
            let mut above = Above::default();
            (1..=LOOKS_ABOVE * 3).find(|look| above.note(kept(*look)))
        };
        assert_eq!(looks(&mut |look| Some(100 + u64::from(look))), Some(LOOKS_ABOVE), "it grows");
        assert_eq!(
            looks(&mut |look| Some(10_000 - u64::from(look / 100))),
            None,
            "it becomes less, however slowly"
        );
        assert_eq!(looks(&mut |look| (look % 100 != 0).then_some(50)), None, "below the budget now and then");
        assert_eq!(looks(&mut |look| Some(if look % 7 == 0 { 51 } else { 70 })), Some(LOOKS_ABOVE + 6));
    }
}
