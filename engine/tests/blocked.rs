//! A disk that stands still under somebody holds up nobody else.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use rowcast_engine::Lsn;
use rowcast_engine::ingest::{Ingest, finish_spill, spill_parts};
use rowcast_engine::journal::disk::{Disk, DiskFile, RealDisk};
use rowcast_engine::journal::{self, Journal, Options, Read};
use rowcast_engine::record::Builder;

use crate::room::{adopt, huge, soon};
use crate::support::{Fixture, read_all};

/// Who reads segments in these tests.
const READER: &str = "reader";

/// What the writer puts into a file of some megabytes, and beside it, when its transaction commits.
const ADOPTING_MAX: u64 = 64 << 10;

/// Whose calls wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// Reads of the test's own readers.
    Readers,
    /// Whatever is done to the file of a transaction that is open.
    Spills,
}

/// The machine's disk, on which some calls wait until they are let go.
#[derive(Clone, Debug, Default)]
struct Gated(Arc<Gate>);

#[derive(Debug, Default)]
struct Gate {
    closed: Mutex<Option<Whose>>,
    changed: Condvar,
    waiting: AtomicUsize,
    /// Bytes that the writer's thread has written, and read, and that its syncs had to flush.
    written: AtomicU64,
    read: AtomicU64,
    flushed: AtomicU64,
}

struct Closed(Arc<Gate>);

impl Drop for Closed {
    fn drop(&mut self) {
        *self.0.closed.lock().unwrap() = None;
        self.0.changed.notify_all();
    }
}

#[derive(Debug)]
struct GatedFile {
    inner: Arc<dyn DiskFile>,
    path: PathBuf,
    gate: Arc<Gate>,
    /// Bytes written since the last sync.
    unsynced: AtomicU64,
}

