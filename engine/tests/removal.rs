//! Giving back the blocks of a huge file takes long: nobody waits for it, and names vanish in their order all the same.

use std::any::Any;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rowcast_engine::Lsn;
use rowcast_engine::ingest::{finish_spill, spill_parts};
use rowcast_engine::journal::disk::Disk;
use rowcast_engine::journal::{self, Options, State};
use rowcast_engine::record::Builder;

use crate::disk::{FakeDisk, Fault, Ill, REMOVE};
use crate::guarded::{Call, Guard, Guarded};
use crate::room::{adopt, huge, soon};
use crate::support::{Fixture, read_all, unlocked};

/// A file of more bytes than this is one.
const HUGE: u64 = 50_000;

/// The blocks of a huge file are given back when the last one who has it open closes it (at its removal, when nobody
/// has), and that takes until somebody allows it.
#[derive(Debug, Default)]
struct Slow {
    allowed: Arc<(Mutex<bool>, Condvar)>,
    files: Mutex<HashMap<PathBuf, Arc<Blocks>>>,
    /// Names in the order in which they went.
    removed: Mutex<Vec<PathBuf>>,
    /// A sync of the directory takes so long, in milliseconds.
    sync_ms: AtomicU64,
}

/// Of one file, held by its name and by all who have it open.
#[derive(Debug)]
struct Blocks {
    allowed: Arc<(Mutex<bool>, Condvar)>,
    removed: AtomicBool,
}

impl Drop for Blocks {
    fn drop(&mut self) {
        if self.removed.load(Ordering::SeqCst) {
            let (allowed, changed) = &*self.allowed;
            drop(changed.wait_while(allowed.lock().unwrap(), |allowed| !*allowed).unwrap());
        }
    }
}

impl Slow {
    fn allow(&self) {
        *self.allowed.0.lock().unwrap() = true;
        self.allowed.1.notify_all();
    }

    fn removed(&self, extension: &str) -> Vec<PathBuf> {
        let mut removed = self.removed.lock().unwrap().clone();
        removed.retain(|path| path.extension().is_some_and(|found| found == extension));
        removed
    }
}

impl Guard for Slow {
    fn before(&self, call: Call, _: &Path) -> io::Result<()> {
        if call == Call::SyncDir {
            thread::sleep(Duration::from_millis(self.sync_ms.load(Ordering::SeqCst)));
        }
        Ok(())
    }

    fn held(&self, path: &Path) -> Option<Arc<dyn Any + Send + Sync>> {
        let new = || Arc::new(Blocks { allowed: Arc::clone(&self.allowed), removed: AtomicBool::new(false) });
        let blocks = Arc::clone(self.files.lock().unwrap().entry(path.to_owned()).or_insert_with(new));
        Some(blocks)
    }

    fn rename(&self, disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
        disk.rename(from, to)?;
        let mut files = self.files.lock().unwrap();
        let replaced = files.remove(from).and_then(|blocks| files.insert(to.to_owned(), blocks));
        drop(files);
        drop(replaced);
        Ok(())
    }

    fn remove(&self, disk: &dyn Disk, path: &Path) -> io::Result<()> {
        let huge = fs::metadata(path)?.len() > HUGE;
        disk.remove(path)?;
        self.removed.lock().unwrap().push(path.to_owned());
        let blocks = self.files.lock().unwrap().remove(path);
        if let Some(blocks) = blocks {
            blocks.removed.store(huge, Ordering::SeqCst);
        }
        Ok(())
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|found| found == "seg")).collect();
    paths.sort();
    paths
}

#[tokio::test]
async fn nobody_waits_for_a_segment_that_retention_takes() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Guarded::<Slow>::default();
    let mut options = Options::new(dir.path());
    options.segment_bytes = 100_000;
    options.max_size = Some(2 << 20);
    let journal = journal::open(options.clone(), Arc::new(disk.clone())).unwrap();
    let mut fixture = Fixture::over(journal).await;
    // One that is far larger than the others, and some that go with it.
    let (mut builder, parts) = huge(&mut fixture);
    let spill = spill_parts(fixture.journal().spill().unwrap(), parts).await.unwrap();
    let spill = finish_spill(spill, builder.take_tail(Lsn(fixture.lsn))).await.unwrap();
    adopt(&fixture, spill).await;
    let held = segments(dir.path());
    for _ in 0..30 {
        soon("a transaction", fixture.transaction(100, &"y".repeat(1000))).await;
    }
    let removed = disk.0.removed("seg");
    assert!(removed.len() > 5 && removed.is_sorted(), "{removed:?}");
    assert!(held.iter().all(|path| removed.contains(path) && !path.exists()), "{held:?}");
    assert!(fixture.journal().summary().bytes <= 3 << 20);
    // Nor does the end, nor the next start.
    soon("the end", fixture.journal().close()).await;
    drop(fixture);
    unlocked(dir.path());
    let left = dir.path().join("spill-7.tmp");
    fs::write(&left, vec![0; 100_000]).unwrap();
    let journal = journal::open(options, Arc::new(disk.clone())).unwrap();
    assert!(!left.exists() && disk.0.removed("tmp").contains(&left));
    soon("an event", journal.publish(&[("custom.event", b"1")], 1)).await.unwrap();
    disk.0.allow();
}

