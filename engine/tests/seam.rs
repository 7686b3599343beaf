//! The real disk, watched: it counts what is read, and does things to the thread that compresses.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

use rowcast_engine::journal::disk::{Disk, DiskFile, RealDisk};

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

#[derive(Clone, Debug, Default)]
pub(crate) struct WatchedDisk(pub(crate) Arc<Watch>);

#[derive(Debug)]
struct WatchedFile {
    inner: Arc<dyn DiskFile>,
    path: PathBuf,
    watch: Arc<Watch>,
}

impl Watch {
    fn call(&self, writes: bool) -> io::Result<()> {
        if std::thread::current().name() != Some("compress") {
            return Ok(());
        }
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let cut_at = self.cut_at.load(Ordering::SeqCst);
        if cut_at > 0 && call >= cut_at {
            self.cut.store(true, Ordering::SeqCst);
            return Err(io::Error::other("the process is dead"));
        }
        if writes && self.full.load(Ordering::SeqCst) {
            self.refused.store(true, Ordering::SeqCst);
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl WatchedDisk {
    fn file(&self, inner: Arc<dyn DiskFile>, path: &Path) -> Arc<dyn DiskFile> {
        Arc::new(WatchedFile { inner, path: path.to_owned(), watch: Arc::clone(&self.0) })
    }
}

impl Disk for WatchedDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.call(false)?;
        Ok(self.file(RealDisk.create(path)?, path))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.call(false)?;
        Ok(self.file(RealDisk.open(path)?, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.call(true)?;
        if self.0.unsynced.lock().unwrap().iter().any(|path| path == from) {
            self.0.renamed_unsynced.store(true, Ordering::SeqCst);
        }
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.call(false)?;
        RealDisk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        RealDisk.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.call(true)?;
        RealDisk.sync_dir(dir)
    }

    fn space(&self, _dir: &Path) -> io::Result<(u64, u64)> {
        Ok((1 << 40, 1 << 40))
    }
}

impl DiskFile for WatchedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.watch.call(true)?;
        self.watch.unsynced.lock().unwrap().push(self.path.clone());
        self.inner.write_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.watch.call(false)?;
        let read = self.inner.read_at(buffer, offset)?;
        if self.path.extension().is_some_and(|extension| extension == "seg") {
            self.watch.read.fetch_add(read as u64, Ordering::SeqCst);
            self.watch.reads.fetch_add(1, Ordering::SeqCst);
            let zeros = self.watch.zeros_from.load(Ordering::SeqCst);
            if zeros > offset && zeros < offset + read as u64 {
                self.watch.zeros_from.store(0, Ordering::SeqCst);
                buffer[(zeros - offset) as usize..read].fill(0);
            }
        }
        Ok(read)
    }

    fn sync(&self) -> io::Result<()> {
        self.watch.call(true)?;
        self.inner.sync()?;
        self.watch.unsynced.lock().unwrap().retain(|path| *path != self.path);
        // The last thing before a rename.
        if self.path.extension().is_some_and(|extension| extension == "tmp") {
            // The test looks whether it has been taken: nothing is locked while it is waited for.
            let release = self.watch.before_rename.lock().unwrap().take();
            release.into_iter().for_each(|release| release.recv().unwrap());
        }
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.watch.call(true)?;
        self.inner.truncate(length)
    }

    fn length(&self) -> io::Result<u64> {
        self.watch.call(false)?;
        self.inner.length()
    }
}
