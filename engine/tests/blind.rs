//! No file can be opened while something is missing: it is missed all the same, as soon as one can.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rowcast_engine::Lsn;
use rowcast_engine::ingest::{finish_spill, spill_parts};
use rowcast_engine::journal::disk::Disk as _;
use rowcast_engine::journal::{Journal, State};

use crate::damage::Told;
use crate::disk::{CREATE, FakeDisk, Fault, Ill, OPEN, SYNC_DIR};
use crate::room::{huge, soon};
use crate::support::Fixture;
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
        let journal = opened(dir.path(), &disk).unwrap();
        let told = gaps(&journal, kept).await;
        let [Told::Gap { to, .. }] = &told[..] else { panic!("{how}: {told:?}") };
        assert!(*to >= last, "{told:?} {last}");
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
        let (mut builder, parts) = huge(&mut fixture);
        let spill = spill_parts(journal.spill().unwrap(), parts).await.unwrap();
        let spill = finish_spill(spill, builder.take_tail(Lsn(fixture.lsn))).await.unwrap();
        disk.plan(Some(Fault { calls: NO_FILES.calls | SYNC_DIR, ..NO_FILES }));
        let room = fixture.ingest.room().await.unwrap();
        room.adopt(&journal, spill, Lsn(fixture.lsn), 1_800_000_000_000_000);
        soon("the wait", journal.state().wait_for(|state| matches!(state, State::Full(_)))).await.unwrap();
        harm(&disk, &path);
        failed(&journal).await;
        let State::Failed(why) = journal.state().borrow().clone() else { unreachable!() };
        assert!(why.contains(&format!("{} was {how}", path.display())), "{why}");
        assert_eq!(journal.position().lsn, before);
        drop((fixture, journal));
        disk.plan(None);
        let journal = opened(dir.path(), &disk).unwrap();
        let told = gaps(&journal, kept).await;
        let [Told::Gap { to, .. }] = &told[..] else { panic!("{how}: {told:?}") };
        assert!(*to >= last, "{told:?} {last}");
        assert!(journal.position().lsn <= before, "it comes again");
        assert!(journal.publish(EVENT, 1).await.unwrap() > last + 1);
        journal.close().await;
    }
}
