//! What is said of a directory or a file that the journal cannot use, and what to do next.

use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::journal::disk::Disk;
use crate::journal::opening::segment_paths;
use crate::journal::rolling::is_full;
use crate::journal::scan::Broken;
use crate::journal::segment::{OTHER_VERSION, SEGMENT_HEADER, Segment, SegmentHeader};
use crate::journal::{Options, Shared, installation};

/// The command that mends a journal, as hints name it where nobody knows which directories are meant.
const REPAIR: &str = "rowcast journal repair --data DIR";

/// What to do about damage.
pub(crate) const MEND: &str = "Restore the file from a copy; or `rowcast journal repair --data DIR` cuts the journal \
                               there, keeps what it cuts off beside it, and records a gap that every reader is told.";

/// Too many open files, of the system and of the process, on Linux.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// What to do about them, for what was begun by a person.
const FILES: &str =
    "Let rowcast have more files open (ulimit -n, LimitNOFILE in its unit), and start it again.";
/// The same, for what goes on by itself.
pub(crate) const FEWER_FILES: &str = "It goes on by itself when others are closed. Let rowcast have more files open (ulimit -n, \
                                      LimitNOFILE in its unit), or lower http.max_connections";

const RIGHTS: &str =
    "The user who runs rowcast has to be able to read and write the files of its data directory.";
const READ_ONLY: &str =
    "Mount its file system for writing; where an error has made it read-only, see the kernel's log (dmesg).";
const FAILING: &str = "The disk may be failing: see the kernel's log (dmesg). Copy the directory to another one (ddrescue goes on \
                       where cp stops), and repair it there.";
const ROOM: &str = "Make room on the file system of the data directory.";
const ABSENT: &str = "Name the data directory of rowcast (--data DIR).";

/// What is sound by its checksum and cannot be understood: another version may have written it, and `repair`, which goes by
/// checksums, leaves it as it is.
const NEWER: &str = "Start the rowcast that wrote it, or a newer one.";

/// A segment that another installation wrote, or so it seems.
pub(crate) fn foreign(path: &Path, theirs: Uuid, ours: Uuid, disk: &dyn Disk) -> Error {
    let dir = path.parent().unwrap_or(path);
    let agree = segment_paths(dir, disk).unwrap_or_default().iter().all(|other| {
        // What cannot be read says nothing.
        header_of(other, disk).is_none_or(|header| header.installation == theirs)
    });
    if agree {
        let file = installation::path_in(dir);
        let what = format!(
            "Every segment in {} belongs to another installation ({theirs}) than its file installation names ({ours})",
            dir.display()
        );
        let hint = format!(
            "Where this is the journal that is meant, the file is wrong: remove it (rm {}), and `rowcast journal repair \
             --data DIR` writes it again. Where it is not, name the right data directory (--data DIR).",
            quoted(&file)
        );
        return Error::journal(what).hint(hint);
    }
    Error::journal(format!(
        "{} belongs to another installation ({theirs}, this one is {ours})",
        path.display()
    ))
    .hint("Give every rowcast a data directory of its own (--data DIR), and take files of another one out of this.")
}

/// The same error, whose hint names the directories that are meant where it names that command.
pub fn with_repair(error: Error, command: &str) -> Error {
    let hint = error.remedy().filter(|hint| hint.contains(REPAIR)).map(|hint| hint.replace(REPAIR, command));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Whether it is only that too many files are open: nothing was done, and it passes.
pub(crate) fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

/// What to do about an error, unless it is that.
pub(crate) fn or_files<'a>(error: &io::Error, other: &'a str) -> &'a str {
    if is_out_of_files(error) { FILES } else { other }
}

/// A path as a shell takes it.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,@%".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

pub(crate) fn cannot_open(dir: &Path, error: io::Error) -> Error {
    let hint = or_files(&error, "Name a directory that the user who runs rowcast may write to (--data DIR).");
    Error::journal(format!("Cannot open the journal in {}", dir.display())).because(error).hint(hint)
}

/// A segment that is not known to be damaged, unless the error is what says so: of a compressed one, whose own
/// checksums are wrong.
pub(crate) fn cannot_read(path: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::InvalidData {
        return Error::journal(format!("{} is damaged", path.display())).because(error).hint(MEND);
    }
    let hint = rights_or(&error, FAILING);
    Error::journal(format!("Cannot read {}", path.display())).because(error).hint(hint)
}

