//! After a reconnect the server repeats what it has not been told to forget. What the journal holds already is
//! dropped, and each dropped transaction must be one that the journal holds: otherwise the server's history is
//! another one (a restored backup), which must not pass in silence.

use std::collections::VecDeque;

use rowcast_engine::event::Micros;
use rowcast_engine::journal::{Journal, StoredTransaction};
use rowcast_engine::status::MANY_REPEATED;
use rowcast_engine::{Error, Lsn, Result};

use super::broken::{Break, Reason};

/// Transactions that are compared at a time; each takes 24 bytes.
const PAGE: usize = 100_000;

/// Transactions do not end quite in the order of their commit times, and clocks are set: so much apart, in
/// microseconds, they still may be in order.
const SLACK: Micros = 10_000_000;

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
    /// All that committed below this is in the journal,
    position: Lsn,
    /// of tables that are captured now from here on; before, it may have been others.
    captured_since: Lsn,
    page: VecDeque<StoredTransaction>,
    /// The page ends here, and there are more.
    more: Option<Lsn>,
    /// Retention has removed some of them: what came before the oldest stored one cannot be compared.
    incomplete: bool,
    /// But it ended up to here, where the journal knows: what ends later cannot be what was removed.
    removed_up_to: Option<Lsn>,
    /// Else it was committed before this, where that is known. (Not by that in the first place: what the server has
    /// from another one, replicated, has that one's commit times.)
    removed_before: Option<Micros>,
    met_first: bool,
    /// The stream is beyond.
    done: bool,
    dropped: u64,
}

/// The journal's transactions that end above `above`, a page of them, and above what the next page begins, where there is
/// one. Reads the disk.
pub(super) async fn page_above(
    journal: &Journal,
    above: Lsn,
) -> Result<(Vec<StoredTransaction>, Option<Lsn>)> {
    let journal = journal.clone();
    // One more than a page, to know whether another one follows.
    let mut found = tokio::task::spawn_blocking(move || journal.transactions_above(above, PAGE + 1))
        .await
        .map_err(|error| Error::failed("Reading the journal was broken off").because(error))??;
    let is_last = found.len() <= PAGE;
    found.truncate(PAGE);
    let more = found.last().filter(|_| !is_last).map(|last| last.end_lsn);
    Ok((found, more))
}

impl Replay {
    /// Starts with the transactions that end above `confirmed`, where the server begins. Reads the disk.
    pub(super) async fn start(
        journal: &Journal,
        (confirmed, captured_since): (Lsn, Lsn),
        position: Lsn,
    ) -> Result<Self> {
        let mut replay = Self {
            position,
            captured_since,
            page: VecDeque::new(),
            more: (confirmed < position).then_some(confirmed),
            incomplete: false,
            removed_up_to: None,
            removed_before: None,
            met_first: false,
            done: confirmed >= position,
            dropped: 0,
        };
        replay.next_page(journal).await?;
        Ok(replay)
    }

