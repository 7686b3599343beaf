//! Events for some sinks alone: those get them, nobody else sees more of them than a hole in the numbers. And how sinks
//! begin that have no position.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowcast_engine::cursor::{Cursor, Place, Started};
use rowcast_engine::deliver::{Delivery, deliver};
use rowcast_engine::event::{Event, Marks, Op};
use rowcast_engine::feed::{Feed, Filter, Framing, From, Next, Pattern, ViewKey};
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Journal, Options, for_each_event};
use rowcast_engine::record::Batch;
use rowcast_engine::sink::{Missing, OnGap, Sink, SinkError, Start};
use rowcast_engine::sinks::Sinks;
use rowcast_engine::snapshots::Shown;
use rowcast_engine::status::Status;
use rowcast_engine::{Stopper, stop};

use crate::support::{Fixture, unlocked};

/// What targets have got, by name of the sink.
type Got = BTreeMap<String, Vec<(u64, Op)>>;

#[derive(Clone, Default)]
struct Targets(Arc<Mutex<Got>>);

struct Target {
    name: String,
    targets: Targets,
}

impl Sink for Target {
    fn name(&self) -> &str {
        &self.name
    }

    async fn resume(&mut self) -> Result<Option<u64>, SinkError> {
        Ok(None)
    }

    async fn send(&mut self, batch: &Arc<Batch>, after: u64) -> Result<(), SinkError> {
        let mine = batch.events_for(&self.name).filter(|event| event.id > after);
        let mine = mine.map(|event| (event.id, event.op));
        self.targets.0.lock().unwrap().entry(self.name.clone()).or_default().extend(mine);
        Ok(())
    }

    async fn gap(&mut self, missing: Missing) -> Result<(), SinkError> {
        panic!("{missing:?}");
    }

    async fn commit(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// The push doors of one run of a program.
struct House {
    status: Status,
    sinks: Sinks,
    targets: Targets,
    stopper: Stopper,
    stop: rowcast_engine::Stop,
}

impl House {
    fn open(dir: &Path, journal: &Journal, names: &[&str]) -> Self {
        let (stopper, stop) = stop();
        let status = Status::default();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        status.expect_sinks(names.iter(), journal);
        Self { status, sinks: Sinks::new(dir.join("cursors")), targets: Targets::default(), stopper, stop }
    }

    fn run(&self, journal: &Journal, name: &str, start: Start) {
        let seat = self.sinks.seat(name, journal.installation());
        let (status, stop, on_gap) = (self.status.clone(), self.stop.clone(), OnGap::Stop);
        let delivery = Delivery { journal: journal.clone(), seat, status, stop, start, on_gap };
        let target = Target { name: name.to_owned(), targets: self.targets.clone() };
        tokio::spawn(deliver(target, delivery));
    }

    /// What a target has when its sink has come to the end of the journal.
    async fn delivered(&self, journal: &Journal, name: &str) -> (Vec<Op>, u64) {
        for _ in 0..1000 {
            let door = self.status.report(journal).doors.remove(name).unwrap_or_default();
            if door.position == Some(journal.newest()) && door.state == "running" {
                let targets = self.targets.0.lock().unwrap();
                let got = targets.get(name).cloned().unwrap_or_default();
                assert!(got.windows(2).all(|pair| pair[0].0 < pair[1].0), "{got:?}");
                return (got.into_iter().map(|(_, op)| op).collect(), door.delivered);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} is not at the end: {:?}", self.status.report(journal).doors);
    }
}

const MARKS: [Marks; 3] = [Marks::FIRST, Marks::NONE, Marks::LAST];

#[tokio::test]
async fn rows_go_to_the_sinks_that_they_are_for_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path().join("journal"))).await;
    let journal = fixture.journal().clone();
    let house = House::open(dir.path(), &journal, &["a", "b", "c"]);
    ["a", "b", "c"].iter().for_each(|name| house.run(&journal, name, Start::Earliest));
    fixture.chunk_for(&["a", "c"], &MARKS).await;
    // In the same batch as rows of the same table for everybody.
    let mut builder = rowcast_engine::record::Builder::new();
    builder.begin_snapshot_for(&["ab".to_owned()], 5, rowcast_engine::Lsn(9), 7);
    builder.read(
        fixture.orders.id,
        rowcast_engine::Lsn(9),
        Marks::NONE,
        &crate::support::insert(90, "x")[1..],
    );
    builder.commit(rowcast_engine::Lsn::ZERO);
    builder.begin_snapshot(5, rowcast_engine::Lsn(9), 7);
    builder.read(
        fixture.orders.id,
        rowcast_engine::Lsn(9),
        Marks::NONE,
        &crate::support::insert(91, "x")[1..],
    );
    builder.commit(rowcast_engine::Lsn::ZERO);
    fixture.begin(&mut builder);
    fixture.row(&mut builder, "the end");
    fixture.commit(&mut builder);
    fixture.submit(&mut builder).await;
    let of_all = [Op::Insert, Op::Read, Op::Insert];
    let with_rows = [&[Op::Read; 3][..], &of_all].concat();
    for (name, expected) in [("a", &with_rows[..]), ("b", &of_all), ("c", &with_rows)] {
        let (got, delivered) = house.delivered(&journal, name).await;
        assert_eq!((got.as_slice(), delivered), (expected, expected.len() as u64), "{name}");
    }
    house.stopper.stop();
}