/// What to do about an error of a file: of rights, of files, or what an ill disk needs.
fn rights_or<'a>(error: &io::Error, ill: &'a str) -> &'a str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => RIGHTS,
        io::ErrorKind::ReadOnlyFilesystem => READ_ONLY,
        _ => or_files(error, ill),
    }
}

/// A file that whoever reads tries again by himself, once others are closed.
pub(crate) fn no_file_left(path: &Path, error: io::Error) -> Error {
    Error::transient(format!("Cannot read {}", path.display())).because(error).hint(FEWER_FILES)
}

/// The directory itself, not what lies in it.
pub(crate) fn cannot_list(dir: &Path, error: io::Error) -> Error {
    let absent = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    let hint = if absent { ABSENT } else { rights_or(&error, FAILING) };
    Error::journal(format!("Cannot list {}", dir.display())).because(error).hint(hint)
}

/// Whether it is named as the segment that begins with this number.
pub(crate) fn is_named(path: &Path, base: u64) -> bool {
    path.file_name().is_some_and(|found| *found == *Segment::file_name(base))
}

/// A segment's name is the number of its first event; one of another name has been renamed, or copied over another.
pub(crate) fn rightly_named(path: &Path, base: u64, disk: &dyn Disk) -> Result<()> {
    if is_named(path, base) {
        return Ok(());
    }
    let right = path.with_file_name(Segment::file_name(base));
    let there = disk.list(path.parent().unwrap_or(path)).is_ok_and(|names| names.contains(&right));
    let (name, right_name) = (quoted(path), quoted(&right));
    let hint = if !there {
        format!("Give it its name again: mv {name} {right_name}")
    } else if base_of(&right, disk) == Some(base) {
        format!(
            "{} is there as well, and is what its name says: this one is a copy of it. Move it out of the directory. Where \
             another segment had its name, restore that from a copy; or `rowcast journal repair --data DIR` records a gap \
             for it.",
            right.display()
        )
    } else {
        format!(
            "{} is there as well. Where the two have each other's name, change them back; else move one of them out of \
             the directory.",
            right.display()
        )
    };
    let what =
        format!("{} is damaged: its name is not the number of its first event, {base}", path.display());
    Err(Error::journal(what).hint(hint))
}

/// What is said of a segment that does not fit to the one before it: where another name explains it, that.
pub(crate) fn misfit_or_misnamed(
    paths: &[PathBuf],
    path: &Path,
    (previous_last, last): (u64, u64),
    disk: &dyn Disk,
) -> Error {
    let named = all_rightly_named(paths, disk);
    named.err().unwrap_or_else(|| broken_segment(path, &misfit(previous_last, last)))
}

/// One that is misnamed may stand where another one is missed: that is told first.
pub(crate) fn all_rightly_named(paths: &[PathBuf], disk: &dyn Disk) -> Result<()> {
    paths.iter().try_for_each(|path| match base_of(path, disk) {
        Some(base) => rightly_named(path, base, disk),
        None => Ok(()),
    })
}

/// The number of its first event, as a sound header says.
fn base_of(path: &Path, disk: &dyn Disk) -> Option<u64> {
    header_of(path, disk).map(|header| header.base)
}

/// The header of a segment, if it can be read and is sound.
pub(crate) fn header_of(path: &Path, disk: &dyn Disk) -> Option<SegmentHeader> {
    read_header(path, disk).ok().flatten()
}

/// The header of a segment, if it is there and sound.
pub(crate) fn read_header(path: &Path, disk: &dyn Disk) -> Result<Option<SegmentHeader>> {
    let mut bytes = [0; SEGMENT_HEADER];
    match disk.open(path).and_then(|file| file.read_at(&mut bytes, 0)) {
        Ok(_) => Ok(SegmentHeader::decode(&bytes).ok()),
        // Retention has taken it since the directory was listed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot_read(path, error)),
    }
}

/// Events whose columns nothing describes.
pub(crate) fn unknown_schema(path: &Path, offset: u64) -> Error {
    Error::journal(format!("{} names an unknown schema version at offset {offset}", path.display()))
        .hint(NEWER)
}

/// A position of the stream that is sound by its checksum.
pub(crate) fn unknown_position(path: &Path) -> Error {
    Error::journal(format!("Cannot read {}: its position record is unreadable", path.display())).hint(NEWER)
}

