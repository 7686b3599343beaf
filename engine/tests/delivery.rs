//! The loop of push doors: nothing lost, positions only after the target has the events, retries.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowcast_engine::cursor::{self, Cursor};
use rowcast_engine::deliver::{Delivery, deliver};
use rowcast_engine::journal::{Gone, Options};
use rowcast_engine::record::Batch;
use rowcast_engine::sink::{Sink, SinkError};
use rowcast_engine::status::Status;
use rowcast_engine::{Error, stop};

use crate::support::Fixture;

#[derive(Clone, Default)]
struct Target(Arc<Mutex<TargetState>>);

#[derive(Default)]
struct TargetState {
    open: Vec<u64>,
    committed: Vec<u64>,
    fail_commits: u32,
    refuse: bool,
}

impl Sink for Target {
    fn name(&self) -> &str {
        "target"
    }

    async fn resume(&mut self) -> Result<Option<u64>, SinkError> {
        self.0.lock().unwrap().open.clear();
        Ok(None)
    }

    async fn send(&mut self, batch: &Arc<Batch>, after: u64) -> Result<(), SinkError> {
        let ids = batch.events().map(|event| event.id).filter(|id| *id > after);
        self.0.lock().unwrap().open.extend(ids);
        Ok(())
    }

    async fn gap(&mut self, _gone: Gone) -> Result<(), SinkError> {
        Err(SinkError::Stop(Error::failed("There is a gap")))
    }

    async fn commit(&mut self) -> Result<(), SinkError> {
        let mut state = self.0.lock().unwrap();
        if state.refuse {
            return Err(SinkError::Stop(Error::failed("The target refuses event 5").hint("Mend it")));
        }
        if state.fail_commits > 0 {
            state.fail_commits -= 1;
            return Err(SinkError::Retry(Error::transient("The target is away")));
        }
        let open = std::mem::take(&mut state.open);
        state.committed.extend(open);
        Ok(())
    }
}

fn delivery(fixture: &Fixture, dir: &std::path::Path) -> (Delivery, rowcast_engine::Stopper) {
    let (stopper, stop) = stop();
    let journal = fixture.journal().clone();
    let cursor = Cursor::new(&dir.join("cursors"), "target", journal.installation());
    (Delivery { journal, cursor, status: Status::default(), stop, from_earliest: true }, stopper)
}

async fn until(target: &Target, count: usize) -> Vec<u64> {
    for _ in 0..1000 {
        let ids = target.0.lock().unwrap().committed.clone();
        if ids.len() >= count {
            return ids;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} of {count} delivered", target.0.lock().unwrap().committed.len());
}

#[tokio::test]
async fn everything_arrives_once_when_nothing_fails_and_the_cursor_survives() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path().join("journal"))).await;
    fixture.transaction(100, "before").await;
    let target = Target::default();
    let (first, stopper) = delivery(&fixture, dir.path());
    let running = tokio::spawn(deliver(target.clone(), first));
    until(&target, 100).await;
    fixture.transaction(50, "live").await;
    until(&target, 150).await;
    let (cursors, newest) = (dir.path().join("cursors"), fixture.journal().newest());
    for _ in 0..1000 {
        if cursor::highest(&cursors) == newest {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(cursor::highest(&cursors), newest);
    stopper.stop();
    running.await.unwrap().unwrap();

    fixture.transaction(7, "while away").await;
    let (second, _stopper) = delivery(&fixture, dir.path());
    tokio::spawn(deliver(target.clone(), second));
    let ids = until(&target, 157).await;
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "each exactly once");
}

#[tokio::test]
async fn a_failed_commit_is_sent_again_from_the_last_position() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path().join("journal"))).await;
    let target = Target::default();
    target.0.lock().unwrap().fail_commits = 3;
    let (delivery, _stopper) = delivery(&fixture, dir.path());
    tokio::spawn(deliver(target.clone(), delivery));
    fixture.transaction(20, "again").await;
    let ids = until(&target, 20).await;
    assert_eq!(ids.len(), 20);
}

#[tokio::test]
async fn a_refusal_stops_the_sink_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path().join("journal"))).await;
    let target = Target::default();
    target.0.lock().unwrap().refuse = true;
    let (delivery, _stopper) = delivery(&fixture, dir.path());
    let status = delivery.status.clone();
    let ended = tokio::spawn(deliver(target.clone(), delivery));
    fixture.transaction(5, "refused").await;
    let error = ended.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("refuses event 5"));
    let report = status.report(fixture.journal());
    assert!(report.reasons.iter().any(|reason| reason.contains("refuses event 5. Mend it")), "{report:?}");
}

#[tokio::test]
async fn what_the_target_has_is_not_sent_again_because_the_position_cannot_be_stored() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path().join("journal"))).await;
    fixture.transaction(3, "before").await;
    let target = Target::default();
    let (delivery, _stopper) = delivery(&fixture, dir.path());
    let (status, cursors) = (delivery.status.clone(), dir.path().join("cursors"));
    tokio::spawn(deliver(target.clone(), delivery));
    until(&target, 3).await;
    // A file in the place of the directory fails every save, as a full disk would.
    std::fs::rename(&cursors, dir.path().join("aside")).unwrap();
    std::fs::write(&cursors, "").unwrap();
    fixture.transaction(20, "once").await;
    let journal = fixture.journal().clone();
    let told = || status.report(&journal).reasons.join("; ");
    let is_stuck = || told().contains("Cannot write the sink's position");
    for _ in 0..1000 {
        if is_stuck() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(is_stuck(), "{}", told());
    // Some more tries.
    tokio::time::sleep(Duration::from_millis(500)).await;
    std::fs::remove_file(&cursors).unwrap();
    fixture.transaction(7, "later").await;
    let ids = until(&target, 30).await;
    assert_eq!(ids.len(), 30, "each once");
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    for _ in 0..1000 {
        if !is_stuck() && cursor::highest(&cursors) == journal.newest() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{}; {} of {}", told(), cursor::highest(&cursors), journal.newest());
}
