//! Where a segment may end: what opening, check and repair take for an end, and what for damage.

use std::io;
use std::path::Path;

use crate::journal::disk::{Disk, DiskFile};
use crate::journal::segment::{SEGMENT_HEADER, SegmentHeader};
use crate::journal::sidecar;

/// What is known of a segment's end before its batches are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    header: SegmentHeader,
    /// It is the newest one, and plain.
    newest: bool,
    /// The file is a copy of the one that was written. What was written while it was copied may be there in part.
    pub(crate) copied: bool,
    /// Up to here an index says that it was whole and synced.
    sure: u64,
}

impl Ending {
    pub(crate) fn of(
        disk: &dyn Disk,
        path: &Path,
        (header, file): (&SegmentHeader, &dyn DiskFile),
        newest: bool,
    ) -> io::Result<Self> {
        let born = if header.born == 0 { 0 } else { file.born()? };
        let copied = born != 0 && born != header.born;
        // An older one was cut to what is in it, though not in a copy that was made before that.
        let sure = if newest || copied { sidecar::durable_to(disk, path, header)? } else { u64::MAX };
        Ok(Self { header: *header, newest, copied, sure })
    }

    /// Whether what is missing behind `good_end` may never have been there. A spilled transaction and a bridge were whole
    /// and synced before their files had their names, and so was the batch that a history begins with.
    pub(crate) fn may_be_torn(&self, good_end: u64) -> bool {
        let begun = self.header.history.is_none() || good_end > SEGMENT_HEADER as u64;
        self.newest && begun && self.header.spilled.is_none() && !self.header.bridge && good_end >= self.sure
    }

    /// Whether there may be zeros behind `good_end`.
    pub(crate) fn may_have_zeros(&self, good_end: u64) -> bool {
        self.may_be_torn(good_end) || (self.copied && good_end >= self.sure)
    }
}
