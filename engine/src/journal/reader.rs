//! Reading from any place without standing in the writer's way.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::event::Micros;
use crate::journal::Journal;
use crate::journal::compressed::open_own;
use crate::journal::damage::Passes;
use crate::journal::history::{Stretch, lineage};
use crate::journal::last::before_last;
use crate::journal::refusal::{
    MEND, broken_middle, cannot_read, is_out_of_files, no_file_left, unknown_schema,
};
use crate::journal::scan::{ScanError, Scanner};
use crate::journal::segment::{SEGMENT_HEADER, Segment};
use crate::lsn::Lsn;
use crate::record::{Batch, Header};

/// A position that is not held any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Gone {
    /// First number that is missing.
    pub from: u64,
    /// Last number that is missing: reading goes on after it.
    pub to: u64,
}

/// What lies after a position.
#[derive(Debug)]
pub enum Read {
    /// The next batches, in order, at least one.
    Batches(Vec<Arc<Batch>>),
    /// Nothing yet.
    AtHead,
    /// Retention has taken what came next.
    Gone(Gone),
}

/// A transaction as the journal has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredTransaction {
    /// Where its commit record ends.
    pub end_lsn: Lsn,
    /// Its 32-bit id.
    pub xid: u32,
    /// Its commit time.
    pub committed: Micros,
}

/// How much is read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Amount {
    Ahead,
    Little,
}

impl Journal {
    /// The batch with the first event above `after`, if it is in memory. Never waits for the disk.
    pub fn cached(&self, after: u64) -> Option<Arc<Batch>> {
        self.shared.cache.after(after)
    }

    /// Reads on after event `after`, about a megabyte and never above the head. Blocks on the disk: call it where that
    /// is allowed.
    pub fn read(&self, after: u64) -> Result<Read> {
        self.read_amount(after, Amount::Ahead)
    }

    /// The same for one of many: about 64 KB, or one batch, and nothing else is kept in memory with it.
    pub fn read_little(&self, after: u64) -> Result<Read> {
        self.read_amount(after, Amount::Little)
    }

    fn read_amount(&self, after: u64, amount: Amount) -> Result<Read> {
        // The writer moves the head a moment after cache and file have an event. Whoever had one from above it and
        // came back with its number would be told that it was never given.
        let head = self.newest();
        if let Some(batch) = self.cached(after).filter(|batch| batch.last() <= head) {
            return Ok(Read::Batches(vec![batch]));
        }
        // One list for both questions: between two, retention could take what is next.
        let segments = self.shared.segments.load_full();
        if let Some(gone) = gone_after(&segments, after) {
            return Ok(Read::Gone(gone));
        }
        let at = segments.partition_point(|segment| segment.last() <= after);
        let Some(segment) = segments.get(at).filter(|_| after < head) else { return Ok(Read::AtHead) };
        let relative = (after + 1).saturating_sub(segment.header.base);
        let mut batches = match self.read_segment(segment, relative, amount) {
            Err(None) => return self.read_amount(after, amount),
            Err(Some(error)) => return Err(error),
            Ok(batches) => batches,
        };
        batches.retain(|batch| batch.last() <= head);
        Ok(if batches.is_empty() { Read::AtHead } else { Read::Batches(batches) })
    }

    /// What is missing between an event and the oldest one held; `None` when nothing is.
    pub fn held_after(&self, after: u64) -> Option<Gone> {
        gone_after(&self.shared.segments.load(), after)
    }

    /// Whether no transaction that ends above `lsn` has been removed or lost to damage.
    pub fn holds_all_above(&self, lsn: Lsn) -> bool {
        let segments = self.shared.segments.load();
        let stretches = lineage(&segments, lsn);
        let of = |stretch: &Stretch| segments.get(stretch.segments.clone()).unwrap_or_default();
        if stretches.iter().any(|stretch| behind_bridge(of(stretch), lsn).is_some()) {
            return false;
        }
        let Some(first) = stretches.first().map(|stretch| stretch.segments.start) else {
            return true;
        };
        segments.get(first).is_none_or(|oldest| {
            oldest.header.history.is_some_and(|from| from <= lsn)
                || oldest.header.previous_last == 0
                || ended_before(oldest).is_some_and(|before| before <= lsn)
        })
    }