impl Gate {
    fn pass(&self, whose: Whose) {
        let closed = self.closed.lock().unwrap();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        drop(self.changed.wait_while(closed, |closed| *closed == Some(whose)).unwrap());
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gated {
    /// They wait until what this gives is dropped.
    fn close(&self, whose: Whose) -> Closed {
        *self.0.closed.lock().unwrap() = Some(whose);
        Closed(Arc::clone(&self.0))
    }

    async fn until_waiting(&self, count: usize) {
        soon("the calls to wait", async {
            while self.0.waiting.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// What the writer's thread has written, read and flushed so far.
    fn of_writer(&self) -> [u64; 3] {
        [&self.0.written, &self.0.read, &self.0.flushed].map(|bytes| bytes.load(Ordering::SeqCst))
    }

    fn file(&self, inner: Arc<dyn DiskFile>, path: &Path) -> Arc<dyn DiskFile> {
        let (path, gate) = (path.to_owned(), Arc::clone(&self.0));
        Arc::new(GatedFile { inner, path, gate, unsynced: AtomicU64::default() })
    }
}

impl GatedFile {
    fn pass(&self) {
        if self.path.file_name().unwrap().to_str().unwrap().starts_with("spill-") {
            self.gate.pass(Whose::Spills);
        }
    }
}

fn is_writer() -> bool {
    thread::current().name() == Some("journal")
}

impl Disk for Gated {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(RealDisk.create(path)?, path))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(RealDisk.open(path)?, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        RealDisk.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn space(&self, _dir: &Path) -> io::Result<(u64, u64)> {
        Ok((1 << 40, 1 << 40))
    }
}

impl DiskFile for GatedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.pass();
        if is_writer() {
            self.gate.written.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        }
        self.unsynced.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        self.inner.write_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if thread::current().name() == Some(READER) {
            self.gate.pass(Whose::Readers);
        }
        let read = self.inner.read_at(buffer, offset)?;
        if is_writer() {
            self.gate.read.fetch_add(read as u64, Ordering::SeqCst);
        }
        Ok(read)
    }

    fn sync(&self) -> io::Result<()> {
        self.pass();
        let bytes = self.unsynced.swap(0, Ordering::SeqCst);
        if is_writer() {
            self.gate.flushed.fetch_add(bytes, Ordering::SeqCst);
        }
        self.inner.sync()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.inner.truncate(length)
    }

    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }
}

/// Neither those who write, nor retention, which takes what they are reading.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_the_disk_holds_up_hold_up_nobody() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Gated::default());
    let options = Options {
        segment_bytes: 20_000,
        cache_bytes: 1,
        max_size: Some(400_000),
        ..Options::new(dir.path())
    };
    let mut fixture = Fixture::over(journal::open(options, Arc::new(disk.clone())).unwrap()).await;
    for _ in 0..30 {
        fixture.transaction(10, &"x".repeat(1000)).await;
    }
    let (all, oldest) = (read_all(fixture.journal(), 0), fixture.journal().oldest());
    let closed = disk.close(Whose::Readers);
    let readers: Vec<_> = (0..8)
        .map(|at| {
            let (journal, event) = (fixture.journal().clone(), all[at * 30].0);
            let read = move || (event, journal.read(event - 1));
            thread::Builder::new().name(READER.into()).spawn(read).unwrap()
        })
        .collect();
    disk.until_waiting(readers.len()).await;
    soon("an event", fixture.journal().publish(&[("custom.event", b"1")], 1)).await.unwrap();
    soon("retention, of what is being read", async {
        while fixture.journal().oldest() == oldest {
            fixture.transaction(10, &"y".repeat(1000)).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(disk.0.waiting.load(Ordering::SeqCst), readers.len(), "they wait as before");
    drop(closed);
    for reader in readers {
        let (event, read) = tokio::task::block_in_place(|| reader.join()).unwrap();
        match read.unwrap() {
            Read::Batches(batches) => {
                assert!(batches[0].first() <= event && event <= batches[0].last(), "{event}");
            }
            Read::Gone(gone) => assert!((gone.from..=gone.to).contains(&event), "{gone:?}, not {event}"),
            Read::AtHead => panic!("{event} is not the end"),
        }
    }
    fixture.journal().close().await;
}

/// While it is open; and its commit costs the writer no more than a small one's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_transaction_that_the_disk_holds_up_holds_up_nobody() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Gated::default());
    let mut fixture =
        Fixture::over(journal::open(Options::new(dir.path()), Arc::new(disk.clone())).unwrap()).await;
    // It commits before the huge one, and arrives while that is being written.
    let mut small = Builder::new();
    fixture.begin(&mut small);
    fixture.row(&mut small, "small");
    fixture.commit(&mut small);
    let end = Lsn(fixture.lsn);
    let (mut builder, parts) = huge(&mut fixture);
    let spill = fixture.journal().spill().unwrap();
    let closed = disk.close(Whose::Spills);
    let writing = tokio::spawn(spill_parts(spill, parts));
    disk.until_waiting(1).await;
    let journal = fixture.journal().clone();
    soon("an event", journal.publish(&[("custom.event", b"1")], 1)).await.unwrap();
    let room = Ingest::new(journal.clone()).room().await.unwrap();
    room.append(&journal, small.take(), end);
    let mut durable = journal.durable();
    soon("a small transaction", durable.wait_for(|lsn| *lsn >= end)).await.unwrap();
    let shown = |journal: &Journal| journal.newest() + 1 - journal.oldest();
    assert_eq!(shown(&journal), 2, "both");
    assert!(!writing.is_finished());
    drop(closed);
    let spill = soon("the file", writing).await.unwrap().unwrap();
    let spill = finish_spill(spill, builder.take_tail(Lsn(fixture.lsn))).await.unwrap();
    let before = disk.of_writer();
    adopt(&fixture, spill).await;
    let after = disk.of_writer();
    let [written, read, flushed] = [0, 1, 2].map(|at| after[at] - before[at]);
    println!("the writer wrote {written} bytes, read {read} and flushed {flushed} for a transaction of 3 MB");
    let most = written.max(read).max(flushed);
    assert!(most < ADOPTING_MAX, "{written} written, {read} read, {flushed} flushed");
    assert_eq!(shown(&journal), 2 + 3001);
    journal.close().await;
}
