//! How much is read to open a journal and to find a place in it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rowcast_engine::Lsn;
use rowcast_engine::journal::{self, Compression, Options, Read, Start, first_of_last, for_each_event};

use crate::disk::FakeDisk;
use crate::rounds::open_standing;
use crate::seam::WatchedDisk;
use crate::support::{Fixture, read_all, unlocked};

/// As far apart as the index's entries are.
const STRIDE: u64 = 256 << 10;
/// The last batch before an entry reaches beyond it, and so does the one looked for.
const BATCH: u64 = 16 << 10;
const HEADER: u64 = 128;

fn options(dir: &Path) -> Options {
    let mut options = Options::new(dir);
    options.segment_bytes = 3 << 20;
    options.cache_bytes = 1000;
    options.compression = Compression::None;
    options
}

async fn filled(dir: &Path) -> Fixture {
    let mut fixture = Fixture::open(options(dir)).await;
    for _ in 0..900 {
        fixture.transaction(100, "a row of a table that has some text in it").await;
    }
    assert!(fixture.journal().summary().bytes > 6 << 20);
    fixture
}

#[tokio::test]
async fn a_clean_journal_opens_without_a_scan() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = filled(dir.path()).await;
    let (all, lsn) = (read_all(fixture.journal(), 0), fixture.lsn);
    fixture.journal().close().await;
    drop(fixture);
    let disk = WatchedDisk::default();
    let journal = journal::open(options(dir.path()), Arc::new(disk.clone())).unwrap();
    let segments = journal.summary().segments as u64;
    let read = disk.0.read.load(Ordering::SeqCst);
    assert!(read <= segments * HEADER + STRIDE + BATCH, "{read} bytes read to open {segments} segments");
    assert_eq!(read_all(&journal, 0), all);
    assert_eq!((journal.position().lsn, journal.last_tx_end()), (Lsn(lsn), Lsn(lsn)));
    // The second opening finds an empty segment at the end.
    journal.close().await;
    drop(journal);
    let disk = WatchedDisk::default();
    let journal = journal::open(options(dir.path()), Arc::new(disk.clone())).unwrap();
    let read = disk.0.read.load(Ordering::SeqCst);
    assert!(read <= (segments + 1) * HEADER + 2 * STRIDE, "{read} bytes read");
    assert_eq!(read_all(&journal, 0), all);
}

#[tokio::test]
async fn no_more_than_a_stride_is_read_to_find_a_place() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = filled(dir.path()).await;
    let all = read_all(fixture.journal(), 0);
    fixture.journal().close().await;
    drop(fixture);
    let disk = WatchedDisk::default();
    let journal = open_standing(options(dir.path()), Arc::new(disk.clone()));
    let first = 1_800_000_000_000_000 + 1100;
    for at in (0..900).step_by(13) {
        let before = disk.0.read.load(Ordering::SeqCst);
        let found = journal.seek_time(first + at * 100).unwrap();
        let read = disk.0.read.load(Ordering::SeqCst) - before;
        let expected = all[usize::try_from(at).unwrap() * 100].0 - 1;
        assert_eq!(found, expected, "the place of transaction {at}");
        assert!(read <= HEADER + 2 * STRIDE + BATCH, "{read} bytes read to find transaction {at}");
    }
    let before = disk.0.read.load(Ordering::SeqCst);
    for count in [1, 1000, 50_000] {
        assert_eq!(journal.seek_last(count), all[all.len() - usize::try_from(count).unwrap()].0 - 1);
    }
    assert_eq!(disk.0.read.load(Ordering::SeqCst), before, "counting back reads nothing");
}

/// Of a number as of a time, whichever form the segments have.
#[tokio::test]
async fn no_more_than_a_stride_is_read_to_go_on_behind_a_number() {
    for compression in [Compression::None, Compression::Zstd] {
        let dir = tempfile::tempdir().unwrap();
        let fixture = filled(dir.path()).await;
        let all = read_all(fixture.journal(), 0);
        fixture.journal().close().await;
        drop(fixture);
        unlocked(dir.path());
        let disk = WatchedDisk::default();
        let options = Options { compression, ..options(dir.path()) };
        let journal = journal::open(options, Arc::new(disk.clone())).unwrap();
        if compression == Compression::Zstd {
            crate::compression::until_compressed(&journal).await;
        }
        // The newest segment has its place behind those that are closed.
        for at in (0..all.len()).step_by(7013) {
            let before = disk.0.read.load(Ordering::SeqCst);
            let Read::Batches(batches) = journal.read_little(all[at].0 - 1).unwrap() else { panic!("{at}") };
            let read = disk.0.read.load(Ordering::SeqCst) - before;
            assert!(batches[0].first() <= all[at].0 && all[at].0 <= batches[0].last(), "event {at}");
            // It is found, and read with what is next to it.
            assert!(read <= HEADER + 3 * STRIDE + BATCH, "{compression:?}: {read} bytes read for event {at}");
        }
        journal.close().await;
    }
}

