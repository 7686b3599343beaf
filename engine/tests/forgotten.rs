//! What the model test has found, one by one: each is a way in which something was lost, doubled or refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rowcast_engine::journal::{self, Journal, Options, State, StreamPosition, Sync};
use rowcast_engine::record::Builder;
use rowcast_engine::{Lsn, Result, ingest};

use crate::disk::{ANY, CREATE, FakeDisk, Fault, Ill, WRITE};
use crate::random::Random;
use crate::support::{Fixture, read_all, table, unlocked};

fn open(options: Options, disk: &FakeDisk) -> Result<Journal> {
    unlocked(&options.dir);
    journal::open(options, Arc::new(disk.clone()))
}

fn lazy(dir: &Path) -> Options {
    Options { sync: Sync::Interval(Duration::from_secs(3600)), ..Options::new(dir) }
}

fn batches(bytes: &[u8]) -> Vec<usize> {
    let mut starts = vec![128];
    while let Some(length) =
        bytes.get(starts[starts.len() - 1] + 8..).and_then(|rest| rest.first_chunk::<4>())
        && *length != [0; 4]
    {
        starts.push(starts[starts.len() - 1] + u32::from_le_bytes(*length) as usize);
    }
    starts
}

/// The first of the segments there are, with what is in it.
fn a_segment(disk: &FakeDisk) -> (PathBuf, Vec<u8>) {
    disk.files().into_iter().find(|(path, _)| path.extension().unwrap() == "seg").unwrap()
}

/// Three transactions, each a group of its own when `apart`, else all in one.
async fn three(dir: &Path, apart: bool) -> FakeDisk {
    let disk = FakeDisk::default();
    let mut fixture = Fixture::over(open(Options::new(dir), &disk).unwrap()).await;
    let before = fixture.lsn;
    disk.hold(!apart);
    for at in 0..3 {
        let mut builder = Builder::new();
        fixture.begin(&mut builder);
        fixture.row(&mut builder, "in a group");
        fixture.commit(&mut builder);
        // A way in of its own each: one lets only two in at a time.
        let room = ingest::Ingest::new(fixture.journal().clone()).room().await.unwrap();
        room.append(fixture.journal(), builder.take(), Lsn(fixture.lsn));
        if apart {
            fixture.durable().await;
        } else if at == 0 {
            // Else the writer could take in two of them, and leave the third a group of its own.
            disk.until_held();
        }
    }
    disk.hold(false);
    fixture.durable().await;
    assert_eq!(fixture.lsn, before + 300);
    disk
}

#[tokio::test]
async fn a_hole_in_a_group_is_a_torn_end_and_one_before_it_is_damage() {
    for (apart, whole) in [(false, true), (true, false)] {
        let dir = tempfile::tempdir().unwrap();
        let disk = three(dir.path(), apart).await;
        let (path, mut bytes) = a_segment(&disk);
        let starts = batches(&bytes);
        // The second of the three transactions did not reach the disk, the third one did.
        let hole = starts[starts.len() - 3]..starts[starts.len() - 2];
        bytes[hole].fill(0);
        disk.put(path, bytes);
        let opened = open(Options::new(dir.path()), &disk);
        match opened {
            Ok(journal) => assert!(whole && read_all(&journal, 0).len() == 1),
            Err(error) => assert!(!whole && error.to_string().contains("damaged at offset"), "{error}"),
        }
    }
}

#[tokio::test]
async fn a_spilled_transaction_that_retention_takes_leaves_its_position() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let options = || Options { max_size: Some(1), ..Options::new(dir.path()) };
    let mut fixture = Fixture::over(open(options(), &disk).unwrap()).await;
    fixture.transaction(1, "before").await;
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    fixture.row(&mut builder, "spilled");
    let end = Lsn(fixture.lsn);
    let spill = fixture.journal().spill().unwrap();
    let spill = ingest::spill_parts(spill, builder.take_tail(end)).await.unwrap();
    fixture.ingest.room().await.unwrap().adopt(fixture.journal(), spill, end, 7);
    fixture.durable().await;
    // Larger than the journal may be, it stays while it is the newest: who reads at the end has it whole.
    let spilled = fixture.journal().newest();
    let journal = fixture.journal().clone();
    let oldest_is = |wanted: fn(u64, u64) -> bool| {
        let journal = journal.clone();
        async move {
            while !wanted(journal.oldest(), spilled) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    crate::room::soon("what is older to go", oldest_is(|oldest, spilled| oldest == spilled)).await;
    fixture.transaction(1, "and").await;
    let end = Lsn(fixture.lsn);
    // A look behind this takes it, be it the next one or that of a tick before.
    crate::room::soon("the next look", oldest_is(|oldest, spilled| oldest > spilled)).await;
    drop(journal);
    drop(fixture);
    let journal = open(options(), &disk.after_kill()).unwrap();
    assert_eq!(journal.position().lsn, end);
}

#[tokio::test]
async fn who_publishes_is_answered_when_it_is_durable() {
    for seed in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let disk = FakeDisk::default();
        let journal = open(lazy(dir.path()), &disk).unwrap();
        let id = journal.publish(&[("custom.event", b"1")], 8).await.unwrap();
        let cut = disk.after_power_cut(&mut Random::new(seed));
        drop(journal);
        let journal = open(lazy(dir.path()), &cut).unwrap();
        assert_eq!((journal.oldest(), journal.newest()), (id, id), "seed {seed}");
    }
}

