//! The real disk, watched: it counts what is read, and does things to the thread that compresses.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;

use rowcast_engine::journal::disk::DiskFile;

use crate::guarded::{Call, Guard, Guarded};

#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Bytes read from segment files, and in how many calls.
    pub(crate) read: AtomicU64,
    pub(crate) reads: AtomicU64,
    /// Calls of the compressing thread so far.
    pub(crate) calls: AtomicU64,
    /// From this call on, none of the compressing thread does anything: to the directory it is as if the process
    /// had been killed there. Zero: none.
    pub(crate) cut_at: AtomicU64,
    /// The next read of a segment still finds zeros from this offset on, as when it is being written. Zero: none.
    pub(crate) zeros_from: AtomicU64,
    /// A call was refused by `cut_at`.
    pub(crate) cut: AtomicBool,
    /// Writes of the compressing thread find no room.
    pub(crate) full: AtomicBool,
    /// A write was refused by `full`.
    pub(crate) refused: AtomicBool,
    /// The compressing thread waits for this before it renames.
    pub(crate) before_rename: Mutex<Option<Receiver<()>>>,
    /// A file was renamed while something of it was not synced.
    pub(crate) renamed_unsynced: AtomicBool,
    unsynced: Mutex<Vec<PathBuf>>,
}

pub(crate) type WatchedDisk = Guarded<Watch>;

impl Guard for Watch {
    fn before(&self, call: Call, path: &Path) -> io::Result<()> {
        if std::thread::current().name() == Some("compress") {
            let made = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
            let cut_at = self.cut_at.load(Ordering::SeqCst);
            if cut_at > 0 && made >= cut_at {
                self.cut.store(true, Ordering::SeqCst);
                return Err(io::Error::other("the process is dead"));
            }
            // A file that is empty, or goes, needs none.
            let needs_room = call.changes() && !matches!(call, Call::Create | Call::Remove);
            if needs_room && self.full.load(Ordering::SeqCst) {
                self.refused.store(true, Ordering::SeqCst);
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let mut unsynced = self.unsynced.lock().unwrap();
        match call {
            Call::Write => unsynced.push(path.to_owned()),
            Call::Rename if unsynced.iter().any(|written| written == path) => {
                self.renamed_unsynced.store(true, Ordering::SeqCst);
            }
            _ => {}
        }
        Ok(())
    }

    fn read_at(&self, file: &dyn DiskFile, path: &Path, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = file.read_at(buffer, offset)?;
        if path.extension().is_some_and(|extension| extension == "seg") {
            self.read.fetch_add(read as u64, Ordering::SeqCst);
            self.reads.fetch_add(1, Ordering::SeqCst);
            let zeros = self.zeros_from.load(Ordering::SeqCst);
            if zeros > offset && zeros < offset + read as u64 {
                self.zeros_from.store(0, Ordering::SeqCst);
                buffer[(zeros - offset) as usize..read].fill(0);
            }
        }
        Ok(read)
    }

    fn sync(&self, file: &dyn DiskFile, path: &Path) -> io::Result<()> {
        file.sync()?;
        self.unsynced.lock().unwrap().retain(|written| written != path);
        // The last thing before a rename.
        if path.extension().is_some_and(|extension| extension == "tmp") {
            // The test looks whether it has been taken: nothing is locked while it is waited for.
            let release = self.before_rename.lock().unwrap().take();
            release.into_iter().for_each(|release| release.recv().unwrap());
        }
        Ok(())
    }
}