    /// Where retention alone has taken of what ends above `lsn`: up to where. `None` where that is not known.
    pub fn removed_up_to(&self, lsn: Lsn) -> Option<Lsn> {
        let segments = self.shared.segments.load();
        let stretches = lineage(&segments, lsn);
        let of = |stretch: &Stretch| segments.get(stretch.segments.clone()).unwrap_or_default();
        if stretches.iter().any(|stretch| behind_bridge(of(stretch), lsn).is_some()) {
            return None;
        }
        ended_before(segments.get(stretches.first()?.segments.start)?)
    }

    /// What lies around a number that was never given to an event held here, though later ones were: whoever has it
    /// saw a history that is lost, as after the restore of a backup.
    pub fn never_given(&self, id: u64) -> Option<Gone> {
        let segments = self.shared.segments.load();
        let after = segments.get(segments.partition_point(|segment| segment.header.base <= id))?.header;
        // The number below the first one is what a reader was told as the end of a gap; what a bridge stands for was
        // given, and it tells so by itself.
        (!after.bridge && id > after.previous_last && id + 1 < after.base)
            .then_some(Gone { from: after.previous_last + 1, to: after.base - 1 })
    }

    /// Batches from the one with event `relative` on; `Err(None)` when retention took the file meanwhile.
    fn read_segment(
        &self,
        segment: &Segment,
        relative: u64,
        amount: Amount,
    ) -> std::result::Result<Vec<Arc<Batch>>, Option<Error>> {
        let offset = segment.offset_where(|entry| entry.first <= relative);
        let mut scanner = self.scan(segment, offset)?;
        let enough = match amount {
            Amount::Ahead => 1 << 20,
            Amount::Little => 64 << 10,
        };
        if amount == Amount::Little {
            scanner = scanner.for_a_place();
        }
        let mut batches = Vec::new();
        let mut bytes = 0;
        // What one read of the disk brought is enough too: the rest of another would be read again.
        while bytes < enough && (batches.is_empty() || scanner.is_at_hand()) {
            let (offset, header, data) = match scanner.next() {
                Ok(Some(found)) => found,
                Ok(None) => break,
                // What stands before the break is given out first.
                Err(_) if !batches.is_empty() => break,
                Err(error) => return Err(Some(self.unreadable(error, segment, scanner.at()))),
            };
            if header.events == 0 || header.first + u64::from(header.events) <= relative {
                continue;
            }
            bytes += data.len();
            // Batches share the buffer of a read: of a few of them all of it would stay.
            let data = if amount == Amount::Little { Bytes::copy_from_slice(&data) } else { data };
            let registry = &self.shared.registry;
            let batch = Batch::new(data, segment.header.base, segment.header.spilled, |id| registry.get(id));
            batches.push(Arc::new(batch.ok_or_else(|| Some(self.unknown_schema(segment, offset)))?));
        }
        self.shared.note_read(segment, offset, scanner.at());
        Ok(batches)
    }

    fn scan(&self, segment: &Segment, offset: u64) -> std::result::Result<Scanner, Option<Error>> {
        match open_own(&*self.shared.disk, segment) {
            Ok(file) => Ok(Scanner::new(file, offset, segment.length())),
            Err(_) if self.shared.has_removed(segment) => Err(None),
            Err(error) => Err(Some(self.unreadable(ScanError::Io(error), segment, offset))),
        }
    }

    fn unknown_schema(&self, segment: &Segment, offset: u64) -> Error {
        self.shared.naming_repair(unknown_schema(&segment.path, offset))
    }