/// Older batches come by the megabyte, and who follows reads nothing from the disk.
#[tokio::test]
async fn what_is_old_is_read_in_large_pieces_and_what_is_new_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = filled(dir.path()).await;
    fixture.journal().close().await;
    drop(fixture);
    unlocked(dir.path());
    let disk = WatchedDisk::default();
    let options = Options { cache_bytes: 1 << 20, ..options(dir.path()) };
    // Else the look of each second at two files would be counted.
    let mut fixture = Fixture::over(open_standing(options, Arc::new(disk.clone()))).await;
    let count = || (disk.0.read.load(Ordering::SeqCst), disk.0.reads.load(Ordering::SeqCst));
    let (before, segments) = (count(), fixture.journal().summary().segments as u64);
    let all = read_all(fixture.journal(), 0);
    let (bytes, calls) = (count().0 - before.0, count().1 - before.1);
    println!("{} events: {bytes} bytes in {calls} reads of {segments} segments", all.len());
    assert!(calls <= 4 * (bytes >> 20) + 8 * segments, "{calls} reads for {bytes} bytes");

    let (before, mut after) = (count(), fixture.journal().newest());
    for round in 0..1000 {
        fixture.transaction(1, "new").await;
        let Read::Batches(batches) = fixture.journal().read(after).unwrap() else { panic!("{round}") };
        after = batches.last().unwrap().last();
    }
    assert_eq!(count(), before, "who follows has it from memory");
    fixture.journal().close().await;
}

/// As `rowcast journal show` does, with rowcast running and without.
#[tokio::test]
async fn who_only_looks_finds_a_place_as_quickly() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = filled(dir.path()).await;
    let all = read_all(fixture.journal(), 0);
    let looked = |start: Start| {
        let (disk, mut first) = (WatchedDisk::default(), None);
        for_each_event(dir.path(), &disk, start, |event| {
            first = Some((event.id, event.at));
            false
        })
        .unwrap();
        (first, disk.0.read.load(Ordering::SeqCst))
    };
    let last = |count: usize| {
        let disk = WatchedDisk::default();
        let first = first_of_last(dir.path(), &disk, count as u64).unwrap();
        (first, disk.0.read.load(Ordering::SeqCst))
    };
    for running in [true, false] {
        // The segment that is being written has no index yet: it is read, and no other.
        let newest = if running { 3 << 20 } else { STRIDE + BATCH };
        for at in (0..all.len()).step_by(7013) {
            let (found, read) = looked(Start::Number(all[at].0));
            let (id, time) = found.unwrap();
            assert_eq!(id, all[at].0);
            assert!(read <= newest.max(1 << 20) + (1 << 20), "{read} bytes read to find {id}");
            let (found, read) = looked(Start::Time(time));
            assert_eq!(found.unwrap(), (all[at / 100 * 100].0, time), "the first of its transaction");
            assert!(read <= newest.max(1 << 20) + (1 << 20), "{read} bytes read to find a time");
        }
        for count in [1, 100, 1000, all.len() - 1, all.len(), all.len() + 1] {
            let (found, read) = last(count);
            assert_eq!(found, Some(all[all.len() - count.min(all.len())].0), "the last {count}");
            assert!(read <= newest + 10 * HEADER, "{read} bytes read to find the last {count}");
        }
        assert_eq!(last(0).0, None);
        fixture.journal().close().await;
    }
}

#[tokio::test]
async fn an_index_of_an_earlier_file_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = filled(dir.path()).await;
    let all = read_all(fixture.journal(), 0);
    fixture.journal().close().await;
    drop(fixture);
    let newest = crate::damage::segments(dir.path()).pop().unwrap();
    // Of the same name and length.
    let index = newest.with_extension("idx");
    let earlier = fs::read(&index).unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    bytes[32] ^= 1;
    let crc = crc32c::crc32c(&bytes[..124]);
    bytes[124..128].copy_from_slice(&crc.to_le_bytes());
    fs::write(&newest, &bytes).unwrap();
    let disk = WatchedDisk::default();
    let journal = journal::open(options(dir.path()), Arc::new(disk.clone())).unwrap();
    assert!(disk.0.read.load(Ordering::SeqCst) >= bytes.len() as u64, "it was scanned");
    assert_ne!(fs::read(&index).unwrap(), earlier, "and has an index of its own now");
    assert_eq!(read_all(&journal, 0), all);
}

#[tokio::test]
async fn a_segment_closed_at_the_end_of_a_run_grows_old_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(options(dir.path())).await;
    fixture.transaction(10, "soon too old").await;
    let oldest = fixture.journal().oldest();
    fixture.journal().close().await;
    drop(fixture);
    let mut options = options(dir.path());
    options.retention = Duration::from_millis(100);
    let journal = journal::open(options, Arc::new(WatchedDisk::default())).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while journal.oldest() == oldest {
        assert!(tokio::time::Instant::now() < deadline, "its index does not say when it was closed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What an idle stream has told at the end of a segment is longer than a stride, and no event has the number.
#[tokio::test]
async fn a_place_between_two_openings_is_found_behind_an_idle_tail() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
    let open = || journal::open(Options::new(dir.path()), Arc::new(disk.clone())).unwrap();
    let mut fixture = Fixture::over(open()).await;
    fixture.transaction(1, "before").await;
    let before = fixture.journal().newest();
    for lsn in 1..3000 {
        fixture.ingest.advance(Lsn(fixture.lsn + lsn)).await.unwrap();
    }
    fixture.journal().close().await;
    drop(fixture);
    unlocked(dir.path());
    let mut fixture = Fixture::over(open()).await;
    fixture.transaction(1, "behind").await;
    fixture.journal().close().await;
    let behind = fixture.journal().newest();
    for number in [before, before + 1, behind] {
        let mut found = Vec::new();
        for_each_event(dir.path(), &disk, Start::Number(number), |event| {
            found.push(event.id);
            true
        })
        .unwrap();
        assert_eq!(found.first(), Some(&if number == before { before } else { behind }), "{number}");
    }
}
