//! Moments at which something else happens: a crash between two batches, a tick between two groups, a full disk at
//! the end of a segment, a reconnect while a group is on its way.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rowcast_engine::feed::{Feed, Filter, From, Pattern};
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Journal, Options, State, StreamPosition};
use rowcast_engine::record::{Builder, PART_BYTES};
use rowcast_engine::{Lsn, ingest, stop};

use crate::disk::FakeDisk;
use crate::support::{Fixture, read_all, table, without_indexes};

/// Where batches end in a segment file, by their lengths.
pub(crate) fn batch_ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = vec![128];
    while let Some(length) = bytes.get(ends[ends.len() - 1] + 8..).and_then(|rest| rest.first_chunk::<4>()) {
        ends.push(ends[ends.len() - 1] + u32::from_le_bytes(*length) as usize);
    }
    ends
}

fn segment_with_most(dir: &Path) -> std::path::PathBuf {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let segments = paths.filter(|path| path.extension().is_some_and(|found| found == "seg"));
    segments.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

#[tokio::test]
async fn a_crash_after_any_batch_leaves_whole_transactions() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    fixture.transaction(3, "before").await;
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    for part in 0..4 {
        // Each part brings a table that the segment does not know yet.
        fixture.orders = fixture.journal().register(table(&format!("part{part}"))).unwrap();
        for _ in 0..1100 {
            fixture.row(&mut builder, &"w".repeat(1000));
        }
    }
    builder.commit_with(Lsn(fixture.lsn), &[("with".to_owned(), b"1".to_vec())]);
    fixture.submit(&mut builder).await;
    let all = read_all(fixture.journal(), 0);
    let (before, large) = (3, 4400);
    assert_eq!(all.len(), before + large);
    fixture.journal().close().await;
    let source = segment_with_most(dir.path());
    let bytes = fs::read(&source).unwrap();
    let ends = batch_ends(&bytes);
    assert!(ends.len() > 8, "several parts and schemas: {ends:?}");
    for end in ends {
        let cut = tempfile::tempdir().unwrap();
        fs::copy(dir.path().join("installation"), cut.path().join("installation")).unwrap();
        fs::write(cut.path().join(source.file_name().unwrap()), &bytes[..end]).unwrap();
        let journal = journal::open(Options::new(cut.path()), Arc::new(RealDisk)).unwrap();
        let seen = read_all(&journal, 0);
        assert!(
            [0, before, before + large].contains(&seen.len()),
            "{} events after a cut at {end}",
            seen.len()
        );
        assert_eq!(seen, all[..seen.len()]);
        let noted = journal.notes().contains_key("with");
        assert_eq!(
            noted,
            seen.len() == before + large,
            "its note without it, or it without, after a cut at {end}"
        );
        let position = journal.position().lsn;
        let expected = seen.last().map_or(Lsn(0), |last| Lsn(last.3));
        assert_eq!(position, expected, "no position beyond what is whole, after a cut at {end}");
        assert_eq!(journal.last_tx_end(), expected, "no transaction that is not whole, after a cut at {end}");
        journal.close().await;
    }
}

#[tokio::test]
async fn new_segments_under_load_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path());
    // A segment is closed at half this age, looked at each second.
    options.retention = Duration::from_millis(100);
    options.holds.insert("kafka".to_owned(), 0);
    let mut fixture = Fixture::open(options).await;
    let started = std::time::Instant::now();
    let mut groups = 0;
    let enough = Duration::from_millis(3500);
    while started.elapsed() < enough || fixture.journal().summary().segments < 3 {
        assert!(started.elapsed() < enough * 20, "{:?}", fixture.journal().summary());
        let mut builder = Builder::new();
        fixture.begin(&mut builder);
        fixture.row(&mut builder, "under load");
        fixture.commit(&mut builder);
        let room = fixture.ingest.room().await.unwrap();
        room.append(fixture.journal(), builder.take(), Lsn(fixture.lsn));
        groups += 1;
    }
    fixture.durable().await;
    let all = read_all(fixture.journal(), 0);
    assert_eq!(all.len(), groups);
    assert!(all.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1 && pair[1].3 == pair[0].3 + 100));
    fixture.journal().close().await;
    let journal = journal::open(Options::new(dir.path()), Arc::new(RealDisk)).unwrap();
    assert_eq!(read_all(&journal, 0), all);
}

#[tokio::test]
async fn a_reconnect_waits_for_what_is_on_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let options = Options { ahead_bytes: 0, ..Options::new(dir.path()) };
    let journal = journal::open(options, Arc::new(disk.clone())).unwrap();
    let mut fixture = Fixture::over(journal).await;
    fixture.transaction(1, "durable").await;
    disk.fill(true);
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    fixture.row(&mut builder, "on its way");
    fixture.commit(&mut builder);
    let room = fixture.ingest.room().await.unwrap();
    room.append(fixture.journal(), builder.take(), Lsn(fixture.lsn));
    let waiting = tokio::time::timeout(Duration::from_millis(300), fixture.ingest.settled()).await;
    assert!(waiting.is_err(), "the position is not known yet");
    disk.fill(false);
    fixture.ingest.settled().await.unwrap();
    assert_eq!(fixture.journal().position().lsn, Lsn(fixture.lsn));
}

