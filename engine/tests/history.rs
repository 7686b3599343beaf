//! A history of the source that does not go on: another one begins, wherever its positions lie.

use std::path::Path;
use std::sync::Arc;

use rowcast_engine::Lsn;
use rowcast_engine::event::Body;
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::disk::{Disk, RealDisk};
use rowcast_engine::journal::{self, Journal, Options, State, StreamPosition};

use crate::disk::FakeDisk;
use crate::guarded::Guarded;
use crate::random::Random;
use crate::repair::Dying;
use crate::support::{Fixture, for_each_batch, unlocked, without_indexes};

/// What is told of each event: its number, and its end LSN or its reason.
fn told(journal: &Journal) -> Vec<(u64, String)> {
    let mut told = Vec::new();
    for_each_batch(journal, 0, |batch, after| {
        told.extend(batch.events().filter(|event| event.id > after).map(|event| {
            let what = match event.body {
                Body::Gap { reason, .. } => reason.to_owned(),
                _ => event.tx.unwrap().end_lsn.0.to_string(),
            };
            (event.id, what)
        }));
    });
    told
}

fn texts(journal: &Journal) -> Vec<String> {
    told(journal).into_iter().map(|(_, what)| what).collect()
}

fn above(journal: &Journal, lsn: u64) -> Vec<u64> {
    let found = journal.transactions_above(Lsn(lsn), 1000).unwrap();
    found.iter().map(|transaction| transaction.end_lsn.0).collect()
}

async fn begin(ingest: &Ingest, lsn: u64) -> u64 {
    let position = StreamPosition { lsn: Lsn(lsn), slot_birth: Lsn(lsn), ..ingest.journal().position() };
    ingest.begin_history(position, ("source_restored", "It was restored"), 1, &[]).await.unwrap()
}

fn options(dir: &Path) -> Options {
    let mut options = Options::new(dir);
    // Several segments a history.
    options.segment_bytes = 2000;
    options
}

#[tokio::test]
async fn positions_go_back_and_numbers_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(options(dir.path())).await;
    for _ in 0..20 {
        fixture.transaction(1, &"x".repeat(300)).await;
    }
    assert_eq!(fixture.journal().position().lsn, Lsn(3000));
    let newest = fixture.journal().newest();
    let gap = begin(&fixture.ingest, 1450).await;
    assert!(gap > newest);
    assert_eq!((fixture.journal().position().lsn, fixture.journal().last_tx_end()), (Lsn(1450), Lsn(0)));
    // Shared up to the fork, then nothing yet.
    assert_eq!(above(fixture.journal(), 1450), [0; 0]);
    assert_eq!(above(fixture.journal(), 1200), [1300, 1400]);

    fixture.lsn = 1450;
    for _ in 0..10 {
        fixture.transaction(1, &"y".repeat(300)).await;
    }
    let (position, last) = (fixture.journal().position(), fixture.journal().last_tx_end());
    assert_eq!((position.lsn, last), (Lsn(2450), Lsn(2450)));
    let all = told(fixture.journal());
    assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0), "{all:?}");
    fixture.journal().close().await;

    for sidecars in [true, false] {
        if !sidecars {
            without_indexes(dir.path());
        }
        let journal = journal::open(options(dir.path()), Arc::new(RealDisk)).unwrap();
        assert_eq!((journal.position(), journal.last_tx_end()), (position.clone(), last));
        assert_eq!(told(&journal), all);
        assert_eq!(
            above(&journal, 1200),
            [1300, 1400, 1550, 1650, 1750, 1850, 1950, 2050, 2150, 2250, 2350, 2450]
        );
        assert_eq!(above(&journal, 2300), [2350, 2450]);
        assert_eq!(journal.transactions_above(Lsn(1200), 3).unwrap().len(), 3);
        assert!(journal.holds_all_above(Lsn(1450)) && journal.holds_all_above(Lsn(0)));
        journal.close().await;
    }
}

#[tokio::test]
async fn retention_takes_the_old_history_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.max_size = Some(8000);
    let mut fixture = Fixture::open(options).await;
    for _ in 0..20 {
        fixture.transaction(1, &"x".repeat(300)).await;
    }
    let first = fixture.journal().oldest();
    begin(&fixture.ingest, 1450).await;
    fixture.lsn = 1450;
    while above(fixture.journal(), 0).first() != Some(&1550) {
        fixture.transaction(1, &"y".repeat(300)).await;
        assert!(fixture.lsn < 10_000, "the old history is still there");
    }
    let journal = fixture.journal();
    assert!(journal.holds_all_above(Lsn(1450)) && !journal.holds_all_above(Lsn(1400)));
    while fixture.journal().holds_all_above(Lsn(1450)) {
        fixture.transaction(1, &"z".repeat(300)).await;
        assert!(fixture.lsn < 20_000, "the beginning is still there");
    }
    assert!(fixture.journal().oldest() > first);
    fixture.journal().close().await;
}

