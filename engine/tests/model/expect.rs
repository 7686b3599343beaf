//! What the journal has to hold: a plain list of what was handed over, in order.

use rowcast_engine::event::{Body, Event, Snapshot};
use rowcast_engine::journal::StreamPosition;
use rowcast_engine::record::Batch;

/// An event without its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) seq: u32,
    pub(super) last: bool,
    pub(super) end: u64,
    pub(super) xid: u32,
    pub(super) at: i64,
    pub(super) op: u8,
    pub(super) channel: u32,
    pub(super) content: u32,
    pub(super) snapshot: Option<Snapshot>,
    /// It is for a sink alone.
    pub(super) addressed: bool,
}

pub(super) fn digest(text: &[u8]) -> u32 {
    crc32c::crc32c(text)
}

fn seen(event: &Event<'_>) -> Expected {
    let content = match event.body {
        Body::Row { old, new, .. } => {
            let tuple = new.unwrap_or_else(|| old.expect("a row, old or new").tuple());
            tuple.values().last().map_or(0, |value| match value {
                rowcast_engine::record::Value::Text(text) => digest(text),
                _ => 1,
            })
        }
        Body::Truncate { schema, .. } => schema.columns.len() as u32,
        Body::Message { payload, .. } => digest(payload.as_bytes()),
        Body::Gap { detail, .. } => digest(detail.as_bytes()),
    };
    let tx = event.tx;
    Expected {
        seq: event.seq,
        last: event.last,
        end: tx.map_or(0, |tx| tx.end_lsn.0),
        xid: tx.map_or(0, |tx| tx.xid),
        at: event.at,
        op: event.op as u8,
        channel: digest(event.channel().as_bytes()),
        content,
        snapshot: event.snapshot,
        addressed: !event.sinks.is_empty(),
    }
}

pub(super) fn seen_in(batch: &Batch, after: u64) -> Vec<(u64, Expected)> {
    let all: Vec<_> = batch.all_events().map(|event| (event.id, seen(&event))).collect();
    assert_eq!(all.len(), batch.header().events as usize, "every event can be read");
    assert!(all.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1), "numbers in a batch have no holes");
    assert_eq!((batch.first(), batch.last()), (all[0].0, all[all.len() - 1].0));
    all.into_iter().filter(|(id, _)| *id > after).collect()
}

/// What is there whole or not at all: a transaction, a publish, a snapshot's chunk, a gap, or a position alone.
#[derive(Clone, Debug, Default)]
pub(super) struct Unit {
    pub(super) events: Vec<Expected>,
    /// Position of the stream after it; 0 when it does not come from there.
    pub(super) end: u64,
    /// Number of its first event; 0 while nobody has seen it.
    pub(super) first: u64,
    /// It was handed over together with this unit and those between.
    pub(super) group: usize,
    /// Retention took it before it was read.
    pub(super) skipped: bool,
    /// The number that a publisher was told; 0 for none.
    pub(super) promised: u64,
    /// A history begins with it, here.
    pub(super) begins: Option<StreamPosition>,
    /// What is noted with it.
    pub(super) note: Option<(&'static str, String)>,
}

impl Unit {
    pub(super) fn last(&self) -> u64 {
        (self.first + self.events.len() as u64).saturating_sub(1)
    }

    pub(super) fn is_transaction(&self) -> bool {
        self.events.first().is_some_and(|event| event.end > 0)
    }
}

#[derive(Debug, Default)]
pub(super) struct Past {
    /// Without those that a crash has taken.
    pub(super) units: Vec<Unit>,
    /// So many of them have been seen, and so many events of the one after them.
    pub(super) shown: (usize, usize),
    /// So many of them have been promised.
    pub(super) sure: usize,
    /// Nothing below is held: retention took it, and was allowed to.
    pub(super) oldest: u64,
    /// The highest number that anybody has seen, ever.
    pub(super) highest: u64,
    /// The position that has been confirmed, and whose it is.
    pub(super) stored: StreamPosition,
    /// Retention may have taken something since the last opening.
    pub(super) retention: bool,
    /// It did, before it was read.
    pub(super) skipping: bool,
}

impl Past {
    /// Number of the first event ever.
    pub(super) fn first_ever(&self) -> u64 {
        self.units.iter().find(|unit| !unit.events.is_empty()).map_or(0, |unit| unit.first)
    }

