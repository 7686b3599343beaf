//! A disk that stands still under somebody holds up nobody else.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use rowcast_engine::Lsn;
use rowcast_engine::ingest::{Ingest, finish_spill, spill_parts};
use rowcast_engine::journal::disk::DiskFile;
use rowcast_engine::journal::{self, Journal, Options, Read};
use rowcast_engine::record::Builder;

use crate::guarded::{Call, Guard, Guarded};
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

/// Some calls wait until they are let go.
#[derive(Debug, Default)]
struct Gate {
    closed: Mutex<Option<Whose>>,
    changed: Condvar,
    waiting: AtomicUsize,
    /// Bytes that the writer's thread has written, and read, and that its syncs had to flush.
    written: AtomicU64,
    read: AtomicU64,
    flushed: AtomicU64,
    /// Bytes written to each file since its last sync.
    unsynced: Mutex<HashMap<PathBuf, u64>>,
}

struct Closed<'a>(&'a Gate);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        *self.0.closed.lock().unwrap() = None;
        self.0.changed.notify_all();
    }
}

impl Gate {
    /// They wait until what this gives is dropped.
    fn close(&self, whose: Whose) -> Closed<'_> {
        *self.closed.lock().unwrap() = Some(whose);
        Closed(self)
    }

    fn pass(&self, whose: Whose) {
        let closed = self.closed.lock().unwrap();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        drop(self.changed.wait_while(closed, |closed| *closed == Some(whose)).unwrap());
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    async fn until_waiting(&self, count: usize) {
        soon("the calls to wait", async {
            while self.waiting.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// What the writer's thread has written, read and flushed so far.
    fn of_writer(&self) -> [u64; 3] {
        [&self.written, &self.read, &self.flushed].map(|bytes| bytes.load(Ordering::SeqCst))
    }
}

/// Counts bytes, if it is the writer's thread that asks.
fn count(bytes: u64, of_writer: &AtomicU64) {
    if thread::current().name() == Some("journal") {
        of_writer.fetch_add(bytes, Ordering::SeqCst);
    }
}

impl Guard for Gate {
    fn before(&self, call: Call, path: &Path) -> io::Result<()> {
        let of_spill = || path.file_name().unwrap().to_str().unwrap().starts_with("spill-");
        match call {
            Call::Read if thread::current().name() == Some(READER) => self.pass(Whose::Readers),
            Call::Write | Call::Sync if of_spill() => self.pass(Whose::Spills),
            _ => {}
        }
        Ok(())
    }

    fn write_at(&self, file: &dyn DiskFile, path: &Path, bytes: &[u8], offset: u64) -> io::Result<()> {
        count(bytes.len() as u64, &self.written);
        *self.unsynced.lock().unwrap().entry(path.to_owned()).or_default() += bytes.len() as u64;
        file.write_at(bytes, offset)
    }

    fn read_at(&self, file: &dyn DiskFile, _: &Path, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = file.read_at(buffer, offset)?;
        count(read as u64, &self.read);
        Ok(read)
    }

    fn sync(&self, file: &dyn DiskFile, path: &Path) -> io::Result<()> {
        let bytes = self.unsynced.lock().unwrap().remove(path);
        count(bytes.unwrap_or_default(), &self.flushed);
        file.sync()
    }
}

/// Neither those who write, nor retention, which takes what they are reading.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_the_disk_holds_up_hold_up_nobody() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Guarded::<Gate>::default());
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
    let closed = disk.0.close(Whose::Readers);
    let readers: Vec<_> = (0..8)
        .map(|at| {
            let (journal, event) = (fixture.journal().clone(), all[at * 30].0);
            let read = move || (event, journal.read(event - 1));
            thread::Builder::new().name(READER.into()).spawn(read).unwrap()
        })
        .collect();
    disk.0.until_waiting(readers.len()).await;
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
    let (dir, disk) = (tempfile::tempdir().unwrap(), Guarded::<Gate>::default());
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
    let closed = disk.0.close(Whose::Spills);
    let writing = tokio::spawn(spill_parts(spill, parts));
    disk.0.until_waiting(1).await;
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
    let before = disk.0.of_writer();
    adopt(&fixture, spill).await;
    let after = disk.0.of_writer();
    let [written, read, flushed] = [0, 1, 2].map(|at| after[at] - before[at]);
    println!("the writer wrote {written} bytes, read {read} and flushed {flushed} for a transaction of 3 MB");
    let most = written.max(read).max(flushed);
    assert!(most < ADOPTING_MAX, "{written} written, {read} read, {flushed} flushed");
    assert_eq!(shown(&journal), 2 + 3001);
    journal.close().await;
}
