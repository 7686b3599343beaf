//! Looking at a journal without opening it for writing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use crate::error::Result;
use crate::event::Event;
use crate::journal::compressed::plain_view;
use crate::journal::disk::{Disk, DiskFile};
use crate::journal::ending::Ending;
use crate::journal::installation;
use crate::journal::lost_end::LostEnd;
use crate::journal::opening::{never_begun, note_asides, segment_paths};
use crate::journal::place::Start;
use crate::journal::reader::Gone;
use crate::journal::refusal::{
    broken_middle, broken_segment, cannot_read, foreign, miscounted, misfit_or_misnamed, rightly_named,
    unknown_schema,
};
use crate::journal::registry::Registry;
use crate::journal::removed;
use crate::journal::scan::{Broken, ScanError, Scanner};
use crate::journal::segment::{SEGMENT_HEADER, Segment, SegmentHeader, is_compressed};
use crate::journal::sidecar::{self, Leftover};
use crate::journal::taken;
use crate::lsn::Lsn;
use crate::record::{Batch, Header};

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
    /// What has gone from the beginning, and not by retention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<Gone>,
    /// What was taken from the end while rowcast ran; the next start tells every reader a gap of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken: Option<Gone>,
}

/// Reads every batch of a journal. The first damage is an error that names file and offset.
pub fn check(dir: &Path, disk: &dyn Disk) -> Result<CheckReport> {
    let mut report = check_segments(dir, disk)?;
    let ours = installation::of_segments(dir, disk)?;
    for path in segment_paths(dir, disk)? {
        match Walk::open(&path, true, disk)? {
            Opened::Segment(walk) if walk.header.installation != ours => {
                return Err(foreign(&path, walk.header.installation, ours, disk));
            }
            _ => {}
        }
    }
    // What retention takes meanwhile, it has noted before.
    let before = removed::before_oldest(dir, disk)?;
    report.missing = before.map_or(Ok(None), |before| removed::missing(dir, disk, before))?;
    report.taken = taken::missing(dir, disk, taken::end(dir, disk, report.newest)?)?;
    Ok(report)
}

/// The same without asking whose they are.
pub(super) fn check_segments(dir: &Path, disk: &dyn Disk) -> Result<CheckReport> {
    match LostEnd::of(dir, disk)? {
        Some(lost) => Err(lost.refusal()),
        None => for_each_event(dir, disk, Start::Earliest, |_| true),
    }
}

/// Reads a journal, calling `see` for each event of whole transactions from a place on. When it says false the rest is
/// not read, and the report is of what was. What lies before the place is not read either, as far as indexes tell
/// where that is.
pub fn for_each_event(
    dir: &Path,
    disk: &dyn Disk,
    start: Start,
    mut see: impl FnMut(&Event<'_>) -> bool,
) -> Result<CheckReport> {
    let registry = Registry::default();
    let mut report = CheckReport::default();
    let paths = segments(dir, disk)?;
    let mut going = true;
    let mut last = None;
    let mut begun = false;
    let paths = paths.get(start.segment_of(&paths, disk)..).unwrap_or(&[]);
    for (at, path) in paths.iter().enumerate() {
        let mut file = match Walk::open(path, at + 1 == paths.len(), disk)? {
            Opened::Segment(file) => file,
            Opened::NeverBegun => break,
            // Retention has taken it since the directory was listed, and what came before it.
            Opened::Removed => {
                last = None;
                continue;
            }
        };
        if at == 0 {
            file.go_to(start, disk, &registry);
        }
        let previous = file.header.previous_last;
        if let Some(last) = last.filter(|last| *last != previous) {
            return Err(misfit_or_misnamed(paths, path, (previous, last), disk));
        }
        file.run(&registry, &mut report, |report, batch| {
            if batch.header().events > 0 {
                report.oldest = if report.oldest == 0 { batch.first() } else { report.oldest };
                report.newest = report.newest.max(batch.last());
            }
            let mut one = |event: &Event<'_>| {
                // Times are not in order: from the first one that is late enough on.
                begun = begun || start.is_reached(event);
                going = going && (!begun || see(event));
            };
            let seen = batch.all_events().map(|event| one(&event)).count();
            if seen == batch.header().events as usize {
                Ok(going)
            } else {
                Err(miscounted(path, (batch.first(), batch.header().events), seen))
            }
        })?;
        if !going {
            break;
        }
        last = Some(file.last);
    }
    Ok(report)
}

/// How much of the newest segment, which is open, is whole transactions, also while it is written; `None` where nothing is
/// in it.
pub(super) fn whole_length(path: &Path, file: Arc<dyn DiskFile>, disk: &dyn Disk) -> Result<Option<u64>> {
    let Opened::Segment(mut walk) = Walk::of(path, file, true, disk)? else { return Ok(None) };
    walk.run(&Registry::default(), &mut CheckReport::default(), |_, _| Ok(true))?;
    Ok(Some(if walk.ending.may_be_torn(walk.good_end) { walk.good_end } else { walk.length }))
}

/// The segments of a journal, of which there is at least one.
pub(super) fn segments(dir: &Path, disk: &dyn Disk) -> Result<Vec<PathBuf>> {
    let paths = segment_paths(dir, disk)?;
    if paths.is_empty() { Err(removed::nothing_there(dir, disk)) } else { Ok(paths) }
}

pub(super) enum Opened<'a> {
    Segment(Box<Walk<'a>>),
    /// The newest one, without a header: opening removes it.
    NeverBegun,
    Removed,
}

