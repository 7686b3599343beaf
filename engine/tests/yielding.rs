//! Which of retention, sinks and capture yields when the journal has reached its size, and what is said of it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowcast_engine::cursor::{Cursor, Place};
use rowcast_engine::deliver::{Delivery, deliver};
use rowcast_engine::journal::{Gone, Options, State};
use rowcast_engine::record::{Batch, Builder};
use rowcast_engine::sink::{Missing, OnGap, Reason, Sink, SinkError, Start};
use rowcast_engine::sinks::{Sinks, Wish};
use rowcast_engine::status::{Door, Status};
use rowcast_engine::{Kind, Result, Stopper, cursor, stop};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::log::logged;
use crate::said::{record, rendered};
use crate::support::{Fixture, read_all};

const SEGMENT: u64 = 4_000;
const MAX_SIZE: u64 = 20_000;
/// For sinks that are to be waited for, however slow the machine is.
const LONG: Duration = Duration::from_secs(3600);
/// A round of a delivery ends after it.
const ROUND: Duration = Duration::from_secs(1);

fn metric(name: &str, sink: &str) -> u64 {
    let wanted = format!("{name}{{sink=\"{sink}\"}} ");
    let text = rendered();
    text.lines().find_map(|line| line.strip_prefix(&wanted)?.parse().ok()).unwrap_or(0)
}