#[tokio::test]
async fn a_gap_can_be_for_a_sink_alone() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(Options::new(dir.path().join("journal"))).await;
    let journal = fixture.journal().clone();
    let house = House::open(dir.path(), &journal, &["a", "b"]);
    ["a", "b"].iter().for_each(|name| house.run(&journal, name, Start::Earliest));
    journal.record_gap_for(&["b".to_owned()], "public.t", ("no_key", "It has no key"), &[], 5).await.unwrap();
    journal.publish(&[("greetings", b"{}")], 6).await.unwrap();
    assert_eq!(house.delivered(&journal, "a").await.0, [Op::Message]);
    assert_eq!(house.delivered(&journal, "b").await.0, [Op::Gap, Op::Message]);
    let (_stopper, stop) = stop();
    let feed = Feed::new(journal.clone(), stop);
    let everything = Filter::new(vec![Pattern::All], &[]);
    let start = feed.start(From::Last(5), &everything).await.unwrap();
    let framing = Framing::Ndjson;
    let key = ViewKey { filter: everything, framing, options: Default::default() };
    let mut reader = feed.subscribe(key, start.position);
    let Some(Next::Events(events)) = reader.try_next().await.unwrap() else { panic!("no event") };
    assert!(!events.frames()[0].gap && events.frames().len() == 1);
}

#[tokio::test]
async fn clients_see_nothing_of_them_and_come_by() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new(dir.path().join("journal"));
    let mut fixture = Fixture::open(options).await;
    let journal = fixture.journal().clone();
    let (_stopper, stop) = stop();
    let feed = Feed::new(journal.clone(), stop);
    let reads = Filter::new(vec![Pattern::All], &[Op::Read]);
    let key = |filter: &Filter| ViewKey {
        filter: filter.clone(),
        framing: Framing::Ndjson,
        options: Default::default(),
    };
    let mut live = feed.subscribe(key(&reads), journal.newest());
    fixture.transaction(1, "before").await;
    fixture.chunk_for(&["a"], &MARKS).await;
    let newest = journal.newest();
    for _ in 0..1000 {
        assert!(live.try_next().await.unwrap().is_none(), "a row for somebody else");
        if live.position() == newest {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(live.position(), newest, "it has passed what it was not shown");

    // From the disk, and counted from the end.
    let all = Filter::new(vec![Pattern::All], &[]);
    let start = feed.start(From::Last(2), &all).await.unwrap();
    assert_eq!(start.position, newest - 5, "the row before them and the one behind");
    let mut replay = feed.subscribe(key(&all), start.position);
    let mut seen = Vec::new();
    while let Some(next) = replay.try_next().await.unwrap() {
        if let Next::Events(events) = next {
            let lines = String::from_utf8(events.bytes().to_vec()).unwrap();
            assert!(!lines.contains("\"sinks\""), "{lines}");
            seen.extend(events.frames().iter().map(|frame| frame.id));
        }
    }
    assert_eq!(seen, [newest - 4, newest]);
}

/// Events that a look into a closed journal finds, as `journal show` does.
fn shown(dir: &Path) -> Vec<String> {
    let mut shown = Vec::new();
    let note = |event: &Event<'_>| {
        let mut json = Vec::new();
        rowcast_engine::format::write_event(&mut json, event, &Default::default());
        shown.push(String::from_utf8(json).unwrap());
        true
    };
    for_each_event(dir, &RealDisk, journal::Start::Earliest, note).unwrap();
    shown
}

