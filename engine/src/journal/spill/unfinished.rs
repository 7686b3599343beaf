//! The file of a transaction that arrived before it committed: read back, and told what was not known.

use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::journal::Spill;
use crate::journal::disk::DiskFile;
use crate::journal::segment::SEGMENT_HEADER;
use crate::lsn::Lsn;
use crate::record::layout::{BATCH_HEADER, TX_BODY};
use crate::record::{Header, TxStart, end, know, seal};

impl Spill {
    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.byte_len() <= SEGMENT_HEADER as u64
    }

    /// Reads what was written, batch by batch. Blocks on the disk.
    pub(crate) fn each(&self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.walk(|_, _, batch, _| take(batch))
    }

    /// Says of the transaction what was not known when its parts were written; and where it ends, if its last event is
    /// among them. Of each batch the first bytes are written anew: all that changes, and the checksum. Blocks on the
    /// disk.
    pub(crate) fn know(&self, start: &TxStart<'_>, end_lsn: Option<Lsn>) -> Result<()> {
        let mut last = 0;
        self.walk(|offset, header, _, _| {
            last = if header.events > 0 { offset } else { last };
            Ok(())
        })?;
        self.walk(|offset, header, batch, file| {
            if header.events == 0 {
                return Ok(());
            }
            know(batch, start);
            if let Some(end_lsn) = end_lsn.filter(|_| offset == last) {
                end(batch, end_lsn);
            }
            seal(batch, header.first);
            let changed = batch.get(..BATCH_HEADER + TX_BODY).unwrap_or_default();
            file.write_at(changed, offset).map_err(|error| self.unusable("write", error))
        })
    }

    fn walk(
        &self,
        mut take: impl FnMut(u64, &Header, &mut [u8], &Arc<dyn DiskFile>) -> Result<()>,
    ) -> Result<()> {
        let Some(body) = &self.body else { return Ok(()) };
        let (mut offset, end) = (SEGMENT_HEADER as u64, body.segment.length());
        let mut batch = Vec::new();
        while offset < end {
            batch.resize(BATCH_HEADER, 0);
            self.read(&body.file, &mut batch, offset)?;
            let header = Header::parse(&batch).filter(|header| header.length as usize >= BATCH_HEADER);
            let header = header.ok_or_else(|| self.unusable("read", io::ErrorKind::InvalidData.into()))?;
            batch.resize(header.length as usize, 0);
            self.read(&body.file, &mut batch, offset)?;
            take(offset, &header, &mut batch, &body.file)?;
            offset += u64::from(header.length);
        }
        Ok(())
    }

    fn read(&self, file: &Arc<dyn DiskFile>, buffer: &mut [u8], offset: u64) -> Result<()> {
        match file.read_at(buffer, offset) {
            Ok(length) if length == buffer.len() => Ok(()),
            Ok(_) => Err(self.unusable("read", io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(self.unusable("read", error)),
        }
    }

    fn unusable(&self, doing: &str, error: io::Error) -> Error {
        let path = self.body.as_ref().map(|body| body.path.display().to_string()).unwrap_or_default();
        Error::transient(format!("Cannot {doing} {path} of a large transaction")).because(error)
    }
}
