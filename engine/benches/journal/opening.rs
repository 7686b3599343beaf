//! Opening 10 GiB, in segments of the usual size and in ten thousand small ones: with nothing in the page cache and
//! with all of it, after an end in order and after a kill; how much memory the indexes take; and how appends fare while
//! retention takes half of the segments.
//!
//! The page cache is emptied where that is allowed (root). Takes 10 GiB of disk and some minutes: `make bench-opening`.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Journal, Options, Start, first_of_last, for_each_event};
use tokio::runtime::Runtime;

use crate::append::segments;
use crate::paired::{median, timed};
use crate::rows::Stream;

const ROUNDS: usize = 5;
/// `ROWCAST_BENCH_MB` for less, or more.
const MEGABYTES: u64 = 10 << 10;

pub(crate) fn run(dir: &Path) {
    let wanted = std::env::var("ROWCAST_BENCH_MB").ok().and_then(|text| text.parse().ok());
    let bytes = wanted.unwrap_or(MEGABYTES) << 20;
    for segment_bytes in [64 << 20, 1 << 20] {
        let dir = dir.join(segment_bytes.to_string());
        let shape = Shape { dir: &dir, segment_bytes, runtime: crate::runtime() };
        shape.fill(bytes);
        shape.open_often();
        shape.places();
        shape.appends();
        shape.retention(bytes / 2);
        fs::remove_dir_all(&dir).unwrap();
    }
}

/// What the program is told to be the process that only opens.
pub(crate) const MEMORY_OF: &str = "memory-of";

/// Opens a journal and says how much memory that took.
pub(crate) fn memory_of(dir: &Path) {
    let shape = Shape { dir, segment_bytes: 64 << 20, runtime: crate::runtime() };
    let before = resident();
    let journal = shape.open(shape.options());
    println!("memory of the open journal:            {} kB more than before", (resident() - before) >> 10);
    shape.close(&journal);
}

struct Shape<'a> {
    dir: &'a Path,
    segment_bytes: u64,
    runtime: Runtime,
}

impl Shape<'_> {
    fn options(&self) -> Options {
        let mut options = Options::new(self.dir);
        (options.segment_bytes, options.max_size, options.min_free) = (self.segment_bytes, Some(u64::MAX), 0);
        options
    }

    fn open(&self, options: Options) -> Journal {
        let _inside = self.runtime.enter();
        journal::open(options, Arc::new(RealDisk)).unwrap()
    }

    fn close(&self, journal: &Journal) {
        self.runtime.block_on(journal.close());
    }

    fn fill(&self, bytes: u64) {
        let begun = Instant::now();
        let journal = self.open(self.options());
        let mut stream = self.runtime.block_on(Stream::over(journal.clone(), 10));
        while journal.summary().bytes < bytes {
            self.runtime.block_on(crate::fill(&mut stream, 100_000));
        }
        let summary = journal.summary();
        self.close(&journal);
        println!(
            "\n{} MB in {} segments of {} MB, {} events, written in {:?}",
            summary.bytes >> 20,
            summary.segments,
            self.segment_bytes >> 20,
            summary.newest - summary.oldest + 1,
            begun.elapsed()
        );
    }

    fn open_often(&self) {
        let opened = |prepare: &dyn Fn()| {
            let once = |_| {
                prepare();
                let mut journal = None;
                let took = timed(|| journal = Some(self.open(self.options())));
                self.close(journal.as_ref().unwrap());
                took
            };
            let all: Vec<_> = (0..ROUNDS).map(once).collect();
            (median(all.clone()), all)
        };
        if forget_pages() {
            println!("open, closed in order, nothing cached: {:?}", opened(&|| _ = forget_pages()));
        }
        println!("open, closed in order, cached:         {:?}", opened(&|| {}));
        let killed = || {
            // The last one is empty; the one before is as a kill leaves it.
            let paths = segments(self.dir);
            let newest = paths.iter().rev().find(|path| fs::metadata(path).unwrap().len() > 10_000);
            fs::remove_file(newest.unwrap().with_extension("idx")).unwrap();
        };
        println!("open, a segment to scan, cached:       {:?}", opened(&killed));
        // In a process that has freed nothing yet.
        let program = std::env::current_exe().unwrap();
        let status = std::process::Command::new(program).arg(MEMORY_OF).arg(self.dir).status().unwrap();
        assert!(status.success());
    }

    /// As `rowcast journal show` finds them, and as readers of the open journal do.
    fn places(&self) {
        let journal = self.open(self.options());
        let (oldest, newest) = (journal.oldest(), journal.newest());
        let middle = oldest + (newest - oldest) / 2;
        forget_pages();
        println!("seek a time, nothing cached:           {:?}", timed(|| _ = journal.seek_time(1).unwrap()));
        println!("the newest million:                    {:?}", timed(|| _ = journal.seek_last(1_000_000)));
        self.close(&journal);
        let mut at = 0;
        let shown = |start: Start| {
            forget_pages();
            timed(|| {
                for_each_event(self.dir, &RealDisk, start, |_| false).unwrap();
            })
        };
        forget_pages();
        let last = timed(|| {
            first_of_last(self.dir, &RealDisk, 3).unwrap();
        });
        println!("show, the last three, nothing cached:  {last:?}");
        println!("show, from a number in the middle:     {:?}", shown(Start::Number(middle)));
        for_each_event(self.dir, &RealDisk, Start::Number(middle), |event| {
            at = event.at;
            false
        })
        .unwrap();
        println!("show, from a time in the middle:       {:?}", shown(Start::Time(at)));
    }

    /// What so many segments cost the writer, who looks at all of them before each megabyte.
    fn appends(&self) {
        let journal = self.open(Options { segment_bytes: 64 << 20, ..self.options() });
        let mut stream = self.runtime.block_on(Stream::over(journal.clone(), 10));
        let before = journal.summary().bytes;
        let took = timed(|| self.runtime.block_on(crate::fill(&mut stream, 3_000_000)));
        let bytes = journal.summary().bytes - before;
        println!("appending {} MB beside them:           {took:?}", bytes >> 20);
        self.close(&journal);
    }

    /// Appends while segments go until so many bytes are left.
    fn retention(&self, left: u64) {
        let journal = self.open(Options { max_size: Some(left), ..self.options() });
        let (begun, before) = (Instant::now(), journal.summary().segments);
        let mut appends = Vec::new();
        while journal.summary().bytes > left + 2 * self.segment_bytes {
            appends.push(timed(|| {
                self.runtime.block_on(journal.publish(&[("custom.event", b"1")], 1)).unwrap();
            }));
            std::thread::sleep(Duration::from_millis(1));
        }
        let gone = before - journal.summary().segments;
        appends.sort();
        let at = |part: usize| appends[(appends.len() - 1) * part / 1000];
        println!(
            "retention takes {gone} segments in {:?}; {} appends beside it: p50 {:?}, p99 {:?}, longest {:?}",
            begun.elapsed(),
            appends.len(),
            at(500),
            at(990),
            at(1000)
        );
        self.close(&journal);
    }
}

/// Empties the page cache; false where that is not allowed.
fn forget_pages() -> bool {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