#[tokio::test]
async fn several_histories_each_with_its_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    fixture.transaction(1, "a").await;
    // Forked twice, the second time below the first fork.
    begin(&fixture.ingest, 5000).await;
    fixture.lsn = 5000;
    fixture.transaction(1, "b").await;
    begin(&fixture.ingest, 5100).await;
    begin(&fixture.ingest, 900).await;
    fixture.lsn = 900;
    fixture.transaction(1, "c").await;
    fixture.journal().close().await;
    let journal = journal::open(Options::new(dir.path()), Arc::new(RealDisk)).unwrap();
    let gap = "source_restored";
    assert_eq!(texts(&journal), ["1100", gap, "5100", gap, gap, "1000"]);
    assert_eq!((journal.position().lsn, above(&journal, 900)), (Lsn(1000), vec![1000]));
    journal.close().await;
}

#[tokio::test]
async fn a_full_disk_is_waited_for() {
    let (disk, dir) = (FakeDisk::default(), tempfile::tempdir().unwrap());
    let journal = journal::open(Options::new(dir.path()), Arc::new(disk.clone())).unwrap();
    let mut fixture = Fixture::over(journal).await;
    fixture.transaction(1, "before").await;
    disk.fill(true);
    let mut state = fixture.journal().state();
    let room = async {
        state.wait_for(|state| matches!(state, State::Full(_))).await.unwrap();
        assert_eq!(
            (texts(fixture.journal()), fixture.journal().position().lsn),
            (vec!["1100".to_owned()], Lsn(1100))
        );
        disk.fill(false);
    };
    let (gap, ()) = tokio::join!(begin(&fixture.ingest, 500), room);
    assert_eq!(told(fixture.journal())[1], (gap, "source_restored".to_owned()));
    fixture.lsn = 500;
    fixture.transaction(1, "after").await;
    fixture.journal().state().wait_for(|state| *state == State::Open).await.unwrap();
    fixture.journal().close().await;
}

/// Begins a history on a disk that dies after `calls`; gives whether it was acknowledged.
async fn begin_and_die<D: Disk + Clone>(disk: D, dir: &Path, calls: i64) -> bool {
    let dying = Guarded::over(disk, Dying::after(i64::MAX));
    let mut fixture = Fixture::over(journal::open(Options::new(dir), Arc::new(dying.clone())).unwrap()).await;
    fixture.transaction(1, "before").await;
    dying.0.die_after(calls);
    let position = StreamPosition { lsn: Lsn(500), ..fixture.journal().position() };
    fixture.ingest.begin_history(position, ("timeline", ""), 1, &[]).await.is_ok()
}

/// Either the old history or the new one, and never a position of one with the events of the other.
fn assert_whole(journal: &Journal, acknowledged: bool, what: &str) {
    let (texts, lsn) = (texts(journal), journal.position().lsn);
    match texts.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["1100"] => assert!(lsn == Lsn(1100) && !acknowledged, "{what}: {lsn}"),
        ["1100", "timeline"] => assert_eq!(lsn, Lsn(500), "{what}"),
        _ => panic!("{what}: {texts:?}"),
    }
}

#[tokio::test]
async fn a_kill_at_any_moment_leaves_one_or_the_other() {
    let (mut kept, mut begun) = (0, 0);
    for calls in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let acknowledged = begin_and_die(RealDisk, dir.path(), calls).await;
        // The dead one's lock is held until its threads are gone.
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let journal = journal::open(Options::new(copy.path()), Arc::new(RealDisk)).unwrap();
        assert_whole(&journal, acknowledged, &format!("killed after {calls} calls"));
        let mut fixture = Fixture::over(journal).await;
        let (before, new) = (told(fixture.journal()), fixture.journal().position().lsn == Lsn(500));
        *(if new { &mut begun } else { &mut kept }) += 1;
        fixture.lsn = fixture.journal().position().lsn.0;
        fixture.transaction(1, "after").await;
        let after = told(fixture.journal());
        assert_eq!((&after[..before.len()], after.len()), (&before[..], before.len() + 1));
        fixture.journal().close().await;
        if acknowledged {
            break;
        }
    }
    assert!(kept >= 5 && begun >= 1, "{kept} old, {begun} new");
}

