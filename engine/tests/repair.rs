//! `repair`: whatever is broken, what is sound stays with its numbers and what is lost is told.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rowcast_engine::Kind;
use rowcast_engine::journal::disk::{Disk, DiskFile, RealDisk};
use rowcast_engine::journal::{self, RepairReport, repair};

use crate::damage::{Told, all, contents, copy, history, mended, segments, small};
use crate::disk::FakeDisk;
use crate::guarded::{Call, Guard, Guarded};
use crate::random::Random;

/// One way to break a journal.
type Break = (&'static str, fn(&Path));

fn overwrite(path: &Path, at: u64) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"garbage!", at).unwrap();
}

fn cut(path: &Path, length: impl Fn(u64) -> u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(length(file.metadata().unwrap().len())).unwrap();
}

/// Opening trusts the index of a closed segment; damage inside is found by whoever reads it.
fn no_indexes(dir: &Path) {
    for path in segments(dir) {
        // The newest one may have none.
        let _ = fs::remove_file(path.with_extension("idx"));
    }
}

/// Where the second batch of the file ends: before it is its position and its schema.
fn batch_end(path: &Path, count: usize) -> u64 {
    let bytes = fs::read(path).unwrap();
    (0..count).fold(128, |end, _| end + u32::from_le_bytes(*bytes[end + 8..].first_chunk().unwrap()) as usize)
        as u64
}

fn largest(dir: &Path) -> PathBuf {
    segments(dir).into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

/// The segment that holds one event, followed by another one.
fn single(dir: &Path) -> PathBuf {
    let of = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    let paths = segments(dir);
    let pair = paths.windows(2).find(|pair| of(&pair[1]) == of(&pair[0]) + 1);
    pair.expect("a segment of one event")[0].clone()
}

const BREAKS: &[Break] = &[
    ("a batch in the middle", |dir| overwrite(&segments(dir)[1], 1500)),
    ("the first batch", |dir| overwrite(&segments(dir)[2], 140)),
    ("two segments", |dir| [1, 2].iter().for_each(|at| overwrite(&segments(dir)[*at], 1500))),
    ("two segments apart", |dir| [1, 4].iter().for_each(|at| overwrite(&segments(dir)[*at], 1000))),
    ("a header", |dir| overwrite(&segments(dir)[2], 3)),
    ("the header's numbers", |dir| overwrite(&segments(dir)[2], 16)),
    ("the oldest header", |dir| overwrite(&segments(dir)[0], 3)),
    ("a batch, and the header after it", |dir| {
        overwrite(&segments(dir)[1], 1500);
        overwrite(&segments(dir)[2], 3);
    }),
    ("a segment is gone", |dir| fs::remove_file(&segments(dir)[3]).unwrap()),
    ("two are gone", |dir| segments(dir)[2..4].iter().for_each(|path| fs::remove_file(path).unwrap())),
    ("cut within a batch", |dir| cut(&segments(dir)[2], |length| length - 20)),
    ("cut between two batches", |dir| {
        let path = &segments(dir)[2];
        let end = batch_end(path, 5);
        cut(path, |_| end);
    }),
    ("cut to nothing", |dir| cut(&segments(dir)[2], |_| 0)),
    ("cut to its header", |dir| cut(&segments(dir)[2], |_| 128)),
    ("zeros at the end", |dir| {
        let path = &segments(dir)[2];
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length - 300).unwrap();
        file.set_len(length).unwrap();
    }),
    ("a spilled transaction", |dir| overwrite(&largest(dir), 1_500_000)),
    ("a spilled transaction cut at a batch", |dir| {
        let path = largest(dir);
        let end = batch_end(&path, 2);
        cut(&path, |_| end);
    }),
    ("a segment of one event", |dir| overwrite(&single(dir), 2000)),
    ("a segment of one event and the one before", |dir| {
        let path = single(dir);
        let before = segments(dir).into_iter().rfind(|other| *other < path).unwrap();
        overwrite(&before, 1500);
        overwrite(&path, 2000);
    }),
    ("the middle of the newest", |dir| overwrite(&segments(dir).pop().unwrap(), 700)),
    ("the newest, before one that was never begun", |dir| {
        overwrite(&segments(dir).pop().unwrap(), 700);
        fs::write(dir.join("08999999999999999999.seg"), [0; 128]).unwrap();
    }),
    ("a header before one that was never begun", |dir| {
        let newest = segments(dir).pop().unwrap();
        overwrite(&newest, 3);
        let number: u64 = newest.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        fs::write(dir.join(format!("{:020}.seg", number + 100)), "").unwrap();
    }),
    ("a bridge", |dir| {
        overwrite(&segments(dir)[2], 140);
        repair(dir, &RealDisk, 0, false).unwrap();
        let bridge = segments(dir).into_iter().min_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
        overwrite(&bridge, 140);
    }),
    ("the newest header", |dir| overwrite(&segments(dir).pop().unwrap(), 3)),
    ("zeros in place of the newest header, and what follows it is there", |dir| {
        let newest = segments(dir).pop().unwrap();
        OpenOptions::new().write(true).open(newest).unwrap().write_all_at(&[0; 512], 0).unwrap();
    }),
    ("the first batch of the newest", |dir| overwrite(&segments(dir).pop().unwrap(), 140)),
    ("the newest and the one before", |dir| {
        let paths = segments(dir);
        paths[paths.len() - 2..].iter().for_each(|path| overwrite(path, 700));
    }),
    ("all headers but one", |dir| {
        let paths = segments(dir);
        paths.iter().filter(|path| **path != paths[3]).for_each(|path| overwrite(path, 3));
    }),
    ("the installation file is gone", |dir| fs::remove_file(dir.join("installation")).unwrap()),
];

