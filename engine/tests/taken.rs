//! The file that is being written is removed or cut by another hand: what was in it is told as lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rowcast_engine::Error;
use rowcast_engine::feed::{Feed, From};
use rowcast_engine::journal::disk::{Disk as _, RealDisk};
use rowcast_engine::journal::{self, Gone, Journal, Options, State, Sync, backup, repair};
use rowcast_engine::stop;

use crate::damage::{Told, segments, small, told};
use crate::disk::{CREATE, FakeDisk, Fault, Ill, OPEN, READ, WRITE};
use crate::log::logged;
use crate::room::{hand_over, soon};
use crate::rounds::open_standing;
use crate::said::{record, rendered};
use crate::support::{Fixture, table, unlocked};

pub(crate) const EVENT: &[(&str, &[u8])] = &[("custom.event", b"1")];

/// Ways to take it, and whether the whole journal goes.
type Way = (&'static str, fn(&Path), bool);

const WAYS: &[Way] = &[
    ("removed", |dir| fs::remove_file(segments(dir).pop().unwrap()).unwrap(), false),
    ("cut", |dir| cut(dir, 400), false),
    ("cut to its header", |dir| cut(dir, 128), false),
    ("cut to nothing", |dir| cut(dir, 0), false),
    (
        "all removed",
        |dir| {
            for path in segments(dir) {
                fs::remove_file(&path).unwrap();
                let _ = fs::remove_file(path.with_extension("idx"));
            }
        },
        true,
    ),
];

fn cut(dir: &Path, length: u64) {
    let path = segments(dir).pop().unwrap();
    fs::File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

async fn open(dir: &Path) -> Journal {
    unlocked(dir);
    Fixture::open(small(dir)).await.journal().clone()
}

pub(crate) async fn failed(journal: &Journal) {
    soon("it is missed", journal.state().wait_for(|state| matches!(state, State::Failed(_)))).await.unwrap();
}

/// What everybody is told who stands at this number.
pub(crate) async fn gaps(journal: &Journal, after: u64) -> Vec<Told> {
    let feed = Feed::new(journal.clone(), stop().1);
    let mut told = told(&feed, From::After(after)).await;
    told.retain(|told| matches!(told, Told::Gap { .. }));
    told
}

/// A journal of two lives: the first event of the first one, and the ones that the second has given and lost.
async fn taken(dir: &Path, take: fn(&Path), at_once: bool) -> (u64, Vec<u64>) {
    let journal = open(dir).await;
    let kept = journal.publish(EVENT, 1).await.unwrap();
    journal.close().await;
    drop(journal);
    let journal = open(dir).await;
    let mut lost = Vec::new();
    for _ in 0..3 {
        lost.push(journal.publish(EVENT, 1).await.unwrap());
    }
    take(dir);
    if at_once {
        // Before anybody has looked, as a rule.
        journal.close().await;
    } else {
        failed(&journal).await;
    }
    (kept, lost)
}

#[tokio::test]
async fn what_another_hand_took_while_it_was_written_is_a_gap() {
    record();
    for (at_once, (name, take, all)) in
        [false, true].into_iter().flat_map(|once| WAYS.iter().map(move |way| (once, way)))
    {
        println!("{name}, closed at once: {at_once}");
        let dir = tempfile::tempdir().unwrap();
        let (kept, lost) = taken(dir.path(), *take, at_once).await;
        let (first, last) = (lost[0], lost[2]);
        assert!(
            !logged(dir.path().to_str().unwrap(), "every reader is told a gap, journal_damaged").is_empty()
        );
        unlocked(dir.path());
        if !all {
            let found = journal::check(dir.path(), &RealDisk).unwrap().taken.unwrap();
            assert_eq!((found.from, found.to), (found.from.clamp(kept + 1, first), last));
            assert!(repair(dir.path(), &RealDisk, 0, true).unwrap().is_sound());
        }
        let journal = open(dir.path()).await;
        assert!(rendered().contains("rowcast_journal_missing_total "));
        for after in [kept, first] {
            let told = gaps(&journal, after).await;
            let [Told::Gap { from, to, reason }] = &told[..] else { panic!("{told:?}") };
            assert!(*from <= first.max(after + 1) && *to >= last && *to <= last + 1, "{told:?}: {lost:?}");
            assert!(["journal_damaged", "source_lost"].contains(&reason.as_str()), "{reason}");
        }
        assert!(journal.publish(EVENT, 1).await.unwrap() > last + 1, "no number is given twice");
        journal.close().await;
        drop(journal);
        assert_eq!(journal::check(dir.path(), &RealDisk).unwrap().taken, None, "it is told");
        open(dir.path()).await.close().await;
        let told = logged(dir.path().to_str().unwrap(), " are missing: the segment that was being written");
        assert!(
            told.len() == 1 && told[0].contains("ERROR") && told[0].contains(&format!("to {last} ")),
            "{told:?}"
        );
    }
}

#[tokio::test]
async fn a_copy_has_the_gap_as_well_and_what_is_put_back_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let put = tempfile::tempdir().unwrap();
    let journal = open(dir.path()).await;
    journal.publish(EVENT, 1).await.unwrap();
    journal.close().await;
    drop(journal);
    let journal = open(dir.path()).await;
    let last = journal.publish(EVENT, 1).await.unwrap();
    let newest = segments(dir.path()).pop().unwrap();
    let beside = put.path().join("beside");
    fs::rename(&newest, &beside).unwrap();
    failed(&journal).await;
    let copy = put.path().join("copy");
    backup(dir.path(), &copy).unwrap();
    assert!(matches!(journal::check(&copy, &RealDisk).unwrap().taken, Some(Gone { to, .. }) if to == last));
    drop(journal);
    unlocked(dir.path());
    fs::rename(&beside, &newest).unwrap();
    let journal = open(dir.path()).await;
    assert_eq!(gaps(&journal, 0).await.len(), 0);
    tokio::time::timeout(Duration::from_secs(20), journal.publish(EVENT, 1)).await.unwrap().unwrap();
    journal.close().await;
}

/// A disk that holds these files.
pub(crate) fn with(files: &BTreeMap<PathBuf, Vec<u8>>) -> FakeDisk {
    let disk = FakeDisk::default();
    files.iter().for_each(|(path, bytes)| disk.put(path.clone(), bytes.clone()));
    disk
}

pub(crate) fn opened(dir: &Path, disk: &FakeDisk) -> Result<Journal, Error> {
    unlocked(dir);
    journal::open(Options { ahead_bytes: 0, ..small(dir) }, Arc::new(disk.clone()))
}

/// One call after the other that an opening makes to find a file or read it, made fail: of a file in its way, or not.
async fn with_each_ill_call(
    dir: &Path,
    files: &BTreeMap<PathBuf, Vec<u8>>,
    mut then: impl AsyncFnMut(FakeDisk, bool),
) {
    for (calls, ill) in [(OPEN, Ill::Files), (OPEN, Ill::Forbidden), (READ, Ill::Broken)] {
        for after in 0.. {
            let disk = with(files);
            disk.plan(Some(Fault { calls, after, ill, times: 1, waits: u32::MAX }));
            let refused = match opened(dir, &disk) {
                Ok(journal) => {
                    journal.close().await;
                    false
                }
                Err(error) => {
                    assert!(error.remedy().is_some(), "{error}");
                    true
                }
            };
            let all = disk.is_well();
            disk.plan(None);
            then(disk, refused).await;
            if !all {
                break;
            }
        }
    }
}

/// Two lives on such a disk: the number that is kept, those of the newest segment, and that segment.
pub(crate) async fn two_lives(dir: &Path, disk: &FakeDisk) -> (Journal, u64, [u64; 2], PathBuf) {
    let journal = opened(dir, disk).unwrap();
    let kept = journal.publish(EVENT, 1).await.unwrap();
    journal.close().await;
    drop(journal);
    let journal = opened(dir, disk).unwrap();
    let lost = [journal.publish(EVENT, 1).await.unwrap(), journal.publish(EVENT, 1).await.unwrap()];
    (journal, kept, lost, dir.join(format!("{:020}.seg", lost[0])))
}

/// Where a note cannot be read there may be one: nothing is given out that it speaks of, and it stays.
#[tokio::test]
async fn a_note_that_cannot_be_read_is_not_forgotten() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
    let (journal, kept, [first, last], path) = two_lives(dir.path(), &disk).await;
    disk.remove(&path).unwrap();
    failed(&journal).await;
    drop(journal);
    unlocked(dir.path());
    let mut refusals = 0;
    with_each_ill_call(dir.path(), &disk.files(), async |disk, refused| {
        refusals += u32::from(refused);
        let journal = opened(dir.path(), &disk).unwrap();
        let told = gaps(&journal, kept).await;
        let [Told::Gap { from, to, .. }] = &told[..] else { panic!("{told:?}") };
        assert!(*from <= first && *to >= last, "{told:?}");
        journal.close().await;
    })
    .await;
    assert!(refusals > 5, "{refusals}");
}