#[tokio::test]
async fn who_looks_into_the_journal_sees_whom_they_are_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    fixture.chunk_for(&["a", "b"], &[Marks::NONE]).await;
    fixture.journal().close().await;
    drop(fixture);
    let shown = shown(dir.path());
    assert!(
        shown[0].contains("\"op\":\"read\"") && shown[0].contains("\"sinks\":[\"a\",\"b\"]"),
        "{shown:?}"
    );
    assert!(!shown[1].contains("sinks"), "{shown:?}");
}

#[tokio::test]
async fn a_journal_of_version_1_opens_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    fixture.transaction(5, "old").await;
    fixture.chunk(&MARKS).await;
    fixture.journal().close().await;
    drop(fixture);
    unlocked(dir.path());
    let segments = || {
        let all = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<_> = all.filter(|path| path.extension().is_some_and(|of| of == "seg")).collect();
        all.sort();
        all
    };
    let [old] = &segments()[..] else { panic!("one segment") };
    let mut bytes = fs::read(old).unwrap();
    assert_eq!(bytes[8..10], 2u16.to_le_bytes());
    bytes[8..10].copy_from_slice(&1u16.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..124]);
    bytes[124..128].copy_from_slice(&crc.to_le_bytes());
    fs::write(old, bytes).unwrap();

    let mut fixture =
        Fixture::over(journal::open(Options::new(dir.path()), Arc::new(RealDisk)).unwrap()).await;
    fixture.chunk_for(&["a"], &MARKS).await;
    fixture.journal().close().await;
    drop(fixture);
    let versions: Vec<u8> = segments().iter().map(|path| fs::read(path).unwrap()[8]).collect();
    assert_eq!(versions, [1, 2], "what only version 2 has is in no segment of version 1");
    assert_eq!(shown(dir.path()).len(), 5 + 4 + 4);
}

fn wishes(status: &Status) -> BTreeMap<String, bool> {
    let wishes = status.wishes().expect("all have said how they begin");
    wishes.into_iter().map(|(name, wish)| (name, wish.is_some())).collect()
}

#[tokio::test]
async fn a_sink_without_a_position_begins_as_it_is_told_and_that_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path().join("journal"))).await;
    let journal = fixture.journal().clone();
    fixture.transaction(4, "held").await;
    let held = journal.newest();
    let house = House::open(dir.path(), &journal, &["all", "new", "rows"]);
    // What comes before a sink gets its turn is not lost.
    fixture.transaction(2, "while it starts").await;
    house.run(&journal, "rows", Start::Snapshot);
    house.run(&journal, "new", Start::Latest);
    house.delivered(&journal, "rows").await;
    house.delivered(&journal, "new").await;
    assert_eq!(house.status.wishes(), None, "nobody knows yet what the third one wishes for");
    house.run(&journal, "all", Start::Earliest);
    assert_eq!(house.delivered(&journal, "all").await.0.len(), 6);
    assert_eq!(house.delivered(&journal, "rows").await.0.len(), 2);
    assert_eq!(house.delivered(&journal, "new").await.0.len(), 2);
    let told = wishes(&house.status);
    let expected = [("all", false), ("new", false), ("rows", true)];
    assert_eq!(told, expected.map(|(name, wish)| (name.to_owned(), wish)).into());
    let doors = house.status.report(&journal).doors;
    let started = |name: &str| doors[name].started.map(|started: Started| (started.how, started.id));
    assert_eq!(started("rows"), Some((Start::Snapshot, held)));
    assert_eq!(started("new"), Some((Start::Latest, held)));
    assert_eq!(started("all"), Some((Start::Earliest, journal.seek_earliest())));
    let wish = house.status.wishes();
    house.stopper.stop();

    // Also after a restart, whatever is configured then: it has a position.
    let again = House::open(dir.path(), &journal, &["rows", "mine"]);
    let mine = Cursor::new(&dir.path().join("cursors"), "mine", journal.installation());
    mine.save(Place { id: held, ..Place::default() }).unwrap();
    again.run(&journal, "rows", Start::Earliest);
    again.run(&journal, "mine", Start::Snapshot);
    assert_eq!(again.delivered(&journal, "rows").await.0.len(), 0);
    assert_eq!(again.delivered(&journal, "mine").await.0.len(), 2);
    assert_eq!(again.status.wishes().unwrap()["rows"], wish.unwrap()["rows"]);
    assert_eq!(again.status.wishes().unwrap()["mine"], None, "it began with an earlier version");
}

