//! Directories whose files have been changed.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rowcast_engine::cursor::{self, Cursor};
use rowcast_engine::event::Marks;
use rowcast_engine::format::debezium::{Debezium, DebeziumOptions, Records};
use rowcast_engine::format::native::{self, NativeOptions};
use rowcast_engine::journal::{self, Compression, Journal, Options, Read, StreamPosition};
use rowcast_engine::record::Builder;
use rowcast_engine::{Lsn, ingest};

use super::change::{SEGMENT_HEADER, change, change_digits, change_inside, change_packed, is_packed};
use crate::campaign::{Outcome, guard};
use crate::compression::until;
use crate::disk::FakeDisk;
use crate::random::Random;
use crate::support::{Fixture, table, unlocked};

pub(super) const DIRECTORIES: u64 = 40;

/// A stretch that is copied (1 MB), a frame that is unpacked, and what the test keeps of what it reads. All files together
/// have less than 100 KB.
const HELD_MAX: u64 = 4 << 20;

/// Events: number and JSON.
type Lines = Vec<(u64, Vec<u8>)>;

/// A journal of some lives: several segments, one of them compressed, two tables, custom events, rows of a snapshot, a spilled
/// transaction, one that is not whole, one that has not committed, a second history, a break that was repaired.
async fn sample(dir: &Path) -> FakeDisk {
    let disk = FakeDisk::default();
    let options = |compression| Options { segment_bytes: 3000, compression, ..Options::new(dir) };
    for life in 0..3 {
        unlocked(dir);
        let compression = if life == 0 { Compression::Zstd } else { Compression::None };
        let journal = journal::open(options(compression), Arc::new(disk.clone())).unwrap();
        let mut fixture = Fixture::over(journal).await;
        if life == 0 {
            fixture.transaction(200, "a row of a segment that is worth compressing").await;
        }
        for _ in 0..6 {
            fixture.transaction(3, "a row as Postgres sent it").await;
        }
        fixture.orders = fixture.journal().register(table(&format!("other{life}"))).unwrap();
        fixture.transaction(2, "{\"a\": [1, 2]}").await;
        fixture.journal().publish(&[("custom.one", b"{}"), ("custom.two", b"[1]")], 5).await.unwrap();
        fixture.chunk(&[Marks::FIRST, Marks::NONE, Marks::AD_HOC | Marks::LAST]).await;
        fixture.journal().record_gap("", "source_lost", "a sentence", 6).await.unwrap();
        let mut builder = Builder::new();
        fixture.begin(&mut builder);
        fixture.row(&mut builder, "spilled");
        let end = Lsn(fixture.lsn);
        let spill = fixture.journal().spill().unwrap();
        let spill = ingest::spill_parts(spill, builder.take_tail(end)).await.unwrap();
        fixture.ingest.room().await.unwrap().adopt(fixture.journal(), spill, end, 7);
        fixture.durable().await;
        fixture.transaction(3, "after").await;
        match life {
            0 => until("one is compressed", || fixture.journal().summary().compressed > 0).await,
            1 => {
                let position = StreamPosition { lsn: Lsn(fixture.lsn), ..fixture.journal().position() };
                let why = ("source_restored", "a sentence");
                fixture.ingest.begin_history(position, why, 8, &[]).await.unwrap();
                fixture.transaction(3, "of the second history").await;
            }
            _ => continue,
        }
        fixture.journal().close().await;
        if life == 1 {
            break_and_repair(dir, &disk);
        }
    }
    disk.put(dir.join("spill-9.tmp"), b"half of a transaction".to_vec());
    disk
}

/// Leaves a bridge in the place of a part of the journal.
fn break_and_repair(dir: &Path, disk: &FakeDisk) {
    let plain = |(path, bytes): &(PathBuf, Vec<u8>)| {
        path.extension().is_some_and(|extension| extension == "seg") && !is_packed(bytes)
    };
    let segments: Vec<_> = disk.files().into_iter().filter(plain).collect();
    let (path, mut bytes) = segments[segments.len() / 2].clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    disk.put(path, bytes);
    unlocked(dir);
    let repaired = journal::repair(dir, disk, 0, false).unwrap();
    assert_eq!(repaired.gaps.len(), 1, "{repaired:?}");
}

fn files() -> &'static BTreeMap<String, Vec<u8>> {
    static FILES: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
            let disk = sample(dir.path()).await;
            disk.files().into_iter().map(|(path, bytes)| (name(path), bytes)).collect()
        })
    })
}