#[tokio::test]
async fn what_a_failed_sync_left_in_memory_is_durable_after_the_next_start() {
    for seed in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let disk = FakeDisk::default();
        let mut fixture = Fixture::over(open(Options::new(dir.path()), &disk).unwrap()).await;
        fixture.transaction(3, "good").await;
        disk.fail_syncs();
        fixture.journal().publish(&[("custom.event", b"1")], 8).await.unwrap_err();
        drop(fixture);
        let disk = disk.after_kill();
        let journal = open(Options::new(dir.path()), &disk).unwrap();
        let (oldest, newest) = (journal.oldest(), journal.newest());
        let cut = disk.after_power_cut(&mut Random::new(seed));
        drop(journal);
        let journal = open(Options::new(dir.path()), &cut).unwrap();
        assert_eq!((journal.oldest(), journal.newest()), (oldest, newest), "seed {seed}");
    }
}

#[tokio::test]
async fn a_start_with_the_clock_behind_keeps_the_only_position() {
    for after in 0..25 {
        let dir = tempfile::tempdir().unwrap();
        let disk = FakeDisk::default();
        // Numbers far above the clock, as when it was set back.
        let options = Options { seen: 4_000_000_000_000_000, ..Options::new(dir.path()) };
        let fixture = Fixture::over(open(options, &disk).unwrap()).await;
        let before = fixture.journal().position();
        drop(fixture);
        unlocked(dir.path());
        let disk = disk.after_kill();
        disk.plan(Some(Fault { calls: ANY, after, ill: Ill::Power, times: 1, waits: 0 }));
        drop(open(Options::new(dir.path()), &disk));
        unlocked(dir.path());
        let cut = disk.after_power_cut(&mut Random::new(u64::from(after)));
        let journal = open(Options::new(dir.path()), &cut).unwrap();
        assert_eq!(journal.position(), before, "after {after} calls");
    }
}

#[tokio::test]
async fn numbers_that_were_shown_and_lost_are_not_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let mut shown = 0;
    let mut disk_now = disk;
    for life in 0..6 {
        let options = Options { seen: if life == 0 { 4_000_000_000_000_000 } else { 0 }, ..lazy(dir.path()) };
        let mut fixture = Fixture::over(open(options, &disk_now).unwrap()).await;
        let mut head = fixture.journal().head();
        // The first one brings the table's description and is synced at once.
        for _ in 0..2 {
            let before = fixture.journal().newest();
            let mut builder = Builder::new();
            fixture.begin(&mut builder);
            fixture.row(&mut builder, "shown");
            fixture.commit(&mut builder);
            let room = fixture.ingest.room().await.unwrap();
            room.append(fixture.journal(), builder.take(), Lsn(fixture.lsn));
            let newest = *head.wait_for(|head| *head > before).await.unwrap();
            assert!(newest > shown, "life {life}");
            shown = newest;
        }
        disk_now = disk_now.after_power_cut(&mut Random::new(life));
        drop(fixture);
    }
}

#[tokio::test]
async fn a_start_on_a_full_disk_serves_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let mut fixture = Fixture::over(open(Options::new(dir.path()), &disk).unwrap()).await;
    fixture.transaction(3, "there").await;
    let all = read_all(fixture.journal(), 0);
    drop(fixture);
    let mut waited = 0;
    for after in 0..8 {
        unlocked(dir.path());
        let disk = disk.after_kill();
        let calls = CREATE | WRITE;
        disk.plan(Some(Fault { calls, after, ill: Ill::Full, times: u32::MAX, waits: u32::MAX }));
        let journal = open(Options::new(dir.path()), &disk).unwrap();
        assert_eq!(read_all(&journal, 0), all);
        waited += usize::from(matches!(*journal.state().borrow(), State::Full(_)));
        disk.plan(None);
        let mut state = journal.state();
        let open = state.wait_for(|state| *state == State::Open);
        tokio::time::timeout(Duration::from_secs(20), open).await.expect("room in time").unwrap();
        let mut fixture = Fixture::over(journal).await;
        fixture.transaction(1, "after").await;
        assert_eq!(read_all(fixture.journal(), 0).len(), all.len() + 1);
    }
    assert!(waited >= 2, "{waited}");
}