/// Waits for what the writer's thread says right after it has done it.
async fn until(said: impl Fn() -> bool) {
    for _ in 0..2000 {
        if said() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it is not said");
}

/// A target that takes as many rounds as it is given permits for.
#[derive(Clone)]
struct Slow {
    name: &'static str,
    commits: Arc<Semaphore>,
    told: Arc<Mutex<Told>>,
}

#[derive(Default)]
struct Told {
    open: Vec<u64>,
    committed: Vec<u64>,
    open_missing: Vec<Missing>,
    missing: Vec<Missing>,
    asked: u32,
}

impl Slow {
    fn new(name: &'static str) -> Self {
        Self { name, commits: Arc::new(Semaphore::new(0)), told: Arc::default() }
    }

    fn ids(&self) -> Vec<u64> {
        self.told.lock().unwrap().committed.clone()
    }
}

impl Sink for Slow {
    fn name(&self) -> &str {
        self.name
    }

    async fn resume(&mut self) -> Result<Option<u64>, SinkError> {
        let mut told = self.told.lock().unwrap();
        told.asked += 1;
        told.open.clear();
        told.open_missing.clear();
        Ok(None)
    }

    async fn send(&mut self, batch: &Arc<Batch>, after: u64) -> Result<(), SinkError> {
        let ids = batch.events().map(|event| event.id).filter(|id| *id > after);
        self.told.lock().unwrap().open.extend(ids);
        Ok(())
    }

    async fn gap(&mut self, missing: Missing) -> Result<(), SinkError> {
        self.told.lock().unwrap().open_missing.push(missing);
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), SinkError> {
        self.commits.acquire().await.unwrap().forget();
        let mut told = self.told.lock().unwrap();
        let open = std::mem::take(&mut told.open);
        told.committed.extend(open);
        let missing = std::mem::take(&mut told.open_missing);
        told.missing.extend(missing);
        Ok(())
    }
}

/// A journal with a delivery.
struct House {
    fixture: Fixture,
    sinks: Sinks,
    status: Status,
    stopper: Stopper,
    stop: rowcast_engine::Stop,
    running: Vec<JoinHandle<Result<()>>>,
}

impl House {
    async fn open(dir: &Path, stalled_after: Duration) -> Self {
        record();
        let cursors = dir.join("cursors");
        let mut options = Options::new(dir.join("journal"));
        (options.segment_bytes, options.max_size, options.cache_bytes) = (SEGMENT, Some(MAX_SIZE), 1000);
        (options.min_free, options.stalled_after) = (0, stalled_after);
        (options.holds, options.seen) =
            (cursor::positions(&cursors).unwrap(), cursor::highest(&cursors).unwrap());
        let (stopper, stop) = stop();
        let (fixture, sinks) = (Fixture::open(options).await, Sinks::new(cursors));
        Self { fixture, sinks, status: Status::default(), stopper, stop, running: Vec::new() }
    }

    fn deliver(&mut self, sink: &Slow, on_gap: OnGap) {
        let journal = self.fixture.journal().clone();
        let seat = self.sinks.seat(sink.name, journal.installation());
        let (status, stop) = (self.status.clone(), self.stop.clone());
        let delivery = Delivery { journal, seat, status, stop, start: Start::Earliest, on_gap };
        self.running.push(tokio::spawn(deliver(sink.clone(), delivery)));
    }

    /// Transactions until the journal pauses; gives what it says.
    async fn fill_until_paused(&mut self) -> String {
        let mut state = self.fixture.journal().state();
        loop {
            let paused = state.wait_for(|state| matches!(state, State::Full(_)));
            tokio::select! {
                biased;
                state = paused => {
                    let State::Full(reason) = &*state.unwrap() else { unreachable!() };
                    return reason.clone();
                }
                room = self.fixture.ingest.room() => {
                    let mut builder = Builder::new();
                    self.fixture.begin(&mut builder);
                    (0..5).for_each(|_| self.fixture.row(&mut builder, "filled"));
                    self.fixture.commit(&mut builder);
                    room.unwrap().append(self.fixture.journal(), builder.take(), rowcast_engine::Lsn(self.fixture.lsn));
                }
            }
        }
    }

    /// Transactions until the journal does not hold everything after `position` any more.
    async fn fill_beyond(&mut self, position: u64) {
        while self.fixture.journal().held_after(position).is_none() {
            self.fixture.transaction(5, "filled").await;
        }
    }

    async fn wait_open(&self) {
        let mut state = self.fixture.journal().state();
        let open = state.wait_for(|state| *state == State::Open);
        tokio::time::timeout(Duration::from_secs(20), open).await.expect("open in time").unwrap();
    }

    fn door(&self, sink: &Slow) -> Door {
        self.status.report(self.fixture.journal()).doors.remove(sink.name).unwrap_or_default()
    }

    async fn wait_door(&self, sink: &Slow, what: impl Fn(&Door) -> bool) -> Door {
        for _ in 0..2000 {
            let door = self.door(sink);
            if what(&door) {
                return door;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}", self.door(sink));
    }

    /// Waits until the sink is where the journal is.
    async fn wait_delivered(&self, sink: &Slow) {
        let newest = self.fixture.journal().newest();
        self.wait_door(sink, |door| door.position == Some(newest)).await;
    }

    async fn close(self) {
        self.stopper.stop();
        for running in self.running {
            running.await.unwrap().unwrap();
        }
        self.fixture.journal().close().await;
    }
}

/// All events that the journal has, or had: one after the other without a hole while nothing is reopened.
fn range(from: u64, to: u64) -> Vec<u64> {
    (from..=to).collect()
}

#[tokio::test]
async fn what_no_sink_needs_goes_first_and_nothing_waits() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::open(dir.path(), LONG).await;
    let sink = Slow::new("current");
    sink.commits.add_permits(Semaphore::MAX_PERMITS >> 4);
    house.fixture.transaction(5, "current").await;
    house.deliver(&sink, OnGap::Stop);
    let (first, mut state) = (house.fixture.journal().oldest(), house.fixture.journal().state());
    state.mark_unchanged();
    for _ in 0..99 {
        house.fixture.transaction(5, "current").await;
        house.wait_delivered(&sink).await;
    }
    assert!(house.fixture.journal().held_after(first).is_some(), "the oldest are gone");
    assert!(house.fixture.journal().summary().bytes <= MAX_SIZE + SEGMENT);
    assert!(!state.has_changed().unwrap(), "capture has not paused");
    assert_eq!(sink.ids(), range(first, first + 499), "each once, in order");
    assert_eq!(metric("rowcast_sink_hold_lost_total", "current"), 0);
    house.close().await;
}

#[tokio::test]
async fn a_sink_that_moves_makes_capture_pause_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::open(dir.path(), LONG).await;
    let sink = Slow::new("moving");
    house.fixture.transaction(5, "first").await;
    house.deliver(&sink, OnGap::Stop);
    let first = house.fixture.journal().oldest();
    let said = house.fill_until_paused().await;
    assert!(
        said.starts_with(
            "the journal is at its max_size (1 MB), and sink moving still needs what lies up to event "
        ),
        "{said}"
    );
    let journal = house.fixture.journal().clone();
    let report = house.status.report(&journal);
    assert!(report.reasons.contains(&format!("The journal waits for room: {said}")), "{report:?}");
    assert!(journal.position().lsn.0 < house.fixture.lsn, "what waits is not confirmed");
    let held = read_all(&journal, 0);
    assert_eq!(held.first().unwrap().0, first, "readers have it all");
    let refused = journal.publish(&[("custom.event", b"1")], 1).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Transient);
    assert!(refused.to_string().contains("takes no events now: the journal is at its max_size"), "{refused}");
    assert!(refused.remedy().unwrap().contains("try again"), "{refused:?}");
    assert!(journal.summary().bytes <= MAX_SIZE + 2 * SEGMENT, "{:?}", journal.summary());

    until(|| !logged("moving", "Capture pauses, readers are served").is_empty()).await;
    assert_eq!(logged("moving", "Capture pauses, readers are served").len(), 1, "once");

    // As soon as it has moved on, capture goes on by itself; again and again.
    // (The round under way has only what there was at its start.)
    sink.commits.add_permits(2);
    house.wait_open().await;
    house.fill_until_paused().await;
    sink.commits.add_permits(Semaphore::MAX_PERMITS >> 4);
    house.fixture.durable().await;
    house.wait_delivered(&sink).await;
    assert_eq!(sink.ids(), range(first, journal.newest()), "each once, in order");
    assert!(house.status.report(&journal).reasons.iter().all(|reason| !reason.contains("waits for room")));
    assert_eq!(metric("rowcast_sink_hold_lost_total", "moving"), 0);
    house.close().await;
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_sink_and_what_was_taken_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::open(dir.path(), LONG).await;
    let sink = Slow::new("ending");
    house.fixture.transaction(5, "first").await;
    house.deliver(&sink, OnGap::Stop);
    house.fill_until_paused().await;
    let (rows, journal) = (house.fixture.rows, house.fixture.journal().clone());
    house.close().await;
    assert!(!matches!(*journal.state().borrow(), State::Failed(_)), "an orderly end");
    drop(journal);
    let house = House::open(dir.path(), LONG).await;
    assert_eq!(read_all(house.fixture.journal(), 0).len() as u64, rows);
    house.close().await;
}

