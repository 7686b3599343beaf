//! Damage in compressed segments: `check` names it, `repair` mends it as in plain ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Compression, Options, repair};

use crate::compression::{until, until_compressed};
use crate::damage::{all, contents, copy, mended, segments, small, spilled};
use crate::failures::{read_to_break, refused};
use crate::repair::{is_mended_after_a_power_cut, is_mended_after_any_end};
use crate::support::{Fixture, read_all};

fn options(dir: &Path) -> Options {
    let mut options = Options::new(dir);
    options.segment_bytes = 600_000;
    options.cache_bytes = 1000;
    options.compression = Compression::Zstd;
    options
}

/// Two compressed segments of three frames, one of one frame, a spilled one of five, and a plain one.
async fn packed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(options(dir.path())).await;
    let text = "an order of the shop; ".repeat(230);
    while segments(dir.path()).len() < 3 {
        fixture.transaction(4, &text).await;
    }
    for _ in 0..8 {
        fixture.transaction(4, &text).await;
    }
    spilled(&mut fixture, 13).await;
    for _ in 0..3 {
        fixture.transaction(4, &text).await;
    }
    until_compressed(fixture.journal()).await;
    fixture.journal().close().await;
    let paths = segments(dir.path());
    assert_eq!(paths.iter().map(|path| frames(path).len()).collect::<Vec<_>>(), [3, 3, 1, 5, 0]);
    dir
}

/// Offset of the table, and offset and length of each frame; none in a plain segment.
fn frames(path: &Path) -> Vec<(usize, usize, usize)> {
    let bytes = fs::read(path).unwrap();
    if bytes[10] & 2 == 0 {
        return Vec::new();
    }
    let end = bytes.len() - 32;
    let number = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize;
    let table = number(end + 16);
    let length = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize;
    (table..end).step_by(16).map(|at| (at, number(at), length(at + 8))).collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn break_frame(path: &Path, frame: usize) {
    let (_, offset, length) = frames(path)[frame];
    flip(path, offset + length / 2);
}

fn cut_to(path: &Path, length: usize) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..length]).unwrap();
}

fn at(dir: &Path, number: usize) -> PathBuf {
    segments(dir)[number].clone()
}

/// As if the others had never been: an index that is left would tell.
fn leave_two(dir: &Path) {
    for path in &segments(dir)[2..] {
        fs::remove_file(path).unwrap();
        let _ = fs::remove_file(path.with_extension("idx"));
    }
}

