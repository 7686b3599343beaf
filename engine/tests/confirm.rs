//! What the source is told where push doors have to have it, too: never more than the slowest of them, over restarts.

use std::collections::BTreeMap;
use std::time::Duration;

use rowcast_engine::Lsn;
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::{Journal, Options, StreamPosition};
use tokio::sync::watch;

use crate::support::Fixture;

const CONFIRMED: Lsn = Lsn(7);

fn confirmable(journal: &Journal) -> watch::Receiver<Lsn> {
    Ingest::new(journal.clone()).required(["a", "b"].map(str::to_owned).into()).confirmable(CONFIRMED)
}

async fn reaches(told: &mut watch::Receiver<Lsn>, lsn: u64) {
    let reached =
        tokio::time::timeout(Duration::from_secs(10), told.wait_for(|told| *told == Lsn(lsn))).await.is_ok();
    assert!(reached, "{lsn} is not told, but {:?}", *told.borrow());
}

/// Long enough for whoever would tell more to do so.
async fn stays(told: &watch::Receiver<Lsn>, lsn: u64) {
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(*told.borrow(), Lsn(lsn));
}

/// Transactions of one row; gives number and position of each.
async fn commit(fixture: &mut Fixture, count: usize) -> Vec<(u64, u64)> {
    let mut done = Vec::new();
    for _ in 0..count {
        fixture.transaction(1, "x").await;
        done.push((fixture.journal().newest(), fixture.lsn));
    }
    done
}

#[tokio::test]
async fn the_slowest_sink_decides() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    let journal = fixture.journal().clone();
    let mut told = confirmable(&journal);
    let done = commit(&mut fixture, 3).await;
    journal.hold_above("a", done[2].0);
    stays(&told, CONFIRMED.0).await;
    journal.hold_above("b", done[0].0);
    reaches(&mut told, done[0].1).await;
    journal.hold_above("b", done[1].0);
    reaches(&mut told, done[1].1).await;
    // Moved back by hand, it takes nothing back.
    journal.hold_above("b", done[0].0);
    stays(&told, done[1].1).await;
    journal.hold_above("b", done[2].0);
    reaches(&mut told, done[2].1).await;
    // An idle source moves without events, and events of others do not stand in its way.
    fixture.lsn += 5000;
    fixture.ingest.advance(Lsn(fixture.lsn)).await.unwrap();
    reaches(&mut told, fixture.lsn).await;
    let published = journal.publish(&[("notes", b"1")], 5).await.unwrap();
    fixture.lsn += 5000;
    fixture.ingest.advance(Lsn(fixture.lsn)).await.unwrap();
    stays(&told, fixture.lsn - 5000).await;
    journal.hold_above("a", published);
    journal.hold_above("b", published);
    reaches(&mut told, fixture.lsn).await;
    // Without a sink it is the journal's own.
    assert_eq!(*Ingest::new(journal.clone()).confirmable(CONFIRMED).borrow(), Lsn(fixture.lsn));
}

#[tokio::test]
async fn segments_know_it_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options { segment_bytes: 3000, ..Options::new(dir.path()) };
    let mut fixture = Fixture::open(options()).await;
    let done = commit(&mut fixture, 200).await;
    assert!(fixture.journal().summary().segments > 5);
    fixture.journal().close().await;
    drop(fixture);

    let behind = done[100].0;
    let holds = BTreeMap::from([("a".to_owned(), behind), ("b".to_owned(), done[199].0)]);
    let fixture = Fixture::open(Options { holds, ..options() }).await;
    let journal = fixture.journal().clone();
    let mut told = confirmable(&journal);
    told.wait_for(|told| *told > CONFIRMED).await.unwrap();
    let lsn = told.borrow().0;
    assert!(lsn <= done[100].1 && lsn > done[50].1, "{lsn} is below {} and near it", done[100].1);
    journal.hold_above("a", done[199].0);
    reaches(&mut told, done[199].1).await;
}

#[tokio::test]
async fn a_new_history_has_marks_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    let done = commit(&mut fixture, 3).await;
    let journal = fixture.journal().clone();
    journal.hold_above("a", done[2].0);
    journal.hold_above("b", done[2].0);
    // It lies below the old one: what was reached in that says nothing of this one.
    let position = StreamPosition { lsn: Lsn(500), ..journal.position() };
    let gap = fixture.ingest.begin_history(position, ("source_lost", "x"), 5, &[]).await.unwrap();
    let mut told = confirmable(&journal);
    reaches(&mut told, 500).await;
    fixture.lsn = 500;
    let more = commit(&mut fixture, 1).await;
    stays(&told, 500).await;
    journal.hold_above("a", more[0].0);
    journal.hold_above("b", gap);
    stays(&told, 500).await;
    journal.hold_above("b", more[0].0);
    reaches(&mut told, more[0].1).await;
}

/// The source's disk goes first: then what the journal has is told, and no more; and nothing of it is taken back.
#[tokio::test]
async fn while_the_sinks_are_waived_the_journal_decides() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    let journal = fixture.journal().clone();
    let ingest = Ingest::new(journal.clone()).required(["a", "b"].map(str::to_owned).into());
    let mut told = ingest.confirmable(CONFIRMED);
    let done = commit(&mut fixture, 2).await;
    journal.hold_above("a", done[1].0);
    journal.hold_above("b", done[0].0);
    reaches(&mut told, done[0].1).await;
    assert_eq!(ingest.held(), (vec!["b".to_owned()], Some(Lsn(done[0].1))));
    assert!(ingest.waive(true) && !ingest.waive(true), "it is news once");
    reaches(&mut told, done[1].1).await;
    let more = commit(&mut fixture, 1).await;
    reaches(&mut told, more[0].1).await;
    assert!(ingest.waive(false));
    let last = commit(&mut fixture, 1).await;
    stays(&told, more[0].1).await;
    journal.hold_above("a", last[0].0);
    journal.hold_above("b", last[0].0);
    reaches(&mut told, last[0].1).await;
}
