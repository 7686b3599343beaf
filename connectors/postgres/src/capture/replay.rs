//! After a reconnect the server repeats what it has not been told to forget. What the journal holds already is
//! dropped, and each dropped transaction must be one that the journal holds: otherwise the server's history is
//! another one (a restored backup), which must not pass in silence.

use std::collections::VecDeque;

use rowcast_engine::event::Micros;
use rowcast_engine::journal::{Journal, StoredTransaction};
use rowcast_engine::{Error, Lsn, Result};

use crate::setup::installation::ADOPT;

/// Transactions that are compared at a time; each takes 24 bytes.
const PAGE: usize = 100_000;

/// So many repeated transactions are worth a warning: the server's memory of our position is far behind.
const MANY: u64 = 100_000;

/// What happens to a repeated transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is in the journal, or had nothing that would be.
    Same,
    /// The next page has to be read first.
    NextPage,
}

/// Compares repeated transactions with stored ones.
#[derive(Debug)]
pub(super) struct Replay {
    /// All that committed below this is in the journal.
    position: Lsn,
    page: VecDeque<StoredTransaction>,
    /// The page ends here, and there may be more.
    more: Option<Lsn>,
    /// Retention has removed some of them: what came before the oldest stored one cannot be compared.
    incomplete: bool,
    met_first: bool,
    dropped: u64,
}

impl Replay {
    /// Starts with the transactions that end above `confirmed`, where the server begins. Reads the disk.
    pub(super) async fn start(journal: &Journal, confirmed: Lsn, position: Lsn) -> Result<Self> {
        let mut replay = Self {
            position,
            page: VecDeque::new(),
            more: (confirmed < position).then_some(confirmed),
            incomplete: !journal.holds_all_above(confirmed),
            met_first: false,
            dropped: 0,
        };
        replay.next_page(journal).await?;
        Ok(replay)
    }

    /// Reads on where the page ends.
    pub(super) async fn next_page(&mut self, journal: &Journal) -> Result<()> {
        let Some(above) = self.more.take() else { return Ok(()) };
        let journal = journal.clone();
        let found = tokio::task::spawn_blocking(move || journal.transactions_above(above, PAGE))
            .await
            .map_err(|error| Error::failed("Reading the journal was broken off").because(error))??;
        self.more = found.last().filter(|_| found.len() >= PAGE).map(|last| last.end_lsn);
        self.page.extend(found);
        Ok(())
    }

    /// Whether what commits at `final_lsn`, where its commit record starts, is in the journal already.
    pub(super) fn repeats(&self, final_lsn: Lsn) -> bool {
        final_lsn < self.position
    }

    /// The same for a message outside transactions, whose position is the end of its record.
    pub(super) fn repeats_message(&self, end: Lsn) -> bool {
        end <= self.position
    }

    /// Looks at the end of a repeated transaction. `empty`: it holds nothing that would have been stored.
    ///
    /// # Errors
    ///
    /// `Kind::Refused` when the journal holds another one, or none.
    pub(super) fn compare(&mut self, end: Lsn, xid: u32, committed: Micros, empty: bool) -> Result<Verdict> {
        while self.page.front().is_some_and(|stored| stored.end_lsn < end) {
            self.page.pop_front();
            self.met_first = true;
        }
        let same = match self.page.front() {
            None if self.more.is_some() => return Ok(Verdict::NextPage),
            Some(stored) if stored.end_lsn == end => {
                self.met_first = true;
                stored.xid == xid && stored.committed == committed
            }
            _ => empty || (self.incomplete && !self.met_first),
        };
        if !same {
            return Err(diverged(end, xid));
        }
        self.dropped += 1;
        if self.dropped == MANY {
            tracing::warn!(
                "The server repeats very many transactions (over {MANY}) that the journal holds already: it had not \
                 stored the confirmed position before it stopped"
            );
        }
        Ok(Verdict::Same)
    }
}

fn diverged(end: Lsn, xid: u32) -> Error {
    Error::refused(format!(
        "The server's history is not the one in the journal: transaction {xid}, which ends at {end}, is not what the \
         journal holds there. The server was probably restored from a backup"
    ))
    .hint(ADOPT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(ends: &[u64]) -> Replay {
        let stored = |end: &u64| StoredTransaction { end_lsn: Lsn(*end), xid: 7, committed: 1 };
        Replay {
            position: Lsn(100),
            page: ends.iter().map(stored).collect(),
            more: None,
            incomplete: false,
            met_first: false,
            dropped: 0,
        }
    }

    #[test]
    fn the_same_ones_pass() {
        let mut replay = replay(&[10, 20, 30]);
        assert!(replay.repeats(Lsn(99)) && !replay.repeats(Lsn(100)));
        assert!(replay.repeats_message(Lsn(100)) && !replay.repeats_message(Lsn(101)));
        // One that is stored may be missing, when its tables are not published any more.
        for end in [10, 30] {
            assert_eq!(replay.compare(Lsn(end), 7, 1, false).unwrap(), Verdict::Same);
        }
        assert_eq!(replay.compare(Lsn(40), 9, 1, true).unwrap(), Verdict::Same);
    }

    #[test]
    fn others_do_not() {
        for (end, xid, committed) in [(20, 8, 1), (20, 7, 2), (25, 7, 1), (40, 7, 1)] {
            let error = replay(&[20, 30]).compare(Lsn(end), xid, committed, false).unwrap_err();
            assert_eq!(error.kind(), rowcast_engine::Kind::Refused);
            assert!(error.remedy().unwrap().contains("rowcast adopt"));
        }
    }

    #[test]
    fn what_retention_took_cannot_be_compared() {
        let mut replay = replay(&[20]);
        replay.incomplete = true;
        assert_eq!(replay.compare(Lsn(10), 7, 1, false).unwrap(), Verdict::Same);
        assert_eq!(replay.compare(Lsn(20), 7, 1, false).unwrap(), Verdict::Same);
        assert!(replay.compare(Lsn(30), 7, 1, false).is_err());
    }

    #[test]
    fn goes_on_to_the_next_page() {
        let mut replay = replay(&[20]);
        replay.more = Some(Lsn(20));
        assert_eq!(replay.compare(Lsn(30), 7, 1, false).unwrap(), Verdict::NextPage);
    }
}
