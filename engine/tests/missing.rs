//! The oldest segments go by retention, or by somebody else's hand: the second is told.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rowcast_engine::Kind;
use rowcast_engine::journal::disk::{Disk, RealDisk};
use rowcast_engine::journal::{self, Gone, Options, Start, backup, repair};

use crate::damage::{number_of, segments, small};
use crate::disk::FakeDisk;
use crate::log::logged;
use crate::said::{record, rendered};
use crate::support::{Fixture, read_all, unlocked};

const MISSING: &str = " are missing: ";

fn told(dir: &Path) -> Vec<String> {
    logged(dir.to_str().unwrap(), MISSING)
}

fn missing(dir: &Path) -> Option<Gone> {
    journal::check(dir, &RealDisk).unwrap().missing
}

/// A journal of some segments.
async fn written(options: Options) {
    let mut fixture = Fixture::open(options).await;
    for _ in 0..30 {
        fixture.transaction(3, &"x".repeat(400)).await;
    }
    fixture.journal().close().await;
}

async fn opened(dir: &Path) -> Vec<u64> {
    let fixture = Fixture::open(small(dir)).await;
    let read = read_all(fixture.journal(), 0).iter().map(|seen| seen.0).collect();
    fixture.journal().close().await;
    read
}

/// Removes so many of the oldest segments, and what stands beside them.
fn remove(dir: &Path, count: usize) {
    for path in segments(dir).iter().take(count) {
        fs::remove_file(path).unwrap();
        // The newest one of a run may have none.
        let _ = fs::remove_file(path.with_extension("idx"));
    }
}

#[tokio::test]
async fn segments_that_were_removed_by_hand_are_told_once() {
    record();
    let dir = tempfile::tempdir().unwrap();
    written(small(dir.path())).await;
    let whole = opened(dir.path()).await;
    assert_eq!((missing(dir.path()), told(dir.path())), (None, vec![]));
    let oldest = number_of(&segments(dir.path())[2]);
    remove(dir.path(), 2);
    let last = *whole.iter().rfind(|id| **id < oldest).unwrap();
    assert_eq!(missing(dir.path()), Some(Gone { from: 1, to: last }));
    let held: Vec<u64> = whole.iter().copied().filter(|id| *id > last).collect();
    for opening in 0..3 {
        assert_eq!(opened(dir.path()).await, held, "what is left is read");
        let told = told(dir.path());
        assert_eq!(told.len(), 1, "at opening {opening}: {told:?}");
        assert!(
            told[0].contains("ERROR") && told[0].contains(&format!("All events up to {last} are missing: "))
        );
        assert!(told[0].contains("rowcast journal backup"), "{told:?}");
    }
    assert_eq!(missing(dir.path()), None, "it has been told");
    assert!(rendered().contains("rowcast_journal_missing_total "));
    // And what goes from there on is missed again.
    remove(dir.path(), 1);
    assert_eq!(missing(dir.path()).unwrap().from, last + 1);
    opened(dir.path()).await;
    assert_eq!(told(dir.path()).len(), 2);
}

#[tokio::test]
async fn a_journal_whose_segments_are_all_gone_is_told() {
    record();
    let dir = tempfile::tempdir().unwrap();
    written(small(dir.path())).await;
    remove(dir.path(), usize::MAX);
    assert_eq!(opened(dir.path()).await, Vec::<u64>::new());
    let told = told(dir.path());
    assert!(told.len() == 1 && told[0].contains("All segments of the journal are missing"), "{told:?}");
}

/// Of one that an earlier version has written nobody knows what had gone; from its next opening on it is known.
#[tokio::test]
async fn where_it_is_not_noted_nothing_is_told() {
    record();
    for noted in [None, Some("rows"), Some("")] {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("removed");
        written(small(dir.path())).await;
        match noted {
            None => fs::remove_file(&note).unwrap(),
            Some(text) => fs::write(&note, text).unwrap(),
        }
        remove(dir.path(), 1);
        opened(dir.path()).await;
        assert_eq!((told(dir.path()), fs::read(&note).unwrap().len()), (vec![], 30), "{noted:?}");
        remove(dir.path(), 1);
        opened(dir.path()).await;
        assert_eq!(told(dir.path()).len(), 1, "{noted:?}");
    }
}

#[tokio::test]
async fn what_retention_takes_is_not_missed() {
    record();
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    written(small(dir.path())).await;
    let all = segments(dir.path()).len();
    written(Options { max_size: Some(8_000), ..small(dir.path()) }).await;
    let left = segments(dir.path());
    assert!(number_of(&left[0]) > 1 && left.len() < all, "{all} segments before: {left:?}");
    assert_eq!(missing(dir.path()), None);
    opened(dir.path()).await;
    assert_eq!(told(dir.path()), Vec::<String>::new());
    // A copy begins where it was taken.
    let copy = to.path().join("copy");
    backup(dir.path(), &copy).unwrap();
    assert_eq!(missing(&copy), None);
    remove(&copy, 1);
    assert!(missing(&copy).is_some());
}

