//! An end of the journal that is not there, though an index speaks of it: the newest segment was cut, or removed.
//!
//! An index is written when all of its segment is durable, and goes after it. So one that speaks of more than there is
//! at the end of the journal tells that something was taken away; in the middle the next segment tells it. The segment
//! that is being written is looked at by its writer: by its name as well, which another file may have, and of whatever
//! length.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use crate::error::{Error, Result};
use crate::journal::Shared;
use crate::journal::compressed::{is_own, open_segment};
use crate::journal::damage::Passes;
use crate::journal::disk::{Disk, DiskFile, Look};
use crate::journal::opening::{index_paths, never_begun, segment_paths};
use crate::journal::refusal::{MEND, broken_middle, cannot_read, is_out_of_files};
use crate::journal::scan::Broken;
use crate::journal::segment::{SEGMENT_HEADER, Segment, SegmentHeader};
use crate::journal::sidecar::{self, Said};
use crate::journal::writer::Writer;
use crate::record::layout::NUMBERS_END;

/// What is wrong with a segment that was cut.
pub(crate) const SHORT: &str = "it ends before its index says";
/// What has become of a file whose name another one has, of whatever length.
pub(super) const REPLACED: &str = "replaced by another file";
/// The same, where that is a copy of it: what is written to the one is not in the other.
const REPLACED_BY_COPY: &str = "replaced by a copy";
/// Its first bytes are not those of a segment any more.
const OVERWRITTEN: &str = "overwritten at its beginning";

/// What is missing.
#[derive(Debug)]
pub(crate) struct LostEnd {
    /// The segment.
    pub(crate) path: PathBuf,
    /// Its length, where it is there.
    pub(crate) cut_at: Option<u64>,
    /// Number of its first event.
    pub(crate) first: u64,
    /// Number of the last event that is known to have been there, in whichever segment.
    pub(crate) last: u64,
}

impl LostEnd {
    /// What is lost at the end of a journal, if anything is.
    pub(crate) fn of(dir: &Path, disk: &dyn Disk) -> Result<Option<Self>> {
        let (segments, indexes) = (segment_paths(dir, disk)?, index_paths(dir, disk)?);
        let newest = newest_sound(disk, &segments)?;
        let mut found: Option<Self> = None;
        for index in indexes {
            let path = index.with_extension("seg");
            if newest.is_some_and(|newest| path < *newest) {
                continue;
            }
            let said = sidecar::said(disk, &index).map_err(|error| cannot_read(&index, error))?;
            let Some(said) = said.filter(|said| said.events > 0) else { continue };
            let Some(first) = number_of(&path) else { continue };
            if said.base.is_some_and(|base| base != first) {
                continue;
            }
            let cut_at = match Looks::at(disk, &path)? {
                Looks::Missing => None,
                Looks::Empty => Some(0),
                Looks::Sound(header) => match shorter(disk, &path, &header, &said)? {
                    Some(length) => Some(length),
                    None => continue,
                },
                // That is told as what it is.
                Looks::Other => continue,
            };
            let last = (first + said.events).saturating_sub(1);
            match &mut found {
                Some(found) => found.last = found.last.max(last),
                None => found = Some(Self { path, cut_at, first, last }),
            }
        }
        Ok(found)
    }

    /// What is said of it.
    pub(crate) fn refusal(&self) -> Error {
        match self.cut_at {
            Some(offset) => broken_middle(&self.path, &Broken { offset, reason: SHORT }),
            None => Error::journal(self.missing()).hint(MEND),
        }
    }

    /// In words, for a segment that is gone.
    pub(crate) fn missing(&self) -> String {
        let Self { path, first, .. } = self;
        format!("{} is missing: its index is there, and speaks of events from {first} on", path.display())
    }
}

impl Shared {
    /// What has become of a segment's file, if what its name leads to is not that file, and at least so long. A closed one
    /// may be put back from a copy; of one that is `written` its name has to lead to the open file.
    pub(super) fn harm_to(
        &self,
        segment: &Segment,
        length: u64,
        written: Option<&dyn DiskFile>,
    ) -> io::Result<Option<&'static str>> {
        let file = match self.disk.open(&segment.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some("removed")),
            opened => opened?,
        };
        let mut bytes = [0; SEGMENT_HEADER];
        let read = file.read_at(&mut bytes, 0)?;
        Ok(if read == SEGMENT_HEADER && !is_own(&bytes, segment) {
            Some(if SegmentHeader::decode(&bytes).is_ok() { REPLACED } else { OVERWRITTEN })
        } else if file.length()? < length {
            Some("cut")
        } else {
            written.is_some_and(|written| is_another(written, &*file)).then_some(REPLACED_BY_COPY)
        })
    }

    /// While an opening waits, the newest segment may go, and have no index yet that would tell. Says whether it could be
    /// looked at: not where too many files are open.
    pub(super) fn has_seen_newest(&self, segment: &Segment) -> Result<bool> {
        match self.harm_to(segment, segment.stored(), None) {
            Ok(Some(how)) => Err(self.taken_away(segment, how)),
            Err(error) => Ok(!is_out_of_files(&error)),
            Ok(None) => Ok(true),
        }
    }
}