    /// Reads on where the page ends.
    pub(super) async fn next_page(&mut self, journal: &Journal) -> Result<()> {
        let Some(above) = self.more.take() else { return Ok(()) };
        let (found, more) = page_above(journal, above).await?;
        self.more = more;
        self.page.extend(found);
        // Behind the reading: what retention has removed before it, or meanwhile, is not in the page.
        if !journal.holds_all_above(above) {
            (self.incomplete, self.met_first) = (true, false);
            self.removed_up_to = journal.removed_up_to(above);
            let newest = Some(journal.summary().newest_commit).filter(|at| *at > 0);
            let oldest = self.page.front().map(|stored| stored.committed).or(newest);
            self.removed_before = oldest.map(|at| at.saturating_add(SLACK));
        }
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

    /// Makes sure that what the journal holds has been repeated, all of it, before the stream goes beyond.
    ///
    /// # Errors
    ///
    /// `Kind::Refused` when the server does not have something of it.
    pub(super) fn finish(&mut self) -> Result<()> {
        if self.done {
            return Ok(());
        }
        match (self.page.front(), self.more) {
            (Some(stored), _) => Err(missing(stored)),
            (None, Some(above)) => {
                Err(restored(&format!("it does not have what the journal holds beyond {above}")))
            }
            (None, None) => {
                self.done = true;
                Ok(())
            }
        }
    }

    /// Whether the stream has gone beyond, and the server's history is the journal's.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Transactions that were repeated, as long as that goes on.
    pub(super) fn repeated(&self) -> u64 {
        if self.done { 0 } else { self.dropped }
    }

    /// The same as [`Self::finish`], if the server has gone through its log up to `end`.
    pub(super) fn finish_at(&mut self, end: Lsn) -> Result<()> {
        if end >= self.position { self.finish() } else { Ok(()) }
    }

    /// Whether retention may have removed what ends here and was committed then.
    fn may_be_removed(&self, end: Lsn, committed: Micros) -> bool {
        let before = match self.removed_up_to {
            Some(up_to) => end <= up_to,
            None => self.removed_before.is_none_or(|before| committed <= before),
        };
        self.incomplete && !self.met_first && before
    }

    /// Looks at the end of a repeated transaction. `empty`: it holds nothing that would have been stored.
    ///
    /// # Errors
    ///
    /// `Kind::Refused` when the journal holds another one, or none.
    pub(super) fn compare(&mut self, end: Lsn, xid: u32, committed: Micros, empty: bool) -> Result<Verdict> {
        if let Some(stored) = self.page.front().filter(|stored| stored.end_lsn < end) {
            return Err(missing(stored));
        }
        let same = match self.page.front() {
            None if self.more.is_some() => return Ok(Verdict::NextPage),
            Some(stored) if stored.end_lsn == end => {
                let same = stored.xid == xid && stored.committed == committed;
                self.met_first = true;
                self.page.pop_front();
                same
            }
            _ => empty || end <= self.captured_since || self.may_be_removed(end, committed),
        };
        if !same {
            return Err(diverged(end, xid));
        }
        self.dropped += 1;
        if self.dropped == MANY_REPEATED {
            tracing::warn!(
                "The server repeats very many transactions (over {MANY_REPEATED}) that the journal holds already: it had not \
                 stored the confirmed position before it stopped"
            );
        }
        Ok(Verdict::Same)
    }
}

fn diverged(end: Lsn, xid: u32) -> Error {
    restored(&format!("transaction {xid}, which ends at {end}, is not what the journal holds there"))
}

fn missing(stored: &StoredTransaction) -> Error {
    let (xid, end) = (stored.xid, stored.end_lsn);
    restored(&format!("it does not have transaction {xid}, which the journal holds and which ends at {end}"))
}

fn restored(what: &str) -> Error {
    let text = format!(
        "The server's history is not the one in the journal: {what}. The server was probably restored from a backup"
    );
    Break::new(Reason::SourceRestored, text).error()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(ends: &[u64]) -> Replay {
        let stored = |end: &u64| StoredTransaction { end_lsn: Lsn(*end), xid: 7, committed: 1 };
        Replay {
            position: Lsn(100),
            captured_since: Lsn::ZERO,
            page: ends.iter().map(stored).collect(),
            more: None,
            incomplete: false,
            removed_up_to: None,
            removed_before: None,
            met_first: false,
            done: false,
            dropped: 0,
        }
    }

    #[test]
    fn the_same_ones_pass() {
        let mut replay = replay(&[10, 20, 30]);
        assert!(replay.repeats(Lsn(99)) && !replay.repeats(Lsn(100)));
        assert!(replay.repeats_message(Lsn(100)) && !replay.repeats_message(Lsn(101)));
        assert_eq!(replay.compare(Lsn(5), 9, 1, true).unwrap(), Verdict::Same);
        for end in [10, 20, 30] {
            assert_eq!(replay.compare(Lsn(end), 7, 1, false).unwrap(), Verdict::Same);
        }
        assert_eq!(replay.compare(Lsn(40), 9, 1, true).unwrap(), Verdict::Same);
        replay.finish().unwrap();
    }

    #[test]
    fn others_do_not() {
        for (end, xid, committed) in [(20, 8, 1), (20, 7, 2), (25, 7, 1), (40, 7, 1)] {
            let error = replay(&[20, 30]).compare(Lsn(end), xid, committed, false).unwrap_err();
            assert_eq!(error.kind(), rowcast_engine::Kind::Refused);
            assert!(error.remedy().unwrap().contains("rowcast adopt"));
        }
    }

    /// As when `source.tables` has another pattern: what of that came before is in no journal. What is there must be the same.
    #[test]
    fn what_was_not_captured_then_need_not_be_there() {
        let mut replay = replay(&[20, 30]);
        replay.captured_since = Lsn(25);
        assert_eq!(replay.compare(Lsn(10), 9, 1, false).unwrap(), Verdict::Same);
        assert!(replay.compare(Lsn(20), 8, 1, false).is_err());
        assert_eq!(replay.compare(Lsn(25), 9, 1, false).unwrap(), Verdict::Same);
        assert!(replay.compare(Lsn(26), 9, 1, false).is_err());
    }

    #[test]
    fn one_that_does_not_come_is_noticed() {
        let error = replay(&[20, 30]).compare(Lsn(30), 7, 1, false).unwrap_err();
        assert!(error.to_string().contains("0/14"), "{error}");
        let mut replay = replay(&[20, 30]);
        replay.finish_at(Lsn(99)).unwrap();
        assert!(Break::of(&replay.finish_at(Lsn(100)).unwrap_err()).unwrap().lasting);
    }

    #[test]
    fn what_retention_took_cannot_be_compared() {
        let mut replay = replay(&[20]);
        replay.incomplete = true;
        replay.removed_before = Some(5);
        assert_eq!(replay.compare(Lsn(10), 7, 1, false).unwrap(), Verdict::Same);
        // Committed after what is held: not what was removed.
        assert!(replay.compare(Lsn(11), 7, 6, false).is_err());
        assert_eq!(replay.compare(Lsn(20), 7, 1, false).unwrap(), Verdict::Same);
        assert!(replay.compare(Lsn(30), 7, 1, false).is_err());
        // Where the journal knows where the removed ones ended, no clock is asked.
        let mut replay = self::replay(&[20]);
        (replay.incomplete, replay.removed_up_to, replay.removed_before) = (true, Some(Lsn(10)), Some(5));
        assert_eq!(replay.compare(Lsn(10), 7, 99, false).unwrap(), Verdict::Same);
        assert!(replay.compare(Lsn(11), 7, 1, false).is_err());
    }

    #[test]
    fn goes_on_to_the_next_page() {
        let mut replay = replay(&[20]);
        replay.more = Some(Lsn(20));
        assert_eq!(replay.compare(Lsn(20), 7, 1, false).unwrap(), Verdict::Same);
        assert!(replay.finish().is_err());
        assert_eq!(replay.compare(Lsn(30), 7, 1, false).unwrap(), Verdict::NextPage);
    }
}
