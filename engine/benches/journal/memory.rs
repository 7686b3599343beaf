//! Reading batches that are in memory, on one core, by criterion, as only the processor counts here: all events; then
//! one table of a hundred whose rows are mixed in every batch, asked for by name and picked out of all events.
//! Beside it: to add up every byte of the batches, eight at a time; and to build them, as capture's thread does.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use rowcast_engine::record::{Batch, Builder};

use crate::append::segments;

/// 24 MB: less than what the journal keeps of its newest.
const ROWS: usize = 200_000;

pub(crate) fn run(dir: &Path) {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4))
        .sample_size(20);
    cached(&mut criterion, dir, 1);
    cached(&mut criterion, dir, 100);
}

fn cached(criterion: &mut Criterion, dir: &Path, tables: usize) {
    let (runtime, dir) = (crate::runtime(), dir.join(format!("memory-{tables}")));
    let mut stream = runtime.block_on(crate::stream(&dir, tables));
    let start = stream.journal().newest();
    runtime.block_on(crate::fill(&mut stream, ROWS));
    let first = stream.journal().cached(start).unwrap();
    let mut group = criterion.benchmark_group(format!("{tables} tables in memory"));
    group.throughput(Throughput::Elements(ROWS as u64));
    let one = |channel: &str| channel == "public.orders_7";
    group.bench_function("each event", |bencher| {
        bencher.iter(|| each(&first, |batch| batch.events().map(black_box).count()));
    });
    group.bench_function("build, the making of rows included", |bencher| {
        let mut builder = Builder::new();
        bencher.iter(|| (0..ROWS / 1000).map(|_| stream.group(&mut builder, 1000).len()).sum::<usize>());
    });
    if tables > 1 {
        group.bench_function("one table", |bencher| {
            bencher.iter(|| {
                each(&first, |batch| batch.events_where(|channel, _| one(channel)).map(black_box).count())
            });
        });
        group.bench_function("one table, picked out of all", |bencher| {
            let picked =
                |batch: &Batch| batch.events().filter(|event| one(event.channel())).map(black_box).count();
            bencher.iter(|| each(&first, picked));
        });
    }
    let bytes = std::fs::read(segments(&dir).pop().unwrap()).unwrap();
    group.bench_function("every byte once", |bencher| {
        let words = |bytes: &[u8]| {
            bytes
                .chunks_exact(8)
                .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
                .fold(0, u64::wrapping_add)
        };
        bencher.iter(|| words(black_box(&bytes)));
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