    /// What stopped reading at an offset. Remembered, for status and log, unless it is only for want of files.
    fn unreadable(&self, error: ScanError, segment: &Segment, at: u64) -> Error {
        let removed = matches!(&error, ScanError::Io(error) if error.kind() == io::ErrorKind::NotFound);
        let is_of_disk = matches!(&error, ScanError::Io(error) if error.kind() != io::ErrorKind::InvalidData);
        let passes = if is_of_disk && !removed { Passes::Maybe } else { Passes::No };
        let error = match error {
            ScanError::Io(error) if is_out_of_files(&error) => return no_file_left(&segment.path, error),
            ScanError::Io(error) => {
                let error = cannot_read(&segment.path, error);
                if removed { error.hint(MEND) } else { error }
            }
            ScanError::Broken(broken) => broken_middle(&segment.path, &broken),
        };
        let error = self.shared.naming_repair(error);
        self.shared.note_damage(segment, (!removed).then_some(at), passes, &error);
        error
    }

    /// The position from which the first batch is read whose running maximum of commit times is at least `time`.
    /// Blocks on the disk.
    pub fn seek_time(&self, time: Micros) -> Result<u64> {
        let segments = self.shared.segments.load_full();
        let at = segments.partition_point(|segment| segment.time_max() < time);
        let Some(segment) = segments.get(at) else { return Ok(self.newest()) };
        let found = self.find(segment, segment.offset_where(|entry| entry.time_before < time), |header| {
            header.events > 0 && header.time_max >= time
        })?;
        Ok(found
            .map_or_else(|| segment.last(), |header| segment.header.base + header.first - 1)
            .min(self.newest()))
    }

    /// What is missing of what came at `time` or later, whose place [`Journal::seek_time`] has found at `position`: not
    /// from where on, but up to where. `None` when nothing is.
    pub fn held_since(&self, time: Micros, position: u64) -> Option<Gone> {
        let segments = self.shared.segments.load();
        let oldest = segments.first().filter(|oldest| oldest.header.previous_last > 0)?;
        let before = oldest.index().first().map_or_else(|| oldest.time_max(), |entry| entry.time_before);
        // Zero where it is not known any more what came before: then it may have.
        let missing = if before == 0 { position < oldest.header.base } else { before >= time };
        missing.then(|| gone_after(&segments, oldest.header.previous_last - 1)).flatten()
    }

    /// The position before the first batch that may have a transaction of the newest history that ends above `lsn`.
    /// Blocks on the disk.
    pub fn seek_lsn(&self, lsn: Lsn) -> Result<u64> {
        let segments = self.shared.segments.load_full();
        let newest = lineage(&segments, Lsn(u64::MAX)).pop().map_or(0..0, |stretch| stretch.segments);
        let of_history = segments.get(newest).unwrap_or_default();
        let at = of_history.partition_point(|segment| segment.lsn_max() <= lsn);
        let Some(segment) = of_history.get(at) else { return Ok(self.newest()) };
        // One that is one transaction is of one LSN, whatever an index says that was made by reading it.
        let whole = segment.header.spilled.is_some();
        let offset =
            if whole { SEGMENT_HEADER as u64 } else { segment.offset_where(|entry| entry.lsn_before <= lsn) };
        // A transaction may begin in a batch that says nothing of its end.
        let found = self.find(segment, offset, |header| header.events > 0)?;
        let before = found.map_or_else(|| segment.last(), |header| segment.header.base + header.first - 1);
        Ok(before.min(self.newest()))
    }

    /// The position before the newest `count` events of all channels.
    pub fn seek_last(&self, count: u64) -> u64 {
        before_last(&self.shared.segments.load(), count).unwrap_or_else(|| self.newest())
    }

    /// The position before the oldest event held.
    pub fn seek_earliest(&self) -> u64 {
        self.oldest().saturating_sub(1)
    }

    /// The position before the segment behind the one that has what comes after a position; `None` where there is none.
    pub fn segment_behind(&self, position: u64) -> Option<u64> {
        let segments = self.shared.segments.load();
        let at = segments.partition_point(|segment| segment.last() <= position);
        segments.get(at + 1).map(|segment| segment.header.base.saturating_sub(1))
    }

    /// The gap that the newest history began with; 0 where none is held.
    pub fn seek_history(&self) -> u64 {
        let segments = self.shared.segments.load();
        let begins = segments.iter().rfind(|segment| segment.header.history.is_some());
        begins.map_or(0, |segment| segment.header.base)
    }

