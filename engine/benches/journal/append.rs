//! Appending, durable: a group of one, of a hundred, of ten thousand rows.
//!
//! "One at a time" waits until a group is durable before it hands over the next: what a single small transaction
//! waits. "Two in flight" is what capture does when it is behind: it builds a group while the other is written.
//! The limit is pwrite and fdatasync of the same bytes by one thread that does nothing else, at the end of a file
//! that grows in the same way and is changed for a new one at the same size.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rowcast_engine::Lsn;
use rowcast_engine::record::Builder;
use tokio::runtime::Runtime;

use crate::paired::{Report, Rounds, timed};
use crate::rows::Stream;

/// As large as a segment of the journal.
const SEGMENT_BYTES: u64 = 64 << 20;

/// Rows of a group, groups of a round, rounds.
const SIZES: [(usize, usize, usize); 3] = [(1, 100, 40), (100, 100, 40), (10_000, 12, 40)];

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
    let mut plain = Plain::new(dir, driver.sample());
    let mut measured = Rounds::default();
    // Warm: threads, caches, the disk.
    driver.round(groups, in_flight);
    plain.round(groups);
    for _ in 0..rounds {
        measured.round(|| driver.round(groups, in_flight), || plain.round(groups));
    }
    driver.close();
    measured
}

/// The journal, driven by a task as capture drives it.
struct Driver {
    runtime: Runtime,
    stream: Option<Stream>,
    rows: usize,
}

impl Driver {
    fn open(dir: &Path, rows: usize) -> Self {
        let runtime = crate::runtime();
        let stream = runtime.block_on(Stream::open(dir, 1));
        Self { runtime, stream: Some(stream), rows }
    }

    /// The bytes that a group is on disk.
    fn sample(&mut self) -> Vec<u8> {
        let rows = self.rows;
        // The first group brings the schema along, the second one nothing but itself.
        let mut lengths = [0; 2];
        for length in &mut lengths {
            let mut stream = self.stream.take().unwrap();
            let task = self.runtime.spawn(async move {
                let parts = stream.group(&mut Builder::new(), rows);
                stream.append(parts, stream.lsn).await;
                stream
            });
            let stream = self.stream.insert(self.runtime.block_on(task).unwrap());
            *length = stream.journal().summary().bytes;
        }
        let stream = self.stream.as_ref().unwrap();
        let newest = segments(stream.journal().dir()).pop().unwrap();
        let mut bytes = std::fs::read(newest).unwrap();
        bytes.split_off(bytes.len() - usize::try_from(lengths[1] - lengths[0]).unwrap())
    }

    fn round(&mut self, groups: usize, in_flight: bool) -> Duration {
        let mut stream = self.stream.take().unwrap();
        let rows = self.rows;
        // On a worker, as capture is.
        let task = self.runtime.spawn(async move {
            let took = if in_flight {
                two_in_flight(&mut stream, rows, groups).await
            } else {
                one_at_a_time(&mut stream, rows, groups).await
            };
            (stream, took)
        });
        let (stream, took) = self.runtime.block_on(task).unwrap();
        self.stream = Some(stream);
        took
    }

    fn close(self) {
        if let Some(stream) = self.stream {
            self.runtime.block_on(stream.journal().close());
        }
    }
}

async fn one_at_a_time(stream: &mut Stream, rows: usize, groups: usize) -> Duration {
    let mut builder = Builder::new();
    let built: Vec<_> = (0..groups).map(|_| (stream.group(&mut builder, rows), stream.lsn)).collect();
    let started = Instant::now();
    for (parts, lsn) in built {
        stream.append(parts, lsn).await;
    }
    started.elapsed()
}

async fn two_in_flight(stream: &mut Stream, rows: usize, groups: usize) -> Duration {
    let mut builder = Builder::new();
    let started = Instant::now();
    for _ in 0..groups {
        let parts = stream.group(&mut builder, rows);
        let room = stream.ingest.room().await.unwrap();
        room.append(stream.journal(), parts, Lsn(stream.lsn));
    }
    stream.durable(stream.lsn).await;
    started.elapsed()
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
    bytes: Vec<u8>,
    file: File,
    files: usize,
    at: u64,
}

impl Plain {
    fn new(dir: &Path, bytes: Vec<u8>) -> Self {
        Self { dir: dir.to_owned(), bytes, file: create(&dir.join("plain-0")), files: 1, at: 0 }
    }

    fn round(&mut self, groups: usize) -> Duration {
        timed(|| (0..groups).for_each(|_| self.append()))
    }

    fn append(&mut self) {
        if self.at >= SEGMENT_BYTES {
            self.file = create(&self.dir.join(format!("plain-{}", self.files)));
            self.files += 1;
            self.at = 0;
        }
        self.file.write_all_at(&self.bytes, self.at).unwrap();
        self.file.sync_data().unwrap();
        self.at += self.bytes.len() as u64;
    }
}

fn create(path: &Path) -> File {
    OpenOptions::new().create_new(true).write(true).open(path).unwrap()
}