#[tokio::test]
async fn nobody_waits_for_a_huge_transaction_that_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Guarded::<Slow>::default();
    let journal = journal::open(Options::new(dir.path()), Arc::new(disk.clone())).unwrap();
    let mut fixture = Fixture::over(journal).await;
    let (_, parts) = huge(&mut fixture);
    let spill = spill_parts(fixture.journal().spill().unwrap(), parts).await.unwrap();
    // On this very task, which would wait for ever.
    drop(spill);
    let names = std::fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name());
    let left: Vec<_> = names.filter(|name| name.to_str().unwrap().starts_with("spill-")).collect();
    assert!(left.is_empty(), "{left:?}");
    soon("an event", fixture.journal().publish(&[("custom.event", b"1")], 1)).await.unwrap();
    disk.0.allow();
}

/// Where one removal takes all the time of a look, an idle journal does not wait a second for each of the next.
#[test]
fn an_idle_journal_removes_all_that_is_too_old_at_one_look() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Guarded::<Slow>::default());
    let mut options = Options::new(dir.path());
    options.segment_bytes = 1000;
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime().block_on(async {
        let mut fixture = Fixture::open(options.clone()).await;
        for _ in 0..10 {
            fixture.transaction(1, &"y".repeat(1000)).await;
        }
        fixture.journal().close().await;
    });
    unlocked(dir.path());
    assert!(segments(dir.path()).len() > 9);
    disk.0.sync_ms.store(30, Ordering::SeqCst);
    options.retention = Duration::ZERO;
    let looks =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let journal = {
        let _inside = looks.enter();
        journal::open(options, Arc::new(disk)).unwrap()
    };
    // The clock stands still: this is the first look, and the last.
    looks.block_on(tokio::task::yield_now());
    let begun = Instant::now();
    while journal.summary().segments > 1 {
        assert!(begun.elapsed().as_secs() < 20, "{} segments", journal.summary().segments);
        thread::sleep(Duration::from_millis(5));
    }
    runtime().block_on(journal.close());
}

/// A file that is protected: the journal stays near its size, says what is in the way, and goes on by itself.
#[tokio::test]
async fn where_a_segment_may_not_be_removed_capture_pauses_at_max_size() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
    let options = Options {
        segment_bytes: 1000,
        max_size: Some(5000),
        min_free: 0,
        ahead_bytes: 0,
        ..Options::new(dir.path())
    };
    let journal = journal::open(options, Arc::new(disk.clone())).unwrap();
    let mut fixture = Fixture::over(journal).await;
    let protected = Fault { calls: REMOVE, after: 0, ill: Ill::Forbidden, times: u32::MAX, waits: u32::MAX };
    disk.plan(Some(protected));
    let mut state = fixture.journal().state();
    let told = loop {
        let mut builder = Builder::new();
        fixture.begin(&mut builder);
        fixture.row(&mut builder, &"z".repeat(900));
        fixture.commit(&mut builder);
        let room = tokio::select! {
            biased;
            paused = state.wait_for(|state| matches!(state, State::Full(_))) => break paused.unwrap().clone(),
            room = fixture.ingest.room() => room.unwrap(),
        };
        room.append(fixture.journal(), builder.take(), Lsn(fixture.lsn));
    };
    let State::Full(reason) = told else { unreachable!() };
    assert!(reason.contains("is at its max_size") && reason.contains("cannot be removed"), "{reason}");
    assert!(fixture.journal().summary().bytes < 10_000, "{:?}", fixture.journal().summary());
    assert!(!read_all(fixture.journal(), 0).is_empty(), "readers are served");
    disk.plan(None);
    soon("room", state.wait_for(|state| *state == State::Open)).await.unwrap();
    fixture.transaction(1, "after").await;
    fixture.journal().close().await;
}
