//! The loop of push doors: nothing lost, positions only after the target has the events, retries.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowcast_engine::cursor;
use rowcast_engine::deliver::{Delivery, deliver};
use rowcast_engine::journal::{self, Gone, Options};
use rowcast_engine::record::Batch;
use rowcast_engine::sink::{Missing, OnGap, Reason, Sink, SinkError, Start};
use rowcast_engine::sinks::{Obeyed, Sinks, Wish};
use rowcast_engine::status::{Door, Status};
use rowcast_engine::{Error, Kind, stop};

use crate::damage::segments;
use crate::disk::{FakeDisk, Fault, Ill, OPEN};
use crate::support::Fixture;

#[derive(Clone, Default)]
struct Target(Arc<Mutex<TargetState>>);

#[derive(Default)]
struct TargetState {
    open: Vec<u64>,
    committed: Vec<u64>,
    fail_commits: u32,
    refuse: bool,
    missing: Vec<Missing>,
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

    async fn gap(&mut self, missing: Missing) -> Result<(), SinkError> {
        self.0.lock().unwrap().missing.push(missing);
        Ok(())
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
    let (delivery, stopper, _) = commanded(fixture, dir);
    (delivery, stopper)
}

/// With the way for commands.
fn commanded(fixture: &Fixture, dir: &std::path::Path) -> (Delivery, rowcast_engine::Stopper, Sinks) {
    let (stopper, stop) = stop();
    let journal = fixture.journal().clone();
    let sinks = Sinks::new(dir.join("cursors"));
    let seat = sinks.seat("target", journal.installation());
    let (status, on_gap) = (Status::default(), OnGap::Stop);
    (Delivery { journal, seat, status, stop, start: Start::Earliest, on_gap }, stopper, sinks)
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
        if cursor::highest(&cursors).unwrap() == newest {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(cursor::highest(&cursors).unwrap(), newest);
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
async fn a_refusal_stops_the_sink_and_says_why_until_a_person_resumes_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path().join("journal"))).await;
    let target = Target::default();
    target.0.lock().unwrap().refuse = true;
    let (delivery, stopper, sinks) = commanded(&fixture, dir.path());
    let status = delivery.status.clone();
    let running = tokio::spawn(deliver(target.clone(), delivery));
    fixture.transaction(5, "refused").await;
    let reason = stopped(&status, &fixture).await;
    assert!(
        reason.contains("refuses event 5. Mend it. `rowcast sink resume target` tries again"),
        "{reason}"
    );
    let report = status.report(fixture.journal());
    assert!(!report.healthy && report.reasons.iter().any(|told| told.contains(&reason)), "{report:?}");

    sinks.order("target", Wish::Resume).await.unwrap();
    let again = stopped(&status, &fixture).await;
    assert_eq!(again, reason, "nothing has been mended");
    target.0.lock().unwrap().refuse = false;
    sinks.order("target", Wish::Resume).await.unwrap();
    assert_eq!(until(&target, 5).await.len(), 5, "each once");
    stopper.stop();
    running.await.unwrap().unwrap();
    let ended = sinks.order("target", Wish::Pause).await.unwrap_err();
    assert!(ended.to_string().contains("target has ended"), "{ended}");
}

