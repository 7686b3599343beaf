//! `sync = "interval"`: shown at once, synced within the interval, and confirmed only then.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rowcast_engine::Lsn;
use rowcast_engine::journal::{self, Options};
use rowcast_engine::record::Builder;

use crate::disk::FakeDisk;
use crate::random::Random;
use crate::support::{Fixture, read_all};

/// A transaction of one row, appended and shown.
async fn show(fixture: &mut Fixture, text: &str) {
    let mut head = fixture.journal().head();
    let before = *head.borrow_and_update();
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    fixture.row(&mut builder, text);
    fixture.commit(&mut builder);
    let room = fixture.ingest.room().await.unwrap();
    room.append(fixture.journal(), builder.take(), Lsn(fixture.lsn));
    let moved = head.wait_for(|head| *head > before);
    tokio::time::timeout(Duration::from_secs(5), moved).await.unwrap().unwrap();
}

/// A journal that syncs at intervals, and one transaction that it has shown.
async fn shown_at_once(disk: &FakeDisk, dir: &Path, interval: Duration) -> Fixture {
    let options = Options { sync: journal::Sync::Interval(interval), ..Options::new(dir) };
    let mut fixture = Fixture::over(journal::open(options, Arc::new(disk.clone())).unwrap()).await;
    show(&mut fixture, "x").await;
    fixture
}

#[tokio::test]
async fn shows_before_it_confirms() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let mut fixture = shown_at_once(&disk, dir.path(), Duration::from_secs(3600)).await;
    let (confirmed, syncs) = (fixture.journal().position().lsn, disk.calls().1);
    for more in 1..4 {
        show(&mut fixture, "y").await;
        assert_eq!(read_all(fixture.journal(), 0).len(), 1 + more, "shown");
        assert_eq!(disk.calls().1, syncs, "nothing is synced");
        assert_eq!(fixture.journal().position().lsn, confirmed, "nothing is confirmed");
        assert!(confirmed < Lsn(fixture.lsn));
    }
    // So a power cut may take it, which a synced transaction would survive.
    let left = |seed| {
        let after = disk.after_power_cut(&mut Random::new(seed));
        journal::check(dir.path(), &after).map_or(0, |report| report.events)
    };
    assert!((0..100).any(|seed| left(seed) < 4));
    // Who waits for an answer has it synced, and all before it is then confirmed.
    fixture.journal().publish(&[("custom.event", b"1")], 1).await.unwrap();
    assert_eq!(disk.calls().1, syncs + 1);
    assert_eq!(fixture.journal().position().lsn, Lsn(fixture.lsn));
    assert!((0..100).all(|seed| left(seed) == 5));
}

#[tokio::test]
async fn confirms_nothing_when_the_sync_fails() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let fixture = shown_at_once(&disk, dir.path(), Duration::from_secs(3600)).await;
    let confirmed = fixture.journal().position().lsn;
    disk.fail_syncs();
    fixture.journal().publish(&[("custom.event", b"1")], 1).await.unwrap_err();
    assert_eq!(fixture.journal().position().lsn, confirmed);
    assert!(confirmed < Lsn(fixture.lsn));
}

#[tokio::test]
async fn confirms_when_its_time_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let fixture = shown_at_once(&disk, dir.path(), Duration::from_millis(100)).await;
    let syncs = disk.calls().1;
    fixture.durable().await;
    assert_eq!(fixture.journal().position().lsn, Lsn(fixture.lsn));
    // It may have come while the event was waited for, not more than once.
    assert!(disk.calls().1 <= syncs + 1);
    let after = disk.after_power_cut(&mut Random::new(7));
    assert_eq!(journal::check(dir.path(), &after).unwrap().events, 1);
}