#[tokio::test]
async fn a_power_cut_at_any_moment_leaves_one_or_the_other() {
    for round in 0_u64..3 {
        for calls in 0.. {
            let disk = FakeDisk::default();
            let dir = tempfile::tempdir().unwrap();
            let acknowledged = begin_and_die(disk.clone(), dir.path(), calls).await;
            let after = disk.after_power_cut(&mut Random::new(round * 1000 + calls.unsigned_abs()));
            unlocked(dir.path());
            let journal = journal::open(Options::new(dir.path()), Arc::new(after)).unwrap();
            assert_whole(&journal, acknowledged, &format!("cut after {calls} calls, round {round}"));
            journal.close().await;
            if acknowledged {
                break;
            }
        }
    }
}

/// Two histories, of which the second has lower positions, and a kill.
async fn two_histories(dir: &Path) {
    let mut fixture = Fixture::open(options(dir)).await;
    for _ in 0..20 {
        fixture.transaction(1, &"x".repeat(300)).await;
    }
    assert_eq!(fixture.journal().position().lsn, Lsn(3000));
    begin(&fixture.ingest, 1450).await;
    fixture.lsn = 1450;
    for _ in 0..10 {
        fixture.transaction(1, &"y".repeat(300)).await;
    }
    assert_eq!(fixture.journal().position().lsn, Lsn(2450));
    fixture.journal().close().await;
    without_indexes(dir);
}

/// Damages the segment that `chosen` picks by place and count, has it mended, and opens it again.
async fn mended(dir: &Path, at: u64, chosen: impl Fn(&[std::path::PathBuf]) -> usize) -> journal::Journal {
    use std::os::unix::fs::FileExt;
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
    segments.sort();
    let broken = &segments[chosen(&segments)];
    std::fs::File::options().write(true).open(broken).unwrap().write_all_at(b"garbage", at).unwrap();
    assert!(journal::open(options(dir), Arc::new(RealDisk)).is_err(), "{}", broken.display());
    let report = journal::repair(dir, &RealDisk, 0, false).unwrap();
    assert_eq!(report.gaps.len(), 1, "{report:?}");
    journal::open(options(dir), Arc::new(RealDisk)).unwrap()
}

#[tokio::test]
async fn mending_the_newest_of_a_lower_history_keeps_its_position() {
    let dir = tempfile::tempdir().unwrap();
    two_histories(dir.path()).await;
    // The last one that has events behind the damage.
    let journal = mended(dir.path(), 200, |segments| {
        let long = |path: &std::path::PathBuf| path.metadata().unwrap().len() > 1500;
        segments.iter().rposition(long).unwrap()
    })
    .await;
    let position = journal.position().lsn;
    assert!((Lsn(1450)..=Lsn(2450)).contains(&position), "{position} is of the first history");
    journal.close().await;
}

#[tokio::test]
async fn mending_where_a_history_begins_keeps_the_two_apart() {
    let dir = tempfile::tempdir().unwrap();
    two_histories(dir.path()).await;
    // Flag 4 of a header: a history begins here.
    let begins = |path: &std::path::PathBuf| std::fs::read(path).unwrap()[10] & 4 != 0;
    let journal = mended(dir.path(), 140, |segments| segments.iter().position(begins).unwrap()).await;
    assert_eq!(journal.position().lsn, Lsn(2450));
    assert_eq!(
        above(&journal, 1200),
        [1300, 1400].into_iter().chain(above(&journal, 1450)).collect::<Vec<_>>()
    );
    assert!(above(&journal, 1450).iter().all(|end| *end <= 2450), "none of the first history");
    journal.close().await;
}

/// The batch that it begins with was durable before it had its name.
#[tokio::test]
async fn a_history_that_has_lost_its_beginning_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(options(dir.path())).await;
    begin(&fixture.ingest, 500).await;
    fixture.journal().close().await;
    without_indexes(dir.path());
    let entries = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let newest = entries.filter(|path| path.extension().is_some_and(|found| found == "seg")).max().unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    bytes[140] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let error = journal::open(options(dir.path()), Arc::new(RealDisk)).unwrap_err();
    assert!(error.to_string().contains("is damaged at offset 128"), "{error}");
    assert!(journal::check(dir.path(), &RealDisk).is_err());
    assert_eq!(journal::repair(dir.path(), &RealDisk, 0, true).unwrap().gaps.len(), 1);
}