#[tokio::test]
async fn files_of_others_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    for name in ["report.tmp", "spill-3.tmp", "00000000000000000009.idx"] {
        disk.put(dir.path().join(name), b"x".to_vec());
    }
    let _journal = open(Options::new(dir.path()), &disk).unwrap();
    let left = disk.files();
    assert!(left.contains_key(&dir.path().join("report.tmp")));
    assert!(!left.contains_key(&dir.path().join("spill-3.tmp")));
    assert!(!left.contains_key(&dir.path().join("00000000000000000009.idx")), "its segment is gone");
}

/// A length that the disk gives wrong costs no memory: not before the checksum of so much is right.
#[tokio::test]
async fn a_length_that_is_wrong_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let disk = three(dir.path(), true).await;
    let (path, mut bytes) = a_segment(&disk);
    let starts = batches(&bytes);
    let second = starts[starts.len() - 3];
    bytes[second + 8..second + 12].copy_from_slice(&(90u32 << 20).to_le_bytes());
    bytes.resize(100 << 20, 1);
    disk.put(path, bytes);
    let before = disk.largest_read();
    for error in
        [journal::check(dir.path(), &disk).unwrap_err(), open(Options::new(dir.path()), &disk).unwrap_err()]
    {
        assert!(error.to_string().contains("checksum is wrong"), "{error}");
    }
    assert!(disk.largest_read().max(before) <= 1 << 20, "{}", disk.largest_read());
}

/// Rows are anybody's: ones that look like batches keep nobody from opening, nor from seeing what is torn.
#[tokio::test]
async fn rows_that_look_like_batches_behind_a_torn_end_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let disk = three(dir.path(), true).await;
    let (path, mut bytes) = a_segment(&disk);
    let starts = batches(&bytes);
    let end = starts[starts.len() - 1];
    bytes.truncate(end);
    // A sound head, of a number that cannot follow, of a batch that is as long as there is anything.
    let mut row = bytes[starts[starts.len() - 2]..][..64].to_vec();
    row[8..12].copy_from_slice(&(3u32 << 20).to_le_bytes());
    row[16..24].copy_from_slice(&(1u64 << 40).to_le_bytes());
    bytes.extend(std::iter::repeat_n(row, 65_536).flatten());
    disk.put(path, bytes);
    let before = disk.bytes_read();
    let journal = open(Options::new(dir.path()), &disk).unwrap();
    assert_eq!(read_all(&journal, 0).len(), 3);
    let read = disk.bytes_read() - before;
    assert!(read < 40 << 20, "{read} bytes of 4 MB were read");
    journal.close().await;
}

/// What an index says of a segment is all that is read of it: also a number that only an earlier position there says.
#[tokio::test]
async fn a_version_keeps_its_number_through_kills_one_after_the_other() {
    for after in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let disk = FakeDisk::default();
        let mut fixture = Fixture::over(open(Options::new(dir.path()), &disk).unwrap()).await;
        // No row is of them.
        let highest =
            (0..3).map(|at| fixture.journal().register(table(&format!("t{at}"))).unwrap().id).max().unwrap();
        fixture.lsn += 100;
        let position = StreamPosition { lsn: Lsn(fixture.lsn), ..fixture.journal().position() };
        fixture.ingest.identify(position.clone(), &[]).await.unwrap();
        fixture.lsn += 100;
        let json = serde_json::to_vec(&StreamPosition { lsn: Lsn(fixture.lsn), ..position }).unwrap();
        let mut builder = Builder::new();
        builder.message_alone(1, ("custom.one", b"1"), (Lsn(fixture.lsn), &json));
        fixture.submit(&mut builder).await;
        drop(fixture);
        let disk = disk.after_kill();
        disk.plan(Some(Fault { calls: ANY, after, ill: Ill::Kill, times: 1, waits: 0 }));
        let first = open(Options::new(dir.path()), &disk).map(drop);
        let journal = open(Options::new(dir.path()), &disk.after_kill()).unwrap();
        let next = journal.register(table("new")).unwrap().id;
        assert_eq!(next, highest + 1, "killed after {after} calls");
        if first.is_ok() {
            break;
        }
    }
}

#[tokio::test]
async fn what_a_repair_was_writing_goes_with_the_next_opening() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    fixture.transaction(1, "x").await;
    fixture.journal().close().await;
    let left = ["00000000000000000007.seg.new", "00000000000000000007.seg.cut-700.new"];
    let kept = ["00000000000000000007.seg.cut-700", "mine.new"];
    for name in left.iter().chain(&kept) {
        std::fs::write(dir.path().join(name), "half").unwrap();
    }
    let journal = journal::open(Options::new(dir.path()), Arc::new(journal::disk::RealDisk)).unwrap();
    assert!(left.iter().all(|name| !dir.path().join(name).exists()));
    assert!(kept.iter().all(|name| dir.path().join(name).exists()));
    journal.close().await;
}
