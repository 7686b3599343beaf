//! Power cuts: whatever the disk forgets, what was visible and durable is there again.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use rowcast_engine::journal::disk::{Disk, DiskFile};
use rowcast_engine::journal::{self, Options};

use crate::support::{Fixture, read_all};

#[derive(Clone, Debug, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
}

/// A disk that keeps what was synced and forgets, at a power cut, a part of the rest.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeDisk {
    files: Arc<Mutex<HashMap<PathBuf, Arc<Mutex<Content>>>>>,
    ill: Arc<Mutex<Ill>>,
}

#[derive(Debug, Default)]
struct Ill {
    full: bool,
    no_syncs: bool,
}

#[derive(Debug)]
struct FakeFile(Arc<Mutex<Content>>, Arc<Mutex<Ill>>);

impl FakeDisk {
    /// Makes every write fail for want of room, or no longer.
    pub(crate) fn fill(&self, full: bool) {
        self.ill.lock().unwrap().full = full;
    }

    /// The names of its files.
    pub(crate) fn names(&self) -> Vec<String> {
        let files = self.files.lock().unwrap();
        files.keys().map(|path| path.display().to_string()).collect()
    }

    /// Makes every sync fail from now on.
    pub(crate) fn fail_syncs(&self) {
        self.ill.lock().unwrap().no_syncs = true;
    }

    /// Every file keeps its synced bytes and `kept` of 256 parts of what was written after them.
    pub(crate) fn cut_power(&self, kept: u8) -> Self {
        let files = self.files.lock().unwrap();
        let after = |content: &Arc<Mutex<Content>>| {
            let content = content.lock().unwrap();
            let unsynced = content.live.len().saturating_sub(content.durable.len());
            let keep = content.durable.len() + unsynced * usize::from(kept) / 256;
            let mut live = content.live.clone();
            live.truncate(keep.max(content.durable.len().min(live.len())));
            Arc::new(Mutex::new(Content { durable: live.clone(), live }))
        };
        let files = files.iter().map(|(path, content)| (path.clone(), after(content))).collect();
        Self { files: Arc::new(Mutex::new(files)), ill: Arc::default() }
    }
}

impl Disk for FakeDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if self.ill.lock().unwrap().full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let content = Arc::new(Mutex::new(Content::default()));
        self.files.lock().unwrap().insert(path.to_owned(), Arc::clone(&content));
        Ok(Arc::new(FakeFile(content, Arc::clone(&self.ill))))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let files = self.files.lock().unwrap();
        let content = files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(FakeFile(Arc::clone(content), Arc::clone(&self.ill))))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.lock().unwrap().remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, _dir: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.files.lock().unwrap().keys().cloned().collect())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn space(&self, _dir: &Path) -> io::Result<(u64, u64)> {
        Ok((1 << 40, 1 << 40))
    }
}

impl DiskFile for FakeFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.1.lock().unwrap().full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut content = self.0.lock().unwrap();
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        if content.live.len() < end {
            content.live.resize(end, 0);
        }
        content.live[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.0.lock().unwrap();
        let rest = content.live.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn sync(&self) -> io::Result<()> {
        if self.1.lock().unwrap().no_syncs {
            return Err(io::Error::other("the disk is ill"));
        }
        let mut content = self.0.lock().unwrap();
        content.durable = content.live.clone();
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.lock().unwrap().live.truncate(length as usize);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().live.len() as u64)
    }
}

async fn life(disk: FakeDisk, dir: &Path, sizes: &[usize]) -> (Vec<crate::support::Seen>, u64) {
    let mut options = Options::new(dir);
    options.segment_bytes = 20_000;
    let journal = journal::open(options, Arc::new(disk)).unwrap();
    let mut fixture = Fixture::over(journal).await;
    for rows in sizes {
        fixture.transaction(*rows, "through the cut").await;
    }
    // Not closed: the power goes.
    (read_all(fixture.journal(), 0), fixture.journal().position().lsn.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_was_confirmed_survives(
        lives in prop::collection::vec((prop::collection::vec(1usize..200, 0..30), any::<u8>()), 1..6)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut disk = FakeDisk::default();
            let mut before = Vec::new();
            for (sizes, kept) in &lives {
                // The lock file lies on the real disk: one directory for each life.
                let dir = tempfile::tempdir().unwrap();
                std::fs::write(dir.path().join("installation"), "6b9c2f5e-8c3c-4f6e-9d53-0c7a1a5b2f10\n").unwrap();
                let moved = FakeDisk::default();
                for (path, content) in disk.files.lock().unwrap().iter() {
                    let path = dir.path().join(path.file_name().unwrap());
                    moved.files.lock().unwrap().insert(path, Arc::clone(content));
                }
                let (all, lsn) = life(moved.clone(), dir.path(), sizes).await;
                assert_eq!(all[..before.len()], before[..], "numbers and contents as they were");
                assert_eq!(all.len(), before.len() + sizes.iter().sum::<usize>());
                assert!(all.last().is_none_or(|last| last.3 <= lsn));
                before = all;
                disk = moved.cut_power(*kept);
            }
        });
    }
}
