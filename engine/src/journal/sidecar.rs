//! The index of a closed segment, kept beside it so that opening reads no data.
//!
//! Losing one costs a scan. It is written once nothing more is written to the segment and all of that is synced, so
//! whatever a power cut leaves of it, one that is whole speaks of a segment that is whole. It is believed when its
//! checksum is right and it names this very segment: made at that moment, of that length. For the newest segment the
//! last stretch of data is read besides and must end where the index says: a disk that only claimed to sync would
//! have lost that first. A bit that flips before it is not found at opening, in no segment; every read compares
//! the checksums of what it gives out.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::abort::{self, Point};
use crate::error::Result;
use crate::event::Micros;
use crate::journal::disk::{Disk, DiskFile};
use crate::journal::notes::Notes;
use crate::journal::opening::index_paths;
use crate::journal::registry::Registry;
use crate::journal::scan::Scanner;
use crate::journal::segment::{IndexEntry, Segment, SegmentHeader};
use crate::journal::writer::now;
use crate::lsn::Lsn;

/// One of a larger segment is synced: after a power cut a scan would take long.
const SYNC_FROM: u64 = 256 << 20;

/// No index of a segment of 100 GB is longer.
const LONGEST: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Sidecar {
    /// Number of the segment's first event, as its name says. Indexes of earlier versions lack it.
    #[serde(default)]
    base: Option<u64>,
    /// When the segment was made: another one may have had its name.
    created: Micros,
    /// Of the segment's plain form.
    length: u64,
    events: u64,
    time_max: Micros,
    lsn_max: u64,
    closed: Micros,
    position: Option<Box<RawValue>>,
    last_tx_end: u64,
    schemas: Vec<Box<RawValue>>,
    /// The highest number that a schema version has been given, here or before. Indexes of earlier versions lack it.
    #[serde(default)]
    highest: u32,
    /// All that there were at its end.
    #[serde(default)]
    notes: BTreeMap<String, Box<RawValue>>,
    /// first, offset, time before, LSN before.
    index: Vec<(u64, u64, Micros, u64)>,
}

/// What a closed segment leaves to be known.
#[derive(Debug, Default)]
pub(crate) struct Leftover {
    pub(crate) position: Option<Vec<u8>>,
    pub(crate) last_tx_end: Lsn,
    pub(crate) schemas: Vec<u32>,
    /// Schema versions that are there and cannot be read.
    pub(crate) unread: u32,
    pub(crate) notes: Notes,
}

/// Writes the sidecar; a failure costs only time at the next opening.
pub(crate) fn store(disk: &dyn Disk, segment: &Segment, registry: &Registry, left: &Leftover) {
    let raw = |json: &[u8]| serde_json::from_slice::<Box<RawValue>>(json).ok();
    let sidecar = Sidecar {
        base: Some(segment.header.base),
        created: segment.header.created,
        length: segment.length(),
        events: segment.events(),
        time_max: segment.time_max(),
        lsn_max: segment.lsn_max().0,
        closed: segment.closed(),
        position: left.position.as_deref().and_then(raw),
        last_tx_end: left.last_tx_end.0,
        schemas: left.schemas.iter().filter_map(|id| raw(&registry.json(*id)?)).collect(),
        highest: registry.highest(),
        notes: left.notes.iter().filter_map(|(name, json)| Some((name.clone(), raw(json)?))).collect(),
        index: segment
            .index()
            .iter()
            .map(|entry| (entry.first, entry.offset, entry.time_before, entry.lsn_before.0))
            .collect(),
    };
    let written = serde_json::to_vec(&sidecar).map_err(std::io::Error::other).and_then(|mut bytes| {
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        let file = disk.create(&segment.path.with_extension("idx"))?;
        abort::point(Point::IndexCreated);
        file.write_at(&bytes, 0)?;
        if segment.length() >= SYNC_FROM { file.sync() } else { Ok(()) }
    });
    abort::point(Point::IndexWritten);
    if let Err(error) = written {
        tracing::debug!(%error, "Cannot write a segment's index; the next start scans it");
    }
}