#[tokio::test]
async fn a_stalled_sink_loses_its_hold_stops_and_is_resumed_behind_the_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::open(dir.path(), Duration::from_millis(300)).await;
    let sink = Slow::new("stalled");
    house.fixture.transaction(5, "first").await;
    house.deliver(&sink, OnGap::Stop);
    let position = house.fixture.journal().oldest() - 1;
    house.fill_beyond(position).await;
    let door = house.wait_door(&sink, |door| door.state == "stopped").await;
    house.fill_beyond(house.fixture.journal().oldest()).await;
    let journal = house.fixture.journal().clone();
    let gone = journal.held_after(position).unwrap();
    assert_eq!(gone.from, position + 1);
    assert_eq!((door.position, sink.ids().len()), (Some(position), 0));
    let reason = door.reason.unwrap();
    assert!(reason.starts_with(&format!("Retention has removed the events {} to ", gone.from)), "{reason}");
    assert!(reason.contains("`rowcast sink resume stalled` then goes on behind the gap"), "{reason}");
    // What goes later is said, too.
    let all = format!("the events {} to {} before the sink had them", gone.from, gone.to);
    house.wait_door(&sink, |door| door.reason.as_ref().is_some_and(|reason| reason.contains(&all))).await;
    assert!(!house.status.report(&journal).healthy);
    until(|| metric("rowcast_sink_lost_events_total", "stalled") >= gone.to - position).await;
    let lost = logged("stalled", "The sink stalled has lost events");
    assert!(lost[0].contains(&format!("has lost events {} to ", gone.from)), "{lost:?}");
    assert!(lost[0].contains("stood still for journal.stalled_after"), "{lost:?}");
    assert_eq!(metric("rowcast_sink_hold_lost_total", "stalled"), lost.len() as u64);
    assert_eq!(metric("rowcast_sink_lost_events_total", "stalled"), gone.to - position);
    assert_eq!(house.fixture.journal().state().borrow().clone(), State::Open);

    // It does not go on by itself, though its target is back.
    sink.commits.add_permits(Semaphore::MAX_PERMITS >> 4);
    house.fixture.transaction(5, "later").await;
    assert_eq!(house.door(&sink).state, "stopped");
    house.sinks.order("stalled", Wish::Resume).await.unwrap();
    house.wait_delivered(&sink).await;
    assert_eq!(sink.told.lock().unwrap().missing, [Missing { gone, reason: Reason::Retention }]);
    assert_eq!(sink.ids(), range(gone.to + 1, journal.newest()), "all the rest, each once");
    assert_eq!(house.door(&sink).state, "running");
    assert_eq!(metric("rowcast_sink_gaps_total", "stalled"), 1);
    house.close().await;
}

