//! `sync = "interval"`: shown at once, synced within the interval, and confirmed only then.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rowcast_engine::Lsn;
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Options};
use rowcast_engine::record::Builder;

use crate::disk::FakeDisk;
use crate::random::Random;
use crate::room::soon;
use crate::support::{Fixture, read_all, table, unlocked};

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

fn lazy(dir: &Path, interval: Duration) -> Options {
    Options { sync: journal::Sync::Interval(interval), ..Options::new(dir) }
}

/// A journal that syncs at intervals, with one transaction, which brought the table's description, and one more that it
/// has shown.
async fn shown_at_once(disk: &FakeDisk, dir: &Path, interval: Duration) -> Fixture {
    let journal = journal::open(lazy(dir, interval), Arc::new(disk.clone())).unwrap();
    let mut fixture = Fixture::over(journal).await;
    show(&mut fixture, "first").await;
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
        assert_eq!(read_all(fixture.journal(), 0).len(), 2 + more, "shown");
        assert_eq!(disk.calls().1, syncs, "nothing is synced");
        assert_eq!(fixture.journal().position().lsn, confirmed, "nothing is confirmed");
        assert!(confirmed < Lsn(fixture.lsn));
    }
    // So a power cut may take it, which a synced transaction would survive.
    let left = |seed| {
        let after = disk.after_power_cut(&mut Random::new(seed));
        journal::check(dir.path(), &after).map_or(0, |report| report.events)
    };
    assert!((0..100).any(|seed| left(seed) < 5));
    // Who waits for an answer has it synced, and all before it is then confirmed.
    fixture.journal().publish(&[("custom.event", b"1")], 1).await.unwrap();
    assert_eq!(disk.calls().1, syncs + 1);
    assert_eq!(fixture.journal().position().lsn, Lsn(fixture.lsn));
    assert!((0..100).all(|seed| left(seed) == 6));
}

/// A new connection, a server that stops, a commit that waits: none of them waits for the interval.
#[tokio::test]
async fn who_waits_for_it_has_it_synced() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let mut fixture = shown_at_once(&disk, dir.path(), Duration::from_secs(3600)).await;
    let ingest = Ingest::new(fixture.journal().clone());
    for settles in [true, false] {
        show(&mut fixture, "y").await;
        let syncs = disk.calls().1;
        assert!(fixture.journal().position().lsn < Lsn(fixture.lsn));
        if settles {
            soon("the sync", ingest.settled()).await.unwrap();
        } else {
            ingest.hasten();
            soon("the sync", fixture.durable()).await;
        }
        assert_eq!(fixture.journal().position().lsn, Lsn(fixture.lsn));
        assert_eq!(disk.calls().1, syncs + 1);
        soon("nothing", ingest.settled()).await.unwrap();
        assert_eq!(disk.calls().1, syncs + 1, "there is nothing left to sync");
    }
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
    assert_eq!(journal::check(dir.path(), &after).unwrap().events, 2);
}

/// Whatever the second's ticks do: one that comes just behind such a tick would wait for the next but one.
#[tokio::test]
async fn the_interval_is_the_longest_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = shown_at_once(&FakeDisk::default(), dir.path(), Duration::from_secs(1)).await;
    fixture.durable().await;
    let mut shortest = Duration::MAX;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let shown = Instant::now();
        show(&mut fixture, "y").await;
        fixture.durable().await;
        let waited = shown.elapsed();
        assert!(waited >= Duration::from_millis(900), "{waited:?}");
        shortest = shortest.min(waited);
    }
    // Each of them would take almost two.
    assert!(shortest < Duration::from_millis(1800), "{shortest:?}");
}

/// Readers know it, a Kafka record names it: after a power cut another version must not have it.
#[tokio::test]
async fn a_version_that_was_shown_keeps_its_number() {
    for seed in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let disk = FakeDisk::default();
        let mut fixture = shown_at_once(&disk, dir.path(), Duration::from_secs(3600)).await;
        fixture.orders = fixture.journal().register(table("second")).unwrap();
        show(&mut fixture, "of another version").await;
        let shown = fixture.orders.id;
        let after = Arc::new(disk.after_power_cut(&mut Random::new(seed)));
        // All before it was synced with it.
        fixture.durable().await;
        drop(fixture);
        unlocked(dir.path());
        let journal = journal::open(lazy(dir.path(), Duration::from_secs(3600)), after).unwrap();
        assert!(journal.register(table("third")).unwrap().id > shown, "seed {seed}");
        journal.close().await;
    }
}

/// An opening leaves out as many numbers as may have been shown and lost.
#[tokio::test]
async fn no_more_than_a_million_events_wait_for_their_sync() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let mut fixture = shown_at_once(&disk, dir.path(), Duration::from_secs(3600)).await;
    let syncs = disk.calls().1;
    for (rows, more) in [(1_u64 << 19, 0), (1 << 19, 1), (1 << 19, 1)] {
        let mut head = fixture.journal().head();
        let before = *head.borrow_and_update();
        let mut builder = Builder::new();
        fixture.begin(&mut builder);
        (0..rows).for_each(|_| fixture.row(&mut builder, ""));
        fixture.commit(&mut builder);
        let room = fixture.ingest.room().await.unwrap();
        room.append(fixture.journal(), builder.take(), Lsn(fixture.lsn));
        head.wait_for(|head| *head >= before + rows).await.unwrap();
        assert_eq!(disk.calls().1, syncs + more);
    }
}

/// Each opening leaves out a second's numbers, and not many: an empty directory, which begins at the clock, must not give
/// them again.
#[tokio::test]
async fn many_openings_do_not_run_away_from_the_clock() {
    let dir = tempfile::tempdir().unwrap();
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as u64;
    let mut given = 0;
    for _ in 0..10 {
        let journal = journal::open(lazy(dir.path(), Duration::from_secs(1)), Arc::new(RealDisk)).unwrap();
        let id = journal.publish(&[("custom.event", b"1")], 1).await.unwrap();
        assert!(id > given);
        given = id;
        journal.close().await;
    }
    assert!(given < clock() + 11_000_000, "{} s ahead", (given - clock()) / 1_000_000);
}

/// A copy is put back in the place of the journal that went on without it.
#[tokio::test]
async fn a_copy_that_is_put_back_gives_no_number_again() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = |dir: &Path| journal::open(lazy(dir, Duration::from_secs(1)), Arc::new(RealDisk)).unwrap();
    let one = async |journal: journal::Journal| {
        let id = journal.publish(&[("custom.event", b"1")], 1).await.unwrap();
        journal.close().await;
        id
    };
    one(open(dir.path())).await;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let given = one(open(dir.path())).await;
    // Nobody puts a copy back within a second or two.
    tokio::time::sleep(Duration::from_millis(2_200)).await;
    assert!(one(open(copy.path())).await > given);
}
