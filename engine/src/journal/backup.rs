//! A copy of the journal that opens, made while rowcast runs.
//!
//! The files are copied from the newest to the oldest. The newest one is written meanwhile: what is copied of it is what
//! was whole when it was looked through. The others do not change any more; retention may take the oldest ones during the
//! copy, and what it takes first is copied last, so nothing is missing in between. A file that began after the directory
//! was listed is not in the copy, and neither is a huge transaction that commits meanwhile. The installation's number
//! comes last: a backup that was broken off does not open.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::journal::check::{self, CheckReport};
use crate::journal::disk::{RealDisk, around, make_dir};
use crate::journal::installation;
use crate::journal::opening::segment_paths;
use crate::journal::{removed, taken};

/// What was copied.
#[derive(Clone, Debug, Serialize)]
pub struct BackupReport {
    /// Where the copy is.
    pub dir: PathBuf,
    /// What is in it; every checksum was compared.
    #[serde(flatten)]
    pub copied: CheckReport,
}

/// Copies the journal in `dir` into `dest`, which must be empty or not there. Neither needs the lock nor holds up the
/// process that writes the journal.
///
/// # Errors
///
/// `Kind::Usage`: `dest` is not empty. `Kind::Journal`: a file cannot be read or written, or what was copied is damaged.
pub fn backup(dir: &Path, dest: &Path) -> Result<BackupReport> {
    let uuid = installation::stored(dir, &RealDisk)?;
    let mut paths = list(dir)?;
    // An empty copy would take the place of a good one.
    let uuid = uuid.filter(|_| !paths.is_empty()).ok_or_else(|| removed::nothing_there(dir, &RealDisk))?;
    empty_dir(dest)?;
    let copied = copy_all(dir, dest, &mut paths, uuid);
    if copied.is_err() {
        // Else nothing could be copied there again.
        remove_copied(dest);
    }
    Ok(BackupReport { dir: dest.to_owned(), copied: copied? })
}

fn copy_all(dir: &Path, dest: &Path, paths: &mut Vec<PathBuf>, uuid: Uuid) -> Result<CheckReport> {
    // Also at the end: what is told meanwhile is noted no more, and what is taken meanwhile only then.
    taken::copy(dir, dest, &RealDisk)?;
    let mut newest = true;
    while let Some(path) = paths.pop() {
        let to = dest.join(path.file_name().unwrap_or_default());
        let failed = |error| cannot_copy(&path, &to, error);
        // Once: another file may take its name.
        let Some(file) = open(&path).map_err(failed)? else { continue };
        let length = if newest {
            check::whole_length(&path, Arc::clone(&file) as _, &RealDisk).map_err(damaged)?
        } else {
            Some(u64::MAX)
        };
        let Some(length) = length else { continue };
        copy(&file, &to, length).map_err(failed)?;
        newest = false;
    }
    let copied = if newest {
        CheckReport::default()
    } else {
        check::check_segments(dest, &RealDisk).map_err(|error| damaged_copy(dir, dest, error))?
    };
    note_beginning(dir, dest)?;
    taken::copy(dir, dest, &RealDisk)?;
    installation::store(dest, &RealDisk, uuid)?;
    sync_parents(dest).map_err(|error| cannot_copy(dir, dest, error))?;
    Ok(copied)
}

/// Removes what a copy that failed has left in a directory that was empty before.
fn remove_copied(dest: &Path) {
    for entry in fs::read_dir(dest).into_iter().flatten().flatten() {
        // What stays is told by the next one: that the directory is not empty.
        let _ = fs::remove_file(entry.path());
    }
}

/// The segments up to one that was there when this began. A large directory is not listed in one moment: a file that
/// begins meanwhile may be seen where one that began before it is not, which a second look finds.
fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let newest = segment_paths(dir, &RealDisk)?.pop();
    let mut paths = segment_paths(dir, &RealDisk)?;
    paths.retain(|path| Some(path) <= newest.as_ref());
    Ok(paths)
}

/// Makes a directory for a backup, or takes an empty one.
pub fn empty_dir(dest: &Path) -> Result<()> {
    let failed = |error| {
        Error::journal(format!("Cannot use {} for a backup", dest.display()))
            .because(error)
            .hint("Name a new directory, in one that you may write to.")
    };
    make_dir(dest).map_err(failed)?;
    if fs::read_dir(dest).map_err(failed)?.next().is_some() {
        return Err(Error::usage(format!("{} is not empty", dest.display()))
            .hint("A backup goes into a directory of its own: name a new one."));
    }
    Ok(())
}

/// What retention took during the copy is not missed in it.
fn note_beginning(dir: &Path, dest: &Path) -> Result<()> {
    let before = removed::before_oldest(dest, &RealDisk);
    let before = before.map_err(|error| cannot_copy(dir, dest, io::Error::other(error.to_string())))?;
    let Some(before) = before else { return Ok(()) };
    removed::note(dest, &RealDisk, before).map_err(|error| cannot_copy(dir, dest, error))
}

/// Opens a file, if it is still there.
fn open(path: &Path) -> io::Result<Option<Arc<File>>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(|file| Some(Arc::new(file))),
    }
}

/// Copies so much of a file.
fn copy(mut from: &File, to: &Path, length: u64) -> io::Result<()> {
    from.rewind()?;
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut from.take(length), &mut copy)?;
    copy.sync_all()
}

/// The names of the directory and of the one around it, which may be new as well.
fn sync_parents(dir: &Path) -> io::Result<()> {
    around(dir).take(2).try_for_each(|dir| File::open(dir)?.sync_all())
}

fn cannot_copy(from: &Path, to: &Path, error: io::Error) -> Error {
    Error::journal(format!("Cannot copy {} to {}", from.display(), to.display()))
        .because(error)
        .hint("See to room and rights there, then run it again: nothing of it has stayed there.")
}

/// The copy is removed: what is damaged in the original is named by its place there.
fn damaged_copy(dir: &Path, dest: &Path, error: Error) -> Error {
    match check::check_segments(dir, &RealDisk) {
        Err(original) => damaged(original),
        Ok(_) => Error::journal("The copy is damaged, the original is not")
            .because(error)
            .hint(format!("The disk of {} may be failing: copy to another one.", dest.display())),
    }
}

fn damaged(error: Error) -> Error {
    Error::journal("The journal cannot be backed up as it is")
        .because(error)
        .hint("`rowcast journal check --data DIR` shows whether the original is damaged; `rowcast journal repair` mends it.")
}