/// Everything that can be read, rendered: a reader's errors are as good as an end.
fn read(journal: &Journal, found: &mut Lines) {
    let (debezium, mut records) = (Debezium::new(DebeziumOptions::new("p")), Records::default());
    let mut after = 0;
    while let Ok(read) = journal.read(after) {
        match read {
            Read::AtHead => break,
            Read::Gone(gone) => {
                assert!(gone.to > after, "a reader gets on");
                after = gone.to;
            }
            Read::Batches(batches) => {
                for batch in batches {
                    for event in batch.events().filter(|event| event.id > after) {
                        let mut line = Vec::new();
                        native::write_event(&mut line, &event, &NativeOptions::default());
                        debezium.records(&event, 1, &mut records);
                        found.push((event.id, line));
                    }
                    batch.transactions().for_each(drop);
                    assert!(batch.last() > after, "a reader gets on");
                    after = batch.last();
                }
            }
        }
    }
    let _ = (journal.seek_time(5), journal.seek_last(7), journal.transactions_above(Lsn(1), 100));
    let _ =
        (journal.never_given(after), journal.summary(), journal.schemas(), journal.holds_all_above(Lsn(1)));
}

fn disk_of(dir: &Path, files: &BTreeMap<String, Vec<u8>>) -> FakeDisk {
    let disk = FakeDisk::default();
    for (name, bytes) in files {
        disk.put(dir.join(name), bytes.clone());
    }
    disk
}

fn open(dir: &Path, files: &BTreeMap<String, Vec<u8>>) -> (FakeDisk, Option<Lines>) {
    let disk = disk_of(dir, files);
    // Whatever it says: it ends, and does not panic.
    let _ = bounded("check", || journal::check(dir, &disk));
    let found = bounded("open and read", || open_on(dir, &disk).ok());
    (disk, found)
}

/// No length in a file makes this thread hold more memory than files of a few kilobytes may ask for.
fn bounded<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let mut done = None;
    let held = allocation_counter::measure(|| done = Some(work())).bytes_max;
    assert!(held <= HELD_MAX, "{what} held {held} bytes at once");
    done.expect("it was done")
}

fn open_on(dir: &Path, disk: &FakeDisk) -> rowcast_engine::Result<Lines> {
    unlocked(dir);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let inside = runtime.enter();
    let opened = journal::open(Options::new(dir), Arc::new(disk.clone()));
    drop(inside);
    opened.map(|journal| {
        let mut found = Vec::new();
        read(&journal, &mut found);
        found
    })
}

/// Repair ends, and what it leaves opens: with events that were there, under their numbers, and a gap for the others.
/// `sealed`: somebody has made checksums right over what nobody wrote, which repair takes for sound.
fn mend(dir: &Path, files: &BTreeMap<String, Vec<u8>>, whole: &HashSet<(u64, Vec<u8>)>, sealed: bool) {
    let disk = disk_of(dir, files);
    unlocked(dir);
    let before = disk.files();
    let told = bounded("repair, dry", || journal::repair(dir, &disk, 0, true));
    assert!(disk.files() == before, "a dry run writes nothing");
    let repaired = bounded("repair", || journal::repair(dir, &disk, 0, false));
    assert_eq!(told.is_ok(), repaired.is_ok(), "{told:?}, {repaired:?}");
    let (Ok(told), Ok(repaired)) = (told, repaired) else {
        assert!(disk.files() == before, "what only a person can judge stays as it is");
        return;
    };
    assert_eq!((told.cuts.len(), told.gaps.len()), (repaired.cuts.len(), repaired.gaps.len()));
    let again = journal::repair(dir, &disk, 0, false).expect("what was repaired can be looked at again");
    assert!(again.is_sound(), "{again:?} after {repaired:?}");
    let opened = open_on(dir, &disk);
    assert!(opened.iter().all(|found| found.windows(2).all(|pair| pair[0].0 < pair[1].0)), "numbers rise");
    if sealed {
        return;
    }
    let found = opened.unwrap_or_else(|error| panic!("does not open after {repaired:?}: {error}"));
    let bridge = |event: &&(u64, Vec<u8>)| {
        repaired.gaps.iter().any(|gap| gap.to == event.0)
            && event.1.windows(15).any(|bytes| bytes == b"journal_damaged")
    };
    let events: HashSet<_> = found.iter().filter(|event| !bridge(event)).collect();
    let invented = events.iter().find(|event| !whole.contains(**event));
    assert!(invented.is_none(), "{invented:?} was never written");
    // Between what is left nothing is missing in silence.
    let (Some(first), Some(last)) = (found.first(), found.last()) else { return };
    let missing =
        whole.iter().filter(|event| first.0 < event.0 && event.0 < last.0 && !events.contains(event));
    for (id, _) in missing {
        assert!(
            repaired.gaps.iter().any(|gap| (gap.from..=gap.to).contains(id)),
            "{id} is in none of {:?}",
            repaired.gaps
        );
    }
}

