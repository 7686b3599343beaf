//! The file that says how far a sink is: there before anything is sent, and unreadable.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rowcast_engine::cursor::{self, Cursor, Place};
use rowcast_engine::deliver::{Delivery, deliver};
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Options, State};
use rowcast_engine::record::Batch;
use rowcast_engine::sink::{Missing, OnGap, Sink, SinkError, Start};
use rowcast_engine::sinks::Sinks;
use rowcast_engine::status::Status;
use rowcast_engine::{Stopper, stop};
use uuid::Uuid;

use crate::support::Fixture;

/// Counts what it is given.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicUsize>);

impl Sink for Counting {
    fn name(&self) -> &str {
        "counting"
    }

    async fn resume(&mut self) -> Result<Option<u64>, SinkError> {
        Ok(None)
    }

    async fn send(&mut self, batch: &Arc<Batch>, after: u64) -> Result<(), SinkError> {
        self.0.fetch_add(batch.events().filter(|event| event.id > after).count(), Ordering::SeqCst);
        Ok(())
    }

    async fn gap(&mut self, _: Missing) -> Result<(), SinkError> {
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

fn delivery(fixture: &Fixture, cursors: &Path) -> (Delivery, Status, Stopper) {
    let (stopper, stop) = stop();
    let (journal, status) = (fixture.journal().clone(), Status::default());
    let seat = Sinks::new(cursors).seat("counting", journal.installation());
    let (start, on_gap) = (Start::Earliest, OnGap::Stop);
    (Delivery { journal, seat, status: status.clone(), stop, start, on_gap }, status, stopper)
}

/// A directory in the place of the file that is renamed: nothing can be stored, as on a full disk.
fn in_the_way(cursors: &Path) -> PathBuf {
    let beside = cursors.join("counting.new");
    std::fs::create_dir_all(&beside).unwrap();
    beside
}

async fn until(what: impl Fn() -> bool) {
    for _ in 0..2000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not in time");
}

#[tokio::test]
async fn nothing_is_sent_before_it_is_stored_where_the_sink_begins() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path().join("journal"))).await;
    fixture.transaction(3, "x").await;
    let cursors = dir.path().join("cursors");
    let in_the_way = in_the_way(&cursors);
    let (sink, (delivery, status, stopper)) = (Counting::default(), delivery(&fixture, &cursors));
    let running = tokio::spawn(deliver(sink.clone(), delivery));
    let journal = fixture.journal().clone();
    until(|| status.report(&journal).reasons.join("; ").contains("Cannot write the sink's position")).await;
    fixture.transaction(2, "y").await;
    assert_eq!(sink.0.load(Ordering::SeqCst), 0);
    std::fs::remove_dir(in_the_way).unwrap();
    until(|| sink.0.load(Ordering::SeqCst) == 5 && cursor::highest(&cursors).unwrap() == journal.newest())
        .await;
    assert!(!status.report(&journal).reasons.join("; ").contains("Cannot write"));
    stopper.stop();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_waits_for_it_to_be_stored_stops_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(Options::new(dir.path().join("journal"))).await;
    let cursors = dir.path().join("cursors");
    in_the_way(&cursors);
    let (delivery, status, stopper) = delivery(&fixture, &cursors);
    let running = tokio::spawn(deliver(Counting::default(), delivery));
    until(|| !status.report(fixture.journal()).reasons.is_empty()).await;
    stopper.stop();
    running.await.unwrap().unwrap();
}

/// It may be anywhere: what it lacks is held until there is no room.
#[tokio::test]
async fn one_that_cannot_be_read_holds_all_until_the_journal_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let cursors = dir.path().join("cursors");
    std::fs::create_dir(&cursors).unwrap();
    std::fs::write(cursors.join("counting.json"), "{\"installa").unwrap();
    let mut options = Options::new(dir.path().join("journal"));
    (options.segment_bytes, options.cache_bytes, options.min_free) = (3000, 1000, 0);
    (options.retention, options.max_size) = (Duration::from_millis(50), Some(60_000));
    (options.holds, options.seen) =
        (cursor::positions(&cursors).unwrap(), cursor::highest(&cursors).unwrap());
    let mut fixture = Fixture::open(options).await;
    let (delivery, status, _stopper) = delivery(&fixture, &cursors);
    assert!(deliver(Counting::default(), delivery).await.is_err());
    assert!(!status.report(fixture.journal()).reasons.is_empty());
    fixture.transaction(2, "first").await;
    let oldest = fixture.journal().oldest();
    while fixture.journal().summary().bytes < 30_000 {
        fixture.transaction(5, "held").await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    fixture.transaction(60, "a new segment, which asks for their age").await;
    fixture.transaction(60, "and another").await;
    assert_eq!(fixture.journal().oldest(), oldest, "nobody knows whether the sink has had them");
    while fixture.journal().oldest() == oldest {
        fixture.transaction(5, "too much").await;
        assert_eq!(*fixture.journal().state().borrow(), State::Open, "nobody works on it: capture goes on");
    }
}

/// As a digit that is damaged may have it, in a file of an earlier version, which has no checksum.
#[tokio::test]
async fn a_position_near_the_highest_number_is_told_as_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let cursors = dir.path().join("cursors");
    let place = Place { id: (1 << 53) - 1000, ..Place::default() };
    Cursor::new(&cursors, "counting", Uuid::nil()).begin(place).unwrap();
    let mut options = Options::new(dir.path().join("journal"));
    options.holds = cursor::positions(&cursors).unwrap();
    options.seen = cursor::highest(&cursors).unwrap();
    let error = journal::open(options, Arc::new(RealDisk)).unwrap_err();
    assert!(error.to_string().contains("the sink counting has had event 9007199254739992"), "{error}");
    assert!(error.remedy().unwrap().contains("cursors"), "{:?}", error.remedy());
}
