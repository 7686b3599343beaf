//! The machine's disk, with something of a test's own before its reads and writes.

use std::fmt::Debug;
use std::io::{IoSlice, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rowcast_engine::journal::disk::{Disk, DiskFile, RealDisk};

/// What comes before them, of all files alike.
pub(super) trait Guard: Clone + Debug + Send + Sync + 'static {
    /// May wait.
    fn read(&self) {}

    /// May refuse.
    fn write(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Guarded<G>(pub(super) G);

impl<G: Guard> Guarded<G> {
    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(GuardedFile { guard: self.0.clone(), file })
    }
}

impl<G: Guard> Disk for Guarded<G> {
    fn create(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        // An empty file needs no room.
        RealDisk.create(path).map(|file| self.file(file))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        RealDisk.open(path).map(|file| self.file(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        RealDisk.remove(path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        RealDisk.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn space(&self, dir: &Path) -> Result<(u64, u64)> {
        RealDisk.space(dir)
    }
}

#[derive(Debug)]
struct GuardedFile<G> {
    guard: G,
    file: Arc<dyn DiskFile>,
}

impl<G: Guard> DiskFile for GuardedFile<G> {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.guard.write()?;
        self.file.write_at(bytes, offset)
    }

    fn write_vectored_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> Result<()> {
        self.guard.write()?;
        self.file.write_vectored_at(buffers, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.guard.read();
        self.file.read_at(buffer, offset)
    }

    fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    fn truncate(&self, length: u64) -> Result<()> {
        self.file.truncate(length)
    }

    fn length(&self) -> Result<u64> {
        self.file.length()
    }
}