fn mend(dir: &Path, dry_run: bool) -> RepairReport {
    repair(dir, &RealDisk, 0, dry_run).unwrap()
}

#[tokio::test]
async fn a_healthy_journal_is_left_alone() {
    let dir = history().await;
    let before = contents(dir.path());
    assert!(mend(dir.path(), false).is_sound());
    assert!(contents(dir.path()) == before);
    // The torn end of a crash is no damage; a segment that was closed has none, and an index that says so.
    no_indexes(dir.path());
    cut(&segments(dir.path()).pop().unwrap(), |length| length - 7);
    let before = contents(dir.path());
    assert!(mend(dir.path(), false).is_sound());
    assert!(contents(dir.path()) == before);
    let journal = journal::open(small(dir.path()), Arc::new(RealDisk)).unwrap();
    let error = repair(dir.path(), &RealDisk, 0, true).unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
    journal.close().await;
}

#[tokio::test]
async fn whatever_is_broken_is_mended_once() {
    let source = history().await;
    let whole = all(copy(source.path()).path()).await;
    for (name, damage) in BREAKS {
        println!("{name}");
        let dir = copy(source.path());
        damage(dir.path());
        no_indexes(dir.path());
        let error = journal::open(small(dir.path()), Arc::new(RealDisk)).unwrap_err();
        let hint = error.remedy().unwrap_or_default();
        assert!(error.kind() == Kind::Journal && hint.contains("rowcast journal repair"), "{error}: {hint}");
        let before = contents(dir.path());
        let plan = mend(dir.path(), true);
        assert!(contents(dir.path()) == before, "only told");
        let done = mend(dir.path(), false);
        assert!(!done.is_sound() && plan.dry_run && !done.dry_run);
        assert_eq!(format!("{:?}", plan.cuts), format!("{:?}", done.cuts));
        for cut in &done.cuts {
            let (_, old) =
                before.iter().find(|(path, _)| Some(path.as_os_str()) == cut.file.file_name()).unwrap();
            assert_eq!(
                fs::read(&cut.saved).unwrap(),
                old[cut.cut_at as usize..],
                "kept beside: {}",
                cut.reason
            );
            assert_eq!(cut.bytes, old.len() as u64 - cut.cut_at);
        }
        assert!(mend(dir.path(), false).is_sound(), "once is enough");
        let gaps = mended(dir.path(), &whole).await;
        let told: Vec<_> = done.gaps.iter().map(|gap| (gap.from, gap.to)).collect();
        assert!(gaps.ends_with(&told) && gaps.len() <= told.len() + 1, "{gaps:?} {told:?}");
        assert!(mend(dir.path(), false).is_sound(), "also after it was opened");
    }
}