/// The index of a newest segment that was removed is all that tells of it.
#[tokio::test]
async fn an_index_that_cannot_be_read_is_not_removed() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
    let (journal, _, _, path) = two_lives(dir.path(), &disk).await;
    journal.close().await;
    drop(journal);
    disk.remove(&path).unwrap();
    let index = path.with_extension("idx");
    assert!(disk.files().contains_key(&index));
    with_each_ill_call(dir.path(), &disk.files(), async |disk, refused| {
        assert!(refused && disk.files().contains_key(&index));
        let error = opened(dir.path(), &disk).unwrap_err();
        assert!(error.to_string().contains("is missing: its index is there"), "{error}");
    })
    .await;
}

pub(crate) type Harm = fn(&FakeDisk, &Path);

pub(crate) const HARMS: [(&str, Harm); 2] = [
    ("removed", |disk, path| disk.remove(path).unwrap()),
    ("cut", |disk, path| disk.put(path.to_owned(), disk.files()[path][..200].to_vec())),
];

/// What the writer waits for: room for a group, room or files for the next segment.
const WAITS: [(u32, Ill, usize); 3] =
    [(WRITE, Ill::Full, 1), (CREATE, Ill::Full, 5000), (CREATE, Ill::Files, 5000)];

/// Who makes room removes what is large. Then there may be none for long, and he starts rowcast again.
#[tokio::test]
async fn what_is_taken_while_the_writer_waits_is_missed_before_it_stops() {
    for (how, harm) in HARMS {
        for ((calls, ill, size), stop) in WAITS.into_iter().flat_map(|wait| [(wait, false), (wait, true)]) {
            let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
            let (journal, _, [first, _], path) = two_lives(dir.path(), &disk).await;
            let mut fixture = Fixture::over(journal.clone()).await;
            journal.publish(&[("custom.event", &vec![b'1'; size])], 1).await.unwrap();
            disk.plan(Some(Fault { calls, after: 0, ill, times: u32::MAX, waits: u32::MAX }));
            hand_over(&mut fixture).await;
            soon("the wait", journal.state().wait_for(|state| matches!(state, State::Full(_))))
                .await
                .unwrap();
            harm(&disk, &path);
            if stop {
                soon("the end", journal.close()).await;
            }
            failed(&journal).await;
            let State::Failed(why) = journal.state().borrow().clone() else { unreachable!() };
            assert!(
                why.contains(&format!("{first:020}.seg was {how}")),
                "{how}, {calls}, stop: {stop}: {why}"
            );
        }
    }
}

