//! A transaction too large for memory, written to a file of its own before it commits.

mod unfinished;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::abort::{self, Point};
use crate::error::{Error, Result};
use crate::journal::disk::DiskFile;
use crate::journal::refusal::{FEWER_FILES, is_out_of_files};
use crate::journal::rolling::is_full;
use crate::journal::room::{AbandonOnDrop, Abandoned, FULL_RETRY, SpillWaits};
use crate::journal::segment::{SEGMENT_HEADER, Segment, SegmentHeader};
use crate::journal::writer::DISK_FULL;
use crate::journal::{Journal, Shared, retention};
use crate::record::{Header, Part, seal};

/// Ask the disk to start writing after so many bytes, so that the sync at commit is short.
const SYNC_BYTES: u64 = 32 << 20;

/// The file of one open transaction. Dropped before it is taken in, it vanishes.
#[derive(Debug)]
pub struct Spill {
    shared: Arc<Shared>,
    /// `None` once it has been taken in.
    body: Option<Spilled>,
    unsynced: u64,
    abandoned: Abandoned,
}

/// A finished file, to be taken in.
#[derive(Debug)]
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
        // One that is still being written when its journal is closed has no name that the next one has.
        let path = shared.options.dir.join(format!("spill-{}-{number}.tmp", shared.life.simple()));
        let file = shared.disk.create(&path).map_err(|error| {
            let files = is_out_of_files(&error);
            let failed =
                Error::transient(format!("Cannot create {} for a large transaction", path.display()));
            let failed = failed.because(error);
            if files { failed.hint(FEWER_FILES) } else { failed }
        })?;
        abort::point(Point::SpillCreated);
        // Numbers and times are filled in at commit.
        let header = SegmentHeader {
            installation: shared.installation,
            spilled: Some(crate::record::SpilledTx::default()),
            ..SegmentHeader::default()
        };
        let segment = Segment::new(header, path.clone(), 0, crate::Lsn::ZERO);
        let body = Some(Spilled { path, file, segment, schemas: Vec::new() });
        Ok(Spill { shared, body, unsynced: 0, abandoned: Abandoned::default() })
    }
}

impl Spill {
    /// Writes parts of the transaction. Blocks on the disk, for as long as it is full: call it where that is allowed.
    pub fn write(&mut self, parts: Vec<Part>) -> Result<()> {
        for part in parts {
            for id in part.schemas {
                self.write_schema(id)?;
            }
            self.write_batch(part.bytes)?;
        }
        Ok(())
    }

    fn write_schema(&mut self, id: u32) -> Result<()> {
        let Some(body) = self.body.as_mut().filter(|body| !body.schemas.contains(&id)) else { return Ok(()) };
        body.schemas.push(id);
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
        let Some(Spilled { file, segment, path, .. }) = &self.body else { return Ok(()) };
        seal(&mut bytes, segment.events());
        self.put(&**file, path, &bytes, segment.length())?;
        self.shared.spilled.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        if let Some(header) = Header::parse(&bytes) {
            segment.grow(&header);
        }
        abort::point(Point::SpillWritten);
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_BYTES { self.sync() } else { Ok(()) }
    }

    /// Writes, waiting for room as long as it takes and as long as somebody waits for this.
    fn put(&self, file: &dyn DiskFile, path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
        let failed = || Error::transient(format!("Cannot write {} for a large transaction", path.display()));
        let mut waits = None;
        loop {
            let why = match retention::short_of_room(&self.shared, 0) {
                Some(why) => why,
                None => match file.write_at(bytes, offset) {
                    Ok(()) => return Ok(()),
                    Err(error) if is_full(&error) => DISK_FULL.to_owned(),
                    Err(error) => return Err(failed().because(error)),
                },
            };
            if self.abandoned.is_set() || self.shared.closing.load(Ordering::Acquire) {
                return Err(failed().because(std::io::Error::from(std::io::ErrorKind::StorageFull)));
            }
            waits.get_or_insert_with(|| SpillWaits::new(&self.shared));
            self.shared.say_full(&why);
            self.shared.disk.pause(FULL_RETRY);
        }
    }

    /// Makes what was written durable. Done before the file is handed over, it leaves two small writes to sync to
    /// the journal's writer, for whom all others wait.
    pub(crate) fn sync(&mut self) -> Result<()> {
        let Some(body) = &self.body else { return Ok(()) };
        body.file.sync().map_err(|error| {
            Error::transient(format!("Cannot sync {} of a large transaction", body.path.display()))
                .because(error)
        })?;
        self.unsynced = 0;
        Ok(())
    }

    /// For one who asks for a write and may go away: dropping this ends the waiting for room.
    pub(crate) fn on_behalf(&mut self) -> AbandonOnDrop {
        self.abandoned = Abandoned::default();
        self.abandoned.on_drop()
    }

    /// Bytes on disk so far.
    pub fn byte_len(&self) -> u64 {
        self.body.as_ref().map_or(SEGMENT_HEADER as u64, |body| body.segment.length())
    }

    pub(crate) fn into_file(mut self) -> Option<Spilled> {
        let body = self.body.take();
        self.forget(body.as_ref());
        body
    }

    fn forget(&self, body: Option<&Spilled>) {
        let bytes = body.map_or(0, |body| body.segment.length().saturating_sub(SEGMENT_HEADER as u64));
        self.shared.spilled.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        let body = self.body.take();
        self.forget(body.as_ref());
        let Some(Spilled { path, file, .. }) = body else { return };
        // What stays behind is removed at the next opening.
        let _ = self.shared.disk.remove(&path);
        self.shared.release.close(file);
    }
}
