//! Bytes that an earlier build has written, kept as they were: what is in them is read as it was meant, whatever reading
//! and writing have become. `data/golden-2` is of format version 2; it is what [`filled`] wrote.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rowcast_engine::Lsn;
use rowcast_engine::event::{Body, Marks, Op};
use rowcast_engine::ingest::finish_spill;
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Journal, Options};
use rowcast_engine::record::Builder;

use crate::room::adopt;
use crate::support::{Fixture, for_each_batch, insert, unlocked, without_indexes};

fn options(dir: &Path) -> Options {
    Options { segment_bytes: 3_000, ahead_bytes: 0, ..Options::new(dir) }
}

/// One of everything.
async fn filled(dir: &Path) {
    let mut fixture = Fixture::open(options(dir)).await;
    fixture.transaction(3, "a row").await;
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    builder.origin("elsewhere");
    fixture.row(&mut builder, "new");
    let (orders, lsn) = (fixture.orders.id, Lsn(fixture.lsn - 50));
    let old = [b"K", &insert(1, "")[1..], &insert(1, "after")[..]].concat();
    builder.change(orders, Op::Update, lsn, &old);
    let old = [b"O", &insert(2, "before")[1..], &insert(2, "after")[..]].concat();
    builder.change(orders, Op::Update, lsn, &old);
    builder.change(orders, Op::Delete, lsn, &[b"K", &insert(3, "")[1..]].concat());
    builder.truncate(orders, lsn, true, false);
    builder.message("custom.one", lsn, br#"{"a": 1}"#);
    builder.gap("public.orders", "new_table", "rows came before");
    fixture.commit(&mut builder);
    builder.note("snapshot public.orders", br#"{"rows": 1}"#);
    fixture.submit(&mut builder).await;
    fixture
        .chunk(&[Marks::FIRST | Marks::FIRST_IN_TABLE, Marks::NONE, Marks::LAST_IN_TABLE | Marks::LAST])
        .await;
    fixture.chunk_for(&["a", "b"], &[Marks::AD_HOC]).await;
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    fixture.row(&mut builder, "in a file of its own");
    let rest = builder.take_tail(Lsn(fixture.lsn));
    adopt(&fixture, finish_spill(fixture.journal().spill().unwrap(), rest).await.unwrap()).await;
    for _ in 0..20 {
        fixture.transaction(5, "over several segments").await;
    }
    fixture.journal().publish(&[("custom.two", b"2")], 1).await.unwrap();
    fixture.journal().close().await;
    drop(fixture);
    unlocked(dir);
}

/// All that is said of each event; the numbers as they follow the first one, since they begin with the clock.
fn told(journal: &Journal) -> Vec<String> {
    let (mut all, first) = (Vec::new(), journal.oldest());
    for_each_batch(journal, 0, |batch, after| {
        all.extend(batch.all_events().filter(|event| event.id > after).map(|event| {
            let at = event.tx.map(|_| event.at);
            let (id, sinks) = (event.id - first, &event.sinks);
            let body = match event.body {
                Body::Gap { channel, from, reason, detail } => {
                    Body::Gap { channel, from: from.saturating_sub(first), reason, detail }
                }
                body => body,
            };
            format!(
                "{id} {at:?} {:?} {} {} {} {sinks:?} {:?} {:?} {:?}",
                event.op, event.lsn, event.seq, event.last, event.tx, event.snapshot, body
            )
        }));
    });
    all
}

fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn what_was_written_then_is_read_as_what_is_written_now() {
    let (now, then) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    filled(now.path()).await;
    if let Some(keep) = std::env::var_os("ROWCAST_KEEP_GOLDEN") {
        files(now.path()).iter().for_each(|file| {
            fs::copy(file, Path::new(&keep).join(file.file_name().unwrap())).unwrap();
        });
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden-2");
    for file in files(&golden) {
        fs::copy(&file, then.path().join(file.file_name().unwrap())).unwrap();
    }
    assert!(files(then.path()).len() > 10, "segments with their indexes");
    for with_indexes in [true, false] {
        if !with_indexes {
            without_indexes(then.path());
        }
        assert_eq!(
            journal::check(then.path(), &RealDisk).unwrap().events,
            journal::check(now.path(), &RealDisk).unwrap().events
        );
        let [now, then] =
            [now.path(), then.path()].map(|dir| journal::open(options(dir), Arc::new(RealDisk)).unwrap());
        let (before, after) = (told(&then), told(&now));
        assert!(before.len() == after.len() && before.len() > 100);
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before, after);
        }
        assert_eq!(then.notes(), now.notes());
        assert_eq!((then.position().lsn, then.last_tx_end()), (now.position().lsn, now.last_tx_end()));
        for journal in [now, then] {
            let dir = journal.dir().to_owned();
            journal.close().await;
            drop(journal);
            unlocked(&dir);
        }
    }
}