/// Another file has its name, and is no shorter.
const REPLACEMENTS: [(&str, Harm); 2] = [
    ("replaced by another file", |disk, path| {
        let mut bytes = disk.files()[path].clone();
        bytes[32] ^= 1;
        let crc = crc32c::crc32c(&bytes[..124]);
        bytes[124..128].copy_from_slice(&crc.to_le_bytes());
        replace(disk, path, bytes);
    }),
    ("replaced by a copy", |disk, path| replace(disk, path, disk.files()[path].clone())),
];

/// What leaves a name to the file that is written, so that only the look of each second finds it.
const STILL_NAMED: [(&str, Harm); 2] = [
    ("replaced by a copy", |disk, path| {
        // The file that is written has a name still.
        let bytes = disk.files()[path].clone();
        disk.rename(path, &path.with_extension("bak")).unwrap();
        disk.put(path.to_owned(), bytes);
    }),
    ("overwritten at its beginning", |disk, path| {
        disk.open(path).unwrap().write_at(&[0; 128], 0).unwrap();
    }),
];

#[tokio::test]
async fn a_file_whose_name_leads_elsewhere_is_missed_within_a_second() {
    for (how, harm) in STILL_NAMED {
        let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
        let (journal, _, [first, _], path) = two_lives(dir.path(), &disk).await;
        harm(&disk, &path);
        failed(&journal).await;
        let State::Failed(why) = journal.state().borrow().clone() else { unreachable!() };
        assert!(why.contains(&format!("{first:020}.seg was {how} while it was being written")), "{why}");
    }
}

fn replace(disk: &FakeDisk, path: &Path, bytes: Vec<u8>) {
    disk.remove(path).unwrap();
    disk.put(path.to_owned(), bytes);
}

/// What Postgres was not told of comes again. No tick looks at the file before.
#[tokio::test]
async fn nothing_is_confirmed_out_of_a_file_that_is_not_there_any_more() {
    for sync in [Sync::Always, Sync::Interval(Duration::from_secs(3600))] {
        for (how, harm) in HARMS.into_iter().chain(REPLACEMENTS) {
            let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
            let options = Options { sync, ahead_bytes: 0, ..small(dir.path()) };
            let journal = open_standing(options, Arc::new(disk.clone()));
            let mut fixture = Fixture::over(journal.clone()).await;
            fixture.transaction(1, "confirmed").await;
            let (before, mut head) = (fixture.lsn, journal.head());
            head.mark_unchanged();
            let newest = disk.names().into_iter().rfind(|name| name.ends_with(".seg")).unwrap();
            if sync == Sync::Always {
                harm(&disk, Path::new(&newest));
                hand_over(&mut fixture).await;
            } else {
                hand_over(&mut fixture).await;
                soon("it is shown", head.changed()).await.unwrap();
                harm(&disk, Path::new(&newest));
                fixture.ingest.hasten();
            }
            failed(&journal).await;
            let State::Failed(why) = journal.state().borrow().clone() else { unreachable!() };
            assert!(why.contains(&format!("{newest} was {how} while it was being written")), "{why}");
            assert_eq!(journal.durable().borrow().0, before, "{how}, {sync:?}");
        }
    }
}