#[tokio::test]
async fn a_disk_that_is_full_when_a_segment_ends_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let mut options = Options::new(dir.path());
    options.segment_bytes = 1000;
    let journal = journal::open(options, Arc::new(disk.clone())).unwrap();
    let mut fixture = Fixture::over(journal).await;
    fixture.transaction(20, "fills the segment").await;
    disk.fill(true);
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    fixture.row(&mut builder, "in the next one");
    fixture.commit(&mut builder);
    let room = fixture.ingest.room().await.unwrap();
    room.append(fixture.journal(), builder.take(), Lsn(fixture.lsn));
    let mut state = fixture.journal().state();
    let full = state.wait_for(|state| matches!(state, State::Full(_)));
    tokio::time::timeout(Duration::from_secs(5), full).await.unwrap().unwrap();
    disk.fill(false);
    fixture.durable().await;
    assert_eq!(read_all(fixture.journal(), 0).len(), 21);
}

/// Before an event of no transaction stands the position that says it was taken in, however long it is.
#[tokio::test]
async fn no_cut_leaves_a_message_without_its_position() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    let mut builder = Builder::new();
    for size in [10, PART_BYTES - 100, PART_BYTES + 100] {
        fixture.lsn += 100;
        let position = StreamPosition { lsn: Lsn(fixture.lsn), ..fixture.journal().position() };
        let (json, text) = (serde_json::to_vec(&position).unwrap(), format!("\"{}\"", "m".repeat(size)));
        builder.message_alone(1, ("custom.one", text.as_bytes()), (position.lsn, &json));
    }
    fixture.submit(&mut builder).await;
    let end = fixture.lsn;
    fixture.journal().close().await;
    let source = segment_with_most(dir.path());
    let bytes = fs::read(&source).unwrap();
    let mut held = Vec::new();
    for end in batch_ends(&bytes) {
        let cut = tempfile::tempdir().unwrap();
        fs::copy(dir.path().join("installation"), cut.path().join("installation")).unwrap();
        fs::write(cut.path().join(source.file_name().unwrap()), &bytes[..end]).unwrap();
        let events = journal::check(cut.path(), &RealDisk).unwrap().events;
        let journal = journal::open(Options::new(cut.path()), Arc::new(RealDisk)).unwrap();
        held.push((events, journal.position().lsn.0));
        journal.close().await;
    }
    held.dedup();
    assert_eq!(held.last(), Some(&(3, end)));
    for (events, position) in held {
        assert_eq!(position, if events == 0 { 0 } else { end - (3 - events) * 100 }, "{events} events");
    }
}

#[tokio::test]
async fn a_place_before_a_spilled_transaction_is_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    fixture.transaction(1, "before").await;
    let before = fixture.journal().newest();
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    let mut spill = fixture.journal().spill().unwrap();
    for _ in 0..5000 {
        fixture.row(&mut builder, &"z".repeat(1000));
        if builder.open_bytes() > 2 << 20 {
            spill = ingest::spill_parts(spill, builder.take_open_parts()).await.unwrap();
        }
    }
    let end = fixture.lsn;
    let committed = 1_800_000_000_000_000 + i64::try_from(end).unwrap();
    spill = ingest::spill_parts(spill, builder.take_tail(Lsn(fixture.lsn))).await.unwrap();
    fixture.ingest.room().await.unwrap().adopt(fixture.journal(), spill, Lsn(fixture.lsn), committed);
    fixture.durable().await;
    let is_found = |journal: &Journal| {
        assert_eq!(journal.seek_time(committed).unwrap(), before);
        assert_eq!(journal.seek_lsn(Lsn(end - 1)).unwrap(), before);
        assert_eq!(journal.seek_lsn(Lsn(end)).unwrap(), journal.newest());
    };
    is_found(fixture.journal());
    fixture.journal().close().await;
    for by_reading in [false, true] {
        if by_reading {
            without_indexes(dir.path());
        }
        let journal = journal::open(Options::new(dir.path()), Arc::new(RealDisk)).unwrap();
        is_found(&journal);
        assert_eq!(
            journal.position().slot,
            "rowcast",
            "the position is kept though it was in an empty segment"
        );
        journal.close().await;
    }
}

#[tokio::test]
async fn a_reader_at_the_head_survives_idle_restarts_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let filter = Filter::new(vec![Pattern::All], &[]);
    let mut positions = Vec::new();
    for life in 0..4 {
        let mut fixture = Fixture::open(Options::new(dir.path())).await;
        let (_stopper, stop) = stop();
        let feed = Feed::new(fixture.journal().clone(), stop);
        for position in &positions {
            let start = feed.start(From::After(*position), &filter).await.unwrap();
            assert_eq!(start.gap, None, "position {position} of an earlier life, in life {life}");
        }
        positions.push(feed.start(From::Latest, &filter).await.unwrap().position);
        if life == 2 {
            fixture.transaction(1, "something at last").await;
        }
        fixture.journal().close().await;
    }
}
