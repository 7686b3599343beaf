//! What is said of a directory or a file that the journal cannot use, and what to do next.

use std::io;
use std::path::Path;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::journal::rolling::is_full;
use crate::journal::scan::Broken;
use crate::journal::segment::{OTHER_VERSION, Segment};

/// What to do about damage.
pub(crate) const MEND: &str = "Restore the file from a copy; or `rowcast journal repair --data DIR` cuts the journal \
                               there, keeps what it cuts off beside it, and records a gap that every reader is told.";

/// Too many open files, of the system and of the process, on Linux.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

const RIGHTS: &str =
    "The user who runs rowcast has to be able to read and write the files of its data directory.";

/// A segment that another installation wrote.
pub(crate) fn foreign(path: &Path, theirs: Uuid, ours: Uuid) -> Error {
    Error::journal(format!(
        "{} belongs to another installation ({theirs}, this one is {ours})",
        path.display()
    ))
    .hint("Give every rowcast a data directory of its own (--data DIR), and take files of another one out of this.")
}

pub(crate) fn cannot_open(dir: &Path, error: io::Error) -> Error {
    Error::journal(format!("Cannot open the journal in {}", dir.display()))
        .because(error)
        .hint("Name a directory that the user who runs rowcast may write to (--data DIR).")
}

/// A segment that is not known to be damaged, unless the error is what says so: of a compressed one, whose own
/// checksums are wrong.
pub(crate) fn cannot_read(path: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::InvalidData {
        return Error::journal(format!("{} is damaged", path.display())).because(error).hint(MEND);
    }
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => RIGHTS,
        _ if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => {
            "Let rowcast have more files open (ulimit -n, LimitNOFILE in its unit), and start it again."
        }
        _ => {
            "The disk may be failing: see the kernel's log (dmesg). Copy the directory to another one (ddrescue goes on \
             where cp stops), and repair it there."
        }
    };
    Error::journal(format!("Cannot read {}", path.display())).because(error).hint(hint)
}

/// The directory itself, not what lies in it.
pub(crate) fn cannot_list(dir: &Path, error: io::Error) -> Error {
    Error::journal(format!("Cannot list {}", dir.display())).because(error).hint(RIGHTS)
}

/// Whether it is named as the segment that begins with this number.
pub(crate) fn is_named(path: &Path, base: u64) -> bool {
    path.file_name().is_some_and(|found| *found == *Segment::file_name(base))
}

/// A segment's name is the number of its first event; one of another name has been renamed, or copied over another.
pub(crate) fn rightly_named(path: &Path, base: u64) -> Result<()> {
    if is_named(path, base) {
        return Ok(());
    }
    let right = path.with_file_name(Segment::file_name(base));
    let hint = if right.exists() {
        format!(
            "{} is there as well. Where the two have each other's name, change them back; else move one of them out of \
             the directory.",
            right.display()
        )
    } else {
        format!("Give it its name again: mv {} {}", path.display(), right.display())
    };
    let what =
        format!("{} is damaged: its name is not the number of its first event, {base}", path.display());
    Err(Error::journal(what).hint(hint))
}

/// Events whose columns nothing describes.
pub(crate) fn unknown_schema(path: &Path, offset: u64) -> Error {
    Error::journal(format!("{} names an unknown schema version at offset {offset}", path.display()))
        .hint(MEND)
}

pub(crate) fn cannot_use(path: &Path, error: io::Error) -> Error {
    let remedy = if is_full(&error) { "Make room on the file system of the data directory." } else { RIGHTS };
    Error::journal(format!("Cannot use {}", path.display())).because(error).hint(remedy)
}

/// A file that can be read and has to be changed.
pub(crate) fn cannot_change(doing: &str, path: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let dir = path.parent().unwrap_or(path).display();
            format!(
                "Give the user who runs rowcast the right to write to it and to its directory (chmod u+w {} {dir}).",
                path.display()
            )
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "Mount its file system for writing; where an error has made it read-only, see the kernel's log (dmesg)."
                .to_owned()
        }
        _ if is_full(&error) => "Make room on the file system of the data directory.".to_owned(),
        _ => "The disk may be failing: see the kernel's log (dmesg).".to_owned(),
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
        return Error::journal(format!("Cannot read {}: {reason}", path.display()))
            .hint("Start the rowcast that wrote it, or a newer one.");
    }
    Error::journal(format!("{} is damaged: {reason}", path.display())).hint(MEND)
}

/// Why a segment does not fit to the one before it.
pub(crate) fn misfit(previous_last: u64, last: u64) -> String {
    format!(
        "it continues after event {previous_last}, but the segment before it ends at {last}: a segment is missing or cut"
    )
}