/// No room comes, and it is started again: what was taken is told all the same.
#[tokio::test]
async fn what_is_taken_for_want_of_room_is_a_gap_though_none_comes() {
    for (how, harm) in HARMS {
        for (calls, ill, size) in WAITS {
            let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
            let (journal, kept, _, path) = two_lives(dir.path(), &disk).await;
            let mut fixture = Fixture::over(journal.clone()).await;
            let last = journal.publish(&[("custom.event", &vec![b'1'; size])], 1).await.unwrap();
            let calls = if ill == Ill::Files { calls | OPEN } else { calls | WRITE };
            disk.plan(Some(Fault { calls, after: 0, ill, times: u32::MAX, waits: u32::MAX }));
            hand_over(&mut fixture).await;
            soon("the wait", journal.state().wait_for(|state| matches!(state, State::Full(_))))
                .await
                .unwrap();
            let before = disk.names().len();
            harm(&disk, &path);
            soon("the end", journal.close()).await;
            failed(&journal).await;
            assert!(disk.names().len() <= before);
            drop((fixture, journal));
            disk.plan(None);
            let journal = opened(dir.path(), &disk).unwrap();
            let told = gaps(&journal, kept).await;
            let [Told::Gap { to, .. }] = &told[..] else { panic!("{how}, {calls}: {told:?}") };
            assert!(*to >= last, "{told:?} {last}");
            assert!(journal.publish(EVENT, 1).await.unwrap() > last + 1);
            journal.close().await;
        }
    }
}

/// A client that has kept table 2 under its number would read another one with it.
#[tokio::test]
async fn numbers_of_tables_are_not_given_again() {
    for all in [false, true] {
        let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
        let (journal, _, _, path) = two_lives(dir.path(), &disk).await;
        let mut fixture = Fixture::over(journal.clone()).await;
        fixture.orders = journal.register(table("second")).unwrap();
        fixture.transaction(1, "shown").await;
        let given = fixture.orders.id;
        let segments = disk.names().into_iter().filter(|name| name.ends_with(".seg"));
        for name in segments.filter(|name| all || Path::new(name) == path) {
            disk.remove(Path::new(&name)).unwrap();
            let _ = disk.remove(&Path::new(&name).with_extension("idx"));
        }
        failed(&journal).await;
        drop((fixture, journal));
        // The second one has no note any more that tells of it.
        for name in ["third", "fourth"] {
            let journal = opened(dir.path(), &disk).unwrap();
            let id = journal.register(table(name)).unwrap().id;
            assert!(id > given, "{name}: {id}, {given} was given");
            journal.close().await;
        }
    }
}

#[tokio::test]
async fn whole_events_that_a_cut_has_left_are_kept() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
    let (journal, kept, [_, last], path) = two_lives(dir.path(), &disk).await;
    let whole = disk.files()[&path].clone();
    let lost = journal.publish(EVENT, 1).await.unwrap();
    disk.put(path.clone(), whole);
    failed(&journal).await;
    drop(journal);
    let journal = opened(dir.path(), &disk).unwrap();
    let told = gaps(&journal, kept).await;
    let [Told::Gap { from, to, .. }] = &told[..] else { panic!("{told:?}") };
    assert!(*from == last + 1 && *to >= lost, "{told:?}, {last}");
}

#[tokio::test]
async fn one_taking_after_the_other_is_told_and_what_comes_back_then_is_refused() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
    let (journal, kept, [first, _], path) = two_lives(dir.path(), &disk).await;
    let taken = disk.files()[&path].clone();
    disk.remove(&path).unwrap();
    failed(&journal).await;
    drop(journal);
    let journal = opened(dir.path(), &disk).unwrap();
    let second = journal.publish(EVENT, 1).await.unwrap();
    disk.remove(&dir.path().join(format!("{second:020}.seg"))).unwrap();
    failed(&journal).await;
    drop(journal);
    let journal = opened(dir.path(), &disk).unwrap();
    let told = gaps(&journal, kept).await;
    let [Told::Gap { from, .. }, .., Told::Gap { to, .. }] = &told[..] else { panic!("{told:?}") };
    assert!(*from <= first && *to >= second, "{told:?}");
    assert!(journal.publish(EVENT, 1).await.unwrap() > second + 1);
    journal.close().await;
    drop(journal);
    disk.put(path.clone(), taken);
    let error = opened(dir.path(), &disk).unwrap_err();
    assert!(error.to_string().contains(".seg is damaged: it continues after event"), "{error}");
}