/// Changes a file or two; true when checksums have been made right again.
fn spoil(files: &mut BTreeMap<String, Vec<u8>>, random: &mut Random) -> (String, bool) {
    let names: Vec<_> = files.keys().cloned().collect();
    let name = names[random.index(names.len())].clone();
    let other = names[random.index(names.len())].clone();
    let bytes = files.get_mut(&name).expect("it is there");
    let (what, sealed) = match random.below(13) {
        0 => (files.remove(&name).map_or("?", |_| "removed"), false),
        1 => {
            let bytes = files[&other].clone();
            files.insert(name.clone(), bytes);
            ("replaced by another", false)
        }
        2 => {
            let bytes = files[&name].clone();
            files.insert(format!("0000000000000000000{}.seg", random.below(10)), bytes);
            ("there twice", false)
        }
        3..=5 if is_packed(bytes) => {
            change_packed(bytes, random);
            ("changed in its compressed form", true)
        }
        6 => {
            // Of anything; with the header that it had, now and then.
            let from = if random.chance(128) { bytes.len().min(SEGMENT_HEADER) } else { 0 };
            bytes.truncate(from);
            bytes.extend((0..random.below(5000)).map(|_| random.next() as u8));
            ("random", false)
        }
        3..=5 if name.ends_with(".seg") => {
            change_inside(bytes, random);
            ("changed inside", true)
        }
        3..=5 if name.ends_with(".idx") => {
            change_digits(bytes, random);
            ("changed digits", true)
        }
        _ => {
            change(bytes, random);
            ("changed", false)
        }
    };
    (format!("{name} {what}"), sealed)
}

pub(super) fn run(seed: u64) -> Outcome {
    let mut random = Random::new(seed);
    let log = std::cell::RefCell::new(Vec::new());
    let work = || {
        let dir = tempfile::tempdir().unwrap();
        let (_, whole) = open(dir.path(), files());
        let whole: HashSet<_> = whole.expect("the sample opens").into_iter().collect();
        let longest = files().values().map(Vec::len).max().unwrap_or(0);
        for _ in 0..DIRECTORIES {
            let mut files = files().clone();
            log.borrow_mut().clear();
            let mut sealed = false;
            for _ in 0..1 + random.below(2) {
                let (what, again) = spoil(&mut files, &mut random);
                log.borrow_mut().push(what);
                sealed |= again;
            }
            let (disk, found) = open(dir.path(), &files);
            let most = files.values().map(Vec::len).max().unwrap_or(0).max(longest).max(4096);
            assert!(
                disk.largest_read() <= most,
                "{} read at once of files up to {most}",
                disk.largest_read()
            );
            let found = found.unwrap_or_default();
            assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0), "numbers rise");
            let invented = found.iter().find(|event| !sealed && !whole.contains(*event));
            assert!(invented.is_none(), "{invented:?} was never written");
            mend(dir.path(), &files, &whole, sealed);
        }
        DIRECTORIES
    };
    guard(seed, work, || log.borrow().join("\n"))
}

/// A sink's position: read, or refused; never another one.
pub(super) fn cursors(seed: u64) -> Outcome {
    let mut random = Random::new(seed);
    let work = || {
        let dir = tempfile::tempdir().unwrap();
        let installation = files()["installation"].clone();
        let installation = String::from_utf8(installation).unwrap().trim().parse().unwrap();
        let cursor = Cursor::new(dir.path(), "kafka", installation);
        let place = cursor::Place { id: 1_800_000_000_000_007, ..cursor::Place::default() };
        cursor.save(place).unwrap();
        let path = dir.path().join("kafka.json");
        let whole = std::fs::read(&path).unwrap();
        for _ in 0..DIRECTORIES {
            let mut bytes = whole.clone();
            change(&mut bytes, &mut random);
            std::fs::write(&path, &bytes).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            let positions = cursor::positions(dir.path()).unwrap();
            assert_eq!(cursor::highest(dir.path()).unwrap(), positions["kafka"]);
            match cursor.load() {
                Ok(loaded) => assert_eq!((loaded, positions["kafka"]), (Some(place), place.id), "{text}"),
                // Of another installation, it says: what it was changed to is none of ours.
                Err(_) => assert!([0, place.id].contains(&positions["kafka"]), "{text}"),
            }
        }
        DIRECTORIES
    };
    guard(seed, work, String::new)
}
