//! Reading a journal from its start: closed segments, from the page cache, so that the reader and not the disk is
//! measured. The limit is a plain read of the same files, a megabyte at a time into one buffer.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rowcast_engine::journal::{Journal, Read};

use crate::append::segments;
use crate::paired::{Report, Rounds, timed};

/// About 240 MB: four segments, of which the cache holds the last 32 MB.
const ROWS: usize = 2_000_000;
const ROUNDS: usize = 15;

pub(crate) fn run(dir: &Path, report: &mut Report) {
    let runtime = crate::runtime();
    let mut stream = runtime.block_on(crate::stream(&dir.join("sequential"), 1));
    runtime.block_on(crate::fill(&mut stream, ROWS));
    let (journal, paths) = (stream.journal(), segments(&dir.join("sequential")));
    // What is not in memory: up to here both read.
    let end = journal.seek_last(ROWS as u64 / 3);
    let part = (end - journal.seek_earliest()) as f64 / ROWS as f64;
    let bytes = journal.summary().bytes as f64 * part;
    // Once before the first round: the page cache is warm.
    let events = read(journal, end, true).1;
    let (mut batches, mut each) = (Rounds::default(), Rounds::default());
    for _ in 0..ROUNDS {
        batches.round(|| read(journal, end, false).0, || plain(&paths, bytes));
        each.round(|| read(journal, end, true).0, || plain(&paths, bytes));
    }
    report.add("read from disk, batches", "pread, page cache warm", batches, "MB", bytes / 1e6);
    report.add("read from disk, each event", "pread, page cache warm", each, "events", events as f64);
    runtime.block_on(stream.journal().close());
}

/// Reads up to an event; how long that took, and how many were looked at when `each` is.
pub(crate) fn read(journal: &Journal, end: u64, each: bool) -> (Duration, u64) {
    let (mut position, mut events) = (journal.seek_earliest(), 0);
    let took = timed(|| {
        while position < end {
            let Read::Batches(batches) = journal.read(position).unwrap() else { return };
            for batch in batches {
                position = batch.last();
                if each {
                    events += batch.events().map(black_box).count() as u64;
                }
            }
        }
    });
    (took, events)
}

fn plain(paths: &[PathBuf], bytes: f64) -> Duration {
    let mut buffer = vec![0; 1 << 20];
    let mut left = bytes;
    timed(|| {
        for path in paths {
            let (file, mut at) = (File::open(path).unwrap(), 0);
            while left > 0.0 {
                match file.read_at(&mut buffer, at).unwrap() {
                    0 => break,
                    read => (at, left) = (at + read as u64, left - read as f64),
                }
                black_box(&buffer);
            }
        }
    })
}