    /// Takes an event that the journal shows next.
    pub(super) fn show(&mut self, id: u64, event: &Expected) {
        assert!(id > self.highest, "event {id} comes after {} has been seen", self.highest);
        self.skip_positions();
        if std::mem::take(&mut self.skipping) {
            let next = self.units.iter().position(|unit| unit.events.first() == Some(event));
            self.skip_to(next.unwrap_or_else(|| panic!("event {id} was never handed over: {event:?}")));
        }
        let (at, index) = self.shown;
        let unit =
            self.units.get_mut(at).unwrap_or_else(|| panic!("event {id} was never handed over: {event:?}"));
        let expected = unit.events[index];
        assert_eq!(*event, expected, "event {id}, unit {at}, index {index}");
        if index == 0 {
            assert!(unit.promised == 0 || unit.promised == id, "promised as {}, seen as {id}", unit.promised);
            unit.first = id;
        }
        assert_eq!(id, unit.first + index as u64, "numbers in a transaction have no holes");
        self.highest = id;
        self.shown = if index + 1 == unit.events.len() { (at + 1, 0) } else { (at, index + 1) };
    }

    fn skip_positions(&mut self) {
        while self.shown.1 == 0 && self.units.get(self.shown.0).is_some_and(|unit| unit.events.is_empty()) {
            self.shown.0 += 1;
        }
    }

    /// Retention took the units before this one before they were read.
    pub(super) fn skip_to(&mut self, at: usize) {
        self.units[self.shown.0..at].iter_mut().for_each(|unit| unit.skipped = true);
        self.shown = (at, 0);
        self.skipping = false;
    }

    pub(super) fn all_shown(&mut self) -> bool {
        self.skip_positions();
        self.shown == (self.units.len(), 0)
    }

    /// Units that are held and have been seen.
    pub(super) fn held(&self) -> impl DoubleEndedIterator<Item = &Unit> {
        self.held_from(0)
    }

    /// The same of those from this one on.
    pub(super) fn held_from(&self, at: usize) -> impl DoubleEndedIterator<Item = &Unit> {
        let units = self.units[at..self.shown.0].iter();
        units.filter(|unit| !unit.events.is_empty() && unit.first >= self.oldest)
    }

    /// The events that a reader at `after` gets, `count` at most.
    pub(super) fn after(&self, after: u64, count: usize) -> Vec<(u64, Expected)> {
        first_after(self.held(), after, count)
    }

    /// The same if nothing had ever been removed.
    pub(super) fn after_ever(&self, after: u64, count: usize) -> Vec<(u64, Expected)> {
        first_after(self.units[..self.shown.0].iter().filter(|unit| !unit.events.is_empty()), after, count)
    }

    /// After a crash and an opening: `found` is all that is held, `stored` and `tx_end` what the journal says.
    pub(super) fn reopened(&mut self, found: &[(u64, Expected)], stored: &StreamPosition, tx_end: u64) {
        let start = self.start(found.first(), stored);
        self.units[..start].iter_mut().filter(|unit| unit.first == 0).for_each(|unit| unit.skipped = true);
        let mut at = start;
        let mut events = found.iter();
        let mut whole = start;
        let highest = self.highest;
        while let Some((id, event)) = events.next() {
            while self.units.get(at).is_some_and(|unit| unit.events.is_empty()) {
                at += 1;
            }
            let unit = self
                .units
                .get_mut(at)
                .unwrap_or_else(|| panic!("event {id} was never handed over: {event:?}"));
            assert!(unit.first == *id || unit.first == 0, "event {} has become {id}", unit.first);
            let fresh = unit.first != 0 || unit.skipped || *id > highest;
            assert!(fresh, "number {id} had been seen on something else: {highest}");
            assert!(
                unit.promised == 0 || unit.promised == *id,
                "promised as {}, found as {id}",
                unit.promised
            );
            // One that retention had taken from under a reader comes back when a power cut undoes that.
            (unit.first, unit.skipped) = (*id, false);
            assert_eq!(*event, unit.events[0], "event {id}, unit {at}");
            for (index, expected) in unit.events.iter().enumerate().skip(1) {
                let (next, event) = events.next().unwrap_or_else(|| panic!("unit {at} is not whole"));
                assert_eq!((*next, event), (id + index as u64, expected), "unit {at}, index {index}");
            }
            self.highest = self.highest.max(unit.last());
            at += 1;
            whole = at;
        }
        self.agree_on_position(whole, stored);
        self.oldest = found.first().map_or(self.highest + 1, |(id, _)| *id);
        self.agree_on_last(tx_end);
    }

