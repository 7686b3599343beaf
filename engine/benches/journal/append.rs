//! Appending, durable: a group of one, of a hundred, of ten thousand rows.
//!
//! "One at a time" waits until a group is durable before it hands over the next: what a single small transaction
//! waits. "Two in flight" is what capture does when it is behind: the next group waits while one is written; where
//! two have arrived they are one write and one sync, so that small groups go above the limit. Groups are built before
//! the clock starts: in the program that is another thread's work (see "build" for what it takes).
//! The limit is pwrite and fdatasync of the same bytes, read back from the journal's files, by one thread that does
//! nothing else, at the end of a file that grows in the same way and is changed for a new one at the same size.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rowcast_engine::Lsn;
use rowcast_engine::record::{Builder, Part};
use tokio::runtime::Runtime;

use crate::paired::{Report, Rounds, timed};
use crate::rows::Stream;

/// As large as a segment of the journal.
const SEGMENT_BYTES: u64 = 64 << 20;

/// A measurement ends after this time even if the disk is too slow for all of its rounds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Rows of a group, groups of a round, rounds.
const SIZES: [(usize, usize, usize); 3] = [(1, 40, 100), (100, 40, 100), (10_000, 6, 100)];

pub(crate) fn run(dir: &Path, report: &mut Report) {
    for (rows, groups, rounds) in SIZES {
        for in_flight in [false, true] {
            let dir = tempfile::tempdir_in(dir).unwrap();
            let measured = measure(dir.path(), rows, groups, rounds, in_flight);
            let how = if in_flight { "two in flight" } else { "one at a time" };
            let name = format!("append {rows} rows, {how}");
            report.add(&name, "pwrite + fdatasync", measured, "groups", groups as f64);
        }
    }
}

fn measure(dir: &Path, rows: usize, groups: usize, rounds: usize, in_flight: bool) -> Rounds {
    let mut driver = Driver::open(&dir.join("journal"), rows);
    let mut plain = Plain::new(dir);
    let mut measured = Rounds::default();
    // Warm: threads, caches, the disk.
    for _ in 0..3 {
        driver.round(groups, in_flight);
        plain.round(&driver.written(), groups);
    }
    let started = Instant::now();
    for _ in 0..rounds {
        if started.elapsed() > PATIENCE {
            break;
        }
        let bytes = driver.written();
        measured.round(|| driver.round(groups, in_flight), || plain.round(&bytes, groups));
    }
    driver.close();
    measured
}

/// The journal, driven as capture drives it: by one thread that runs nothing else.
struct Driver {
    runtime: Runtime,
    stream: Stream,
    rows: usize,
    /// What the last round wrote.
    round_bytes: u64,
}

impl Driver {
    fn open(dir: &Path, rows: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let stream = runtime.block_on(crate::stream(dir, 1));
        Self { runtime, stream, rows, round_bytes: 0 }
    }

    fn round(&mut self, groups: usize, in_flight: bool) -> Duration {
        let before = self.stream.journal().summary().bytes;
        let (stream, rows) = (&mut self.stream, self.rows);
        let took = self.runtime.block_on(async move {
            if in_flight {
                two_in_flight(stream, rows, groups).await
            } else {
                one_at_a_time(stream, rows, groups).await
            }
        });
        self.round_bytes = self.stream.journal().summary().bytes - before;
        took
    }

    /// The bytes that the last round wrote, or as many of them as lie in one segment.
    fn written(&self) -> Vec<u8> {
        let paths = segments(self.stream.journal().dir());
        let with_length = paths.iter().rev().map(|path| (path, path.metadata().unwrap().len()));
        let (path, length) =
            with_length.take(2).max_by_key(|(_, length)| (*length).min(self.round_bytes)).unwrap();
        let count = length.min(self.round_bytes);
        let mut bytes = vec![0; usize::try_from(count).unwrap()];
        File::open(path).unwrap().read_exact_at(&mut bytes, length - count).unwrap();
        bytes
    }

    fn close(self) {
        self.runtime.block_on(self.stream.journal().close());
    }
}

async fn one_at_a_time(stream: &mut Stream, rows: usize, groups: usize) -> Duration {
    let built = build(stream, rows, groups);
    let started = Instant::now();
    for (parts, lsn) in built {
        stream.append(parts, lsn).await;
    }
    started.elapsed()
}

async fn two_in_flight(stream: &mut Stream, rows: usize, groups: usize) -> Duration {
    let built = build(stream, rows, groups);
    let started = Instant::now();
    for (parts, lsn) in built {
        let room = stream.ingest.room().await.unwrap();
        room.append(stream.journal(), parts, Lsn(lsn));
    }
    stream.durable(stream.lsn).await;
    started.elapsed()
}

fn build(stream: &mut Stream, rows: usize, groups: usize) -> Vec<(Vec<Part>, u64)> {
    let mut builder = Builder::new();
    (0..groups).map(|_| (stream.group(&mut builder, rows), stream.lsn)).collect()
}

/// Segment files, oldest first.
pub(crate) fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths.sort();
    paths
}

/// What the disk can do at most.
struct Plain {
    dir: PathBuf,
    file: File,
    files: usize,
    at: u64,
}

impl Plain {
    fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), file: create(&dir.join("plain-0")), files: 1, at: 0 }
    }

    /// Writes and syncs the bytes in so many pieces.
    fn round(&mut self, bytes: &[u8], groups: usize) -> Duration {
        timed(|| bytes.chunks(bytes.len().div_ceil(groups)).for_each(|group| self.append(group)))
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.at >= SEGMENT_BYTES {
            self.file = create(&self.dir.join(format!("plain-{}", self.files)));
            self.files += 1;
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at).unwrap();
        self.file.sync_data().unwrap();
        self.at += bytes.len() as u64;
    }
}

fn create(path: &Path) -> File {
    OpenOptions::new().create_new(true).write(true).open(path).unwrap()
}
