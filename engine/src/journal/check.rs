//! Looking at a journal without opening it for writing.

use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::event::Event;
use crate::journal::compressed::open_segment;
use crate::journal::disk::Disk;
use crate::journal::opening::{broken_middle, note_asides, segment_paths};
use crate::journal::registry::Registry;
use crate::journal::scan::{ScanError, Scanner};
use crate::journal::segment::{SEGMENT_HEADER, SegmentHeader};
use crate::journal::sidecar::Leftover;
use crate::record::Batch;

/// What a check found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CheckReport {
    /// Segment files read.
    pub segments: u64,
    /// Batches whose checksum is right.
    pub batches: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Number of the first event; 0 when there is none.
    pub oldest: u64,
    /// Number of the last event; 0 when there is none.
    pub newest: u64,
    /// Bytes of the newest segment behind its last whole transaction: a torn end, or one that is being written.
    pub unfinished: u64,
}

/// Reads every batch of a journal. The first damage is an error that names file and offset.
pub fn check(dir: &Path, disk: &dyn Disk) -> Result<CheckReport> {
    for_each_event(dir, disk, 0, |_| true)
}

/// Reads a journal, calling `see` for each event of whole transactions from event `from` on. When it says false the
/// rest is not read, and the report is of what was.
pub fn for_each_event(
    dir: &Path,
    disk: &dyn Disk,
    from: u64,
    mut see: impl FnMut(&Event<'_>) -> bool,
) -> Result<CheckReport> {
    let registry = Registry::default();
    let mut report = CheckReport::default();
    let paths = segment_paths(dir, disk)?;
    if paths.is_empty() {
        return Err(Error::journal(format!("There is no journal in {}", dir.display()))
            .hint("Name the data directory of rowcast (--data DIR)."));
    }
    let mut going = true;
    for (at, path) in paths.iter().enumerate() {
        let mut file = Walk::open(path, at + 1 == paths.len(), disk)?;
        file.run(&registry, &mut report, |report, batch| {
            if report.oldest == 0 && batch.header().events > 0 {
                report.oldest = batch.first();
            }
            report.newest = report.newest.max(batch.last());
            let seen = batch.events().map(|event| going = going && (event.id < from || see(&event))).count();
            if seen == batch.header().events as usize {
                Ok(going)
            } else {
                Err(miscounted(path, batch, seen))
            }
        })?;
        if !going {
            break;
        }
    }
    Ok(report)
}

fn miscounted(path: &Path, batch: &Batch, seen: usize) -> Error {
    let (path, first, events) = (path.display(), batch.first(), batch.header().events);
    Error::journal(format!(
        "{path}: the batch of event {first} should have {events} events, {seen} can be read"
    ))
}

/// One segment file on the way through its batches.
struct Walk<'a> {
    path: &'a Path,
    newest: bool,
    header: SegmentHeader,
    length: u64,
    scanner: Scanner,
    /// Batches of a transaction whose last one has not come yet; bounded by what a transaction may take in memory,
    /// since a larger one has a segment of its own, which is whole by being there.
    pending: Vec<Batch>,
    good_end: u64,
}

impl<'a> Walk<'a> {
    fn open(path: &'a Path, newest: bool, disk: &dyn Disk) -> Result<Self> {
        let unreadable = |error| Error::journal(format!("Cannot read {}", path.display())).because(error);
        let file = open_segment(disk, path).map_err(unreadable)?;
        let mut bytes = [0; SEGMENT_HEADER];
        file.read_at(&mut bytes, 0).map_err(unreadable)?;
        let header = SegmentHeader::decode(&bytes)
            .map_err(|reason| Error::journal(format!("{} is damaged: {reason}", path.display())))?;
        let length = file.length().map_err(unreadable)?;
        let good_end = SEGMENT_HEADER as u64;
        let scanner = Scanner::new(file, good_end, length);
        Ok(Self { path, newest, header, length, scanner, pending: Vec::new(), good_end })
    }

    fn run(
        &mut self,
        registry: &Registry,
        report: &mut CheckReport,
        mut see: impl FnMut(&mut CheckReport, &Batch) -> Result<bool>,
    ) -> Result<()> {
        while let Some((end, more, batch)) = self.next(registry)? {
            self.pending.push(batch);
            let ends = !more
                && (self.pending.len() == 1 || self.pending.last().is_some_and(|b| b.header().events > 0));
            if ends || self.header.spilled.is_some() {
                self.good_end = end;
                for batch in std::mem::take(&mut self.pending) {
                    report.batches += 1;
                    report.events += u64::from(batch.header().events);
                    if !see(report, &batch)? {
                        return Ok(());
                    }
                }
            }
        }
        report.segments += 1;
        report.bytes += self.length;
        report.unfinished += self.length - self.good_end;
        Ok(())
    }

    /// The next batch with its end and whether its transaction goes on; `None` at the end or at a torn end.
    fn next(&mut self, registry: &Registry) -> Result<Option<(u64, bool, Batch)>> {
        let path = self.path.display();
        match self.scanner.next() {
            Ok(Some((offset, header, data))) => {
                note_asides(&data, &header, registry, &mut Leftover::default());
                let batch = Batch::new(data, self.header.base, self.header.spilled, |id| registry.get(id));
                let unknown =
                    || Error::journal(format!("{path} names an unknown schema version at offset {offset}"));
                Ok(Some((offset + u64::from(header.length), header.more, batch.ok_or_else(unknown)?)))
            }
            Ok(None) => Ok(None),
            Err(ScanError::Io(error)) => Err(Error::journal(format!("Cannot read {path}")).because(error)),
            Err(ScanError::Broken(broken)) => {
                if !self.newest || self.scanner.sound_batch_follows().unwrap_or(true) {
                    return Err(broken_middle(self.path, &broken));
                }
                Ok(None)
            }
        }
    }
}
