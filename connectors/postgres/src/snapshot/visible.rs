//! What a snapshot of Postgres surely sees, asked by what the stream says of a transaction.

use std::str::FromStr;

use rowcast_engine::Lsn;

/// A committed transaction as the stream names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) xid: u32,
    /// Where its commit record starts.
    pub(crate) at: Lsn,
}

impl Commit {
    /// The newer id, as Postgres compares them, and the later place of two.
    #[expect(clippy::cast_possible_wrap, reason = "so they are compared")]
    pub(crate) fn latest(self, other: Self) -> Self {
        let newer = other.xid.wrapping_sub(self.xid) as i32 > 0;
        Self { xid: if newer { other.xid } else { self.xid }, at: self.at.max(other.at) }
    }
}

/// `pg_current_snapshot()`: `xmin:xmax:xip,xip…`, 64-bit ids with their epoch. Of a standby's the list is always empty,
/// whatever is in progress; there the position decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Visible {
    xmin: u64,
    xmax: u64,
    /// In progress, in order.
    running: Vec<u64>,
    /// On a standby: up to here it had replayed its log before the snapshot was taken.
    replayed: Option<Lsn>,
}

/// No snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoSnapshot;

impl FromStr for Visible {
    type Err = NoSnapshot;

    fn from_str(text: &str) -> Result<Self, NoSnapshot> {
        let mut parts = text.split(':');
        let mut number = || parts.next()?.parse().ok();
        let (Some(xmin), Some(xmax)) = (number(), number()) else { return Err(NoSnapshot) };
        let list = parts.next().ok_or(NoSnapshot)?;
        let ids = list.split(',').filter(|id| !id.is_empty()).map(|id| id.parse().map_err(|_| NoSnapshot));
        let mut running = ids.collect::<Result<Vec<u64>, _>>()?;
        running.sort_unstable();
        Ok(Self { xmin, xmax, running, replayed: None })
    }
}

impl Visible {
    /// The same, taken on a standby that had replayed so much before.
    pub(crate) fn on_standby(self, replayed: Lsn) -> Self {
        Self { replayed: Some(replayed), ..self }
    }

    /// Whether what a committed transaction did is surely seen.
    ///
    /// A primary knows that of each. A standby shows commits in the order of its log, and its position is moved behind a
    /// record when that has been applied: what begins below the position is seen, and of what came while the snapshot
    /// was taken nobody knows. That counts as not seen: a row that is left out since an event has replaced it is not
    /// missed, even if the row had the event in it already.
    pub(crate) fn sees(&self, commit: Commit) -> bool {
        let xid = self.whole(commit.xid);
        if let Some(replayed) = self.replayed {
            return commit.at < replayed || xid < self.xmin;
        }
        xid < self.xmin || (xid < self.xmax && self.running.binary_search(&xid).is_err())
    }

    /// Whether every committed transaction is surely seen whose id is no newer, and which does not lie behind that place.
    pub(crate) fn sees_all_up_to(&self, commit: Commit) -> bool {
        self.whole(commit.xid) < self.xmin || self.replayed.is_some_and(|replayed| commit.at < replayed)
    }

    /// Whether nobody knows if a committed transaction is seen, of a snapshot behind which the log was replayed up to
    /// `behind`. Never on a primary. The ends of a standby's snapshot are true: what lies below the first is seen, and from
    /// the second on nothing; only what was in progress between them it does not say.
    pub(crate) fn doubts(&self, commit: Commit, behind: Lsn) -> bool {
        let xid = self.whole(commit.xid);
        let between = self.xmin <= xid && xid < self.xmax;
        between && self.replayed.is_some_and(|replayed| replayed <= commit.at && commit.at <= behind)
    }

    /// Of two ids that end in the same 32 bits the one nearest to the snapshot is meant: the other one is 2^31
    /// transactions away, which Postgres itself does not allow.
    fn whole(&self, xid: u32) -> u64 {
        let whole = (self.xmax & !0xffff_ffff) | u64::from(xid);
        if whole > self.xmax + (1 << 31) {
            whole.saturating_sub(1 << 32)
        } else if whole + (1 << 31) < self.xmax {
            whole + (1 << 32)
        } else {
            whole
        }
    }

    /// The position before the snapshot, if it is a standby's.
    pub(crate) fn replayed(&self) -> Option<Lsn> {
        self.replayed
    }

    /// The lower 32 bits of those in progress.
    #[expect(clippy::cast_possible_truncation, reason = "the stream names no more of them")]
    pub(crate) fn running(&self) -> impl Iterator<Item = u32> + '_ {
        self.running.iter().map(|xid| *xid as u32)
    }

    /// The lower 32 bits of the oldest id that was in progress; a standby knows it, too.
    #[expect(clippy::cast_possible_truncation, reason = "the stream names no more of them")]
    pub(crate) fn xmin(&self) -> u32 {
        self.xmin as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sees(visible: &Visible, xid: u32) -> bool {
        visible.sees(Commit { xid, at: Lsn(7) })
    }

    #[test]
    fn as_postgres_prints_it() {
        let seen: Visible = "10:20:12,15".parse().unwrap();
        assert!([9, 10, 13, 19].into_iter().all(|xid| sees(&seen, xid)));
        assert!(![12, 15, 20, 21].into_iter().any(|xid| sees(&seen, xid)));
        assert_eq!(seen.running().collect::<Vec<_>>(), [12, 15]);
        assert!(sees(&"7:7:".parse().unwrap(), 6));
        assert_eq!("10:x:".parse::<Visible>(), Err(NoSnapshot));
        assert_eq!("".parse::<Visible>(), Err(NoSnapshot));
    }

    #[test]
    fn across_the_end_of_the_32_bits() {
        let epoch: u64 = 5 << 32;
        let seen: Visible = format!("{}:{}:{}", epoch - 3, epoch + 4, epoch - 2).parse().unwrap();
        assert!([u32::MAX - 3, u32::MAX, 3].into_iter().all(|xid| sees(&seen, xid)));
        assert!(![u32::MAX - 1, 4, 5].into_iter().any(|xid| sees(&seen, xid)));
        let before: Visible = format!("{}:{}:", epoch - 9, epoch - 9).parse().unwrap();
        assert!(!sees(&before, 2), "it comes after the turn");
    }

    /// Its list says that all below `xmax` is seen.
    #[test]
    fn on_a_standby_the_position_decides() {
        let seen = "10:20:".parse::<Visible>().unwrap().on_standby(Lsn(100));
        assert_eq!((seen.xmin(), seen.replayed()), (10, Some(Lsn(100))));
        for (xid, at, surely) in [(10, 99, true), (30, 99, true), (19, 100, false), (9, 101, true)] {
            assert_eq!(seen.sees(Commit { xid, at: Lsn(at) }), surely, "{xid} at {at}");
        }
        let doubts = |xid, at| seen.doubts(Commit { xid, at: Lsn(at) }, Lsn(120));
        assert_eq!([99, 100, 120, 121].map(|at| doubts(15, at)), [false, true, true, false]);
        assert_eq!([9, 10, 19, 20].map(|xid| doubts(xid, 110)), [false, true, true, false]);
        assert!(!"10:20:".parse::<Visible>().unwrap().doubts(Commit { xid: 19, at: Lsn(100) }, Lsn(120)));
    }
}