/// On one thread, with a disk that stands still: a pipe that nobody reads, in the place of the file.
#[tokio::test]
async fn a_position_that_cannot_be_stored_yet_holds_up_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path().join("journal"))).await;
    fixture.transaction(3, "before").await;
    let target = Target::default();
    let (delivery, stopper, sinks) = commanded(&fixture, dir.path());
    let cursors = dir.path().join("cursors");
    let running = tokio::spawn(deliver(target.clone(), delivery));
    until(&target, 3).await;
    let at = fixture.journal().newest();
    // Nothing is being stored now.
    sinks.order("target", Wish::Pause).await.unwrap();
    let pipe = cursors.join("target.new");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (go, stands) = std::sync::mpsc::sync_channel::<()>(1);
    let disk = std::thread::spawn(move || {
        let in_time = stands.recv_timeout(Duration::from_secs(20)).is_ok();
        let reader = std::fs::File::open(&pipe).unwrap();
        std::fs::remove_file(&pipe).unwrap();
        drop(reader);
        in_time
    });
    let resumed = tokio::spawn(async move { sinks.order("target", Wish::Resume).await });
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        fixture.transaction(1, "meanwhile").await;
    }
    assert!(!resumed.is_finished(), "it is not stored");
    go.send(()).unwrap();
    assert!(disk.join().unwrap(), "others were held up");
    // A pipe cannot be synced: whoever ordered it is told, and orders it again.
    assert!(resumed.await.unwrap().is_err());
    stopper.stop();
    running.await.unwrap().unwrap();
    assert_eq!(cursor::highest(&cursors).unwrap(), at);
}

#[tokio::test]
async fn too_many_open_files_are_waited_out_where_it_reads_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let options = Options { cache_bytes: 2_000, ..Options::new(dir.path().join("journal")) };
    let mut fixture = Fixture::over(journal::open(options, Arc::new(disk.clone())).unwrap()).await;
    for _ in 0..40 {
        fixture.transaction(1, &"a text".repeat(100)).await;
    }
    disk.plan(Some(Fault { calls: OPEN, after: 0, ill: Ill::Files, times: u32::MAX, waits: u32::MAX }));
    let target = Target::default();
    let (delivery, _stopper) = delivery(&fixture, dir.path());
    let status = delivery.status.clone();
    tokio::spawn(deliver(target.clone(), delivery));
    let door = halted(&status, &fixture).await;
    let reason = door.reason.expect("a reason");
    assert_eq!(door.state, "retrying", "{reason}");
    assert!(reason.starts_with("Cannot read ") && reason.contains("goes on by itself"), "{reason}");
    disk.plan(None);
    assert_eq!(until(&target, 40).await.len(), 40, "each once");
}

/// It goes on from there when that can be read again, or is moved behind it by hand: what is sound is not skipped with it.
#[tokio::test]
async fn a_sink_stops_right_before_what_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { cache_bytes: 2_000, ..Options::new(dir.path().join("journal")) };
    let mut fixture = Fixture::open(options).await;
    for _ in 0..300 {
        fixture.transaction(1, &"a text".repeat(100)).await;
    }
    let path = segments(&dir.path().join("journal")).pop().unwrap();
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut sound = [0; 8];
    file.read_exact_at(&mut sound, 100_000).unwrap();
    file.write_all_at(b"garbage!", 100_000).unwrap();
    let target = Target::default();
    let (delivery, _stopper, sinks) = commanded(&fixture, dir.path());
    let status = delivery.status.clone();
    tokio::spawn(deliver(target.clone(), delivery));
    let reason = stopped(&status, &fixture).await;
    assert!(reason.contains("is damaged at offset"), "{reason}");
    let had = target.0.lock().unwrap().committed.clone();
    let at = *had.last().expect("what is sound before it");
    assert!((100..200).contains(&had.len()), "{}", had.len());
    assert!(fixture.journal().read(at).is_err());
    assert_eq!(cursor::highest(&dir.path().join("cursors")).unwrap(), at);
    let door = status.report(fixture.journal()).doors.remove("target").unwrap();
    assert_eq!(door.position, Some(at));
    file.write_all_at(&sound, 100_000).unwrap();
    sinks.order("target", Wish::Resume).await.unwrap();
    let ids = until(&target, 300).await;
    assert!(ids.len() == 300 && ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "each once");
}

