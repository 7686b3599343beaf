//! What retention has removed, in a file of its own: segments that somebody else has removed are missed by it.
//!
//! `removed` holds the number of the last event that has gone, and a checksum; earlier versions of rowcast write and
//! read the number alone. It is durable before the segment goes, and written over in place (`noted`). One that is too high
//! hides a loss, and one that is too low tells of a loss that was none. So where it cannot be written it goes, and nobody
//! knows until the next opening.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use metrics::counter;

use crate::error::{Error, Result};
use crate::journal::disk::Disk;
use crate::journal::opening::segment_paths;
use crate::journal::reader::Gone;
use crate::journal::refusal::{cannot_read, is_out_of_files, read_header};
use crate::journal::segment::Segment;
use crate::journal::{Shared, noted};

const HINT: &str = "Whoever had not read them is told a gap. If that was nobody's doing, the disk may be failing: see the \
                    kernel's log (dmesg). A copy made with cp while retention was at work lacks them as well: \
                    `rowcast journal backup` does not";

/// Notes durably that all up to an event go, or that it is not known what went.
///
/// # Errors
///
/// Neither could be done: then nothing may go.
pub(super) fn note(dir: &Path, disk: &dyn Disk, last: u64) -> io::Result<()> {
    let path = path_in(dir);
    let Err(error) = noted::write(&path, disk, &[last]) else { return Ok(()) };
    if is_out_of_files(&error) {
        // That passes.
        return Err(error);
    }
    match disk.remove(&path) {
        Ok(()) => disk.sync_dir(dir),
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => Err(error),
    }
}

/// The number of the last event that is known to have been removed; `None` where it is not known.
pub(super) fn noted(dir: &Path, disk: &dyn Disk) -> Result<Option<u64>> {
    let path = path_in(dir);
    let unreadable = |error| cannot_read(&path, error);
    match noted::read(&path, disk).map_err(unreadable)? {
        Some([last]) => Ok(Some(last)),
        None => noted::read_bare(&path, disk).map_err(unreadable),
    }
}

/// What has gone from the beginning of a journal, and not by retention; `before` is the last event before its oldest
/// segment.
pub(super) fn missing(dir: &Path, disk: &dyn Disk, before: u64) -> Result<Option<Gone>> {
    let gone = noted(dir, disk)?.filter(|gone| *gone < before);
    Ok(gone.map(|gone| Gone { from: gone + 1, to: before }))
}

/// The last event before the oldest segment of a directory, where there is one and its header is sound.
pub(super) fn before_oldest(dir: &Path, disk: &dyn Disk) -> Result<Option<u64>> {
    match segment_paths(dir, disk)?.first() {
        Some(oldest) => Ok(read_header(oldest, disk)?.map(|header| header.previous_last)),
        None => Ok(None),
    }
}

/// What is said of a directory without segments: where there were some, that they are missing.
pub(super) fn nothing_there(dir: &Path, disk: &dyn Disk) -> Error {
    match noted(dir, disk) {
        Err(unreadable) => unreadable,
        Ok(Some(gone)) => all_missing(dir, gone + 1),
        Ok(None) => Error::journal(format!("There is no journal in {}", dir.display()))
            .hint("Name the data directory of rowcast (--data DIR)."),
    }
}

/// The same, if there were some.
pub(super) fn are_all_missing(dir: &Path, disk: &dyn Disk) -> Result<()> {
    let gone = noted(dir, disk)?.filter(|_| segment_paths(dir, disk).is_ok_and(|paths| paths.is_empty()));
    gone.map_or(Ok(()), |gone| Err(all_missing(dir, gone + 1)))
}

fn all_missing(dir: &Path, from: u64) -> Error {
    Error::journal(format!("All segments of the journal in {} are missing: it held events from {from} on", dir.display()))
        .hint(
            "Restore the directory from a copy (rowcast journal backup). Else start rowcast: it begins anew, says what \
             Postgres has forgotten, and tells a gap to whoever comes with a number of before.",
        )
}

/// Tells what is missing at an opening.
pub(super) fn warn_of_missing(dir: &Path, disk: &dyn Disk, segments: &[Arc<Segment>]) -> Result<()> {
    let Some(oldest) = segments.first() else {
        if let Some(gone) = noted(dir, disk)? {
            let from = gone + 1;
            tracing::error!(
                from,
                dir = %dir.display(),
                hint = HINT,
                "All segments of the journal are missing: it held events from {from} on"
            );
        }
        return Ok(());
    };
    if let Some(gone) = missing(dir, disk, oldest.header.previous_last)? {
        tracing::error!(
            from = gone.from,
            to = gone.to,
            dir = %dir.display(),
            hint = HINT,
            "{} are missing: segments at the journal's beginning were removed, and not by retention",
            gone.of_beginning()
        );
        counter!("rowcast_journal_missing_total").increment(1);
    }
    Ok(())
}

impl Gone {
    /// Which events they are, in words, where they were the first ones that the journal held: those of a new one do not
    /// begin at 1.
    pub fn of_beginning(&self) -> String {
        match self {
            Self { from: 1, to } => format!("All events up to {to}"),
            Self { from, to } => format!("Events {from} to {to}"),
        }
    }
}

impl Shared {
    /// Notes where the journal begins: for a new one, for one of before there were such notes, and behind what was missing
    /// and has been told.
    pub(super) fn note_beginning(&self) {
        let Some(before) = self.segments.load().first().map(|oldest| oldest.header.previous_last) else {
            return;
        };
        let (dir, disk) = (&self.options.dir, &*self.disk);
        // One that cannot be read stays: it may know more.
        let (Ok(gone), Ok(bare)) = (noted(dir, disk), noted::read_bare(&path_in(dir), disk)) else { return };
        let gone = gone.filter(|gone| *gone >= before);
        if gone.is_none() || bare.is_some() {
            // Without it nothing is missed, and nothing is lost by that.
            let _ = note(dir, disk, gone.unwrap_or(before));
        }
    }
}

fn path_in(dir: &Path) -> PathBuf {
    dir.join("removed")
}