#[tokio::test]
async fn a_gap_is_found_again_after_a_restart_even_when_the_target_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::open(dir.path(), Duration::from_millis(300)).await;
    let sink = Slow::new("restarted");
    house.fixture.transaction(5, "first").await;
    house.deliver(&sink, OnGap::Stop);
    let position = house.fixture.journal().oldest() - 1;
    house.fill_beyond(position).await;
    house.wait_door(&sink, |door| door.state == "stopped").await;
    let gone = house.fixture.journal().held_after(position).unwrap();
    house.close().await;

    let mut house = House::open(dir.path(), LONG).await;
    let sink = Slow::new("restarted");
    house.deliver(&sink, OnGap::Stop);
    let door = house.wait_door(&sink, |door| door.state == "stopped").await;
    let words = format!("removed the events {} to {}", gone.from, gone.to);
    assert!(door.reason.as_ref().unwrap().contains(&words), "{door:?}, not {words}");
    assert_eq!(sink.told.lock().unwrap().asked, 0, "it was not even asked");
    // It needs a person; one that resumes a paused sink has not looked at the gap yet, even if somebody let it go on
    // before, while its target was away.
    house.sinks.order("restarted", Wish::Resume).await.unwrap();
    assert_ne!(house.door(&sink).state, "stopped");
    house.sinks.order("restarted", Wish::Pause).await.unwrap();
    assert_eq!(house.door(&sink).state, "paused");
    house.sinks.order("restarted", Wish::Resume).await.unwrap();
    assert_eq!(house.door(&sink).state, "stopped");
    sink.commits.add_permits(Semaphore::MAX_PERMITS >> 4);
    house.sinks.order("restarted", Wish::Resume).await.unwrap();
    house.wait_delivered(&sink).await;
    assert_eq!(sink.told.lock().unwrap().missing, [Missing { gone, reason: Reason::Retention }]);
    house.close().await;
}

