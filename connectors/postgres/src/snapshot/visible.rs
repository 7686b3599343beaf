//! What a snapshot of Postgres sees, asked by the 32-bit ids that the stream names transactions by.

use std::str::FromStr;

/// `pg_current_snapshot()`: `xmin:xmax:xip,xip…`, 64-bit ids with their epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Visible {
    xmin: u64,
    xmax: u64,
    /// In progress, in order.
    running: Vec<u64>,
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
        Ok(Self { xmin, xmax, running })
    }
}

impl Visible {
    /// Whether what a committed transaction did is seen. Of two ids that end in the same 32 bits the one nearest to
    /// the snapshot is meant: the other one is 2^31 transactions away, which Postgres itself does not allow.
    pub(crate) fn sees(&self, xid: u32) -> bool {
        let xid = self.whole(xid);
        xid < self.xmin || (xid < self.xmax && self.running.binary_search(&xid).is_err())
    }

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

    /// The lower 32 bits of those in progress.
    #[expect(clippy::cast_possible_truncation, reason = "the stream names no more of them")]
    pub(crate) fn running(&self) -> impl Iterator<Item = u32> + '_ {
        self.running.iter().map(|xid| *xid as u32)
    }

    /// The lower 32 bits of the oldest id that was in progress.
    #[expect(clippy::cast_possible_truncation, reason = "the stream names no more of them")]
    pub(crate) fn xmin(&self) -> u32 {
        self.xmin as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_postgres_prints_it() {
        let seen: Visible = "10:20:12,15".parse().unwrap();
        assert!(seen.sees(9) && seen.sees(10) && seen.sees(13) && seen.sees(19));
        assert!(!seen.sees(12) && !seen.sees(15) && !seen.sees(20) && !seen.sees(21));
        assert_eq!(seen.running().collect::<Vec<_>>(), [12, 15]);
        assert!("7:7:".parse::<Visible>().unwrap().sees(6));
        assert_eq!("10:x:".parse::<Visible>(), Err(NoSnapshot));
        assert_eq!("".parse::<Visible>(), Err(NoSnapshot));
    }

    #[test]
    fn across_the_end_of_the_32_bits() {
        let epoch: u64 = 5 << 32;
        let seen: Visible = format!("{}:{}:{}", epoch - 3, epoch + 4, epoch - 2).parse().unwrap();
        assert!(seen.sees(u32::MAX - 3) && seen.sees(u32::MAX) && seen.sees(3));
        assert!(!seen.sees(u32::MAX - 1) && !seen.sees(4) && !seen.sees(5));
        let before: Visible = format!("{}:{}:", epoch - 9, epoch - 9).parse().unwrap();
        assert!(!before.sees(2), "it comes after the turn");
    }
}