/// What was there when its index was written, and is not there any more, at the end of the journal.
const ENDS: &[Break] = &[
    ("cut between two batches", |dir| {
        let path = segments(dir).pop().unwrap();
        let end = batch_end(&path, 3);
        cut(&path, |_| end);
    }),
    ("cut within a batch", |dir| cut(&segments(dir).pop().unwrap(), |length| length - 20)),
    ("cut to its header", |dir| cut(&segments(dir).pop().unwrap(), |_| 128)),
    ("cut to nothing", |dir| cut(&segments(dir).pop().unwrap(), |_| 0)),
    ("its last batch", |dir| {
        let path = segments(dir).pop().unwrap();
        let length = fs::metadata(&path).unwrap().len();
        overwrite(&path, length - 20);
    }),
    ("zeros in place of its last batches", |dir| {
        let path = segments(dir).pop().unwrap();
        let length = fs::metadata(&path).unwrap().len();
        cut(&path, |length| length - 300);
        cut(&path, |_| length);
    }),
    ("gone", |dir| fs::remove_file(segments(dir).pop().unwrap()).unwrap()),
    ("two are gone", |dir| {
        let paths = segments(dir);
        paths[paths.len() - 2..].iter().for_each(|path| fs::remove_file(path).unwrap());
    }),
    ("cut, and the next one is gone", |dir| {
        let paths = segments(dir);
        fs::remove_file(&paths[paths.len() - 1]).unwrap();
        cut(&paths[paths.len() - 2], |length| length - 1);
    }),
];

#[tokio::test]
async fn an_end_that_was_taken_away_is_missed_and_mended() {
    let source = history().await;
    let whole = all(copy(source.path()).path()).await;
    for (name, damage) in ENDS {
        println!("{name}");
        let dir = copy(source.path());
        damage(dir.path());
        let before = contents(dir.path());
        let opening = journal::open(small(dir.path()), Arc::new(RealDisk)).unwrap_err();
        let checking = journal::check(dir.path(), &RealDisk).unwrap_err();
        assert_eq!(opening.to_string(), checking.to_string());
        let hint = opening.remedy().unwrap_or_default();
        assert!(opening.kind() == Kind::Journal && hint.contains("rowcast journal repair"), "{opening}");
        assert!(contents(dir.path()) == before, "opening changes nothing");
        let plan = mend(dir.path(), true);
        assert!(contents(dir.path()) == before, "only told");
        let done = mend(dir.path(), false);
        assert_eq!(format!("{:?}", plan.cuts), format!("{:?}", done.cuts));
        assert!(done.gaps.len() == 1 && done.gaps[0].open_end, "{done:?}");
        assert!(mend(dir.path(), false).is_sound(), "once is enough");
        let gaps = mended(dir.path(), &whole).await;
        assert_eq!(gaps, [(done.gaps[0].from, done.gaps[0].to)]);
    }
    // With everything: the numbers are gone, and are not given again.
    let dir = copy(source.path());
    segments(dir.path()).iter().for_each(|path| fs::remove_file(path).unwrap());
    let error = journal::open(small(dir.path()), Arc::new(RealDisk)).unwrap_err();
    assert!(error.to_string().contains("is missing: its index is there"), "{error}");
    let done = mend(dir.path(), false);
    assert!(done.gaps[0].to > whole.iter().map(crate::damage::number).max().unwrap(), "{done:?}");
    let left = all(dir.path()).await;
    assert!(matches!(left[..], [crate::damage::Told::Gap { .. }]), "{left:?}");
}

