//! Transactions that were streamed and may be invisible to a snapshot: a commit is decoded before it is seen.

use crate::snapshot::visible::{Commit, Visible};

/// So many are named, 16 bytes each: 4 MB. At ten thousand a second they come in 26 s, and every ten it is asked which
/// ones all see. Where nobody can be asked for longer, the older half stand together: a snapshot has to see all that are
/// older than the newest of them.
const NAMED_MAX: usize = 1 << 18;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ring {
    pub(super) named: Vec<Commit>,
    /// The newest id and the last place of those that are not named.
    pub(super) older: Option<Commit>,
}

impl Ring {
    pub(super) fn push(&mut self, commit: Commit) {
        if self.named.len() >= NAMED_MAX {
            self.older = self.named.drain(..NAMED_MAX / 2).chain(self.older).reduce(Commit::latest);
        }
        self.named.push(commit);
    }

    /// Forgets what a snapshot sees.
    pub(super) fn forget(&mut self, visible: &Visible) {
        self.named.retain(|commit| !visible.sees(*commit));
        self.older = self.older.filter(|older| !visible.sees_all_up_to(*older));
        // After a long wait it is small again.
        self.named.shrink_to(2 * self.named.len());
    }

    /// Whether a snapshot surely sees all of them.
    pub(super) fn is_seen_by(&self, visible: &Visible) -> bool {
        self.named.iter().all(|commit| visible.sees(*commit))
            && self.older.is_none_or(|older| visible.sees_all_up_to(older))
    }
}

#[cfg(test)]
mod tests {
    use rowcast_engine::Lsn;

    use super::*;

    fn commit(xid: u32) -> Commit {
        Commit { xid, at: Lsn(u64::from(xid) + 7) }
    }

    #[test]
    fn is_bounded_and_forgets_nothing_that_may_be_unseen() {
        let mut ring = Ring::default();
        // One comes late, as one does that ran long.
        let ids = || [5_000_000].into_iter().chain(1..=3_000_000);
        ids().for_each(|xid| ring.push(commit(xid)));
        assert!(ring.named.len() <= NAMED_MAX && ring.named.capacity() <= 2 * NAMED_MAX);
        assert_eq!(ring.older.map(|older| older.xid), Some(5_000_000));
        let seen = |text: &str| ring.is_seen_by(&text.parse().unwrap());
        assert!(seen("5000001:5000001:"));
        // Whichever it does not see: nobody knows any more which ones they are.
        assert!(!seen("17:5000001:17") && !seen("5000000:5000001:5000000"));
        let standby = |at: u64| "1:6000000:".parse::<Visible>().unwrap().on_standby(Lsn(at));
        assert!(ring.is_seen_by(&standby(5_000_008)) && !ring.is_seen_by(&standby(5_000_007)));
        ring.forget(&"2999999:5000001:2999999".parse().unwrap());
        assert_eq!((ring.named.as_slice(), ring.older.is_some()), (&[commit(2_999_999)][..], true));
        ring.forget(&"5000001:5000001:".parse().unwrap());
        assert_eq!(ring, Ring::default());
    }

    #[test]
    fn ids_go_round() {
        let newest = commit(u32::MAX).latest(commit(3));
        assert_eq!((newest.xid, newest.at), (3, commit(u32::MAX).at));
    }
}
