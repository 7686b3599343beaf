//! What is written ahead: the newest segment is longer than what is in it, and nobody takes that for anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Options};

use crate::damage::spilled;
use crate::disk::FakeDisk;
use crate::random::Random;
use crate::seam::WatchedDisk;
use crate::support::{Fixture, read_all, unlocked};

const AHEAD: usize = 256 << 10;

fn newest(dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|ending| ending == "seg")).max().unwrap()
}

/// How long a file is, and how many zeros are at its end.
fn length_and_zeros(path: &Path) -> (usize, usize) {
    let bytes = std::fs::read(path).unwrap();
    (bytes.len(), bytes.iter().rev().take_while(|byte| **byte == 0).count())
}

#[tokio::test]
async fn small_groups_do_not_make_the_file_longer_and_its_end_goes_when_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    fixture.transaction(3, "small").await;
    let path = newest(dir.path());
    let (length, zeros) = length_and_zeros(&path);
    assert!(length > AHEAD && zeros > AHEAD - 2000, "{length}, {zeros} of it zeros");
    for _ in 0..50 {
        fixture.transaction(3, "small").await;
        assert_eq!(length_and_zeros(&path).0, length);
    }
    // More than is left of it, and too much to be worth it.
    fixture.transaction(500, &"large".repeat(200)).await;
    let (longer, zeros) = length_and_zeros(&path);
    assert!(longer > length && zeros < 100, "{longer}, {zeros} of it zeros");
    fixture.transaction(1, "small").await;
    assert!(length_and_zeros(&path).1 > AHEAD - 2000);
    let (all, report) = (read_all(fixture.journal(), 0), journal::check(dir.path(), &RealDisk).unwrap());
    assert_eq!(
        (report.events as usize, report.unfinished),
        (all.len(), 0),
        "nothing is missing, nothing too much"
    );
    let size = fixture.journal().summary().bytes;
    fixture.journal().close().await;
    assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
    drop(fixture);
    unlocked(dir.path());
    assert_eq!(read_all(&journal::open(Options::new(dir.path()), Arc::new(RealDisk)).unwrap(), 0), all);
}

#[tokio::test]
async fn a_segment_that_another_follows_ends_with_what_is_in_it_also_after_a_power_cut() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let options = || Options { segment_bytes: 30_000, ahead_bytes: 10_000, ..Options::new(dir.path()) };
    let mut fixture = Fixture::over(journal::open(options(), Arc::new(disk.clone())).unwrap()).await;
    for _ in 0..4 {
        fixture.transaction(2, "some row or other").await;
        // It ends the segment, which is not full.
        spilled(&mut fixture, 2).await;
    }
    let all = read_all(fixture.journal(), 0);
    for seed in 0..100 {
        let after = disk.after_power_cut(&mut Random::new(seed));
        let mut segments: Vec<_> = after.files().into_iter().collect();
        segments.retain(|(path, _)| path.extension().is_some_and(|ending| ending == "seg"));
        assert!(segments.len() > 8 && segments.pop().is_some());
        for (path, bytes) in segments {
            assert_eq!(
                end_of_batches(&bytes),
                bytes.len(),
                "{} goes on behind its last batch",
                path.display()
            );
        }
        let other = tempfile::tempdir().unwrap();
        let moved = FakeDisk::default();
        for (path, bytes) in after.files() {
            moved.put(other.path().join(path.file_name().unwrap()), bytes);
        }
        let opened =
            journal::open(Options { dir: other.path().into(), ..options() }, Arc::new(moved)).unwrap();
        assert_eq!(read_all(&opened, 0), all, "seed {seed}");
    }
}

/// Where the last of a segment's batches ends.
fn end_of_batches(bytes: &[u8]) -> usize {
    let mut at = 128;
    while let Some(length) = bytes.get(at + 8..at + 12) {
        match u32::from_le_bytes(length.try_into().unwrap()) {
            0 => break,
            length => at += length as usize,
        }
    }
    at
}

/// What is read while it is being written may be half there; that is never damage.
#[tokio::test]
async fn who_looks_while_it_is_being_written_finds_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    for _ in 0..3 {
        fixture.transaction(3, "written in two pages").await;
    }
    let size = fixture.journal().summary().bytes;
    let disk = WatchedDisk::default();
    for from in 150..size {
        disk.0.zeros_from.store(from, Ordering::SeqCst);
        let report =
            journal::check(dir.path(), &disk).unwrap_or_else(|error| panic!("zeros from {from}: {error}"));
        assert_eq!(disk.0.zeros_from.load(Ordering::SeqCst), 0, "it was read");
        // Of the last one nobody can tell that it is whole.
        assert!(
            report.events == 9 || report.events == 6 && report.unfinished > 0,
            "zeros from {from}: {report:?}"
        );
    }
    fixture.journal().close().await;
}

#[tokio::test]
async fn an_index_that_knows_of_more_than_zeros_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    fixture.transaction(3, "there").await;
    fixture.transaction(3, "gone").await;
    fixture.journal().close().await;
    drop(fixture);
    unlocked(dir.path());
    let path = newest(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let length = bytes.len();
    bytes[length - 300..].fill(0);
    std::fs::write(&path, bytes).unwrap();
    for error in [
        journal::check(dir.path(), &RealDisk).unwrap_err(),
        journal::open(Options::new(dir.path()), Arc::new(RealDisk)).unwrap_err(),
    ] {
        assert!(error.to_string().contains("damaged at offset"), "{error}");
    }
}
