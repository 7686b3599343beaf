//! Tables that are wanted and could not be taken in yet, or were lent an identity that could not be taken back: each try
//! has those wait who use them, so tries become rarer.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use rowcast_engine::Error;

use super::candidates::Table;
use super::slot::sqlstate;

/// From the first try to the second, and twice as long after each further one,
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// up to this: writers wait for one second in so many.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// SQLSTATE `lock_not_available`, `query_canceled`, `deadlock_detected`: somebody else has the table.
const LOCKED: [&str; 3] = ["55P03", "57014", "40P01"];

/// Told when so many tries have failed: a transaction that was under way is no trouble.
const TOLD_FROM: u32 = 2;

/// When tables are tried again, by OID: how often each was tried in vain, and from when on it may be again.
#[derive(Debug, Default)]
pub(crate) struct Pauses(BTreeMap<u32, (u32, Instant)>);

impl Pauses {
    /// Forgets all others.
    pub(super) fn keep(&mut self, tables: &HashSet<u32>) {
        self.0.retain(|table, _| tables.contains(table));
    }

    pub(super) fn may_try(&self, table: u32, now: Instant) -> bool {
        self.0.get(&table).is_none_or(|(_, again)| *again <= now)
    }

    /// One has been tried in vain. Gives how often it was, and how long it is left alone now.
    pub(super) fn note(&mut self, table: u32, now: Instant) -> (u32, Duration) {
        let times = self.0.get(&table).map_or(0, |(times, _)| *times);
        let pause = FIRST_PAUSE.saturating_mul(1 << times.min(16)).min(LONGEST_PAUSE);
        self.0.insert(table, (times + 1, now + pause));
        (times + 1, pause)
    }
}

/// Tables to be taken in.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    tried: BTreeMap<u32, Tried>,
    pauses: Pauses,
}

#[derive(Debug)]
struct Tried {
    channel: String,
    why: String,
    /// Somebody had the table.
    locked: bool,
    times: u32,
}

impl Busy {
    /// Forgets those that are no longer among the tables to be taken in.
    pub(super) fn keep(&mut self, new: &[Table]) {
        let new: HashSet<u32> = new.iter().map(|table| table.oid).collect();
        self.tried.retain(|table, _| new.contains(table));
        self.pauses.keep(&new);
    }

    /// One has been taken in.
    pub(super) fn forget(&mut self, table: &Table) {
        self.tried.remove(&table.oid);
        self.pauses.0.remove(&table.oid);
    }

    pub(super) fn may_try(&self, table: &Table, now: Instant) -> bool {
        self.pauses.may_try(table.oid, now)
    }

    /// One has been tried in vain.
    pub(super) fn note(&mut self, table: &Table, error: &Error, now: Instant) {
        let (times, pause) = self.pauses.note(table.oid, now);
        let channel = table.channel();
        tracing::warn!(
            table = channel,
            again_in_seconds = pause.as_secs(),
            "Cannot capture a new table yet: {error}"
        );
        let locked = sqlstate(error).is_some_and(|code| LOCKED.contains(&code));
        self.tried.insert(table.oid, Tried { channel, why: error.to_string(), locked, times });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tried.is_empty()
    }

    /// Channels, each with why it is not captured.
    pub(super) fn told(&self) -> impl Iterator<Item = (String, String)> {
        let told = self.tried.values().filter(|tried| tried.times >= TOLD_FROM);
        told.map(|Tried { channel, why, locked, times }| {
            let wait = if *locked {
                ", for a second each time; pg_locks shows who has the table: it has to be free of writers for a moment"
            } else {
                ""
            };
            let reason = format!(
                "it could not be added to the publication in {times} tries ({why}). It is tried again every {} s at most{wait}",
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