#[tokio::test]
async fn a_paused_sink_yields_at_once_and_says_what_it_has_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::open(dir.path(), LONG).await;
    let sink = Slow::new("paused");
    house.deliver(&sink, OnGap::Stop);
    house.sinks.order("paused", Wish::Pause).await.unwrap();
    let (position, mut state) = (house.fixture.journal().newest(), house.fixture.journal().state());
    state.mark_unchanged();
    house.fixture.transaction(5, "first").await;
    house.fill_beyond(position).await;
    let lost = format!("Meanwhile: Retention has removed the events {} to ", position + 1);
    let door = house.wait_door(&sink, |door| door.reason.as_ref().is_some_and(|r| r.contains(&lost))).await;
    assert_eq!(door.state, "paused");
    assert!(!state.has_changed().unwrap(), "capture has not paused");
    until(|| !logged("paused", "The sink paused has lost events").is_empty()).await;
    assert!(logged("paused", "The sink paused has lost events")[0].contains("was stopped or paused"));
    house.close().await;
}

#[tokio::test]
async fn a_sink_that_may_go_on_records_the_gap_and_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::open(dir.path(), Duration::from_millis(300)).await;
    let sink = Slow::new("continuing");
    house.fixture.transaction(5, "first").await;
    house.deliver(&sink, OnGap::Continue);
    // One round is on its way before everything piles up.
    let first = house.fixture.journal().oldest();
    while sink.told.lock().unwrap().open.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    house.fill_beyond(first + 40).await;
    assert_eq!(logged("continuing", "has stopped").len(), 0);
    sink.commits.add_permits(Semaphore::MAX_PERMITS >> 4);
    house.wait_delivered(&sink).await;
    let (committed, missing) = (sink.ids(), sink.told.lock().unwrap().missing.clone());
    let Missing { gone: Gone { from, to }, reason } = missing[0];
    assert_eq!((missing.len(), reason), (1, Reason::Retention));
    let newest = house.fixture.journal().newest();
    assert_eq!(committed, [range(first, from - 1), range(to + 1, newest)].concat(), "or else it is told");
    house.close().await;
}

/// Its target takes longer to take the gap in than a round lasts, and then nothing new happens.
#[tokio::test]
async fn a_sink_that_was_slow_to_take_a_gap_gets_what_lies_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::open(dir.path(), LONG).await;
    let sink = Slow::new("slow-gap");
    house.fixture.transaction(5, "first").await;
    let journal = house.fixture.journal().clone();
    let position = journal.oldest() - 1;
    house.fill_beyond(position).await;
    let cursor = Cursor::new(&dir.path().join("cursors"), sink.name, journal.installation());
    cursor.save(Place { id: position, ..Place::default() }).unwrap();
    house.deliver(&sink, OnGap::Continue);
    until(|| !sink.told.lock().unwrap().open_missing.is_empty()).await;
    tokio::time::sleep(ROUND + Duration::from_millis(100)).await;
    sink.commits.add_permits(Semaphore::MAX_PERMITS >> 4);
    house.wait_delivered(&sink).await;
    assert_eq!(sink.ids(), range(journal.oldest(), journal.newest()));
    house.close().await;
}

#[tokio::test]
async fn what_a_moving_sink_needs_stays_though_one_stands_still_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::open(dir.path(), LONG).await;
    let (still, moving) = (Slow::new("first-of-two"), Slow::new("second-of-two"));
    house.fixture.transaction(5, "first").await;
    house.deliver(&still, OnGap::Stop);
    let position = house.fixture.journal().oldest() - 1;
    house.sinks.order("first-of-two", Wish::Pause).await.unwrap();
    house.deliver(&moving, OnGap::Stop);
    let said = house.fill_until_paused().await;
    assert!(said.contains("sink second-of-two still needs"), "{said}");
    assert!(house.fixture.journal().held_after(position).is_none(), "nothing has gone");
    moving.commits.add_permits(Semaphore::MAX_PERMITS >> 4);
    let lost = format!("Retention has removed the events {} to ", position + 1);
    house.wait_door(&still, |door| door.reason.as_ref().is_some_and(|reason| reason.contains(&lost))).await;
    house.fixture.durable().await;
    house.wait_delivered(&moving).await;
    assert_eq!(moving.ids(), range(position + 1, house.fixture.journal().newest()));
    assert_eq!(metric("rowcast_sink_hold_lost_total", "second-of-two"), 0);
    house.close().await;
}