    /// The stored transactions that end above `lsn`, in order, at most `count`; where some of them were lost to damage,
    /// those behind. Blocks on the disk.
    pub fn transactions_above(&self, lsn: Lsn, count: usize) -> Result<Vec<StoredTransaction>> {
        let segments = self.shared.segments.load_full();
        let mut found = Vec::new();
        for stretch in lineage(&segments, lsn) {
            let of_history = segments.get(stretch.segments).unwrap_or_default();
            let at = of_history.partition_point(|segment| segment.lsn_max() <= lsn);
            let at = behind_bridge(of_history, lsn).map_or(at, |behind| behind.max(at));
            let above = of_history.get(at..).unwrap_or_default();
            self.collect_transactions(above, (lsn, stretch.until), count, &mut found)?;
            if found.len() >= count {
                break;
            }
        }
        Ok(found)
    }

    /// Of one history, those that end above one position and not above another.
    fn collect_transactions(
        &self,
        segments: &[Arc<Segment>],
        (lsn, until): (Lsn, Lsn),
        count: usize,
        found: &mut Vec<StoredTransaction>,
    ) -> Result<()> {
        for segment in segments {
            let offset = segment.offset_where(|entry| entry.lsn_before <= lsn);
            let mut scanner = match self.scan(segment, offset) {
                Ok(scanner) => scanner,
                Err(None) => continue,
                Err(Some(error)) => return Err(error),
            };
            while let Some((offset, _, data)) =
                scanner.next().map_err(|error| self.unreadable(error, segment, scanner.at()))?
            {
                let registry = &self.shared.registry;
                let batch =
                    Batch::new(data, segment.header.base, segment.header.spilled, |id| registry.get(id))
                        .ok_or_else(|| self.unknown_schema(segment, offset))?;
                let above = batch.transactions().filter(|(end, ..)| *end > lsn && *end <= until);
                found.extend(above.map(|(end_lsn, xid, committed)| StoredTransaction {
                    end_lsn,
                    xid,
                    committed,
                }));
                if found.len() >= count {
                    found.truncate(count);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn find(
        &self,
        segment: &Segment,
        offset: u64,
        matches: impl Fn(&Header) -> bool,
    ) -> Result<Option<Header>> {
        let mut scanner = match self.scan(segment, offset) {
            Ok(scanner) => scanner.for_a_place(),
            Err(None) => return Ok(None),
            Err(Some(error)) => return Err(error),
        };
        while let Some((_, header, _)) =
            scanner.next().map_err(|error| self.unreadable(error, segment, scanner.at()))?
        {
            if matches(&header) {
                return Ok(Some(header));
            }
        }
        Ok(None)
    }
}

/// What ends above this does so in the segment or behind it; `None` where that is not known any more.
fn ended_before(oldest: &Segment) -> Option<Lsn> {
    oldest.index().first().map(|entry| entry.lsn_before).filter(|before| *before > Lsn::ZERO)
}

/// Where the segments behind a bridge begin that may stand for transactions which end above `lsn`.
fn behind_bridge(segments: &[Arc<Segment>], lsn: Lsn) -> Option<usize> {
    // The segment right behind a bridge does not know where the lost ones end.
    let first = segments.partition_point(|segment| segment.lsn_max() <= lsn).saturating_sub(1);
    let bridge = segments.get(first..)?.iter().rposition(|segment| segment.header.bridge)?;
    Some(first + bridge + 1)
}

fn gone_after(segments: &[Arc<Segment>], after: u64) -> Option<Gone> {
    let oldest = segments.first().filter(|oldest| after < oldest.header.previous_last)?;
    // Where nothing is held the gap ends at the head: who comes back from its end must not be ahead of it. A bridge
    // tells by itself what lies under it.
    let ends_before = oldest.events() > 0 && !oldest.header.bridge;
    let to = if ends_before { oldest.header.base - 1 } else { oldest.header.previous_last };
    Some(Gone { from: after + 1, to })
}
