//! The same beside the stream of a standby: it applies one commit after the other, shows each before its position says
//! so, sends what its position says, is started again further back, and becomes the primary.

use super::*;
use crate::snapshot::moment::beyond;

/// Of a chunk whose position has not been asked for yet.
pub(super) const UNASKED: Lsn = Lsn(u64::MAX);

/// Commits that it has applied, by their number.
#[derive(Default)]
pub(super) struct Standby {
    /// As its position says.
    replayed: usize,
    /// One more while that is being applied.
    pub(super) shown: usize,
    /// The position that was asked for before a snapshot.
    pub(super) before: Option<usize>,
}

impl World {
    fn beside_a_standby(seed: u64, without: Without) -> Self {
        let mut world = Self::new(seed, without);
        world.standby = Some(Standby::default());
        world
    }

    /// A step of its own.
    pub(super) fn replay(&mut self) {
        let (chance, committed) = (self.random.random_range(0..40), self.order.len());
        let Some(standby) = &mut self.standby else { return };
        match chance {
            0 => return self.promote(),
            1 if self.crashes < 3 => return self.restart(),
            _ => {}
        }
        if standby.shown > standby.replayed {
            standby.replayed += 1;
        } else if standby.shown < committed {
            standby.shown += 1;
        }
    }

    /// What it has received is applied, the rest of the primary is gone, and what was open there with it.
    fn promote(&mut self) {
        if self.chunk.as_ref().is_none_or(|chunk| chunk.due == UNASKED) {
            // Read again: it says so itself.
            self.give_up();
        }
        self.standby = None;
        for at in 0..self.transactions.len() {
            let has_committed = self.order.contains(&at);
            self.transactions[at].state = if has_committed { 3 } else { 0 };
        }
    }

    /// It begins further back. The reader need not notice, if another one answers in its place.
    fn restart(&mut self) {
        self.crashes += 1;
        if let Some(standby) = &mut self.standby {
            let at = self.random.random_range(0..=standby.replayed);
            (standby.replayed, standby.shown) = (at, at);
        }
        if self.random.random() {
            return self.start();
        }
        // A session ends with its server.
        if self.chunk.as_ref().is_none_or(|chunk| chunk.due == UNASKED) {
            self.give_up();
        }
    }

    /// What the stream may tell.
    pub(super) fn deliverable(&self) -> usize {
        self.standby.as_ref().map_or(self.order.len(), |standby| standby.replayed)
    }

    /// Somewhere between what it shows and what the primary has written, within a record maybe.
    pub(super) fn received(&mut self) -> Lsn {
        let shown = self.standby.as_ref().map_or(0, |standby| standby.shown);
        let at = self.random.random_range(shown..=self.order.len());
        let within = if at < self.order.len() { self.random.random_range(0..10) } else { 0 };
        Lsn(start_of(at).0 + within)
    }

    /// Whether that was still to be done.
    pub(super) fn ask_before(&mut self) -> bool {
        let Some(standby) = self.standby.as_mut().filter(|standby| standby.before.is_none()) else {
            return false;
        };
        standby.before = Some(standby.replayed);
        true
    }

    pub(super) fn seen_by_standby(&mut self) -> Visible {
        let Some(standby) = &mut self.standby else { return Visible::default() };
        let before = standby.before.take().unwrap();
        let completed = &self.order[..standby.shown];
        let xmax = completed.iter().max().map_or(0, |at| at + 1);
        let xmin = (0..xmax).find(|at| !completed.contains(at)).unwrap_or(xmax);
        let ids: Visible = format!("{}:{}:", xid(xmin), xid(xmax)).parse().unwrap();
        if self.without == Without::Positions { ids } else { ids.on_standby(start_of(before)) }
    }

    /// What every snapshot sees that is taken from now on.
    pub(super) fn seen_by_all(&self) -> Visible {
        self.standby
            .as_ref()
            .map_or_else(|| self.seen(), |standby| Visible::default().on_standby(start_of(standby.replayed)))
    }

    pub(super) fn ask_behind(&mut self, chunk: &mut Chunk) {
        let Some(standby) = &self.standby else { return };
        let replayed = start_of(standby.replayed);
        chunk.due = match self.without {
            Without::Beyond => replayed,
            _ => beyond(replayed, false, Some(chunk.received)),
        };
        if self.without == Without::Before {
            chunk.visible = chunk.visible.clone().on_standby(replayed);
        }
    }
}

fn live(seed: u64, without: Without) -> Outcome {
    live_in(World::beside_a_standby(seed, without), seed)
}

#[test]
fn the_consumer_of_a_standby_has_the_table_at_the_end() {
    campaign::run(30_000, STEPS, |seed| guard(seed, || live(seed, Without::Nothing), String::new)?);
}

#[test]
fn no_rule_of_a_standby_can_be_left_out() {
    for without in [Without::Positions, Without::Before, Without::Beyond, Without::CaughtUp] {
        assert!((0..60_000).any(|seed| live(seed, without).is_err()), "{without:?} changes nothing");
    }
}
