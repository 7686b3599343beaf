//! Closed segments in their compressed form: the same contents, whatever happens on the way there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rowcast_engine::Lsn;
use rowcast_engine::ingest;
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Compression, Journal, Options, Read, State};
use rowcast_engine::record::Builder;

use crate::damage::contents;
use crate::disk::{CHANGING, FakeDisk, Fault, Ill};
use crate::random::Random;
use crate::seam::WatchedDisk;
use crate::support::{Fixture, Seen, read_all, unlocked};

const SEGMENT: u64 = 600_000;

fn options(dir: &Path, compression: Compression) -> Options {
    let mut options = Options::new(dir);
    options.segment_bytes = SEGMENT;
    options.cache_bytes = 1000;
    options.compression = compression;
    options
}

/// Rows that compress about as rows do.
async fn fill(fixture: &mut Fixture, transactions: usize) {
    for _ in 0..transactions {
        let mut builder = Builder::new();
        fixture.begin(&mut builder);
        for _ in 0..400 {
            let row = fixture.rows;
            fixture.row(
                &mut builder,
                &format!("order {row} was shipped to {:x}", row.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            );
        }
        fixture.commit(&mut builder);
        fixture.submit(&mut builder).await;
    }
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within two minutes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn until_compressed(journal: &Journal) {
    until("all closed segments are compressed", || {
        let summary = journal.summary();
        summary.compressed + 1 == summary.segments
    })
    .await;
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    paths.sort();
    paths
}

fn bytes_of(paths: &[PathBuf]) -> u64 {
    paths.iter().map(|path| fs::metadata(path).unwrap().len()).sum()
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    to
}

/// A closed journal of several plain segments, and what is in it.
async fn plain_journal(transactions: usize) -> (tempfile::TempDir, Vec<Seen>) {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(options(dir.path(), Compression::None)).await;
    fill(&mut fixture, transactions).await;
    // A last one that is not too small to be worth it.
    while fs::metadata(files(dir.path(), "seg").pop().unwrap()).unwrap().len() < 100_000 {
        fill(&mut fixture, 1).await;
    }
    let all = read_all(fixture.journal(), 0);
    fixture.journal().close().await;
    assert!(files(dir.path(), "seg").len() > 1, "several segments");
    (dir, all)
}

async fn compressed_journal(transactions: usize) -> (tempfile::TempDir, Vec<Seen>) {
    let (dir, all) = plain_journal(transactions).await;
    let journal = journal::open(options(dir.path(), Compression::Zstd), Arc::new(RealDisk)).unwrap();
    until_compressed(&journal).await;
    journal.close().await;
    (dir, all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_is_the_same_before_during_and_after() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(options(dir.path(), Compression::Zstd)).await;
    let ended = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (journal, ended) = (fixture.journal().clone(), Arc::clone(&ended));
            std::thread::spawn(move || {
                let mut before: Vec<Seen> = Vec::new();
                let mut passes = 0;
                while !ended.load(Ordering::SeqCst) {
                    let all = read_all(&journal, 0);
                    assert_eq!(all[..before.len()], before[..], "what was read stays");
                    before = all;
                    passes += 1;
                    // The one that compresses gives way to whoever wants the processor.
                    std::thread::sleep(Duration::from_millis(2));
                }
                (before, passes)
            })
        })
        .collect();
    fill(&mut fixture, 120).await;
    until_compressed(fixture.journal()).await;
    ended.store(true, Ordering::SeqCst);
    let all = read_all(fixture.journal(), 0);
    assert_eq!(all.len(), 120 * 400);
    for reader in readers {
        let (seen, passes) = reader.join().unwrap();
        assert!(passes > 0);
        assert_eq!(seen[..], all[..seen.len()]);
    }
    let summary = fixture.journal().summary();
    assert!(summary.compressed > 4, "{summary:?}");
    assert_eq!(summary.bytes, bytes_of(&files(dir.path(), "seg")), "what the files take is told");
    fixture.journal().close().await;
    drop(fixture);
    let report = journal::check(dir.path(), &RealDisk).unwrap();
    assert_eq!(report.events, all.len() as u64);
    assert!(report.bytes > 2 * summary.bytes, "{report:?} from {summary:?}");
    // With and without the indexes beside the segments.
    for _ in 0..2 {
        let fixture = Fixture::open(options(dir.path(), Compression::None)).await;
        assert_eq!(read_all(fixture.journal(), 0), all);
        assert_eq!(fixture.journal().summary().compressed, summary.compressed, "it stays as it is");
        fixture.journal().close().await;
        files(dir.path(), "idx").iter().for_each(|path| fs::remove_file(path).unwrap());
    }
}

#[tokio::test]
async fn a_kill_between_any_two_calls_leaves_one_form_whole() {
    let (plain, all) = plain_journal(35).await;
    let segments = files(plain.path(), "seg").len();
    let mut forms = std::collections::BTreeSet::new();
    for cut_at in 1.. {
        let dir = copy(plain.path());
        let disk = WatchedDisk::default();
        disk.0.cut_at.store(cut_at, Ordering::SeqCst);
        let journal = journal::open(options(dir.path(), Compression::Zstd), Arc::new(disk.clone())).unwrap();
        until("cut, or done", || {
            let summary = journal.summary();
            disk.0.cut.load(Ordering::SeqCst) || summary.compressed + 1 == summary.segments
        })
        .await;
        assert_eq!(read_all(&journal, 0), all, "cut at call {cut_at}: before the process dies");
        // What a kill at this moment leaves.
        let left = copy(dir.path());
        assert!(!disk.0.renamed_unsynced.load(Ordering::SeqCst), "a form that is not durable took the name");
        let reopened = journal::open(options(left.path(), Compression::None), Arc::new(RealDisk)).unwrap();
        assert_eq!(read_all(&reopened, 0), all, "cut at call {cut_at}: after the next start");
        forms.insert(reopened.summary().compressed);
        assert_eq!(files(left.path(), "tmp"), Vec::<PathBuf>::new(), "what was not finished is gone");
        reopened.close().await;
        assert_eq!(journal::check(left.path(), &RealDisk).unwrap().events, all.len() as u64);
        journal.close().await;
        if !disk.0.cut.load(Ordering::SeqCst) {
            break;
        }
    }
    assert_eq!(forms, (0..=segments).collect(), "cuts before, between and after all segments");
}

/// As above, and of what was not synced any part is there.
#[tokio::test]
async fn a_power_cut_at_any_call_leaves_one_form_whole() {
    let (plain, all) = plain_journal(35).await;
    let files = contents(plain.path());
    let mut forms = std::collections::BTreeSet::new();
    for after in 0.. {
        let disk = FakeDisk::default();
        files.iter().for_each(|(name, bytes)| disk.put(plain.path().join(name), bytes.clone()));
        let fault = Fault { calls: CHANGING, after, ill: Ill::Power, times: u32::MAX, waits: u32::MAX };
        disk.plan(Some(fault));
        unlocked(plain.path());
        if let Ok(journal) = journal::open(options(plain.path(), Compression::Zstd), Arc::new(disk.clone())) {
            until("dead, or done", || {
                let summary = journal.summary();
                disk.is_dead() || summary.compressed + 1 == summary.segments
            })
            .await;
            journal.close().await;
        }
        unlocked(plain.path());
        let left = disk.after_power_cut(&mut Random::new(u64::from(after)));
        let options = options(plain.path(), Compression::None);
        let reopened = journal::open(options, Arc::new(left.clone())).unwrap();
        assert_eq!(read_all(&reopened, 0), all, "cut after {after} calls");
        forms.insert(reopened.summary().compressed);
        reopened.close().await;
        assert_eq!(journal::check(plain.path(), &left).unwrap().events, all.len() as u64);
        if !disk.is_dead() {
            break;
        }
    }
    assert!(forms.len() > 2, "cuts before, between and after all segments: {forms:?}");
}

#[tokio::test]
async fn damage_anywhere_in_the_compressed_form_is_noticed() {
    let (dir, all) = compressed_journal(35).await;
    let path = files(dir.path(), "seg").remove(0);
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let whole = fs::read(&path).unwrap();
    let end = whole.len() - 32;
    let table = u64::from_le_bytes(whole[end + 16..end + 24].try_into().unwrap()) as usize;
    assert!((end - table) / 16 > 2, "several frames");
    // The header, the whole table and the footer byte by byte, and places in every frame.
    let mut places: Vec<usize> = (0..128).step_by(3).chain(table..whole.len()).collect();
    for entry in whole[table..end].chunks(16) {
        let start = u64::from_le_bytes(entry[..8].try_into().unwrap()) as usize;
        let length = u32::from_le_bytes(entry[8..12].try_into().unwrap()) as usize;
        places.extend([0, 1, 4, 9, length / 3, length / 2, length - 1].map(|at| start + at));
    }
    let journal = journal::open(options(dir.path(), Compression::None), Arc::new(RealDisk)).unwrap();
    for place in places {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x10;
        fs::write(&path, &bytes).unwrap();
        let error = journal::check(dir.path(), &RealDisk).unwrap_err();
        let told = format!(
            "{error} {}",
            std::error::Error::source(&error).map_or(String::new(), ToString::to_string)
        );
        assert!(told.contains(&name) && told.contains("damage"), "byte {place}: {told}");
        // A header only says that there is something to read; the open journal knows that already.
        if place >= 128 {
            assert!(told.contains("offset"), "byte {place}: {told}");
            assert!(reading_fails(&journal, all.len()), "byte {place} of {}", whole.len());
        }
    }
    for length in (0..whole.len()).step_by(whole.len() / 20).chain(whole.len() - 40..whole.len()) {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(journal::check(dir.path(), &RealDisk).is_err(), "cut to {length} bytes");
        assert!(reading_fails(&journal, all.len()), "cut to {length} bytes");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(read_all(&journal, 0), all);
}

/// Whether reading on from the beginning comes to an error before it comes to the end.
fn reading_fails(journal: &Journal, count: usize) -> bool {
    let (mut after, mut seen) = (journal.seek_earliest(), 0);
    loop {
        match journal.read(after) {
            Err(_) => return true,
            Ok(Read::Batches(batches)) => {
                after = batches.last().unwrap().last();
                seen += batches.iter().map(|batch| batch.events().count()).sum::<usize>();
                assert!(seen <= count + 1_000);
            }
            Ok(_) => return false,
        }
    }
}

#[tokio::test]
async fn a_damaged_newest_segment_is_refused_not_cut() {
    let (dir, _) = compressed_journal(60).await;
    let paths = files(dir.path(), "seg");
    // The newest is empty: without it the last compressed one is the newest.
    let (_, compressed) = paths.split_last().unwrap();
    let last = compressed.last().unwrap();
    fs::remove_file(paths.last().unwrap()).unwrap();
    files(dir.path(), "idx").iter().for_each(|path| fs::remove_file(path).unwrap());
    let mut bytes = fs::read(last).unwrap();
    bytes[200] ^= 1;
    fs::write(last, &bytes).unwrap();
    let error = journal::open(options(dir.path(), Compression::None), Arc::new(RealDisk)).unwrap_err();
    assert!(error.to_string().contains(last.file_name().unwrap().to_str().unwrap()), "{error}");
    assert_eq!(fs::read(last).unwrap(), bytes, "nothing was cut");
}

#[tokio::test]
async fn places_are_found_as_in_the_plain_form() {
    let (dir, all) = plain_journal(60).await;
    let first = 1_800_000_000_000_000 + 1100;
    let ask = |journal: &Journal| {
        let times: Vec<_> = (0..60).map(|at| journal.seek_time(first + at * 100).unwrap()).collect();
        let counts: Vec<_> =
            [1, 399, 400, 401, 7000, 24_000, 100_000].map(|count| journal.seek_last(count)).into();
        let above: Vec<_> =
            (0..6).map(|at| journal.transactions_above(Lsn(1000 + at * 1000), 7).unwrap()).collect();
        let numbers: Vec<_> =
            all.iter().step_by(1777).map(|event| read_all(journal, event.0).len()).collect();
        (times, counts, above, numbers)
    };
    let journal = journal::open(options(dir.path(), Compression::None), Arc::new(RealDisk)).unwrap();
    let plain = ask(&journal);
    journal.close().await;
    let journal = journal::open(options(dir.path(), Compression::Zstd), Arc::new(RealDisk)).unwrap();
    until_compressed(&journal).await;
    assert_eq!(ask(&journal), plain);
    journal.close().await;
    drop(journal);
    let journal = journal::open(options(dir.path(), Compression::None), Arc::new(RealDisk)).unwrap();
    assert!(journal.summary().compressed > 1);
    assert_eq!(ask(&journal), plain);
}

#[tokio::test]
async fn a_spilled_transaction_is_compressed_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(options(dir.path(), Compression::Zstd)).await;
    fixture.transaction(3, "before").await;
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    let mut spill = fixture.journal().spill().unwrap();
    for row in 0..20_000u64 {
        fixture.row(&mut builder, &format!("row {row} of many {:x}", row * 7919).repeat(8));
        if builder.open_bytes() > 1 << 20 {
            spill = ingest::spill_parts(spill, builder.take_open_parts()).await.unwrap();
        }
    }
    let parts = builder.take_tail(Lsn(fixture.lsn));
    spill = ingest::spill_parts(spill, parts).await.unwrap();
    let room = fixture.ingest.room().await.unwrap();
    room.adopt(fixture.journal(), spill, Lsn(fixture.lsn), 1_800_000_000_000_000);
    fixture.durable().await;
    let all = read_all(fixture.journal(), 0);
    assert_eq!(all.len(), 20_003);
    assert!(all[3..].iter().all(|event| event.3 == fixture.lsn), "every batch knows its transaction's end");
    until("the spilled segment is compressed", || fixture.journal().summary().compressed > 0).await;
    assert_eq!(read_all(fixture.journal(), 0), all);
    fixture.journal().close().await;
    drop(fixture);
    let fixture = Fixture::open(options(dir.path(), Compression::None)).await;
    assert_eq!(read_all(fixture.journal(), 0), all);
}

#[tokio::test]
async fn retention_by_size_counts_what_is_on_the_disk() {
    let (dir, all) = compressed_journal(60).await;
    let stored = bytes_of(&files(dir.path(), "seg"));
    let mut within = options(dir.path(), Compression::Zstd);
    within.segment_bytes = 100_000;
    within.max_size = Some(stored + SEGMENT);
    assert!(
        stored + SEGMENT < journal::check(dir.path(), &RealDisk).unwrap().bytes,
        "plain it would not fit"
    );
    let mut fixture = Fixture::open(within.clone()).await;
    let segments = fixture.journal().summary().segments;
    // Every new segment asks retention.
    while fixture.journal().summary().segments < segments + 2 {
        fill(&mut fixture, 1).await;
    }
    assert_eq!(fixture.journal().oldest(), all[0].0, "nothing had to go");
    // As long as they are plain they are large, and more would have to go.
    until("all closed segments to be compressed", || {
        let summary = fixture.journal().summary();
        summary.compressed + 1 == summary.segments
    })
    .await;
    fixture.journal().close().await;
    drop(fixture);
    within.max_size = Some(stored / 2);
    let fixture = Fixture::open(within).await;
    until("retention has made the journal small enough", || fixture.journal().summary().bytes <= stored / 2)
        .await;
    assert!(fixture.journal().oldest() > all[0].0);
    assert!(read_all(fixture.journal(), 0).len() > 400, "no more than needed");
}

#[tokio::test]
async fn a_segment_removed_meanwhile_does_not_come_back() {
    let (dir, _) = plain_journal(60).await;
    let segments = files(dir.path(), "seg");
    let oldest = segments[0].clone();
    let number = |path: &Path| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    let disk = WatchedDisk::default();
    let (release, wait) = std::sync::mpsc::sync_channel(1);
    *disk.0.before_rename.lock().unwrap() = Some(wait);
    let mut aged = options(dir.path(), Compression::Zstd);
    aged.retention = Duration::ZERO;
    aged.holds.insert("sink".to_owned(), 0);
    let journal = journal::open(aged, Arc::new(disk.clone())).unwrap();
    let beside = oldest.with_extension("zst.tmp");
    until("it is compressed, up to its name", || disk.0.before_rename.lock().unwrap().is_none()).await;
    journal.hold_above("sink", number(&segments[1]) - 1);
    until("retention has removed it", || !oldest.exists()).await;
    assert!(beside.exists(), "it was being compressed");
    release.send(()).unwrap();
    until("the other form is gone too", || !beside.exists()).await;
    assert!(!oldest.exists());
    journal.close().await;
    drop(journal);
    let journal = journal::open(options(dir.path(), Compression::None), Arc::new(RealDisk)).unwrap();
    assert!(!read_all(&journal, 0).is_empty());
}

#[tokio::test]
async fn without_room_the_plain_form_stays_until_there_is_some() {
    let (dir, all) = plain_journal(60).await;
    let segments = files(dir.path(), "seg");
    let before = bytes_of(&segments);
    let disk = WatchedDisk::default();
    disk.0.full.store(true, Ordering::SeqCst);
    let journal = journal::open(options(dir.path(), Compression::Zstd), Arc::new(disk.clone())).unwrap();
    until("it has tried", || disk.0.refused.load(Ordering::SeqCst)).await;
    assert_eq!(read_all(&journal, 0), all);
    journal.publish(&[("custom.event", b"1")], 1).await.unwrap();
    assert_eq!(journal.summary().state, State::Open, "only what was to save room has failed");
    journal.close().await;
    assert_eq!(bytes_of(&segments), before);
    assert_eq!(files(dir.path(), "tmp"), Vec::<PathBuf>::new());
    // It tries again, by itself, when others are closed.
    disk.0.refused.store(false, Ordering::SeqCst);
    let journal = journal::open(options(dir.path(), Compression::Zstd), Arc::new(disk.clone())).unwrap();
    until("it has tried", || disk.0.refused.load(Ordering::SeqCst)).await;
    disk.0.full.store(false, Ordering::SeqCst);
    let mut fixture = Fixture::over(journal).await;
    // Of several that are closed, in case that it has tried in vain more than once.
    fill(&mut fixture, 200).await;
    until("they are compressed", || bytes_of(&segments) < before / 2).await;
    fixture.journal().close().await;
}

#[tokio::test]
async fn closing_waits_for_the_thread_and_leaves_nothing_behind() {
    let (dir, all) = plain_journal(60).await;
    for _ in 0..5 {
        let journal = journal::open(options(dir.path(), Compression::Zstd), Arc::new(RealDisk)).unwrap();
        journal.close().await;
        assert_eq!(files(dir.path(), "tmp"), Vec::<PathBuf>::new());
        // The directory is free at once.
        drop(journal);
    }
    let journal = journal::open(options(dir.path(), Compression::None), Arc::new(RealDisk)).unwrap();
    assert_eq!(read_all(&journal, 0), all);
}