impl Writer {
    /// Somebody may have removed or cut the file that is being written: what goes into it then is nowhere.
    pub(super) fn look_at_file(&self) -> Result<()> {
        self.look_whole()?;
        self.look_by_name(false)
    }

    /// A write behind the end would hide what was cut, and one to a file without a name would be confirmed all the same.
    pub(super) fn look_whole(&self) -> Result<()> {
        match self.active.file.look() {
            Ok(Look { length, .. }) if length < self.active.written => Err(self.taken_away("cut")),
            // There are file systems that count no names.
            Ok(Look { named: false, .. }) => self.look_by_name(true),
            // An ill disk says so at the next write.
            _ => Ok(()),
        }
    }

    fn look_by_name(&self, seems_removed: bool) -> Result<()> {
        let written = Some(&*self.active.file);
        match self.shared.harm_to(&self.active.segment, self.active.written, written) {
            Ok(Some(how)) => Err(self.taken_away(how)),
            Err(_) if seems_removed => Err(self.taken_away("removed")),
            _ => Ok(()),
        }
    }

    fn taken_away(&self, how: &str) -> Error {
        self.shared.taken_away(&self.active.segment, how)
    }

    /// Looks, once a second, at another one of the closed segments: where nobody reads, nobody would miss it before the
    /// next start refuses. A journal of 100 GB has been looked through in half an hour. And at one whose file was missed: it
    /// may have been put back.
    pub(super) fn look_at_another(&mut self) {
        self.ticks += 1;
        // So that none is looked at while retention or compression gives its name away.
        let _names = self.shared.names.lock().unwrap_or_else(PoisonError::into_inner);
        let segments = self.shared.segments.load();
        let closed = segments.len().saturating_sub(1);
        let another = self.ticks.checked_rem(closed).and_then(|at| segments.get(at));
        let missed = self.shared.harmed();
        let missed = segments.iter().find(|segment| Some(segment.header.base) == missed);
        for segment in another.into_iter().chain(missed) {
            match self.shared.harm_to(segment, segment.stored(), None) {
                Ok(Some(how)) => {
                    let what = format!("{} was {how} while rowcast ran", segment.path.display());
                    let error = self.shared.naming_repair(Error::journal(what).hint(MEND));
                    self.shared.note_damage(segment, None, Passes::No, &error);
                }
                Ok(None) => self.shared.note_there(segment),
                // A disk that is ill says nothing of the file.
                Err(_) => {}
            }
        }
    }
}

/// Whether two open files are not the same one.
fn is_another(one: &dyn DiskFile, other: &dyn DiskFile) -> bool {
    let inode = |file: &dyn DiskFile| file.look().map_or(0, |look| look.inode);
    let inodes = [inode(one), inode(other)];
    !inodes.contains(&0) && inodes[0] != inodes[1]
}

/// The length of the segment, if it is less than the index of this very segment says.
fn shorter(disk: &dyn Disk, path: &Path, header: &SegmentHeader, said: &Said) -> Result<Option<u64>> {
    let length = match open_segment(disk, path).and_then(|file| file.length()) {
        // That is told as what it is.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(None),
        length => length.map_err(|error| cannot_read(path, error))?,
    };
    Ok((said.created == header.created && length < said.length).then_some(length))
}

/// What stands where a segment should be.
enum Looks {
    Sound(SegmentHeader),
    /// A file that nothing was ever written to, as it seems.
    Empty,
    Missing,
    Other,
}

impl Looks {
    /// One that cannot be read now may be missing.
    fn at(disk: &dyn Disk, path: &Path) -> Result<Self> {
        let mut bytes = [0; SEGMENT_HEADER];
        match disk.open(path).and_then(|file| Ok((file.read_at(&mut bytes, 0)?, file.length()?))) {
            Ok((read, length)) if never_begun(&bytes, read, length) => Ok(Self::Empty),
            Ok(_) => Ok(SegmentHeader::decode(&bytes).map_or(Self::Other, Self::Sound)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Missing),
            Err(error) => Err(cannot_read(path, error)),
        }
    }
}

fn newest_sound<'a>(disk: &dyn Disk, segments: &'a [PathBuf]) -> Result<Option<&'a PathBuf>> {
    for path in segments.iter().rev() {
        if matches!(Looks::at(disk, path)?, Looks::Sound(_)) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The number in a segment's name: of its first event.
pub(crate) fn number_of(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok().filter(|number| *number < NUMBERS_END)
}
