//! The number of a schema version is never given to another one: clients have kept a table under it.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{Options, repair};

use crate::damage::segments;
use crate::support::{Fixture, table, unlocked, without_indexes};

/// Where this text stands in the newest segment.
fn place(dir: &Path, text: &str) -> u64 {
    let bytes = std::fs::read(segments(dir).pop().unwrap()).unwrap();
    bytes.windows(text.len()).position(|found| found == text.as_bytes()).expect("it is there") as u64
}

/// Two tables more, the second between two transactions.
async fn described(dir: &Path) -> (u32, u32) {
    let mut fixture = Fixture::open(Options::new(dir)).await;
    fixture.transaction(3, "first").await;
    let second = fixture.journal().register(table("second")).unwrap();
    fixture.orders = second.clone();
    fixture.transaction(3, "of the second").await;
    let third = fixture.journal().register(table("third")).unwrap();
    fixture.orders = third.clone();
    fixture.transaction(3, "of the third").await;
    fixture.transaction(3, "the end").await;
    fixture.journal().close().await;
    drop(fixture);
    unlocked(dir);
    (second.id, third.id)
}

async fn next(dir: &Path) -> u32 {
    let fixture = Fixture::open(Options::new(dir)).await;
    let id = fixture.journal().register(table("another")).unwrap().id;
    fixture.journal().close().await;
    drop(fixture);
    unlocked(dir);
    id
}

#[tokio::test]
async fn one_that_damage_has_taken_is_not_given_again() {
    // What stands behind the break says it; nothing does; an index does, as well.
    for (broken, killed) in [("\"table\":\"second\"", true), ("\"table\":\"third\"", true), ("first", false)]
    {
        let dir = tempfile::tempdir().unwrap();
        let (second, third) = described(dir.path()).await;
        assert!(second < third);
        if killed {
            without_indexes(dir.path());
        }
        let at = place(dir.path(), broken);
        let path = segments(dir.path()).pop().unwrap();
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"?", at).unwrap();
        let report = repair(dir.path(), &RealDisk, 0, false).unwrap();
        assert_eq!(report.gaps.len(), 1, "{report:?}");
        assert!(next(dir.path()).await > third, "{broken}");
    }
}

/// Of a journal of which nothing is left.
#[tokio::test]
async fn nor_where_all_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (_, third) = described(dir.path()).await;
    without_indexes(dir.path());
    let path = segments(dir.path()).pop().unwrap();
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"????", 0).unwrap();
    repair(dir.path(), &RealDisk, 0, false).unwrap();
    assert!(next(dir.path()).await > third);
}