/// What is broken, where, and whether a beginning of the segment can be kept.
type Break = (&'static str, fn(&Path), usize, bool);

const BREAKS: &[Break] = &[
    // In its middle some batches may be whole.
    ("the beginning of the first frame", |dir| flip(&at(dir, 1), frames(&at(dir, 1))[0].1), 1, false),
    ("a frame in the middle", |dir| break_frame(&at(dir, 1), 1), 1, true),
    ("the last frame", |dir| break_frame(&at(dir, 0), 2), 0, true),
    ("the footer", |dir| flip(&at(dir, 1), fs::metadata(at(dir, 1)).unwrap().len() as usize - 20), 1, true),
    ("the header", |dir| flip(&at(dir, 1), 20), 1, false),
    ("the flag that says it is compressed", |dir| flip(&at(dir, 1), 10), 1, false),
    ("cut in the middle", |dir| cut_to(&at(dir, 1), frames(&at(dir, 1))[1].1 + 5), 1, true),
    ("cut to its header", |dir| cut_to(&at(dir, 1), 128), 1, false),
    ("cut to nothing", |dir| cut_to(&at(dir, 1), 0), 1, false),
    ("a spilled transaction", |dir| break_frame(&at(dir, 3), 2), 3, false),
    ("two segments", |dir| [0, 1].iter().for_each(|segment| break_frame(&at(dir, *segment), 1)), 0, true),
    (
        "the newest, which is compressed",
        |dir| {
            leave_two(dir);
            break_frame(&at(dir, 1), 1);
        },
        1,
        true,
    ),
    (
        "the footer of the newest",
        |dir| {
            leave_two(dir);
            cut_to(&at(dir, 1), 1000);
        },
        1,
        false,
    ),
];

#[tokio::test]
async fn whatever_is_broken_in_a_compressed_segment_is_mended_once() {
    let source = packed().await;
    let whole = all(copy(source.path()).path()).await;
    for (name, damage, segment, keeps) in BREAKS {
        println!("{name}");
        let dir = copy(source.path());
        let path = at(dir.path(), *segment);
        damage(dir.path());
        let file = path.file_name().unwrap().to_str().unwrap();
        let error = journal::check(dir.path(), &RealDisk).unwrap_err();
        assert!(error.to_string().contains(file) && error.to_string().contains("is damaged"), "{error}");
        assert!(error.remedy().unwrap_or_default().contains("rowcast journal repair"), "{error}");
        // Opening trusts an index; without one it refuses in the same words.
        for path in segments(dir.path()) {
            let _ = fs::remove_file(path.with_extension("idx"));
        }
        let refused = journal::open(small(dir.path()), Arc::new(RealDisk)).unwrap_err();
        assert!(refused.to_string().contains(file), "{refused}");
        assert!(refused.remedy().unwrap_or_default().contains("rowcast journal repair"), "{refused}");
        let before = contents(dir.path());
        let plan = repair(dir.path(), &RealDisk, 0, true).unwrap();
        assert!(contents(dir.path()) == before, "only told");
        let done = repair(dir.path(), &RealDisk, 0, false).unwrap();
        assert_eq!(format!("{:?}", plan.cuts), format!("{:?}", done.cuts));
        assert_eq!(done.cuts[0].file, path);
        for cut in &done.cuts {
            let (_, old) =
                before.iter().find(|(path, _)| Some(path.as_os_str()) == cut.file.file_name()).unwrap();
            assert_eq!(&fs::read(&cut.saved).unwrap(), old, "the whole file is kept: {}", cut.reason);
            assert_eq!((cut.cut_at > 0, cut.file.exists()), (*keeps, *keeps), "{cut:?}");
            if cut.cut_at > 0 {
                assert_eq!(fs::metadata(&cut.file).unwrap().len(), cut.cut_at, "plain, up to the damage");
            }
        }
        assert!(repair(dir.path(), &RealDisk, 0, false).unwrap().is_sound(), "once is enough");
        let gaps = mended(dir.path(), &whole).await;
        let told: Vec<_> = done.gaps.iter().map(|gap| (gap.from, gap.to)).collect();
        assert!(gaps.ends_with(&told) && gaps.len() <= told.len() + 1, "{gaps:?} {told:?}");
    }
}

type Way = fn(&Path);

/// Ways to damage what stands behind the frames.
const ENDS: &[(&str, Way)] = &[
    ("a byte cut off", |path| cut_to(path, length(path) - 1)),
    ("an offset in the table", |path| flip(path, frames(path)[1].0 + 3)),
    ("a length in the table", |path| flip(path, frames(path)[0].0 + 9)),
    ("a checksum in the table", |path| flip(path, frames(path)[2].0 + 13)),
    ("all of the table", |path| frames(path).iter().for_each(|frame| flip(path, frame.0 + 12))),
    ("a bit of the footer", |path| flip(path, length(path) - 20)),
    ("a bit of the footer and one of the table", |path| {
        flip(path, frames(path)[1].0 + 3);
        flip(path, length(path) - 20);
    }),
    ("no table", |path| cut_to(path, frames(path)[0].0)),
    ("zeros behind it", |path| fs::write(path, [fs::read(path).unwrap(), vec![0; 100]].concat()).unwrap()),
    ("a megabyte of zeros behind it", |path| {
        fs::write(path, [fs::read(path).unwrap(), vec![0; 1 << 20]].concat()).unwrap();
    }),
];

fn length(path: &Path) -> usize {
    fs::metadata(path).unwrap().len() as usize
}

#[tokio::test]
async fn what_is_damaged_behind_the_frames_costs_no_event() {
    let source = packed().await;
    for newest in [false, true] {
        let source = copy(source.path());
        if newest {
            leave_two(source.path());
        }
        let whole = all(copy(source.path()).path()).await;
        for (name, damage) in ENDS {
            println!("{name}, the newest: {newest}");
            let dir = copy(source.path());
            let path = at(dir.path(), 1);
            let before = fs::read(&path).unwrap();
            damage(&path);
            let error = journal::check(dir.path(), &RealDisk).unwrap_err().to_string();
            assert!(!error.contains("damaged: damaged"), "{error}");
            let damaged = fs::read(&path).unwrap();
            let report = repair(dir.path(), &RealDisk, 0, false).unwrap();
            assert!(report.cuts.len() == 1 && report.gaps.is_empty(), "{report:?}");
            assert_eq!((report.cuts[0].bytes, report.cuts[0].sound_events), (0, 0));
            assert!(fs::read(&report.cuts[0].saved).unwrap() == damaged && damaged != before, "it is kept");
            assert!(repair(dir.path(), &RealDisk, 0, false).unwrap().is_sound(), "once is enough");
            assert_eq!(all(dir.path()).await, whole);
        }
    }
}

/// Of one that is cut between two frames nothing says whether there were more.
#[tokio::test]
async fn frames_that_are_cut_off_are_lost_numbers() {
    let source = packed().await;
    let whole = all(copy(source.path()).path()).await;
    for newest in [false, true] {
        let dir = copy(source.path());
        if newest {
            leave_two(dir.path());
        }
        let path = at(dir.path(), 1);
        cut_to(&path, frames(&path)[1].1);
        let report = repair(dir.path(), &RealDisk, 0, false).unwrap();
        assert_eq!((report.cuts.len(), report.gaps.len()), (1, 1), "{report:?}");
        assert!(report.cuts[0].cut_at > 128 && report.gaps[0].open_end == newest, "{report:?}");
        let kept = all(dir.path()).await;
        assert!(kept.len() > 20 && kept.iter().take(20).eq(whole.iter().take(20)));
    }
}

#[tokio::test]
async fn what_stands_behind_a_damaged_frame_is_counted() {
    let dir = packed().await;
    break_frame(&at(dir.path(), 0), 1);
    let report = repair(dir.path(), &RealDisk, 0, true).unwrap();
    let (cut, gap) = (&report.cuts[0], &report.gaps[0]);
    let frame = 128 + (256 << 10);
    assert!(cut.cut_at <= frame && cut.damaged_at <= frame && cut.cut_at > frame / 2, "{cut:?}");
    assert!(cut.sound_events > 0 && cut.sound_events < gap.to - gap.from + 1, "{cut:?} {gap:?}");
}

#[tokio::test]
async fn a_repair_of_a_compressed_segment_that_is_broken_off_is_done_again() {
    let source = packed().await;
    let whole = all(copy(source.path()).path()).await;
    break_frame(&at(source.path(), 1), 1);
    is_mended_after_any_end(source.path(), &whole).await;
    is_mended_after_a_power_cut(source.path(), &whole).await;
}

const REMOVE: Way = |path| fs::remove_file(path).unwrap();
const CUT: Way = |path| cut_to(path, frames(path)[1].1 + 100);
const OVERWRITE: Way = |path| break_frame(path, 1);

#[tokio::test]
async fn a_compressed_segment_that_vanishes_meanwhile_is_noticed_by_who_reads_it() {
    let source = packed().await;
    for (vanish, words) in [
        (REMOVE, "Cannot read"),
        (CUT, "is damaged: the table at the end"),
        (OVERWRITE, "its checksum is wrong"),
    ] {
        let dir = copy(source.path());
        let mut fixture = Fixture::open(options(dir.path())).await;
        let journal = fixture.journal().clone();
        let whole = read_all(&journal, 0);
        vanish(&segments(dir.path())[1]);
        let (after, error) = read_to_break(&journal, whole[0].0);
        refused(&error, words, "rowcast journal repair");
        let place = whole.iter().position(|seen| seen.0 == after).unwrap();
        assert!(place > 20 && place < whole.len() - 20, "all before it is given out: {place}");
        // Who reads elsewhere is served, and what is new is taken.
        fixture.transaction(2, "new").await;
        let newest = whole[whole.len() - 1].0;
        assert_eq!(read_all(&journal, newest).len(), 2);
        assert_eq!(read_all(&journal, newest - 20)[..20], whole[whole.len() - 20..]);
        journal.close().await;
    }
}

#[tokio::test]
async fn a_compressed_segment_that_vanishes_meanwhile_is_missed_though_nobody_reads_it() {
    let source = packed().await;
    for (vanish, how) in [(REMOVE, "was removed"), (CUT, "was cut")] {
        let dir = copy(source.path());
        let journal = Fixture::open(options(dir.path())).await.journal().clone();
        let path = segments(dir.path())[1].clone();
        vanish(&path);
        let told = |told: String| told.contains(how) && told.contains(path.to_str().unwrap());
        until("it is missed", || journal.summary().damage.is_some_and(told)).await;
        journal.close().await;
    }
}