/// One segment file on the way through its batches.
pub(super) struct Walk<'a> {
    path: &'a Path,
    newest: bool,
    ending: Ending,
    pub(super) header: SegmentHeader,
    length: u64,
    file: Arc<dyn DiskFile>,
    scanner: Scanner,
    /// Batches of a transaction whose last one has not come yet; bounded by what a transaction may take in memory,
    /// since a larger one has a segment of its own, which is whole by being there.
    pending: Vec<Batch>,
    /// The transaction read last has ended.
    whole: bool,
    good_end: u64,
    /// Number of the last event of a whole transaction.
    pub(super) last: u64,
}

impl<'a> Walk<'a> {
    pub(super) fn open(path: &'a Path, newest: bool, disk: &dyn Disk) -> Result<Opened<'a>> {
        match disk.open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Opened::Removed),
            Err(error) => Err(cannot_read(path, error)),
            Ok(file) => Self::of(path, file, newest, disk),
        }
    }

    fn of(path: &'a Path, file: Arc<dyn DiskFile>, newest: bool, disk: &dyn Disk) -> Result<Opened<'a>> {
        let unreadable = |error| cannot_read(path, error);
        let mut bytes = [0; SEGMENT_HEADER];
        let read = file.read_at(&mut bytes, 0).map_err(unreadable)?;
        let file = plain_view(file, &bytes).map_err(unreadable)?;
        let length = file.length().map_err(unreadable)?;
        let header = match SegmentHeader::decode(&bytes) {
            Ok(header) => header,
            Err(_) if newest && never_begun(&bytes, read, length) => return Ok(Opened::NeverBegun),
            Err(reason) => return Err(broken_segment(path, reason)),
        };
        rightly_named(path, header.base, disk)?;
        let good_end = SEGMENT_HEADER as u64;
        let scanner = Scanner::new(Arc::clone(&file), good_end, length);
        let last = header.previous_last;
        let (pending, whole) = (Vec::new(), true);
        // A compressed one was whole when it got its name.
        let newest = newest && !is_compressed(&bytes);
        let ending = Ending::of(disk, path, (&header, &*file), newest).map_err(unreadable)?;
        let walk =
            Self { path, newest, ending, header, length, file, scanner, pending, whole, good_end, last };
        Ok(Opened::Segment(Box::new(walk)))
    }

    /// What its index says of it, with its tables; `None` where there is none.
    pub(super) fn index(&self, disk: &dyn Disk, registry: &Registry) -> Option<Segment> {
        let segment = Segment::new(self.header, self.path.to_owned(), 0, Lsn::ZERO);
        sidecar::load(disk, &segment, &self.file, self.newest, registry).map(|_| segment)
    }

    /// Goes to where the index says that the place is.
    fn go_to(&mut self, start: Start, disk: &dyn Disk, registry: &Registry) {
        if start == Start::Earliest {
            return;
        }
        let Some(segment) = self.index(disk, registry) else { return };
        self.good_end = start.offset_in(&segment);
        // Behind it there may be no event any more.
        self.last = segment.last();
        self.scanner = Scanner::new(Arc::clone(&self.file), self.good_end, self.length);
    }

    /// The number of its last event, from its index or by reading it.
    pub(super) fn end(&mut self, disk: &dyn Disk) -> Result<u64> {
        let registry = Registry::default();
        if let Some(segment) = self.index(disk, &registry) {
            return Ok(segment.last());
        }
        self.run(&registry, &mut CheckReport::default(), |_, _| Ok(true))?;
        Ok(self.last)
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
            self.whole = ends;
            if ends || self.header.spilled.is_some() {
                self.good_end = end;
                for batch in std::mem::take(&mut self.pending) {
                    if batch.header().events > 0 {
                        self.last = batch.last();
                    }
                    report.batches += 1;
                    report.events += u64::from(batch.header().events);
                    if !see(report, &batch)? {
                        return Ok(());
                    }
                }
            }
        }
        if !self.whole && !self.ending.may_be_torn(self.good_end) {
            let broken = Broken { offset: self.length, reason: "its last transaction is not whole" };
            return Err(broken_middle(self.path, &broken));
        }
        report.segments += 1;
        report.bytes += self.length;
        report.unfinished += self.length - self.good_end;
        Ok(())
    }

    /// The next batch with its end and whether its transaction goes on; `None` at the end or at a torn end.
    fn next(&mut self, registry: &Registry) -> Result<Option<(u64, bool, Batch)>> {
        let Some((offset, header, data)) = self.read()? else { return Ok(None) };
        note_asides(&data, &header, registry, &mut Leftover::default());
        let batch = Batch::new(data, self.header.base, self.header.spilled, |id| registry.get(id));
        let batch = batch.ok_or_else(|| unknown_schema(self.path, offset))?;
        Ok(Some((offset + u64::from(header.length), header.more, batch)))
    }

    fn read(&mut self) -> Result<Option<(u64, Header, Bytes)>> {
        let unreadable = |error| cannot_read(self.path, error);
        let broken = match self.scanner.next() {
            Ok(read) => return Ok(read),
            Err(ScanError::Io(error)) => return Err(unreadable(error)),
            Err(ScanError::Broken(broken)) => broken,
        };
        let Self { ending, good_end, .. } = *self;
        if !ending.may_have_zeros(good_end) {
            return Err(broken_middle(self.path, &broken));
        }
        let end = self.scanner.end_of_data().map_err(unreadable)?;
        let torn =
            ending.may_be_torn(good_end) && !self.scanner.is_in_the_middle(ending.copied).unwrap_or(true);
        if end <= broken.offset || torn {
            self.length = end;
            return Ok(None);
        }
        // It was being written, into zeros, when it was read, if it is there now that something follows it.
        self.scanner.look_again();
        self.scanner.next().map_err(|_| broken_middle(self.path, &broken))
    }
}