/// Waits until the sink delivers nothing for now; gives how it stands.
async fn halted(status: &Status, fixture: &Fixture) -> Door {
    for _ in 0..1000 {
        let door = status.report(fixture.journal()).doors.remove("target").unwrap_or_default();
        if matches!(door.state, "stopped" | "retrying") {
            return door;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it delivers");
}

/// Waits until the sink has stopped; gives the reason.
async fn stopped(status: &Status, fixture: &Fixture) -> String {
    for _ in 0..1000 {
        let door = status.report(fixture.journal()).doors.remove("target").unwrap_or_default();
        if door.state == "stopped" {
            return door.reason.expect("a reason");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it has not stopped");
}

#[tokio::test]
async fn a_paused_sink_stays_paused_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path().join("journal"))).await;
    fixture.transaction(3, "before").await;
    let target = Target::default();
    let (first, stopper, sinks) = commanded(&fixture, dir.path());
    let running = tokio::spawn(deliver(target.clone(), first));
    until(&target, 3).await;
    let at = fixture.journal().newest();
    assert_eq!(sinks.order("target", Wish::Pause).await.unwrap(), Obeyed { before: at, position: at });
    fixture.transaction(4, "while paused").await;
    stopper.stop();
    running.await.unwrap().unwrap();

    let (second, _stopper, sinks) = commanded(&fixture, dir.path());
    let status = second.status.clone();
    tokio::spawn(deliver(target.clone(), second));
    // An order is answered by a sink that runs.
    let obeyed = sinks.order("target", Wish::Pause).await.unwrap();
    assert_eq!(obeyed, Obeyed { before: at, position: at });
    let door = status.report(fixture.journal()).doors.remove("target").unwrap();
    assert_eq!((door.state, door.position), ("paused", Some(at)));
    assert!(door.reason.unwrap().contains("rowcast sink resume target"));
    assert_eq!(target.0.lock().unwrap().committed.len(), 3);
    sinks.order("target", Wish::Resume).await.unwrap();
    assert_eq!(until(&target, 7).await.len(), 7, "each once");
}

#[tokio::test]
async fn a_sink_that_is_moved_repeats_or_skips_and_the_target_is_told_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path().join("journal"))).await;
    fixture.transaction(10, "all").await;
    let (target, newest) = (Target::default(), fixture.journal().newest());
    let (delivery, stopper, sinks) = commanded(&fixture, dir.path());
    let running = tokio::spawn(deliver(target.clone(), delivery));
    until(&target, 10).await;
    let obeyed = sinks.order("target", Wish::Move(newest - 4)).await.unwrap();
    assert_eq!(obeyed, Obeyed { before: newest, position: newest - 4 });
    let ids = until(&target, 14).await;
    assert_eq!(ids[10..], [newest - 3, newest - 2, newest - 1, newest]);

    // Forward while paused: told when it goes on, even by another process.
    sinks.order("target", Wish::Pause).await.unwrap();
    fixture.transaction(6, "more").await;
    sinks.order("target", Wish::Move(newest + 5)).await.unwrap();
    // Not so far after all.
    sinks.order("target", Wish::Move(newest + 4)).await.unwrap();
    stopper.stop();
    running.await.unwrap().unwrap();
    assert!(target.0.lock().unwrap().missing.is_empty());
    let (delivery, _stopper, sinks) = commanded(&fixture, dir.path());
    tokio::spawn(deliver(target.clone(), delivery));
    sinks.order("target", Wish::Resume).await.unwrap();
    let ids = until(&target, 16).await;
    assert_eq!(ids[14..], [newest + 5, newest + 6]);
    let gone = Gone { from: newest + 1, to: newest + 4 };
    assert_eq!(target.0.lock().unwrap().missing, [Missing { gone, reason: Reason::Skipped }]);

    let unknown = sinks.order("targt", Wish::Pause).await.unwrap_err();
    assert_eq!((unknown.kind(), unknown.remedy()), (Kind::Usage, Some("There is target.")));
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
        if !is_stuck() && cursor::highest(&cursors).unwrap() == journal.newest() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{}; {} of {}", told(), cursor::highest(&cursors).unwrap(), journal.newest());
}
