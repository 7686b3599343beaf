//! Appends while retention takes a segment of gigabytes, the transaction of a bulk load: as it is done, and with the
//! writer's thread giving back the blocks by itself.
//!
//! `make bench-opening`; takes 8 GiB of disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rowcast_engine::ingest::{finish_spill, spill_parts};
use rowcast_engine::journal::disk::{Disk, DiskFile, RealDisk};
use rowcast_engine::journal::{self, Options};
use rowcast_engine::{Lsn, record};

use crate::paired::timed;
use crate::rows::Stream;

const ROUNDS: usize = 3;
const BYTES: u64 = 4 << 30;

pub(crate) fn run(dir: &Path) {
    println!();
    for round in 0..ROUNDS {
        for here in [true, false] {
            once(&dir.join(format!("removal-{round}-{here}")), here);
        }
    }
}

fn options(dir: &Path, max_size: u64) -> Options {
    Options { max_size: Some(max_size), min_free: 0, ..Options::new(dir) }
}

fn once(dir: &Path, here: bool) {
    let runtime = crate::runtime();
    runtime.block_on(fill(dir));
    let inside = runtime.enter();
    let journal = journal::open(options(dir, BYTES / 4), Arc::new(Machine { here })).unwrap();
    drop(inside);
    let (begun, mut gone) = (Instant::now(), None);
    let mut appends = Vec::new();
    while gone.is_none_or(|gone: Instant| gone.elapsed() < Duration::from_secs(2)) {
        appends.push(timed(|| {
            runtime.block_on(journal.publish(&[("custom.event", b"1")], 1)).unwrap();
        }));
        if gone.is_none() && journal.summary().bytes < BYTES {
            gone = Some(Instant::now());
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "the segment goes");
    }
    appends.sort();
    let at = |part: usize| appends[(appends.len() - 1) * part / 1000];
    println!(
        "a segment of {} MB goes, its blocks {}: {} appends, p50 {:?}, p99 {:?}, longest {:?}",
        BYTES >> 20,
        if here { "by the writer   " } else { "on another thread" },
        appends.len(),
        at(500),
        at(990),
        at(1000)
    );
    runtime.block_on(journal.close());
    std::fs::remove_dir_all(dir).unwrap();
}

/// A journal that is a transaction of so many bytes, and little behind it.
async fn fill(dir: &Path) {
    let journal = journal::open(options(dir, u64::MAX), Arc::new(RealDisk)).unwrap();
    let mut stream = Stream::over(journal, 1).await;
    let mut builder = record::Builder::new();
    let mut spill = stream.journal().spill().unwrap();
    stream.begin(&mut builder);
    while spill.byte_len() < BYTES {
        stream.rows(&mut builder, 10_000);
        spill = spill_parts(spill, builder.take_open_parts()).await.unwrap();
    }
    let end = Lsn(stream.lsn);
    let spill = finish_spill(spill, builder.take_tail(end)).await.unwrap();
    stream.ingest.room().await.unwrap().adopt(stream.journal(), spill, end, 1_800_000_000_000_000);
    stream.durable(stream.lsn).await;
    stream.journal().publish(&[("custom.event", b"1")], 1).await.unwrap();
    stream.journal().close().await;
}

/// The machine's disk; `here`: the journal's thread can open no segment, so that removing one is all its own work.
#[derive(Debug)]
struct Machine {
    here: bool,
}

impl Disk for Machine {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if self.here && std::thread::current().name() == Some("journal") {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        RealDisk.open(path)
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

    fn space(&self, dir: &Path) -> io::Result<(u64, u64)> {
        RealDisk.space(dir)
    }
}