/// Takes up a segment from its sidecar; `None` when there is no good one. `data` is the segment's plain form.
pub(crate) fn load(
    disk: &dyn Disk,
    segment: &Segment,
    data: &Arc<dyn DiskFile>,
    newest: bool,
    registry: &Registry,
) -> Option<Leftover> {
    let index = segment.path.with_extension("idx");
    // Of one that cannot be read the data tells.
    let sidecar: Sidecar = read(disk, &index, longest(data.length().ok()?)).ok()??;
    (sidecar.created == segment.header.created && data.length().ok()? == sidecar.length).then_some(())?;
    // An event takes more than a byte.
    (sidecar.events < sidecar.length).then_some(())?;
    let index = sidecar
        .index
        .iter()
        .map(|&(first, offset, time_before, lsn)| IndexEntry {
            first,
            offset,
            time_before,
            lsn_before: Lsn(lsn),
        })
        .collect();
    let times = (sidecar.time_max, Lsn(sidecar.lsn_max));
    let schemas =
        sidecar.schemas.iter().map(|json| registry.load(json.get().as_bytes())).collect::<Option<_>>()?;
    registry.note_given(sidecar.highest);
    segment.restore(index, sidecar.length, sidecar.events, times);
    (!newest || ends_as_said(segment, data)).then_some(())?;
    segment.close_before(sidecar.closed, now());
    let position = sidecar.position.map(|json| json.get().as_bytes().to_vec());
    let notes = sidecar.notes.into_iter().map(|(name, json)| (name, json.get().as_bytes().into())).collect();
    Some(Leftover { position, last_tx_end: Lsn(sidecar.last_tx_end), schemas, unread: 0, notes })
}

/// What an index says of its segment, for one who does not have the segment, or less of it.
#[derive(Debug, Deserialize)]
pub(crate) struct Said {
    /// Where another one is named so, this is a copy.
    #[serde(default)]
    pub(crate) base: Option<u64>,
    pub(crate) created: Micros,
    pub(crate) length: u64,
    pub(crate) events: u64,
}

/// Up to where an index says that this very segment was whole: it is written when all of that is durable. 0 without
/// one.
pub(crate) fn durable_to(disk: &dyn Disk, path: &Path, header: &SegmentHeader) -> io::Result<u64> {
    let said = said(disk, &path.with_extension("idx"))?;
    let own = said.filter(|said| said.created == header.created && said.events > 0);
    Ok(own.map_or(0, |said| said.length))
}

/// The highest number of a schema version that any index there says has been given. One that cannot be read says nothing.
pub(crate) fn highest(dir: &Path, disk: &dyn Disk) -> Result<u32> {
    #[derive(Deserialize)]
    struct Given {
        #[serde(default)]
        highest: u32,
    }
    let mut highest = 0;
    for index in index_paths(dir, disk)? {
        let given = read(disk, &index, LONGEST).ok().flatten();
        highest = highest.max(given.map_or(0, |given: Given| given.highest));
    }
    Ok(highest)
}

/// Reads no more of an index than that; `None` when there is no good one. One that cannot be read may be all that tells
/// of a segment that is gone: it is an error.
pub(crate) fn said(disk: &dyn Disk, index: &Path) -> io::Result<Option<Said>> {
    read(disk, index, LONGEST)
}

/// Reads an index whose checksum is right, unless it is longer than any can be.
fn read<T: serde::de::DeserializeOwned>(
    disk: &dyn Disk,
    index: &Path,
    longest: u64,
) -> io::Result<Option<T>> {
    let file = match disk.open(index) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let length = file.length()?;
    if length > longest {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_at(&mut bytes, 0)?;
    let body =
        bytes.split_last_chunk::<4>().filter(|(body, crc)| u32::from_le_bytes(**crc) == crc32c::crc32c(body));
    Ok(body.and_then(|(body, _)| serde_json::from_slice(body).ok()))
}

/// No sidecar of so much data is longer: tables and notes stand in the data as well, and an entry of the index, which
/// speaks for a stride of data, has four numbers of 20 digits at most.
fn longest(data: u64) -> u64 {
    4096 + 2 * data
}

/// Whether sound batches lead from the last entry of the index to the end of the segment, and to its last event.
fn ends_as_said(segment: &Segment, data: &Arc<dyn DiskFile>) -> bool {
    let last = segment.offset_where(|_| true);
    let mut scanner = Scanner::new(Arc::clone(data), last, segment.length()).for_a_place();
    let mut events = 0;
    loop {
        match scanner.next() {
            Ok(Some((_, header, _))) => events = header.first + u64::from(header.events),
            Ok(None) => return events == segment.events(),
            Err(_) => return false,
        }
    }
}