/// A note that is there is written over. Where there is none, none is made: then nobody knows, and nothing is told.
#[tokio::test]
async fn a_full_disk_gets_its_room() {
    a_full_disk_gets_its_room_where(true).await;
    a_full_disk_gets_its_room_where(false).await;
}

async fn a_full_disk_gets_its_room_where(noted: bool) {
    let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
    let open = |retention| {
        let options = Options { retention, ..small(dir.path()) };
        Fixture::over(journal::open(options, Arc::new(disk.clone())).unwrap())
    };
    let mut fixture = open(Duration::from_secs(3600)).await;
    for _ in 0..10 {
        fixture.transaction(3, &"x".repeat(400)).await;
    }
    fixture.journal().close().await;
    let removed = || disk.files().get(&dir.path().join("removed")).cloned();
    let begins = |with: &[u8]| removed().is_some_and(|bytes| bytes.starts_with(with));
    assert!(begins(b"00000000000000000000\n"), "{:?}", removed());

    // Retention begins with the opening.
    let before = disk.names().len();
    let mut fixture = open(Duration::ZERO).await;
    let journal = fixture.journal().clone();
    disk.fill(true);
    if !noted {
        disk.remove(&dir.path().join("removed")).unwrap();
    }
    let full = fixture.transaction(3, "does not fit");
    let roomy = async {
        while disk.names().len() > before / 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let up_to = removed().map(|number| !number.starts_with(b"00000000000000000000\n"));
        assert_eq!(up_to, noted.then_some(true));
        disk.fill(false);
    };
    tokio::join!(full, roomy);
    journal.close().await;
    drop((fixture, journal));
    unlocked(dir.path());
    assert_eq!(journal::check(dir.path(), &disk).unwrap().missing, None);
    open(Duration::from_secs(3600)).await.journal().close().await;
    assert!(removed().is_some() && !begins(b"00000000000000000000\n"));
    assert_eq!(journal::check(dir.path(), &disk).unwrap().missing, None);
}

/// A digit that the disk has made another is no number.
#[tokio::test]
async fn a_note_that_is_damaged_is_none() {
    record();
    let dir = tempfile::tempdir().unwrap();
    written(small(dir.path())).await;
    written(Options { max_size: Some(8_000), ..small(dir.path()) }).await;
    let path = dir.path().join("removed");
    let mut note = fs::read(&path).unwrap();
    let digit = note.iter().position(|digit| (b'1'..=b'9').contains(digit)).unwrap();
    note[digit] -= 1;
    fs::write(&path, &note).unwrap();
    assert_eq!(missing(dir.path()), None);
    opened(dir.path()).await;
    assert_eq!(told(dir.path()), Vec::<String>::new());
    // As an earlier version writes it; this one gives it a checksum.
    let bare = fs::read(&path).unwrap()[..21].to_vec();
    fs::write(&path, &bare).unwrap();
    assert_eq!(missing(dir.path()), None);
    opened(dir.path()).await;
    assert!(fs::read(&path).unwrap().len() == 30 && fs::read(&path).unwrap().starts_with(&bare));
    remove(dir.path(), 1);
    assert!(missing(dir.path()).is_some());
}

/// A copy of nothing would take the place of a good one.
#[tokio::test]
async fn where_all_segments_are_gone_every_tool_says_so() {
    let dir = tempfile::tempdir().unwrap();
    written(small(dir.path())).await;
    remove(dir.path(), usize::MAX);
    let to = dir.path().join("copy");
    let errors = [
        journal::check(dir.path(), &RealDisk).map(drop),
        journal::for_each_event(dir.path(), &RealDisk, Start::Earliest, |_| true).map(drop),
        journal::first_of_last(dir.path(), &RealDisk, 3).map(drop),
        repair(dir.path(), &RealDisk, 0, true).map(drop),
        repair(dir.path(), &RealDisk, 0, false).map(drop),
        backup(dir.path(), &to).map(drop),
    ];
    for error in errors.map(Result::unwrap_err) {
        let words = error.to_string();
        assert!(error.kind() == Kind::Journal && words.contains("All segments of the journal"), "{error}");
        assert!(words.contains("events from 1 on") && error.remedy().unwrap().contains("Restore"), "{error}");
    }
    assert!(!to.exists());
}

/// Of what came before a segment whose header is damaged nothing is known: what its bridge says of that is no loss.
#[tokio::test]
async fn a_mended_beginning_is_not_missed() {
    record();
    let dir = tempfile::tempdir().unwrap();
    written(small(dir.path())).await;
    let oldest = segments(dir.path())[0].clone();
    let mut bytes = fs::read(&oldest).unwrap();
    bytes[..64].fill(0xff);
    fs::write(&oldest, bytes).unwrap();
    let report = repair(dir.path(), &RealDisk, 0, false).unwrap();
    assert_eq!((report.cuts.len(), report.gaps.len()), (1, 1), "{report:?}");
    assert_eq!(missing(dir.path()), None);
    Fixture::open(small(dir.path())).await.journal().close().await;
    assert_eq!(told(dir.path()), Vec::<String>::new());
    remove(dir.path(), 2);
    assert!(missing(dir.path()).is_some());
}