/// A batch that is sound by its checksum.
pub(crate) fn miscounted(path: &Path, (first, events): (u64, u32), seen: usize) -> Error {
    let path = path.display();
    Error::journal(format!(
        "{path}: the batch of event {first} should have {events} events, {seen} can be read"
    ))
    .hint(NEWER)
}

pub(crate) fn cannot_use(path: &Path, error: io::Error) -> Error {
    let remedy = rights_or(&error, if is_full(&error) { ROOM } else { FAILING });
    Error::journal(format!("Cannot use {}", path.display())).because(error).hint(remedy)
}

impl Shared {
    /// An error that is met while the journal is open: whoever reads its hint may not know where that lies.
    pub(crate) fn naming_repair(&self, error: Error) -> Error {
        match &self.options.repair {
            Some(command) => with_repair(error, command),
            None => error,
        }
    }
}

/// A sink's position is near the highest number that there can be.
pub(crate) fn seen_too_much(options: &Options) -> Error {
    let seen = options.seen;
    let sinks =
        options.holds.iter().filter(|(_, id)| **id == seen).map(|(sink, _)| format!("the sink {sink}"));
    let whose =
        sinks.reduce(|some, other| format!("{some} and {other}")).unwrap_or_else(|| "a sink".to_owned());
    Error::journal(format!("Cannot number events: {whose} has had event {seen}, as its position says, and that is near the highest number"))
        .hint("No event has such a number: the file of the position, in the directory cursors of the data directory, is \
               damaged. Remove it: the sink begins anew, as its start says (snapshot, earliest or latest).")
}

/// A file that can be read and has to be changed.
pub(crate) fn cannot_change(doing: &str, path: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let dir = quoted(path.parent().unwrap_or(path));
            format!(
                "Give the user who runs rowcast the right to write to it and to its directory (chmod u+w {} {dir}).",
                quoted(path)
            )
        }
        io::ErrorKind::ReadOnlyFilesystem => READ_ONLY.to_owned(),
        _ if is_full(&error) => ROOM.to_owned(),
        _ => or_files(&error, "The disk may be failing: see the kernel's log (dmesg).").to_owned(),
    };
    Error::journal(format!("Cannot {doing} {}", path.display())).because(error).hint(hint)
}

pub(crate) fn broken_middle(path: &Path, broken: &Broken) -> Error {
    Error::journal(format!("{} is damaged at offset {}: {}", path.display(), broken.offset, broken.reason))
        .hint(MEND)
}

/// A segment of which nothing can be read, or which does not fit to the one before it.
pub(crate) fn broken_segment(path: &Path, reason: &str) -> Error {
    if reason == OTHER_VERSION {
        return Error::journal(format!("Cannot read {}: {reason}", path.display())).hint(NEWER);
    }
    Error::journal(format!("{} is damaged: {reason}", path.display())).hint(MEND)
}

/// Why a segment does not fit to the one before it.
pub(crate) fn misfit(previous_last: u64, last: u64) -> String {
    format!(
        "it continues after event {previous_last}, but the segment before it ends at {last}: a segment is missing or cut"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_of_what_is_wrong() {
        let path = Path::new("/data/journal");
        let of = |error: &Error| error.remedy().unwrap_or_default().to_owned();
        for told in [cannot_read, cannot_list, cannot_use] {
            let hint = |kind: io::ErrorKind| of(&told(path, kind.into()));
            assert!(hint(io::ErrorKind::PermissionDenied).contains("read and write the files"));
            assert!(hint(io::ErrorKind::ReadOnlyFilesystem).contains("Mount its file system"));
            assert!(of(&told(path, io::Error::from_raw_os_error(EMFILE))).contains("ulimit -n"));
            assert!(of(&told(path, io::Error::other("the disk is ill"))).contains("dmesg"));
        }
        assert!(of(&cannot_list(path, io::ErrorKind::NotFound.into())).contains("--data DIR"));
        assert!(of(&cannot_use(path, io::ErrorKind::StorageFull.into())).contains("Make room"));
    }

    /// Repair leaves what is sound by its checksum.
    #[test]
    fn repair_is_not_named_for_what_it_does_not_mend() {
        let path = Path::new("/data/journal/1.seg");
        let errors = [
            unknown_schema(path, 128),
            unknown_position(path),
            miscounted(path, (7, 3), 2),
            broken_segment(path, OTHER_VERSION),
        ];
        for error in errors {
            let hint = error.remedy().unwrap_or_default();
            assert!(hint.contains("a newer one") && !hint.contains("repair"), "{error}: {hint}");
        }
    }
}
