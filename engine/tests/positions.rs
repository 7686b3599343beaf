//! What is told to be durable is stored: the source forgets what lies below it.

use std::path::Path;
use std::sync::Arc;

use rowcast_engine::Lsn;
use rowcast_engine::event::Marks;
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::{self, Options, StreamPosition};
use rowcast_engine::record::Builder;

use crate::disk::FakeDisk;
use crate::support::{Fixture, insert, read_all, unlocked, without_indexes};

/// More than a batch holds.
const ROWS: usize = 1200;

/// Gives the position that is told, the one that is there when the journal is opened after a kill, and the number of
/// events.
async fn told_and_stored(fixture: Fixture, dir: &Path) -> (Lsn, Lsn, usize) {
    fixture.durable().await;
    let told = *fixture.journal().durable().borrow();
    fixture.journal().close().await;
    drop(fixture);
    without_indexes(dir);
    let again = Fixture::open(Options::new(dir)).await;
    let stored = *again.journal().durable().borrow();
    (told, stored, read_all(again.journal(), 0).len())
}

#[tokio::test]
async fn of_a_transaction_that_left_nothing_behind_a_large_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    for _ in 0..ROWS {
        fixture.row(&mut builder, &"x".repeat(1000));
    }
    fixture.commit(&mut builder);
    fixture.begin(&mut builder);
    fixture.commit(&mut builder);
    let end = fixture.lsn;
    // Whether or not the next one has begun, and has filled batches of its own.
    fixture.begin(&mut builder);
    for _ in 0..ROWS {
        fixture.row(&mut builder, &"y".repeat(1000));
    }
    let room = fixture.ingest.room().await.unwrap();
    room.append(fixture.journal(), builder.take(), Lsn(end));
    fixture.lsn = end;
    assert_eq!(told_and_stored(fixture, dir.path()).await, (Lsn(end), Lsn(end), ROWS));
}

#[tokio::test]
async fn of_a_transaction_that_left_nothing_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    fixture.transaction(1, "x").await;
    fixture.lsn += 100;
    let room = fixture.ingest.room().await.unwrap();
    room.append(fixture.journal(), Vec::new(), Lsn(fixture.lsn));
    let end = Lsn(fixture.lsn);
    assert_eq!(told_and_stored(fixture, dir.path()).await, (end, end, 1));
}

#[tokio::test]
async fn of_a_transaction_that_left_nothing_before_rows_of_a_snapshot_that_take_several_batches() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    fixture.commit(&mut builder);
    let end = Lsn(fixture.lsn);
    builder.begin_snapshot(1_800_000_000_000_000, Lsn(900), 7);
    for id in 0..ROWS {
        let row = insert(id as u64, &"x".repeat(1000));
        builder.read(fixture.orders.id, Lsn(900), Marks::NONE, &row[1..]);
    }
    builder.commit(Lsn::ZERO);
    let room = fixture.ingest.room().await.unwrap();
    room.append(fixture.journal(), builder.take(), end);
    assert_eq!(told_and_stored(fixture, dir.path()).await, (end, end, ROWS));
}

/// Whose stream it is becomes known when it is stored, with the position: a segment that begins before would say the one
/// without the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_stream_it_is_counts_from_when_it_is_durable() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
    let journal = journal::open(Options::new(dir.path()), Arc::new(disk.clone())).unwrap();
    let position = StreamPosition { slot: "rowcast".into(), lsn: Lsn(7), ..journal.position() };
    disk.hold(true);
    let ingest = Ingest::new(journal.clone());
    let asked = tokio::spawn(async move { ingest.identify(position, &[]).await });
    disk.until_held();
    let held = journal.position();
    assert_eq!((held.slot.as_str(), held.lsn), ("", Lsn::ZERO));
    disk.hold(false);
    asked.await.unwrap().unwrap();
    let stored = journal.position();
    assert_eq!((stored.slot.as_str(), stored.lsn), ("rowcast", Lsn(7)));
    drop(journal);
    unlocked(dir.path());
    let again = journal::open(Options::new(dir.path()), Arc::new(disk.after_kill())).unwrap();
    assert_eq!(again.position(), stored);
}
