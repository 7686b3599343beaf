//! The file `installation`: whose journal this is.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::journal::refusal::cannot_use;

/// The uuid in the directory; `None` when there is no file.
pub(crate) fn stored_installation(dir: &Path) -> Result<Option<Uuid>> {
    let path = dir.join("installation");
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map(Some).map_err(|error: uuid::Error| {
            Error::journal(format!("{} holds no installation number", path.display()))
                .because(error)
                .hint("Restore the file from a copy; or remove it and run `rowcast journal repair --data DIR`, which writes it again.")
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot_use(&path, error)),
    }
}

pub(crate) fn store_installation(dir: &Path, uuid: Uuid) -> Result<()> {
    let (path, beside) = (dir.join("installation"), dir.join("installation.new"));
    fs::write(&beside, format!("{uuid}\n"))
        .and_then(|()| File::open(&beside)?.sync_all())
        .and_then(|()| fs::rename(&beside, &path))
        .and_then(|()| File::open(dir)?.sync_all())
        .map_err(|error| cannot_use(&path, error))
}
