//! No file can be opened, or none be read, while something is missing: it is missed all the same, as soon as one can.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rowcast_engine::Lsn;
use rowcast_engine::ingest::{finish_spill, spill_parts};
use rowcast_engine::journal::disk::Disk as _;
use rowcast_engine::journal::{self, CheckReport, Journal, Options, State, StreamPosition, repair};

use crate::damage::{Told, small};
use crate::disk::{CREATE, FakeDisk, Fault, Ill, LIST, OPEN, READ, SYNC_DIR};
use crate::room::{huge, soon};
use crate::support::{Fixture, unlocked};
use crate::taken::{EVENT, HARMS, failed, gaps, opened, two_lives, with};

const NO_FILES: Fault =
    Fault { calls: CREATE | OPEN, after: 0, ill: Ill::Files, times: u32::MAX, waits: u32::MAX };

/// An opening that finds all its files, and then cannot make one.
fn opened_without_files(dir: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) -> (Journal, FakeDisk) {
    for after in 0..200 {
        let disk = with(files);
        disk.plan(Some(Fault { after, ..NO_FILES }));
        if let Ok(journal) = opened(dir, &disk) {
            return (journal, disk);
        }
    }
    panic!("no opening waits");
}

/// Opens what was left: readers are told a gap up to the last one that is lost, at least.
async fn told_as_lost(dir: &Path, disk: &FakeDisk, (kept, last): (u64, u64), how: &str) -> Journal {
    let journal = opened(dir, disk).unwrap();
    let told = gaps(&journal, kept).await;
    let [Told::Gap { to, .. }] = &told[..] else { panic!("{how}: {told:?}") };
    assert!(*to >= last, "{told:?} {last}");
    journal
}

/// Hands over a huge transaction, whose file then waits under its name until files can be opened.
async fn huge_without_files(fixture: &mut Fixture, disk: &FakeDisk) {
    let journal = fixture.journal().clone();
    let (mut builder, parts) = huge(fixture);
    let spill = spill_parts(journal.spill().unwrap(), parts).await.unwrap();
    let spill = finish_spill(spill, builder.take_tail(Lsn(fixture.lsn))).await.unwrap();
    disk.plan(Some(Fault { calls: NO_FILES.calls | SYNC_DIR, ..NO_FILES }));
    let room = fixture.ingest.room().await.unwrap();
    room.adopt(&journal, spill, Lsn(fixture.lsn), 1_800_000_000_000_000);
    soon("the wait", journal.state().wait_for(|state| matches!(state, State::Full(_)))).await.unwrap();
}

/// What begins behind a hole is refused by the next opening.
#[tokio::test]
async fn no_segment_begins_behind_one_that_could_not_be_looked_at() {
    for (how, harm) in HARMS {
        let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
        let (journal, kept, [_, last], path) = two_lives(dir.path(), &disk).await;
        journal.close().await;
        drop(journal);
        let (journal, disk) = opened_without_files(dir.path(), &disk.files());
        assert!(matches!(*journal.state().borrow(), State::Full(_)), "{:?}", journal.state());
        disk.hold(true);
        disk.until_held();
        harm(&disk, &path);
        // It need not have one yet.
        let _ = disk.remove(&path.with_extension("idx"));
        // The next look fails once more, and then files can be opened.
        disk.plan(Some(Fault { calls: OPEN, times: 1, ..NO_FILES }));
        disk.hold(false);
        failed(&journal).await;
        let State::Failed(why) = journal.state().borrow().clone() else { unreachable!() };
        assert!(why.contains(&format!("{} was {how}", path.display())), "{why}");
        drop(journal);
        let journal = told_as_lost(dir.path(), &disk, (kept, last), how).await;
        journal.close().await;
    }
}

/// The file of a huge transaction has its name already.
#[tokio::test]
async fn what_is_taken_while_a_huge_transaction_waits_for_files_is_missed() {
    for (how, harm) in HARMS {
        let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
        let (journal, kept, [_, last], path) = two_lives(dir.path(), &disk).await;
        let mut fixture = Fixture::over(journal.clone()).await;
        let before = journal.position().lsn;
        huge_without_files(&mut fixture, &disk).await;
        harm(&disk, &path);
        failed(&journal).await;
        let State::Failed(why) = journal.state().borrow().clone() else { unreachable!() };
        assert!(why.contains(&format!("{} was {how}", path.display())), "{why}");
        assert_eq!(journal.position().lsn, before);
        drop((fixture, journal));
        disk.plan(None);
        let journal = told_as_lost(dir.path(), &disk, (kept, last), how).await;
        assert!(journal.position().lsn <= before, "it comes again");
        assert!(journal.publish(EVENT, 1).await.unwrap() > last + 1);
        journal.close().await;
    }
}

