//! Zeros that are written ahead of what is appended, so that a sync has less to wait for.
//!
//! A sync of a file that has grown also waits until the file system's own log holds its new length and its new blocks;
//! one of bytes that were there before does not. On ext4 that is 40% of the sync of a small group
//! (`docs/performance.md`). PostgreSQL fills the files of its own log with zeros for the same reason (`wal_init_zero`).
//!
//! So the newest segment may be longer than what is in it. Whoever reads it without the journal that writes it takes
//! zeros for its end; nothing is cut off there, and no batch begins with zeros. A segment is cut to what is in it,
//! durably, before the next one begins, so that an older one never has any. A copy that is made meanwhile may have zeros
//! with later batches behind them, and an older segment that ends with them (`Ending::copied`).

use crate::error::Result;
use crate::journal::Sync;
use crate::journal::rolling::is_full;
use crate::journal::writer::{Writer, now};

static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

impl Writer {
    /// Behind a small round that has made the file longer: makes it longer still, so that the next ones do not. It is
    /// synced with the round.
    pub(super) fn write_ahead_of(&mut self, round: u64) -> Result<()> {
        let (written, options) = (self.active.written, &self.shared.options);
        // What is larger needs as long to write the zeros first as they save; a rare sync may take what it takes.
        let small = round <= options.ahead_bytes as u64 / 8;
        if written <= self.active.zeroed || !small || options.sync != Sync::Always {
            return Ok(());
        }
        let rest = options.segment_bytes.saturating_sub(written).min(options.ahead_bytes as u64);
        let zeros = usize::try_from(rest).ok().and_then(|rest| ZEROS.get(..rest)).unwrap_or(&ZEROS);
        match self.active.file.write_at(zeros, written) {
            Ok(()) => self.active.zeroed = written + zeros.len() as u64,
            // Any beginning of them may be there, as room for what comes.
            Err(error) if is_full(&error) => {
                self.active.zeroed = self.active.file.length().unwrap_or(written).max(written);
            }
            Err(error) => return Err(self.broken("write to", error)),
        }
        Ok(())
    }

    /// Ends the segment: what is in it is durable, and there is nothing behind.
    pub(super) fn end_segment(&mut self) -> Result<()> {
        // An end that is cut would be made up for with zeros.
        self.look_at_file()?;
        self.sync_now()?;
        if self.active.zeroed > self.active.written {
            self.cut_to_written()?;
            self.sync_file()?;
        }
        self.active.segment.close(now());
        Ok(())
    }

    pub(super) fn cut_to_written(&mut self) -> Result<()> {
        let written = self.active.written;
        self.active.file.truncate(written).map_err(|error| self.broken("cut", error))?;
        self.active.zeroed = written;
        Ok(())
    }
}

/// How many bytes there are before the zeros at the end.
pub(super) fn without_zeros(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}
