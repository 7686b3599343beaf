//! The index of a closed segment, kept beside it so that opening reads no data.
//!
//! Losing one costs a scan: it is written without a sync, and believed only when its checksum and the segment's
//! length agree.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::abort::{self, Point};
use crate::event::Micros;
use crate::journal::disk::Disk;
use crate::journal::registry::Registry;
use crate::journal::segment::{IndexEntry, Segment};
use crate::lsn::Lsn;

#[derive(Serialize, Deserialize)]
struct Sidecar {
    /// Whose index it is: two segments can be of the same length.
    base: u64,
    length: u64,
    events: u64,
    time_max: Micros,
    lsn_max: u64,
    closed: Micros,
    position: Option<Box<RawValue>>,
    last_tx_end: u64,
    schemas: Vec<Box<RawValue>>,
    /// first, offset, time before, LSN before.
    index: Vec<(u64, u64, Micros, u64)>,
}

/// What a closed segment leaves to be known.
#[derive(Debug, Default)]
pub(crate) struct Leftover {
    pub(crate) position: Option<Vec<u8>>,
    pub(crate) last_tx_end: Lsn,
    pub(crate) schemas: Vec<u32>,
}

/// Writes the sidecar; a failure costs only time at the next opening.
pub(crate) fn store(disk: &dyn Disk, segment: &Segment, registry: &Registry, left: &Leftover) {
    let raw = |json: &[u8]| serde_json::from_slice::<Box<RawValue>>(json).ok();
    let sidecar = Sidecar {
        base: segment.header.base,
        length: segment.length(),
        events: segment.events(),
        time_max: segment.time_max(),
        lsn_max: segment.lsn_max().0,
        closed: segment.closed(),
        position: left.position.as_deref().and_then(raw),
        last_tx_end: left.last_tx_end.0,
        schemas: left.schemas.iter().filter_map(|id| raw(&registry.json(*id)?)).collect(),
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
        file.write_at(&bytes, 0)
    });
    abort::point(Point::IndexWritten);
    if let Err(error) = written {
        tracing::debug!(%error, "Cannot write a segment's index; the next start scans it");
    }
}

/// Takes up a segment from its sidecar; `None` when there is no good one.
pub(crate) fn load(disk: &dyn Disk, path: &Path, segment: &Segment, registry: &Registry) -> Option<Leftover> {
    let file = disk.open(&path.with_extension("idx")).ok()?;
    let mut bytes = vec![0; usize::try_from(file.length().ok()?).ok()?];
    file.read_at(&mut bytes, 0).ok()?;
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    (u32::from_le_bytes(*crc) == crc32c::crc32c(body)).then_some(())?;
    let sidecar: Sidecar = serde_json::from_slice(body).ok()?;
    (sidecar.base == segment.header.base).then_some(())?;
    (disk.open(path).ok()?.length().ok()? == sidecar.length).then_some(())?;
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
    segment.restore(index, sidecar.length, sidecar.events, times);
    segment.close(sidecar.closed);
    let position = sidecar.position.map(|json| json.get().as_bytes().to_vec());
    Some(Leftover { position, last_tx_end: Lsn(sidecar.last_tx_end), schemas })
}
