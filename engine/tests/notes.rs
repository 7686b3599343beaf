//! What a source keeps beside its events: as old as the events that it came with, whatever becomes of the files.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rowcast_engine::Lsn;
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Journal, Options, StreamPosition};
use rowcast_engine::record::Builder;

use crate::disk::FakeDisk;
use crate::random::Random;
use crate::support::{Fixture, read_all, unlocked};

fn note(journal: &Journal, name: &str) -> Option<String> {
    journal.notes().get(name).map(|json| String::from_utf8(json.to_vec()).unwrap())
}

fn options(dir: &Path) -> Options {
    let mut options = Options::new(dir);
    options.segment_bytes = 3000;
    options
}

/// A transaction, with a note of how many rows there are after it.
async fn noted(fixture: &mut Fixture, rows: usize) {
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    for _ in 0..rows {
        fixture.row(&mut builder, "with a note");
    }
    fixture.commit(&mut builder);
    builder.note("rows", fixture.rows.to_string().as_bytes());
    fixture.submit(&mut builder).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn a_power_cut_leaves_note_and_events_of_one_age(
        lives in prop::collection::vec((prop::collection::vec(1usize..60, 0..20), any::<u64>()), 1..6)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut disk = FakeDisk::default();
            for (sizes, seed) in &lives {
                unlocked(dir.path());
                let journal = journal::open(options(dir.path()), Arc::new(disk.clone())).unwrap();
                let held = read_all(&journal, 0).len();
                assert_eq!(note(&journal, "rows").unwrap_or("0".into()), held.to_string());
                let mut fixture = Fixture::over(journal).await;
                fixture.rows = held as u64;
                for rows in sizes {
                    noted(&mut fixture, *rows).await;
                    assert_eq!(note(fixture.journal(), "rows").unwrap(), fixture.rows.to_string());
                }
                disk = disk.after_power_cut(&mut Random::new(*seed));
            }
        });
    }
}

/// A writer that wakes somebody in between is put aside for him where there is one processor (`taskset -c 0`): then
/// every second run failed while notes came first.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_learns_of_a_note_finds_its_events() {
    const ROUNDS: u64 = 2000;
    let dir = tempfile::tempdir().unwrap();
    let journal = journal::open(options(dir.path()), Arc::new(FakeDisk::default())).unwrap();
    let mut fixture = Fixture::over(journal.clone()).await;
    let looker = || {
        let journal = journal.clone();
        tokio::spawn(async move {
            let mut told = 0;
            while told < ROUNDS {
                let rows = |text: &[u8]| str::from_utf8(text).unwrap().parse::<u64>().unwrap();
                let newer = |text: Option<&[u8]>| text.is_some_and(|text| rows(text) > told);
                journal.noted("rows", newer).await.unwrap();
                told = note(&journal, "rows").unwrap().parse().unwrap();
                // In this order: while there is none, the newest is 0.
                let newest = journal.newest();
                let held = (newest + 1).saturating_sub(journal.oldest());
                assert!(told <= held, "{told} were told of, {held} are there");
            }
        })
    };
    let lookers: Vec<_> = (0..4).map(|_| looker()).collect();
    for _ in 0..ROUNDS {
        noted(&mut fixture, 1).await;
    }
    for looker in lookers {
        looker.await.unwrap();
    }
}

#[tokio::test]
async fn notes_outlive_the_segment_that_brought_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options { retention: Duration::ZERO, ..options(dir.path()) }).await;
    let mut builder = Builder::new();
    builder.note("kept", b"1");
    builder.note("gone", b"2");
    fixture.submit(&mut builder).await;
    let first = fixture.journal().oldest();
    for _ in 0..200 {
        fixture.transaction(5, "other things").await;
    }
    assert!(
        fixture.journal().oldest() > first && fixture.journal().summary().segments < 20,
        "retention has been there"
    );
    let mut builder = Builder::new();
    builder.note("gone", b"");
    fixture.lsn += 1;
    fixture.submit(&mut builder).await;
    assert_eq!(
        (note(fixture.journal(), "kept").unwrap().as_str(), note(fixture.journal(), "gone")),
        ("1", None)
    );
    fixture.journal().close().await;
    for with_index in [true, false] {
        unlocked(dir.path());
        if !with_index {
            for file in std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()) {
                if file.extension().is_some_and(|extension| extension == "idx") {
                    std::fs::remove_file(file).unwrap();
                }
            }
        }
        let journal = journal::open(options(dir.path()), Arc::new(RealDisk)).unwrap();
        assert_eq!((note(&journal, "kept").unwrap().as_str(), note(&journal, "gone")), ("1", None));
        journal.close().await;
    }
}

#[tokio::test]
async fn a_new_history_has_the_old_notes_and_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(options(dir.path())).await;
    noted(&mut fixture, 3).await;
    let position = StreamPosition { lsn: Lsn(500), ..fixture.journal().position() };
    let own: [(&str, &[u8]); 1] = [("wanted", b"[]")];
    fixture.ingest.begin_history(position, ("timeline", ""), 1, &own).await.unwrap();
    let both = |journal: &Journal| (note(journal, "rows"), note(journal, "wanted"));
    let expected = (Some("3".to_owned()), Some("[]".to_owned()));
    assert_eq!(both(fixture.journal()), expected);
    let position = fixture.journal().position();
    fixture.ingest.identify(position, &[("wanted", b"")]).await.unwrap();
    assert_eq!(both(fixture.journal()).1, None);
    fixture.journal().close().await;
    drop(fixture);
    unlocked(dir.path());
    let journal = journal::open(options(dir.path()), Arc::new(RealDisk)).unwrap();
    assert_eq!(both(&journal), (expected.0, None));
}

/// The segment in which it was taken back has no events, and goes when the next one has the position.
#[tokio::test]
async fn what_was_taken_back_stays_so_when_its_segment_goes() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
    let open = |disk: &FakeDisk| {
        unlocked(dir.path());
        journal::open(options(dir.path()), Arc::new(disk.clone())).unwrap()
    };
    let mut fixture = Fixture::over(open(&disk)).await;
    noted(&mut fixture, 3).await;
    fixture.journal().close().await;
    drop(fixture);
    let fixture = Fixture::over(open(&disk)).await;
    let position = fixture.journal().position();
    fixture.ingest.identify(position, &[("rows", b"")]).await.unwrap();
    drop(fixture);
    for life in 0..3 {
        let journal = open(&disk);
        assert_eq!(note(&journal, "rows"), None, "life {life}");
    }
}