/// A new history has its name, too, before the directory is synced.
#[tokio::test]
async fn no_history_begins_behind_what_is_taken_while_it_waits_for_files() {
    for (how, harm) in HARMS {
        let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
        let (journal, kept, [_, last], path) = two_lives(dir.path(), &disk).await;
        let fixture = Fixture::over(journal.clone()).await;
        disk.plan(Some(Fault { calls: SYNC_DIR, ..NO_FILES }));
        let position = StreamPosition { lsn: Lsn(77), ..journal.position() };
        let ingest = fixture.ingest.clone();
        let begun = tokio::spawn(async move {
            ingest.begin_history(position, ("source_lost", "x"), 5, &[]).await.map(drop)
        });
        soon("the wait", journal.state().wait_for(|state| matches!(state, State::Full(_)))).await.unwrap();
        harm(&disk, &path);
        // Nor need it have got an index, for want of files.
        disk.remove(&path.with_extension("idx")).unwrap();
        failed(&journal).await;
        begun.await.unwrap().unwrap_err();
        drop((fixture, journal));
        disk.plan(None);
        let journal = told_as_lost(dir.path(), &disk, (kept, last), how).await;
        journal.close().await;
    }
}

/// Who makes room removes what is large: the file of the huge transaction itself.
#[tokio::test]
async fn a_huge_transaction_whose_file_is_taken_while_it_waits_is_not_confirmed() {
    for (how, harm) in HARMS {
        let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
        let (journal, kept, [_, last], _) = two_lives(dir.path(), &disk).await;
        let mut fixture = Fixture::over(journal.clone()).await;
        let before = journal.position().lsn;
        let known = disk.files();
        huge_without_files(&mut fixture, &disk).await;
        let is_new = |path: &PathBuf| {
            path.extension().is_some_and(|found| found == "seg") && !known.contains_key(path)
        };
        let path = disk.files().into_keys().find(is_new).expect("it has its name");
        harm(&disk, &path);
        // Files can be opened again, once it has been looked at.
        disk.plan(Some(Fault { calls: SYNC_DIR, times: 2, ..NO_FILES }));
        failed(&journal).await;
        let State::Failed(why) = journal.state().borrow().clone() else { unreachable!() };
        assert!(why.contains(&format!("was {how} before it was taken in")), "{why}");
        assert_eq!(journal.position().lsn, before);
        drop((fixture, journal));
        disk.plan(None);
        if disk.files().contains_key(&path) {
            disk.remove(&path).unwrap();
        }
        let journal = opened(dir.path(), &disk).unwrap();
        assert_eq!(gaps(&journal, kept).await.len(), 0);
        assert!(journal.position().lsn <= before && journal.newest() == last, "it comes again");
        journal.close().await;
    }
}

/// Each call in turn that looks for files or reads them, made to fail once.
fn with_each_ill_call(files: &BTreeMap<PathBuf, Vec<u8>>, mut then: impl FnMut(&FakeDisk)) {
    for (calls, ill) in [(LIST, Ill::Forbidden), (OPEN, Ill::Files), (READ, Ill::Broken)] {
        for after in 0.. {
            let disk = with(files);
            disk.plan(Some(Fault { calls, after, ill, times: 1, waits: u32::MAX }));
            then(&disk);
            if !disk.is_well() {
                break;
            }
        }
    }
}

/// A journal whose newest segment was cut to its header while it was written, and that lacks the first one, or all others.
async fn holed(dir: &Path, all_others: bool) -> (FakeDisk, Vec<PathBuf>) {
    let disk = FakeDisk::default();
    let journal = journal::open(Options { ahead_bytes: 0, ..small(dir) }, Arc::new(disk.clone())).unwrap();
    let mut fixture = Fixture::over(journal.clone()).await;
    for _ in 0..30 {
        fixture.transaction(3, &"x".repeat(400)).await;
    }
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|found| found == "seg");
    let mut segments: Vec<_> = disk.files().into_keys().filter(is_segment).collect();
    let newest = segments.pop().unwrap();
    disk.put(newest.clone(), disk.files()[&newest][..128].to_vec());
    failed(&journal).await;
    drop((fixture, journal));
    unlocked(dir);
    let gone = if all_others { segments.len() } else { 1 };
    segments.drain(..gone).for_each(|path| disk.remove(&path).unwrap());
    (disk, segments)
}

/// Where it cannot be seen whether something is missing nobody is told that nothing is.
#[tokio::test]
async fn what_cannot_be_read_is_no_sign_that_nothing_is_missing() {
    for all_others in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (disk, segments) = holed(dir.path(), all_others).await;
        let missing = |disk: &FakeDisk| {
            journal::check(dir.path(), disk).map(|CheckReport { missing, taken, .. }| (missing, taken))
        };
        let whole = missing(&disk).unwrap();
        assert!(whole.0.is_some() && whole.1.is_some(), "{whole:?}");
        let mut refusals = 0;
        with_each_ill_call(&disk.files(), |disk| match missing(disk) {
            Ok(found) => assert_eq!(found, whole),
            Err(error) => {
                refusals += 1;
                assert!(error.remedy().is_some(), "{error}");
            }
        });
        assert!(refusals > 5, "{refusals}");
        if all_others {
            continue;
        }
        // Where another hole is mended, this one is still to be told.
        disk.remove(&segments[segments.len() / 2]).unwrap();
        with_each_ill_call(&disk.files(), |disk| {
            if repair(dir.path(), disk, 0, false).is_ok() {
                assert_eq!(missing(&with(&disk.files())).unwrap().0, whole.0);
            }
        });
    }
}