/// Opening does not read what an index speaks for; repair does, and the index goes with what it told of.
#[tokio::test]
async fn damage_behind_an_index_is_mended() {
    let dir = history().await;
    let whole = all(copy(dir.path()).path()).await;
    let path = segments(dir.path())[1].clone();
    overwrite(&path, 1500);
    assert!(path.with_extension("idx").exists());
    let report = mend(dir.path(), false);
    assert_eq!((report.cuts.len(), report.gaps.len()), (1, 1));
    assert!(!path.with_extension("idx").exists());
    mended(dir.path(), &whole).await;
}

#[tokio::test]
async fn what_is_lost_is_told_with_its_numbers() {
    let dir = history().await;
    let whole = all(copy(dir.path()).path()).await;
    let numbers: Vec<_> = whole.iter().map(crate::damage::number).collect();
    let paths = segments(dir.path());
    let base = |path: &Path| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    overwrite(&paths[1], 1500);
    let report = mend(dir.path(), false);
    let (cut, gap) = (&report.cuts[0], &report.gaps[0]);
    assert_eq!((report.cuts.len(), report.gaps.len(), gap.open_end), (1, 1, false));
    assert_eq!(gap.to, base(&paths[2]) - 1, "up to what the next segment follows");
    assert!(gap.from > base(&paths[1]) && gap.from < gap.to && numbers.contains(&gap.from));
    assert!(gap.detail.contains("damaged at offset") && gap.detail.contains(".seg"), "{}", gap.detail);
    assert!(cut.sound_events > 0 && cut.sound_events < gap.to - gap.from + 1, "{cut:?}");
    assert!(cut.cut_at <= 1508 && cut.damaged_at >= cut.cut_at && cut.reason.contains("batch"), "{cut:?}");
    assert_eq!(mended(dir.path(), &whole).await, [(gap.from, gap.to)]);
}

#[tokio::test]
async fn only_a_person_can_judge_some_things() {
    let source = history().await;
    let refused = |damage: &dyn Fn(&Path), words: &str| {
        let dir = copy(source.path());
        damage(dir.path());
        let before = contents(dir.path());
        let error = repair(dir.path(), &RealDisk, 0, false).unwrap_err();
        assert!(error.kind() == Kind::Journal && error.to_string().contains(words), "{error}");
        assert!(error.remedy().is_some(), "{error}");
        assert!(contents(dir.path()) == before);
    };
    refused(
        &|dir| fs::write(dir.join("installation"), "6b9c2f5e-8c3c-4f6e-9d53-0c7a1a5b2f10\n").unwrap(),
        "belongs to another installation",
    );
    refused(&|dir| fs::write(dir.join("installation"), "me").unwrap(), "holds no installation number");
    refused(
        &|dir| {
            let paths = segments(dir);
            fs::copy(&paths[2], dir.join("99999999999999999999.seg")).unwrap();
        },
        "its name is not the number of its first event",
    );
    refused(
        &|dir| {
            let path = &segments(dir)[2];
            let mut bytes = fs::read(path).unwrap();
            bytes[8..10].copy_from_slice(&9u16.to_le_bytes());
            let crc = crc32c::crc32c(&bytes[..124]);
            bytes[124..128].copy_from_slice(&crc.to_le_bytes());
            fs::write(path, bytes).unwrap();
        },
        "another version of rowcast",
    );
    let empty = tempfile::tempdir().unwrap();
    let error = repair(empty.path(), &RealDisk, 0, false).unwrap_err();
    assert!(error.to_string().contains("There is no journal"), "{error}");
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
}

/// The disk dies after so many calls that change something.
#[derive(Debug)]
pub(crate) struct Dying(AtomicI64);

impl Dying {
    pub(crate) fn after(calls: i64) -> Self {
        Self(AtomicI64::new(calls))
    }

    /// So many more than have been made.
    pub(crate) fn die_after(&self, calls: i64) {
        self.0.store(calls, Ordering::Release);
    }
}

fn gone() -> io::Error {
    io::Error::other("the power is gone")
}

