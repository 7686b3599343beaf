//! What another hand has taken from the end while rowcast ran. An opening that finds less than there was cannot tell that
//! from a crash that came before it was written; the process that wrote it can. So it notes in the file `taken`, when it
//! misses the file that it writes: the last number before that segment, its first one, and the newest one that was shown.
//!
//! The file is made at every opening, with nothing in it to tell, and stays open: where the disk is full, or no file can be
//! opened, it can still be written over. It names the installation, and the highest number that a schema version has been
//! given, since what is taken may be all that had it.
//!
//! The next opening lays a bridge over those that are not there any more, as `repair` does: readers are told a gap, and
//! no number is given again.

use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::journal::disk::Disk;
use crate::journal::lost_end::REPLACED;
use crate::journal::opening::segment_paths;
use crate::journal::reader::Gone;
use crate::journal::refusal::{cannot_change, cannot_read, is_out_of_files, read_header};
use crate::journal::segment::Segment;
use crate::journal::{Shared, installation, noted, removed};
use crate::schema::SchemaId;

impl Shared {
    /// The newest file, which is being written, was removed, cut or replaced.
    pub(super) fn taken_away(&self, segment: &Segment, how: &str) -> Error {
        let error =
            Error::journal(format!("{} was {how} while it was being written", segment.path.display()));
        let (first, last) = (segment.header.base, *self.head.borrow());
        let again = if how == REPLACED {
            "Put the file back, or move what has its name now out of the directory, and start rowcast again: it goes on \
             behind what is left, and what Postgres has forgotten of the rest is a gap"
        } else {
            "Start rowcast again: it goes on behind what is left, and what Postgres has forgotten of the rest is a gap"
        };
        if last < first {
            return error.hint(format!("{again}."));
        }
        let dir = &self.options.dir;
        let note = Note {
            before: segment.header.previous_last,
            first,
            last,
            schemas: self.registry.highest(),
            installation: self.installation,
        };
        match self.store_note(&note) {
            Ok(()) => error.hint(format!(
                "{again}. Of what is lost of events {first} to {last} every reader is told a gap, journal_damaged."
            )),
            Err(failed) => error.hint(format!(
                "{again}. Readers will not be told what is lost of events {first} to {last}: it could not be noted in {} ({failed}).",
                dir.display()
            )),
        }
    }

    fn store_note(&self, note: &Note) -> io::Result<()> {
        match note.store(&self.options.dir, &*self.disk) {
            Err(error) if is_out_of_files(&error) => match self.taken.get() {
                Some(file) if file.look()?.named => noted::write_to(&**file, &note.encode()),
                _ => Err(error),
            },
            stored => stored,
        }
    }

    /// Once it has been told the note says nothing more, not of a journal that is emptied later: only where an opening has
    /// read it. What cannot be done now is tried again when there is something to note; what stays is behind the bridge.
    pub(super) fn begin_note(&self) {
        let (dir, disk) = (&self.options.dir, &*self.disk);
        let note = Note::nothing(self.registry.highest(), self.installation);
        let same = noted::read(&path_in(dir), disk).is_ok_and(|found| found == Some(note.encode()));
        let stored = if same { Ok(()) } else { note.store(dir, disk) };
        if let Ok(file) = stored.and_then(|()| disk.open(&path_in(dir))) {
            // An opening does this once.
            let _ = self.taken.set(file);
        }
    }
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    before: u64,
    first: u64,
    /// Below the first one where nothing was taken.
    last: u64,
    schemas: SchemaId,
    installation: Uuid,
}

impl Note {
    fn nothing(schemas: SchemaId, installation: Uuid) -> Self {
        Self { before: 0, first: 1, last: 0, schemas, installation }
    }

    fn encode(&self) -> [u64; 6] {
        let (high, low) = self.installation.as_u64_pair();
        [self.before, self.first, self.last, u64::from(self.schemas), high, low]
    }

    fn decode([before, first, last, schemas, high, low]: [u64; 6]) -> Option<Self> {
        let installation = Uuid::from_u64_pair(high, low);
        Some(Self { before, first, last, schemas: SchemaId::try_from(schemas).ok()?, installation })
    }

    /// Of this installation: one that came with a file of another says nothing here.
    fn read(dir: &Path, disk: &dyn Disk) -> Result<Option<Self>> {
        let path = path_in(dir);
        let numbers = noted::read(&path, disk).map_err(|error| cannot_read(&path, error))?;
        let Some(note) = numbers.and_then(Self::decode) else { return Ok(None) };
        let ours = installation::stored(dir, disk)?;
        Ok(ours.is_none_or(|ours| ours == note.installation).then_some(note))
    }

    fn store(&self, dir: &Path, disk: &dyn Disk) -> io::Result<()> {
        noted::write(&path_in(dir), disk, &self.encode())?;
        disk.sync_dir(dir)
    }

    fn says_nothing(&self) -> bool {
        self.last < self.first
    }
}

/// What a journal lacks at its end, where it ends with this number. A note that cannot be read may say that something
/// is: it is an error.
pub(super) fn missing(dir: &Path, disk: &dyn Disk, end: u64) -> Result<Option<Gone>> {
    let Some(Note { before, first, last, .. }) = Note::read(dir, disk)? else { return Ok(None) };
    // Between two segments there are numbers that were never given.
    let from = if end == before { first } else { end + 1 };
    Ok((from <= last).then_some(Gone { from, to: last }))
}

/// The highest number that a schema version has been given, as far as that is noted.
pub(super) fn schemas(dir: &Path, disk: &dyn Disk) -> Result<SchemaId> {
    Ok(Note::read(dir, disk)?.map_or(0, |note| note.schemas))
}

/// Where a journal ends whose newest whole event is this one, or that has none.
pub(super) fn end(dir: &Path, disk: &dyn Disk, newest: u64) -> Result<u64> {
    for path in segment_paths(dir, disk)?.iter().rev() {
        if let Some(header) = read_header(path, disk)? {
            return Ok(newest.max(header.previous_last));
        }
    }
    Ok(newest.max(end_without_segments(dir, disk)?))
}

/// The same where there are no segments at all.
pub(super) fn end_without_segments(dir: &Path, disk: &dyn Disk) -> Result<u64> {
    match removed::noted(dir, disk)? {
        Some(gone) => Ok(gone),
        None => Ok(Note::read(dir, disk)?.map_or(0, |note| note.before)),
    }
}

/// Notes in a copy of a journal what that lacks.
pub(super) fn copy(dir: &Path, dest: &Path, disk: &dyn Disk) -> Result<()> {
    match Note::read(dir, disk)? {
        Some(note) if !note.says_nothing() => {
            note.store(dest, disk).map_err(|error| cannot_change("write to", &path_in(dest), error))
        }
        _ => Ok(()),
    }
}

fn path_in(dir: &Path) -> PathBuf {
    dir.join("taken")
}
