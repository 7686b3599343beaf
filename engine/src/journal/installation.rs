//! Whose history a directory holds: a uuid in a file of its own, durable before any segment that carries it.

use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::abort::{self, Point};
use crate::error::{Error, Result};
use crate::journal::disk::{Disk, around};
use crate::journal::opening::segment_paths;
use crate::journal::refusal::cannot_use;

/// A uuid has 36 characters; what is longer is none.
const LENGTH_MAX: usize = 64;

/// The installation's uuid, made at the first opening. Segments without it are of nobody knows whom.
pub(super) fn installation(dir: &Path, disk: &dyn Disk) -> Result<Uuid> {
    if let Some(uuid) = stored(dir, disk)? {
        return Ok(uuid);
    }
    if !segment_paths(dir, disk)?.is_empty() {
        return Err(missing(dir));
    }
    let uuid = Uuid::new_v4();
    store(dir, disk, uuid)?;
    Ok(uuid)
}

/// The uuid of a directory that has segments.
pub(super) fn of_segments(dir: &Path, disk: &dyn Disk) -> Result<Uuid> {
    stored(dir, disk)?.ok_or_else(|| missing(dir))
}

fn missing(dir: &Path) -> Error {
    let path = path_in(dir);
    Error::journal(format!("{} is missing, though segments are there", path.display()))
        .hint("Restore the file from a copy, or let `rowcast journal repair --data DIR` write it again.")
}

/// The uuid in the directory; `None` when there is no file.
pub(super) fn stored(dir: &Path, disk: &dyn Disk) -> Result<Option<Uuid>> {
    let path = path_in(dir);
    let read = disk.open(&path).and_then(|file| {
        let mut bytes = [0; LENGTH_MAX];
        let read = file.read_at(&mut bytes, 0)?;
        Ok(String::from_utf8_lossy(bytes.get(..read).unwrap_or_default()).into_owned())
    });
    match read {
        Ok(text) => text.trim().parse().map(Some).map_err(|error: uuid::Error| {
            Error::journal(format!("{} holds no installation number", path.display()))
                .because(error)
                .hint("Restore the file from a copy; or remove it and run `rowcast journal repair --data DIR`, which writes it again.")
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot_use(&path, error)),
    }
}

/// Stores the uuid durably.
pub(super) fn store(dir: &Path, disk: &dyn Disk, uuid: Uuid) -> Result<()> {
    try_store(dir, disk, uuid).map_err(|error| cannot_use(&path_in(dir), error))
}

fn try_store(dir: &Path, disk: &dyn Disk, uuid: Uuid) -> io::Result<()> {
    let beside = dir.join("installation.new");
    let file = disk.create(&beside)?;
    file.write_at(format!("{uuid}\n").as_bytes(), 0)?;
    file.sync()?;
    abort::point(Point::OpenInstallation);
    disk.rename(&beside, &path_in(dir))?;
    disk.sync_dir(dir)?;
    // Its own name, and those of the directories around it, which may have just been made; some may not be read.
    for dir in around(dir) {
        let _ = disk.sync_dir(dir);
    }
    Ok(())
}

pub(super) fn path_in(dir: &Path) -> PathBuf {
    dir.join("installation")
}