impl Guard for Dying {
    fn before(&self, call: Call, _: &Path) -> io::Result<()> {
        let counts = call.changes() && call != Call::Write;
        if counts && self.0.fetch_sub(1, Ordering::AcqRel) <= 0 { Err(gone()) } else { Ok(()) }
    }

    fn write_at(&self, file: &dyn DiskFile, _: &Path, bytes: &[u8], offset: u64) -> io::Result<()> {
        let left = self.0.fetch_sub(1, Ordering::AcqRel);
        if left > 0 {
            return file.write_at(bytes, offset);
        }
        // A write that is broken off has come half way.
        if left == 0 {
            file.write_at(&bytes[..bytes.len() / 2], offset)?;
        }
        Err(gone())
    }
}

/// The breaks that take different ways through the mending.
fn some_breaks() -> impl Iterator<Item = &'static Break> {
    const NAMES: [&str; 4] = [
        "two segments",
        "a segment is gone",
        "a segment of one event and the one before",
        "the newest and the one before",
    ];
    let found = BREAKS.iter().filter(|(name, _)| NAMES.contains(name));
    assert_eq!(found.clone().count(), NAMES.len());
    found.chain(ENDS)
}

/// Ends a repair of `broken` after every number of calls, and repairs again.
pub(crate) async fn is_mended_after_any_end(broken: &Path, whole: &[Told]) {
    for calls in 0.. {
        let dir = copy(broken);
        let disk = Guarded::new(Dying::after(calls));
        let done = repair(dir.path(), &disk, 0, false);
        println!("after {calls} calls: {:?}", done.as_ref().err());
        // Either opening refuses what is half mended, or it is mended.
        let half = copy(dir.path());
        if let Ok(journal) = journal::open(small(half.path()), Arc::new(RealDisk)) {
            journal.close().await;
            drop(journal);
            // Damage that no index shows is for readers to find; it is the same as before the repair.
            if journal::check(half.path(), &RealDisk).is_ok() {
                mended(half.path(), whole).await;
            }
        }
        repair(dir.path(), &RealDisk, 0, false).unwrap();
        mended(dir.path(), whole).await;
        if done.is_ok() {
            break;
        }
    }
}

/// The same with the power cut at that moment.
pub(crate) async fn is_mended_after_a_power_cut(broken: &Path, whole: &[Told]) {
    for calls in 0.. {
        let disk = FakeDisk::default();
        for (path, bytes) in contents(broken) {
            disk.put(broken.join(path), bytes);
        }
        let dying = Guarded::over(disk.clone(), Dying::after(calls));
        let done = repair(broken, &dying, 0, false);
        let after = disk.after_power_cut(&mut Random::new(calls.unsigned_abs()));
        repair(broken, &after, 0, false).unwrap();
        println!("after {calls} calls: {:?}", done.as_ref().err());
        let dir = tempfile::tempdir().unwrap();
        for path in after.list(broken).unwrap() {
            let file = after.open(&path).unwrap();
            let mut bytes = vec![0; file.length().unwrap() as usize];
            file.read_at(&mut bytes, 0).unwrap();
            fs::write(dir.path().join(path.file_name().unwrap()), bytes).unwrap();
        }
        mended(dir.path(), whole).await;
        if done.is_ok() {
            break;
        }
    }
}

#[tokio::test]
async fn a_repair_that_is_broken_off_is_done_again() {
    let source = history().await;
    let whole = all(copy(source.path()).path()).await;
    for (name, damage) in some_breaks() {
        println!("{name}");
        let broken = copy(source.path());
        damage(broken.path());
        is_mended_after_any_end(broken.path(), &whole).await;
    }
}

#[tokio::test]
async fn a_power_cut_in_the_middle_of_a_repair_is_mended() {
    let source = history().await;
    let whole = all(copy(source.path()).path()).await;
    for (name, damage) in some_breaks() {
        println!("{name}");
        let broken = copy(source.path());
        damage(broken.path());
        is_mended_after_a_power_cut(broken.path(), &whole).await;
    }
}
