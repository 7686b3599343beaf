//! Gives the blocks of removed files back to the file system where nobody waits for it.
//!
//! Taking a file's name away takes microseconds; giving back the blocks of one that has gigabytes, a second. The file
//! system does the second when the last one who has the file open closes it. So whoever removes a file opens it first,
//! takes the name away, in the order that the journal promises, and leaves the closing to a thread. A crash in between
//! harms nothing: the file system gives back the blocks of a file without a name by itself.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use metrics::gauge;

use crate::error::{Error, Result};
use crate::journal::disk::{Disk, DiskFile};

/// So many files wait to be closed; those of more are closed at once, by who removes them.
const FILES_MAX: usize = 32;
/// While more than this is still to be given back, retention removes nothing more: what it removed takes room that no
/// number shows. A single file may be larger.
const BYTES_MAX: u64 = 1 << 30;

/// The way to the thread, which ends when this is dropped and all is given back.
#[derive(Debug)]
pub(crate) struct Release {
    files: SyncSender<(Arc<dyn DiskFile>, u64)>,
    /// Bytes not given back yet.
    left: Arc<AtomicU64>,
}

impl Release {
    /// Starts the thread.
    pub(crate) fn start() -> Result<Self> {
        let (files, removed) = sync_channel(FILES_MAX);
        let left = Arc::new(AtomicU64::new(0));
        let of_thread = Arc::clone(&left);
        std::thread::Builder::new()
            .name("release".into())
            .spawn(move || close(&removed, &of_thread))
            .map_err(|error| {
                Error::failed("Cannot start the thread that gives removed files back").because(error)
            })?;
        Ok(Self { files, left })
    }

    /// Removes a file: its name is gone when this returns.
    pub(crate) fn remove(&self, disk: &dyn Disk, path: &Path) -> io::Result<()> {
        // Where it does not open, removing it says why, or takes its time.
        let file = disk.open(path);
        disk.remove(path)?;
        if let Ok(file) = file {
            self.close(file);
        }
        Ok(())
    }

    /// Closes a file that has no name any more.
    pub(crate) fn close(&self, file: Arc<dyn DiskFile>) {
        let bytes = file.length().unwrap_or(0);
        let before = self.left.fetch_add(bytes, Ordering::AcqRel);
        tell(before + bytes);
        if let Err(TrySendError::Full(waits) | TrySendError::Disconnected(waits)) =
            self.files.try_send((file, bytes))
        {
            give_back(waits, &self.left);
        }
    }

    /// Whether so much is left to give back that nothing more should be removed now.
    pub(crate) fn is_behind(&self) -> bool {
        self.left.load(Ordering::Acquire) > BYTES_MAX
    }
}

fn close(removed: &Receiver<(Arc<dyn DiskFile>, u64)>, left: &AtomicU64) {
    while let Ok(file) = removed.recv() {
        give_back(file, left);
    }
}

fn give_back((file, bytes): (Arc<dyn DiskFile>, u64), left: &AtomicU64) {
    drop(file);
    let before = left.fetch_sub(bytes, Ordering::AcqRel);
    tell(before - bytes);
}

fn tell(left: u64) {
    gauge!("rowcast_journal_removed_bytes").set(left as f64);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::SyncSender;

    use super::*;
    use crate::journal::disk::RealDisk;

    /// A file that has 2 GB, and whose closing takes until somebody allows it.
    #[derive(Debug)]
    struct Slow(std::sync::Mutex<Receiver<()>>);

    impl DiskFile for Slow {
        fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
            Ok(())
        }
        fn read_at(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<usize> {
            Ok(0)
        }
        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
        fn truncate(&self, _length: u64) -> io::Result<()> {
            Ok(())
        }
        fn length(&self) -> io::Result<u64> {
            Ok(2 << 30)
        }
    }

    impl Drop for Slow {
        fn drop(&mut self) {
            self.0.get_mut().unwrap().recv().unwrap();
        }
    }

    fn slow() -> (Arc<dyn DiskFile>, SyncSender<()>) {
        let (allow, allowed) = sync_channel(2);
        (Arc::new(Slow(allowed.into())), allow)
    }

    #[test]
    fn nobody_waits_and_more_is_removed_only_when_it_is_given_back() {
        let release = Release::start().unwrap();
        assert!(!release.is_behind());
        let (file, allow) = slow();
        // It would never return here.
        release.close(file);
        assert!(release.is_behind());
        allow.send(()).unwrap();
        let begun = std::time::Instant::now();
        while release.is_behind() {
            assert!(begun.elapsed().as_secs() < 20);
            std::thread::yield_now();
        }
    }

    #[test]
    fn too_many_are_closed_by_who_removes_them() {
        let release = Release::start().unwrap();
        let (first, allow) = slow();
        release.close(first);
        let all: Vec<_> = (0..2 * FILES_MAX)
            .map(|_| {
                let (file, allow) = slow();
                allow.send(()).unwrap();
                release.close(file);
                allow
            })
            .collect();
        let closed = all.iter().filter(|allow| allow.send(()).is_err()).count();
        assert!((FILES_MAX..=FILES_MAX + 1).contains(&closed), "{closed} files");
        allow.send(()).unwrap();
    }

    #[test]
    fn what_does_not_open_is_removed_all_the_same() {
        let release = Release::start().unwrap();
        let dir = tempfile::tempdir().unwrap();
        // It cannot be opened for writing.
        let path = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("nothing"), &path).unwrap();
        assert!(RealDisk.open(&path).is_err());
        release.remove(&RealDisk, &path).unwrap();
        assert!(std::fs::symlink_metadata(&path).is_err());
        let error = release.remove(&RealDisk, &path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
