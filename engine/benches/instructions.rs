//! A fixed piece of work, to count its instructions under callgrind: `scripts/bench-instructions.sh` runs it and
//! compares with `instructions.toml`. What is counted are functions (those here marked "counted", and the journal's
//! `Writer::round` on its thread), so neither set-up nor waiting is in the numbers.
//!
//! It takes an empty directory as its argument. Nothing depends on time: one group is on its way at a time, so each is a round of its own; the clock's ticks come
//! from a runtime that never runs; rows, sizes and numbers of segments are the same in every run.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has nothing to tell")]

#[path = "journal/rows.rs"]
mod rows;

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use rowcast_engine::feed::{Filter, Pattern};
use rowcast_engine::journal::Read;
use rowcast_engine::record::{Batch, Builder, Part};
use tokio::runtime::Runtime;

use crate::rows::Stream;

/// Groups of so many rows: single commits, and what capture hands over when it is behind.
const GROUPS: [(usize, usize); 2] = [(500, 1), (20, 2000)];

fn main() {
    let dir = PathBuf::from(std::env::args_os().nth(1).unwrap());
    let working = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // Its tasks are the journal's clock, which stands still.
    let standing = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let open = |name: &str, tables| {
        let entered = standing.enter();
        let journal = rows::open(&dir.join(name), 0);
        drop(entered);
        working.block_on(Stream::over(journal, tables))
    };
    let mut one = open("one", 1);
    for (groups, rows) in GROUPS {
        append(&working, &mut one, groups, rows);
    }
    let batches = counted_read(&one);
    black_box(counted_events(&batches));

    let mut many = open("many", 100);
    append(&working, &mut many, 20, 2000);
    let batches = counted_read(&many);
    black_box(counted_one_table(&batches));
    working.block_on(async {
        one.journal().close().await;
        many.journal().close().await;
    });
}

fn append(runtime: &Runtime, stream: &mut Stream, groups: usize, rows: usize) {
    let mut builder = Builder::new();
    for _ in 0..groups {
        let parts = counted_build(stream, &mut builder, rows);
        runtime.block_on(stream.append(parts, stream.lsn));
    }
}

/// What capture's thread does with rows, sockets aside.
#[inline(never)]
fn counted_build(stream: &mut Stream, builder: &mut Builder, rows: usize) -> Vec<Part> {
    stream.group(builder, rows)
}

/// Reads all from files: the newest batch alone is in memory.
#[inline(never)]
fn counted_read(stream: &Stream) -> Vec<Arc<Batch>> {
    let (journal, mut all) = (stream.journal(), Vec::new());
    let mut position = journal.seek_earliest();
    while let Read::Batches(batches) = journal.read(position).unwrap() {
        position = batches.last().unwrap().last();
        all.extend(batches);
    }
    all
}

#[inline(never)]
fn counted_events(batches: &[Arc<Batch>]) -> usize {
    batches.iter().map(|batch| batch.events().map(black_box).count()).sum()
}

#[inline(never)]
fn counted_one_table(batches: &[Arc<Batch>]) -> usize {
    let filter = Filter::new(vec![Pattern::parse("public.orders_7").unwrap()], &[]);
    let of =
        |batch: &Batch| batch.events_where(|channel, op| filter.wants(channel, op)).map(black_box).count();
    batches.iter().map(|batch| of(batch)).sum()
}
