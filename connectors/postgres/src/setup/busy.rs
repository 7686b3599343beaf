//! Tables that are wanted and could not be taken in yet: each try has their writers wait, so tries become rarer.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use rowcast_engine::Error;

use super::candidates::Table;

/// From the first try to the second, and twice as long after each further one,
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// up to this: writers wait for one second in so many.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// Told when so many tries have failed: a transaction that was under way is no trouble.
const TOLD_FROM: u32 = 2;

/// By the table's OID.
#[derive(Debug, Default)]
pub(crate) struct Busy(BTreeMap<u32, Tried>);

#[derive(Debug)]
struct Tried {
    channel: String,
    why: String,
    times: u32,
    again: Instant,
}

impl Busy {
    /// Forgets those that are no longer among the tables to be taken in.
    pub(super) fn keep(&mut self, new: &[Table]) {
        let new: HashSet<u32> = new.iter().map(|table| table.oid).collect();
        self.0.retain(|table, _| new.contains(table));
    }

    /// One has been taken in.
    pub(super) fn forget(&mut self, table: &Table) {
        self.0.remove(&table.oid);
    }

    pub(super) fn may_try(&self, table: &Table, now: Instant) -> bool {
        self.0.get(&table.oid).is_none_or(|tried| tried.again <= now)
    }

    /// One has been tried in vain.
    pub(super) fn note(&mut self, table: &Table, error: &Error, now: Instant) {
        let times = self.0.get(&table.oid).map_or(0, |tried| tried.times);
        let pause = FIRST_PAUSE.saturating_mul(1 << times.min(16)).min(LONGEST_PAUSE);
        let (channel, times, again) = (table.channel(), times + 1, now + pause);
        tracing::warn!(
            table = channel,
            again_in_seconds = pause.as_secs(),
            "Cannot capture a new table yet: {error}"
        );
        self.0.insert(table.oid, Tried { channel, why: error.to_string(), times, again });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Channels, each with why it is not captured.
    pub(super) fn told(&self) -> impl Iterator<Item = (String, String)> {
        let told = self.0.values().filter(|tried| tried.times >= TOLD_FROM);
        told.map(|Tried { channel, why, times, .. }| {
            let reason = format!(
                "it could not be added to the publication in {times} tries ({why}). It is tried again every {} s at \
                 most, for a second each time; pg_locks shows who has the table: it has to be free of writers for a moment",
                LONGEST_PAUSE.as_secs()
            );
            (channel.clone(), reason)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_become_rarer_and_are_told_from_the_second_one() {
        let table = Table { oid: 1, schema: "public".to_owned(), name: "t".to_owned(), ..Table::default() };
        let (mut busy, mut now) = (Busy::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..7 {
            assert!(busy.may_try(&table, now));
            busy.note(&table, &Error::transient("it is locked"), now);
            let mut pause = 0;
            while !busy.may_try(&table, now + Duration::from_secs(pause)) {
                pause += 1;
            }
            pauses.push((pause, busy.told().count()));
            now += Duration::from_secs(pause);
        }
        assert_eq!(pauses, [(5, 0), (10, 1), (20, 1), (40, 1), (80, 1), (120, 1), (120, 1)]);
        busy.keep(&[]);
        assert!(busy.is_empty());
    }
}
