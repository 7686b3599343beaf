//! Reading batches that are in memory, on one core: all events, and one table out of a hundred. By criterion, as only
//! the processor counts here. The limit is to look at every byte of the batches once.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use rowcast_engine::record::Batch;

use crate::rows::Stream;

/// 24 MB: less than what the journal keeps of its newest.
const ROWS: usize = 200_000;

pub(crate) fn run(dir: &Path) {
    let mut criterion =
        Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    cached(&mut criterion, dir, 1);
    cached(&mut criterion, dir, 100);
    criterion.final_summary();
}

fn cached(criterion: &mut Criterion, dir: &Path, tables: usize) {
    let runtime = crate::runtime();
    let mut stream = runtime.block_on(Stream::open(&dir.join(format!("memory-{tables}")), tables));
    let start = stream.journal().newest();
    runtime.block_on(stream.fill(ROWS));
    let first = stream.journal().cached(start).unwrap();
    let mut group = criterion.benchmark_group(format!("cached, {tables} tables"));
    group.throughput(Throughput::Elements(ROWS as u64)).sample_size(30);
    group.bench_function("each event", |bencher| {
        bencher.iter(|| each(&first, |batch| batch.events().map(black_box).count()));
    });
    group.finish();
    runtime.block_on(stream.journal().close());
}

/// From batch to batch, as a live reader goes.
fn each(first: &Arc<Batch>, see: impl Fn(&Batch) -> usize) -> usize {
    let (mut batch, mut seen) = (Some(Arc::clone(first)), 0);
    while let Some(current) = batch {
        seen += see(&current);
        batch = current.next();
    }
    seen
}
