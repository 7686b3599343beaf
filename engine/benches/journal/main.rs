//! How fast the journal is, each figure beside what the machine could do at most, measured in the same run.
//!
//! Machines are noisy and disks more so: the journal and its limit take turns, round by round, and what counts is
//! the median of the rounds' ratios. Criterion measures one thing after the other and cannot do that, so it has the
//! part where only the processor counts (events out of memory); its own statistics stand there.
//!
//! `make bench-journal`; data goes to a directory beside the build, on a real disk. Takes about a minute.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has nothing to tell")]

mod append;
mod compression;
mod memory;
mod opening;
mod paired;
mod readers;
mod removal;
mod rows;
mod sequential;

use std::path::Path;

use rowcast_engine::journal::Options;
use rowcast_engine::{Lsn, record};
use tokio::runtime::{Builder, Runtime};

use crate::paired::Report;
use crate::rows::Stream;

/// The runtime of the program: as many workers as there are cores.
fn runtime() -> Runtime {
    Builder::new_multi_thread().enable_all().build().unwrap()
}

/// A new journal as the program has it, and rows of so many tables for it.
async fn stream(dir: &Path, tables: usize) -> Stream {
    Stream::over(rows::open(dir, Options::new(dir).cache_bytes), tables).await
}

/// Fills the journal with so many rows, in groups of 1,000.
async fn fill(stream: &mut Stream, rows: usize) {
    let mut builder = record::Builder::new();
    for _ in 0..rows / 1000 {
        let parts = stream.group(&mut builder, 1000);
        let room = stream.ingest.room().await.unwrap();
        room.append(stream.journal(), parts, Lsn(stream.lsn));
    }
    stream.durable(stream.lsn).await;
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(opening::MEMORY_OF) {
        return opening::memory_of(Path::new(&arguments.next().unwrap()));
    }
    // Beside the binary: the temporary directory of a machine may be memory.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let dir = tempfile::tempdir_in(target).unwrap();
    let mut report = Report::default();
    // `cargo bench -- append` runs that part alone.
    let wish = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |part: &str| wish.as_ref().is_none_or(|wish| wish == part);
    if wanted("append") {
        append::run(dir.path(), &mut report);
    }
    if wanted("readers") {
        readers::run(dir.path(), &mut report);
    }
    if wanted("disk") {
        sequential::run(dir.path(), &mut report);
    }
    if wanted("compression") {
        compression::run(dir.path(), &mut report);
    }
    if wanted("memory") {
        memory::run(dir.path());
    }
    // What takes minutes and gigabytes has to be asked for.
    if wish.as_deref() == Some("opening") {
        opening::run(dir.path());
        removal::run(dir.path());
    }
    report.print();
}