#[tokio::test]
async fn a_sink_of_a_new_journal_begins_before_everything() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal::open(Options::new(dir.path().join("journal")), Arc::new(RealDisk)).unwrap();
    journal.publish(&[("greetings", b"{}")], 5).await.unwrap();
    let house = House::open(dir.path(), &journal, &["rows", "new"]);
    let mut fixture = Fixture::over(journal.clone()).await;
    fixture.chunk(&MARKS).await;
    house.run(&journal, "rows", Start::Snapshot);
    house.run(&journal, "new", Start::Latest);
    assert_eq!(house.delivered(&journal, "rows").await.0.len(), 5);
    assert_eq!(house.delivered(&journal, "new").await.0.len(), 4);
}

#[tokio::test]
async fn the_board_says_how_far_the_rows_are() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(Options::new(dir.path().join("journal"))).await;
    let journal = fixture.journal().clone();
    let house = House::open(dir.path(), &journal, &["rows", "broken"]);
    house.run(&journal, "rows", Start::Snapshot);
    house.delivered(&journal, "rows").await;
    house.status.sink_ended("broken");
    assert_eq!(wishes(&house.status), [("broken".to_owned(), false), ("rows".to_owned(), true)].into());
    let filling = || house.status.report(&journal).doors.remove("rows").unwrap().filling;
    assert_eq!(filling().expect("a wish that nobody has taken up").tables, [] as [String; 0]);
    house.status.note_taken_up("rows");
    assert_eq!(filling(), None);
    let shown = |sinks: &[&str], rows| Shown {
        channel: "public.t".to_owned(),
        sinks: sinks.iter().map(ToString::to_string).collect(),
        rows,
        estimate: 10,
        ..Shown::default()
    };
    house.status.snapshots(|board| {
        board.insert("one".to_owned(), shown(&["x", "rows"], 4));
        board.insert("two".to_owned(), shown(&[], 7));
    });
    let told = filling().expect("rows are read");
    assert_eq!((told.tables, told.rows, told.estimate), (vec!["public.t".to_owned()], 4, 10));
}

#[tokio::test]
async fn rows_for_a_sink_that_is_paused_wait_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path().join("journal"));
    (options.max_size, options.segment_bytes) = (Some(2 << 20), 100_000);
    let mut fixture = Fixture::open(options).await;
    let journal = fixture.journal().clone();
    journal.hold_above("a", journal.newest());
    let text = "x".repeat(100_000);
    for _ in 0..12 {
        fixture.transaction(1, &text).await;
    }
    let sinks = ["a".to_owned()];
    assert!(journal.crowded().is_some() && journal.crowded_for(&sinks).is_some());
    let house = House::open(dir.path(), &journal, &["a"]);
    let cursor = Cursor::new(&dir.path().join("cursors"), "a", journal.installation());
    cursor.save(Place { id: journal.seek_earliest(), paused: true, ..Place::default() }).unwrap();
    house.run(&journal, "a", Start::Earliest);
    for _ in 0..1000 {
        if house.status.report(&journal).doors.get("a").is_some_and(|door| door.state == "paused") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(journal.crowded(), None, "nobody else waits for it");
    assert!(journal.crowded_for(&sinks).is_some_and(|why| why.contains("the sink a is 1 MB behind")));
}