    fn agree_on_last(&self, tx_end: u64) {
        let begun = self.begun(self.units.len());
        let units = &self.units[begun..];
        let last = self.held_from(begun).rev().find(|unit| unit.is_transaction()).map(|unit| unit.end);
        let all = units.iter().rev().find(|unit| unit.is_transaction()).map_or(0, |unit| unit.end);
        // One that left nothing but its position is the last one, too, as long as it is remembered.
        let empty = units.iter().any(|unit| unit.events.is_empty() && unit.end == tx_end);
        let known = last.map_or(tx_end <= all, |last| tx_end == last);
        assert!(
            known || (empty && last.is_none_or(|last| tx_end > last)),
            "last transaction at {tx_end}: {last:?}, {all}"
        );
    }

    /// The first unit that is held; before it, only retention may have taken any.
    fn start(&self, first: Option<&(u64, Expected)>, stored: &StreamPosition) -> usize {
        let start = match first {
            Some((id, event)) => {
                let found = self.units.iter().position(|unit| unit.events.first() == Some(event));
                found.unwrap_or_else(|| panic!("event {id} was never handed over: {event:?}"))
            }
            None => {
                let history = self.history_of(stored);
                let below = |unit: &Unit| unit.end > 0 && unit.end <= stored.lsn.0;
                let last = self.units[history.clone()].iter().rposition(below);
                self.sure.max(last.map_or(0, |at| history.start + at + 1))
            }
        };
        let held = |unit: &Unit| {
            !unit.events.is_empty() && !unit.skipped && (unit.first == 0 || unit.first >= self.oldest)
        };
        let gone = self.units[..start].iter().find(|unit| held(unit)).filter(|_| !self.retention);
        assert!(gone.is_none(), "nothing may be gone, and yet: {gone:?}");
        start
    }

    /// The units from `whole` on have no events in the journal; some may have left their position.
    fn agree_on_position(&mut self, whole: usize, stored: &StreamPosition) {
        let (position, durable) = (stored.lsn.0, self.stored.lsn.0);
        let goes_on = stored.slot_birth == self.stored.slot_birth;
        assert!(!goes_on || position >= durable, "position {position} was confirmed up to {durable}");
        let mut at = whole;
        let mut reached = self.reached(at);
        assert!(position >= reached, "position {position} is below what is stored, {reached}");
        while reached < position {
            let next = self.units.get(at).filter(|unit| unit.events.is_empty());
            let next =
                next.unwrap_or_else(|| panic!("position {position} is above what is stored, {reached}"));
            reached = reached.max(next.end);
            at += 1;
        }
        assert_eq!(reached, position);
        assert!(
            at >= self.sure
                || self.units[at..self.sure].iter().all(|u| u.events.is_empty() && u.end <= position),
            "{} units were promised, {at} are there",
            self.sure
        );
        self.agree_on_identity(at, stored);
        self.units.truncate(at);
        (self.sure, self.shown, self.stored) = (at, (at, 0), stored.clone());
    }
}

fn first_after<'a>(units: impl Iterator<Item = &'a Unit>, after: u64, count: usize) -> Vec<(u64, Expected)> {
    let units = units.filter(|unit| unit.last() > after);
    let events =
        units.flat_map(|unit| unit.events.iter().enumerate().map(|(at, e)| (unit.first + at as u64, *e)));
    events.filter(|(id, _)| *id > after).take(count).collect()
}
