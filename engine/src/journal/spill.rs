//! A transaction too large for memory, written to a file of its own before it commits.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::journal::disk::DiskFile;
use crate::journal::segment::{SEGMENT_HEADER, Segment, SegmentHeader};
use crate::journal::{Journal, Shared};
use crate::record::{Header, Part, seal};

/// Ask the disk to start writing after so many bytes, so that the sync at commit is short.
const SYNC_BYTES: u64 = 32 << 20;

/// The file of one open transaction. Dropped before it is taken in, it vanishes.
#[derive(Debug)]
pub struct Spill {
    shared: Arc<Shared>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    segment: Option<Segment>,
    schemas: Vec<u32>,
    unsynced: u64,
    kept: bool,
}

/// A finished file, to be taken in.
pub(crate) struct Spilled {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) segment: Segment,
    pub(crate) schemas: Vec<u32>,
}

impl Journal {
    /// Starts a file for a huge transaction.
    pub fn spill(&self) -> Result<Spill> {
        let shared = Arc::clone(&self.shared);
        let number = shared.spills.fetch_add(1, Ordering::Relaxed);
        let path = shared.options.dir.join(format!("spill-{number}.tmp"));
        let file = shared.disk.create(&path).map_err(|error| {
            Error::transient(format!("Cannot create {} for a large transaction", path.display()))
                .because(error)
        })?;
        // Numbers and times are filled in at commit.
        let header = SegmentHeader {
            base: 0,
            previous_last: 0,
            created: 0,
            installation: shared.installation,
            spilled: Some(crate::record::SpilledTx::default()),
            history: None,
        };
        let segment = Segment::new(header, path.clone(), 0, crate::Lsn::ZERO);
        Ok(Spill {
            shared,
            path,
            file,
            segment: Some(segment),
            schemas: Vec::new(),
            unsynced: 0,
            kept: false,
        })
    }
}

impl Spill {
    /// Writes parts of the transaction. Blocks on the disk: call it where that is allowed.
    pub fn write(&mut self, parts: Vec<Part>) -> Result<()> {
        for part in parts {
            for id in part.schemas.iter().filter(|id| !self.schemas.contains(id)).copied().collect::<Vec<_>>()
            {
                self.write_schema(id)?;
            }
            self.write_batch(part.bytes)?;
        }
        Ok(())
    }

    fn write_schema(&mut self, id: u32) -> Result<()> {
        self.schemas.push(id);
        let Some(json) = self.shared.registry.json(id) else { return Ok(()) };
        let mut builder = crate::record::Builder::new();
        builder.schema(&json);
        for part in builder.take() {
            let mut bytes = part.bytes;
            // Nothing of the transaction may be taken for whole before its last batch.
            crate::record::layout::put(&mut bytes, 12, &crate::record::layout::FLAG_MORE.to_le_bytes());
            self.write_batch(bytes)?;
        }
        Ok(())
    }

    fn write_batch(&mut self, mut bytes: Vec<u8>) -> Result<()> {
        let Some(segment) = &self.segment else { return Ok(()) };
        seal(&mut bytes, segment.events());
        let failed = |error| {
            Error::transient(format!("Cannot write {} for a large transaction", self.path.display()))
                .because(error)
                .hint("Make room on the file system of the data directory.")
        };
        self.file.write_at(&bytes, segment.length()).map_err(failed)?;
        if let Some(header) = Header::parse(&bytes) {
            segment.grow(&header);
        }
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_BYTES {
            self.file.sync().map_err(failed)?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Bytes on disk so far.
    pub fn byte_len(&self) -> u64 {
        self.segment.as_ref().map_or(SEGMENT_HEADER as u64, Segment::length)
    }

    pub(crate) fn into_file(mut self) -> Option<Spilled> {
        self.kept = true;
        Some(Spilled {
            path: self.path.clone(),
            file: Arc::clone(&self.file),
            segment: self.segment.take()?,
            schemas: std::mem::take(&mut self.schemas),
        })
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        if !self.kept {
            // What stays behind is removed at the next opening.
            let _ = self.shared.disk.remove(&self.path);
        }
    }
}
