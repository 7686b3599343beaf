//! Retention takes what all sinks have. What a power cut leaves of their positions must say that they have it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowcast_engine::cursor;
use rowcast_engine::deliver::{Delivery, deliver};
use rowcast_engine::event::Body;
use rowcast_engine::journal::{self, Options};
use rowcast_engine::record::Batch;
use rowcast_engine::sink::{Missing, OnGap, Sink, SinkError, Start};
use rowcast_engine::sinks::Sinks;
use rowcast_engine::status::Status;
use rowcast_engine::{Error, Stopper, stop};

use crate::compression::until;
use crate::guarded::{Call, Guard, Guarded};
use crate::support::{Fixture, unlocked};

/// Remembers what the positions were when their directory was synced: names that were given since are lost in a power cut.
#[derive(Debug)]
struct Forgetful {
    cursors: PathBuf,
    durable: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
    ill: AtomicBool,
}

impl Forgetful {
    fn new(cursors: &Path) -> Self {
        Self { cursors: cursors.to_owned(), durable: Mutex::default(), ill: AtomicBool::default() }
    }

    fn remember(&self) {
        let entries = std::fs::read_dir(&self.cursors).unwrap().map(|entry| entry.unwrap().path());
        let kept = entries.filter(|path| path.extension().is_some_and(|found| found == "json"));
        *self.durable.lock().unwrap() =
            kept.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect();
    }

    fn power_cut(&self) {
        for (path, bytes) in &*self.durable.lock().unwrap() {
            std::fs::write(path, bytes).unwrap();
        }
    }
}

impl Guard for Forgetful {
    fn before(&self, call: Call, path: &Path) -> io::Result<()> {
        if call == Call::SyncDir && path == self.cursors {
            if self.ill.load(Ordering::SeqCst) {
                return Err(io::Error::other("the disk is ill"));
            }
            self.remember();
        }
        Ok(())
    }
}

/// Takes everything but gaps, at which it stops.
struct Taker;

impl Sink for Taker {
    fn name(&self) -> &str {
        "taker"
    }

    async fn resume(&mut self) -> Result<Option<u64>, SinkError> {
        Ok(None)
    }

    async fn send(&mut self, batch: &Arc<Batch>, _: u64) -> Result<(), SinkError> {
        let gap = batch.events().find(|event| matches!(event.body, Body::Gap { .. }));
        match gap {
            Some(gap) => Err(SinkError::Gap { id: gap.id, error: Error::failed("There is a gap") }),
            None => Ok(()),
        }
    }

    async fn gap(&mut self, _: Missing) -> Result<(), SinkError> {
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

fn options(dir: &Path) -> Options {
    Options {
        segment_bytes: 3000,
        cache_bytes: 1000,
        min_free: 0,
        retention: Duration::from_millis(50),
        holds: BTreeMap::from([("taker".to_owned(), 0)]),
        ..Options::new(dir.join("journal"))
    }
}

fn start(fixture: &Fixture, cursors: &Path) -> (Status, Stopper, tokio::task::JoinHandle<()>) {
    let (stopper, stop) = stop();
    let (journal, status) = (fixture.journal().clone(), Status::default());
    let seat = Sinks::new(cursors).seat("taker", journal.installation());
    let (start, on_gap) = (Start::Earliest, OnGap::Stop);
    let delivery = Delivery { journal, seat, status: status.clone(), stop, start, on_gap };
    let running = tokio::spawn(async move { deliver(Taker, delivery).await.unwrap() });
    (status, stopper, running)
}

async fn some(fixture: &mut Fixture) {
    for _ in 0..30 {
        fixture.transaction(3, &"x".repeat(300)).await;
    }
}

#[tokio::test]
async fn a_position_is_durable_before_what_lies_up_to_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let cursors = dir.path().join("cursors");
    let disk = Guarded::new(Forgetful::new(&cursors));
    let open = || Fixture::over(journal::open(options(dir.path()), Arc::new(disk.clone())).unwrap());
    let mut fixture = open().await;
    let (_, stopper, running) = start(&fixture, &cursors);
    // Where it began is durable.
    until("it begins", || cursors.join("taker.json").exists()).await;
    disk.0.remember();
    disk.0.ill.store(true, Ordering::SeqCst);
    fixture.transaction(1, "the first").await;
    let oldest = fixture.journal().oldest();
    some(&mut fixture).await;
    let newest = fixture.journal().newest();
    until("it has them", || cursor::highest(&cursors).unwrap() == newest).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(fixture.journal().oldest(), oldest, "the sink's position is not durable");
    disk.0.ill.store(false, Ordering::SeqCst);
    until("they go", || fixture.journal().oldest() > newest - 30).await;
    stopper.stop();
    running.await.unwrap();
    fixture.journal().close().await;
    drop(fixture);

    unlocked(&dir.path().join("journal"));
    disk.0.power_cut();
    let fixture = open().await;
    let (status, _stopper, _running) = start(&fixture, &cursors);
    let door = || status.report(fixture.journal()).doors.remove("taker").unwrap_or_default();
    until("it goes on or stops", || matches!(door().state, "running" | "stopped")).await;
    assert_eq!((door().state, door().reason), ("running", None));
}

#[tokio::test]
async fn what_a_sink_has_had_before_a_gap_need_not_be_held() {
    let dir = tempfile::tempdir().unwrap();
    let cursors = dir.path().join("cursors");
    let mut fixture = Fixture::open(options(dir.path())).await;
    some(&mut fixture).await;
    let gap = fixture.journal().record_gap("", "source_lost", "a sentence", 6).await.unwrap();
    some(&mut fixture).await;
    let (status, _stopper, _running) = start(&fixture, &cursors);
    let journal = fixture.journal().clone();
    let door = || status.report(&journal).doors.remove("taker").unwrap_or_default();
    until("it stops", || door().state == "stopped").await;
    assert_eq!(door().position, Some(gap - 1));
    until("they go", || journal.oldest() > gap - 30).await;
    assert!(journal.oldest() <= gap, "it has not had what follows");
}
