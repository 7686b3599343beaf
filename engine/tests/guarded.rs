//! A disk with something of a test's own before its calls, or around them.

use std::any::Any;
use std::fmt::Debug;
use std::io::Result;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rowcast_engine::journal::disk::{Disk, DiskFile, Look, RealDisk};

/// What the journal can ask of a directory, and of a file that it has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Create,
    Open,
    Rename,
    Remove,
    List,
    SyncDir,
    Write,
    Read,
    Sync,
    Truncate,
    Length,
}

impl Call {
    /// Whether something may be another one by it, now or after a power cut.
    pub(crate) fn changes(self) -> bool {
        !matches!(self, Self::Open | Self::List | Self::Read | Self::Length)
    }
}

/// What a test has of its own. The path of a file that is open is the one by which it was opened; that of a rename, the
/// one that the file had.
pub(crate) trait Guard: Debug + Send + Sync + 'static {
    /// Comes before each call; may wait, and refuse it.
    fn before(&self, _call: Call, _path: &Path) -> Result<()> {
        Ok(())
    }

    /// Is kept for as long as the file is open.
    fn held(&self, _path: &Path) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }

    fn rename(&self, disk: &dyn Disk, from: &Path, to: &Path) -> Result<()> {
        disk.rename(from, to)
    }

    fn remove(&self, disk: &dyn Disk, path: &Path) -> Result<()> {
        disk.remove(path)
    }

    fn write_at(&self, file: &dyn DiskFile, _path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
        file.write_at(bytes, offset)
    }

    fn read_at(&self, file: &dyn DiskFile, _path: &Path, buffer: &mut [u8], offset: u64) -> Result<usize> {
        file.read_at(buffer, offset)
    }

    fn sync(&self, file: &dyn DiskFile, _path: &Path) -> Result<()> {
        file.sync()
    }
}

/// The machine's disk, or another one, on which there is always room.
#[derive(Debug, Default)]
pub(crate) struct Guarded<G, D = RealDisk>(pub(crate) Arc<G>, D);

impl<G> Guarded<G> {
    pub(crate) fn new(guard: G) -> Self {
        Self::over(RealDisk, guard)
    }
}

impl<G, D> Guarded<G, D> {
    pub(crate) fn over(disk: D, guard: G) -> Self {
        Self(Arc::new(guard), disk)
    }
}

// Not derived: the guard need not be `Clone`.
impl<G, D: Clone> Clone for Guarded<G, D> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), self.1.clone())
    }
}

impl<G: Guard, D: Disk> Guarded<G, D> {
    fn file(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let (guard, held) = (Arc::clone(&self.0), self.0.held(path));
        Arc::new(GuardedFile { file, guard, path: path.to_owned(), _held: held })
    }
}

impl<G: Guard, D: Disk> Disk for Guarded<G, D> {
    fn create(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        self.0.before(Call::Create, path)?;
        self.1.create(path).map(|file| self.file(path, file))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        self.0.before(Call::Open, path)?;
        self.1.open(path).map(|file| self.file(path, file))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.0.before(Call::Rename, from)?;
        self.0.rename(&self.1, from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.0.before(Call::Remove, path)?;
        self.0.remove(&self.1, path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        self.0.before(Call::List, dir)?;
        self.1.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.0.before(Call::SyncDir, dir)?;
        self.1.sync_dir(dir)
    }

    fn space(&self, _dir: &Path) -> Result<(u64, u64)> {
        Ok((1 << 40, 1 << 40))
    }
}

/// Several buffers come to it as one write. When it was made is not known, as on some file systems.
#[derive(Debug)]
struct GuardedFile<G> {
    file: Arc<dyn DiskFile>,
    guard: Arc<G>,
    path: PathBuf,
    _held: Option<Arc<dyn Any + Send + Sync>>,
}

impl<G: Guard> DiskFile for GuardedFile<G> {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.guard.before(Call::Write, &self.path)?;
        self.guard.write_at(&*self.file, &self.path, bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.guard.before(Call::Read, &self.path)?;
        self.guard.read_at(&*self.file, &self.path, buffer, offset)
    }

    fn sync(&self) -> Result<()> {
        self.guard.before(Call::Sync, &self.path)?;
        self.guard.sync(&*self.file, &self.path)
    }

    fn truncate(&self, length: u64) -> Result<()> {
        self.guard.before(Call::Truncate, &self.path)?;
        self.file.truncate(length)
    }

    fn length(&self) -> Result<u64> {
        Ok(self.look()?.length)
    }

    fn look(&self) -> Result<Look> {
        self.guard.before(Call::Length, &self.path)?;
        self.file.look()
    }
}
