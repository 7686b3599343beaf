//! One process has a journal's directory. Two locks say so: that of the file `lock`, which earlier versions of rowcast
//! look at, and that of the directory itself, so that whoever removes the file by hand lets nobody in. Both are the
//! kernel's, and end with the process.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::journal::disk::make_dir;
use crate::journal::refusal::cannot_open;

/// Held until it is released or dropped: the directory first, so that where `lock` is free all is.
#[derive(Debug)]
pub(crate) struct Lock(Vec<File>);

impl Lock {
    /// Makes the directory and locks it.
    pub(crate) fn make(dir: &Path) -> Result<Self> {
        make_dir(dir).map_err(|error| cannot_open(dir, error))?;
        Self::of(dir)
    }

    /// Locks a directory that is there.
    pub(crate) fn of(dir: &Path) -> Result<Self> {
        let failed = |error| cannot_open(dir, error);
        let own = File::open(dir).map_err(failed)?;
        // Where the file system has no locks on directories (NFS), the file's alone counts.
        if flock(&own, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            return Err(in_use(dir));
        }
        let options = File::options().create(true).truncate(false).write(true).clone();
        let file = options.open(dir.join("lock")).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Err(in_use(dir)),
            Err(error) => Err(failed(error.into())),
            Ok(()) => Ok(Self(vec![own, file])),
        }
    }

    /// For one who only looks while nobody else writes: makes no file, and may be held by several.
    pub(crate) fn to_look(dir: &Path) -> Result<Self> {
        let own = File::open(dir).map_err(|error| cannot_open(dir, error))?;
        let held: Vec<_> = std::iter::once(own).chain(File::open(dir.join("lock"))).collect();
        for file in &held {
            // Where it cannot be locked it can be read all the same.
            if flock(file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK) {
                return Err(in_use(dir));
            }
        }
        Ok(Self(held))
    }
}

impl Drop for Lock {
    /// Gives the directory free. Said, not left to the closing of the files: a process that is being forked has them
    /// open as well until it executes something, and would keep the locks for so long.
    fn drop(&mut self) {
        for file in &self.0 {
            let _ = flock(file, FlockOperation::Unlock);
        }
    }
}

fn in_use(dir: &Path) -> Error {
    Error::journal(format!("The journal in {} is in use by another process", dir.display()))
        .hint("Stop the other rowcast, or give this one a directory of its own (--data DIR).")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_free_is_free_while_others_have_its_files_open() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::make(dir.path()).unwrap();
        // As a child has them that is forked and does not execute anything yet.
        let inherited: Vec<_> = lock.0.iter().map(|file| file.try_clone().unwrap()).collect();
        assert!(Lock::of(dir.path()).is_err());
        drop(lock);
        Lock::of(dir.path()).unwrap();
        drop(inherited);
    }
}
