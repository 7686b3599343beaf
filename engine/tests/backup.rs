//! Copies of a journal that is being written: by `backup`, and as cp, tar and rsync make them.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rowcast_engine::Kind;
use rowcast_engine::feed::{Feed, From};
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Compression, Journal, Options, Read, backup, repair};
use rowcast_engine::stop;

use crate::damage::{Told, copy as copy_of, number, segments, small, spilled, told};
use crate::support::{Fixture, Seen, read_all};

/// One made copy, and the newest event that was visible when it began.
struct Copied {
    dir: tempfile::TempDir,
    visible: u64,
    how: &'static str,
    /// Retention took the newest segment of the list before the copying had come to it.
    overtaken: bool,
}

/// Lists the directory, then copies file after file, as all the usual tools do. Gives what was gone by then.
fn plain_copy(journal: &Journal, to: &Path, order: impl Fn(&mut Vec<PathBuf>)) -> Vec<PathBuf> {
    let dir = journal.dir();
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    order(&mut names);
    let mut gone = Vec::new();
    for (at, path) in names.into_iter().enumerate() {
        // Gone meanwhile: the tools complain and go on.
        if let Err(error) = fs::copy(&path, to.join(path.file_name().unwrap())) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
            gone.push(path);
        }
        // Something happens between two files, for a while.
        let newest = journal.newest();
        while at % 2 == 0 && at < 40 && journal.newest() == newest {
            std::thread::yield_now();
        }
    }
    gone
}

/// Has a tool copy it. It complains of what was gone by then, and of what grows while it is read, and goes on.
fn tool(dir: &Path, to: &Path, script: &str) -> Vec<PathBuf> {
    let output = Command::new("sh").args(["-c", script, "sh"]).args([dir, to]).output().unwrap();
    assert!(segments(to).len() > 1, "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    let words = told.split(|c: char| !c.is_ascii_alphanumeric() && !"/.-_".contains(c));
    words.filter(|word| word.ends_with(".seg")).map(|word| dir.join(word)).collect()
}

fn copy(how: usize, journal: &Journal, dir: &Path) -> Copied {
    let (to, visible) = (tempfile::tempdir().unwrap(), journal.newest());
    let (how, gone) = match how % 6 {
        0 => ("the oldest first", plain_copy(journal, to.path(), |names| names.sort())),
        1 => ("the newest first", plain_copy(journal, to.path(), |names| names.sort_by(|a, b| b.cmp(a)))),
        2 => ("as the directory lists them", plain_copy(journal, to.path(), |_| {})),
        3 => ("cp -r", tool(dir, to.path(), "cp -r \"$1\"/. \"$2\"")),
        4 => ("tar", tool(dir, to.path(), "tar -C \"$1\" -c . | tar -C \"$2\" -x")),
        _ => {
            backup(dir, to.path()).unwrap();
            ("backup", Vec::new())
        }
    };
    let newest = segments(to.path()).pop();
    let is_newer = |path: &PathBuf| {
        path.extension() == Some("seg".as_ref())
            && path.file_name() > newest.as_deref().and_then(Path::file_name)
    };
    let overtaken = gone.iter().any(is_newer);
    Copied { dir: to, visible, how, overtaken }
}

/// Writes until told to stop: small transactions and a spilled one now and then. Reads everything as it comes.
async fn write(mut fixture: Fixture, stop: Arc<AtomicBool>) -> (Fixture, BTreeMap<u64, Seen>) {
    let mut all = BTreeMap::new();
    let mut after = 0;
    for round in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        for _ in 0..8 {
            fixture.transaction(3, "written while it is copied").await;
        }
        if round % 4 == 3 {
            spilled(&mut fixture, 11).await;
        }
        for seen in read_all(fixture.journal(), after) {
            after = seen.0;
            all.insert(seen.0, seen);
        }
    }
    (fixture, all)
}

/// The copies, all that was ever written, and the oldest number that is still held.
async fn copies_of(options: Options, count: usize) -> (Vec<Copied>, BTreeMap<u64, Seen>, u64) {
    let dir = options.dir.clone();
    let fixture = Fixture::open(options).await;
    let journal = fixture.journal().clone();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(fixture, Arc::clone(&stop)));
    let copies = tokio::task::spawn_blocking(move || {
        let start = journal.newest();
        while journal.newest() < start + 300 {
            std::thread::yield_now();
        }
        (0..count).map(|how| copy(how, &journal, &dir)).collect()
    });
    let copies = copies.await.unwrap();
    stop.store(true, Ordering::Release);
    let (fixture, all) = writer.await.unwrap();
    let oldest = fixture.journal().oldest();
    fixture.journal().close().await;
    (copies, all, oldest)
}

/// All of the original in the range that the copy holds, at least up to what was visible when it began.
async fn is_the_same(copied: &Copied, all: &BTreeMap<u64, Seen>) {
    let (dir, how) = (copied.dir.path(), copied.how);
    let report = journal::check(dir, &RealDisk).unwrap();
    let journal =
        journal::open(small(dir), Arc::new(RealDisk)).unwrap_or_else(|error| panic!("{how}: {error}"));
    let held = read_all(&journal, 0);
    let (first, last) = (held[0].0, held[held.len() - 1].0);
    assert!(held.iter().eq(all.range(first..=last).map(|(_, seen)| seen)), "{how}: the same events");
    assert!(last >= copied.visible || copied.overtaken, "{how}: all that was visible");
    assert_eq!(report.events, held.len() as u64);
    assert_eq!(journal.position().slot, "rowcast");
    assert_eq!(
        journal.position().lsn.0,
        held[held.len() - 1].3,
        "{how}: the position is that of the last event"
    );
    journal.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_copy_of_a_journal_that_is_written_opens() {
    let dir = tempfile::tempdir().unwrap();
    let (copies, all, oldest) = copies_of(small(dir.path()), 18).await;
    assert_eq!(all.keys().next(), Some(&oldest));
    for copied in &copies {
        is_the_same(copied, &all).await;
    }
}

/// The forms of a segment follow each other under one name; a copy has one or the other, whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressing_meanwhile_hurts_no_copy() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = small(dir.path());
    options.compression = Compression::Zstd;
    let (copies, all, oldest) = copies_of(options, 18).await;
    assert_eq!(all.keys().next(), Some(&oldest));
    let compressed = |path: &PathBuf| fs::read(path).unwrap()[10] & 2 != 0;
    let in_copies: usize = copies
        .iter()
        .map(|copied| segments(copied.dir.path()).iter().filter(|path| compressed(path)).count())
        .sum();
    assert!(in_copies > 0, "some were compressed when they were copied");
    for copied in &copies {
        is_the_same(copied, &all).await;
    }
    // An index speaks for both forms: it was written when its segment was plain.
    let mixed = tempfile::tempdir().unwrap();
    backup(dir.path(), mixed.path()).unwrap();
    for path in segments(dir.path()) {
        let index = path.with_extension("idx");
        if index.exists() {
            fs::copy(&index, mixed.path().join(index.file_name().unwrap())).unwrap();
        }
    }
    let journal = journal::open(small(mixed.path()), Arc::new(RealDisk)).unwrap();
    assert!(read_all(&journal, 0).iter().eq(all.values()));
    journal.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_meanwhile_hurts_no_backup() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = small(dir.path());
    options.max_size = Some(5 << 20);
    let (copies, all, oldest) = copies_of(options, 24).await;
    let mut mended = 0;
    for copied in &copies {
        let opened = journal::check(copied.dir.path(), &RealDisk);
        if let Err(error) = opened {
            // A copy that takes the oldest first can miss what comes after them, and the end, of which it has the index.
            assert!(!matches!(copied.how, "backup" | "the newest first"), "{}: {error}", copied.how);
            let (text, overtaken) = (error.to_string(), copied.overtaken);
            let end = overtaken && text.contains("is missing: its index is there");
            assert!(text.contains("a segment is missing or cut") || end, "overtaken: {overtaken}, {error}");
            missing_at_the_old_end(copied, &all).await;
            mended += 1;
        } else {
            is_the_same(copied, &all).await;
        }
    }
    let held_first = copies.iter().filter(|copied| copied.visible < oldest).count();
    assert!(held_first > 4, "retention has overtaken several of the copies: {held_first}");
    println!("{mended} of {} copies had to be mended", copies.len());
}

/// Repair makes it a journal with a gap.
async fn missing_at_the_old_end(copied: &Copied, all: &BTreeMap<u64, Seen>) {
    let dir = copied.dir.path();
    let report = repair(dir, &RealDisk, 0, false).unwrap();
    assert!(report.cuts.is_empty() && !report.gaps.is_empty());
    let journal = journal::open(small(dir), Arc::new(RealDisk)).unwrap();
    let (_stopper, stop) = stop();
    let mut told: VecDeque<_> = told(&Feed::new(journal.clone(), stop), From::Earliest).await.into();
    let first = number(&told[0]);
    for id in all.range(first..).map(|(id, _)| *id) {
        match told.front() {
            Some(Told::Gap { from, to, .. }) if (*from..=*to).contains(&id) => {
                if *to == id {
                    told.pop_front();
                }
            }
            Some(Told::Event(found, _)) if *found == id => _ = told.pop_front(),
            Some(other) => panic!("{id}: {other:?}"),
            None => assert!(id > copied.visible || copied.overtaken, "{id} was visible"),
        }
    }
    journal.close().await;
}

/// A slow tool reads a block, and the next one when more has been written: between what was there at first and what is
/// there later, the copy has zeros. All that was visible when the copying began lies before them.
#[tokio::test]
async fn a_copy_that_is_made_slowly_ends_where_the_journal_did() {
    for block in [512, 1000, 4096, 10_240] {
        let dir = tempfile::tempdir().unwrap();
        let mut fixture = Fixture::open(Options::new(dir.path())).await;
        for _ in 0..20 {
            fixture.transaction(2, &"x".repeat(300)).await;
        }
        let copy = tempfile::tempdir().unwrap();
        let visible = fixture.journal().newest();
        fs::copy(dir.path().join("installation"), copy.path().join("installation")).unwrap();
        let newest = segments(dir.path()).pop().unwrap();
        // Zeros behind the block: what is written next begins in it, or right behind.
        let (from, mut bytes) = (fs::File::open(&newest).unwrap(), vec![0; block + 64]);
        let (mut copied, mut stops) = (Vec::new(), 0);
        while let read @ 1.. = from.read_at(&mut bytes, copied.len() as u64).unwrap() {
            copied.extend_from_slice(&bytes[..read.min(block)]);
            if stops < 5 && bytes[block..] == [0; 64] {
                stops += 1;
                for _ in 0..20 {
                    fixture.transaction(1, &"y".repeat(block / 10)).await;
                }
            }
        }
        assert_eq!(stops, 5);
        let to = copy.path().join(newest.file_name().unwrap());
        fs::write(&to, copied).unwrap();
        let report = journal::check(copy.path(), &RealDisk).unwrap();
        assert!(report.newest >= visible, "blocks of {block}: up to {visible}: {report:?}");
        // Whoever repairs it all the same has a gap, which is true: those numbers have been given.
        let cuts = repair(copy.path(), &RealDisk, 0, true).unwrap().cuts;
        assert_eq!(cuts.len(), 1, "blocks of {block}: {report:?}");
        damaged_in_its_middle(copy.path(), &to);
        unknown_as_a_copy(copy.path(), &to);
        let restored = Fixture::open(Options::new(copy.path())).await;
        assert_eq!(restored.journal().newest(), report.newest);
        assert_eq!(read_all(restored.journal(), 0).len() as u64, report.events);
        restored.journal().close().await;
        fixture.journal().close().await;
    }
}

/// What a copy lacks begins where a batch ends: other damage is damage in a copy, too. A tool that reads on behind a bad
/// sector leaves zeros in its place.
fn damaged_in_its_middle(copy: &Path, newest: &Path) {
    let sound = fs::read(newest).unwrap();
    let bit = |bytes: &mut Vec<u8>| bytes[2000] ^= 1;
    let sector = |bytes: &mut Vec<u8>| bytes[2048..2560].fill(0);
    for damage in [&bit as &dyn Fn(&mut Vec<u8>), &sector] {
        let mut bytes = sound.clone();
        damage(&mut bytes);
        fs::write(newest, bytes).unwrap();
        let error = journal::check(copy, &RealDisk).unwrap_err();
        assert!(error.to_string().contains("is damaged at offset"), "{error}");
        let error = journal::open(Options::new(copy), Arc::new(RealDisk)).unwrap_err();
        assert!(error.to_string().contains("is damaged at offset"), "{error}");
        assert_eq!(repair(copy, &RealDisk, 0, true).unwrap().cuts.len(), 1);
    }
    fs::write(newest, sound).unwrap();
}

/// Where the file system does not tell when a file was made, nobody can say that zeros are not what a disk has lost.
fn unknown_as_a_copy(copy: &Path, newest: &Path) {
    let sound = fs::read(newest).unwrap();
    let mut bytes = sound.clone();
    bytes[64..72].fill(0);
    let crc = crc32c::crc32c(&bytes[..124]);
    bytes[124..128].copy_from_slice(&crc.to_le_bytes());
    fs::write(newest, bytes).unwrap();
    let error = journal::open(Options::new(copy), Arc::new(RealDisk)).unwrap_err();
    assert!(error.to_string().contains("is damaged at offset"), "{error}");
    fs::write(newest, sound).unwrap();
}

/// Zeros at the end of a copy are no end where an index says that there was more.
#[tokio::test]
async fn a_copy_that_has_lost_its_end_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    fixture.transaction(3, "kept").await;
    let kept = fs::read(segments(dir.path()).pop().unwrap()).unwrap();
    let kept = kept.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    fixture.transaction(3, "lost").await;
    fixture.journal().close().await;
    let copy = copy_of(dir.path());
    let newest = segments(copy.path()).pop().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    bytes[kept..].fill(0);
    fs::write(&newest, bytes).unwrap();
    let error = journal::check(copy.path(), &RealDisk).unwrap_err();
    assert!(error.to_string().contains("is damaged at offset"), "{error}");
    let error = journal::open(Options::new(copy.path()), Arc::new(RealDisk)).unwrap_err();
    assert!(error.to_string().contains("is damaged at offset"), "{error}");
    assert_eq!(repair(copy.path(), &RealDisk, 0, true).unwrap().gaps.len(), 1);
}

#[tokio::test]
async fn a_restored_backup_goes_on_and_gives_no_number_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(small(dir.path())).await;
    for _ in 0..30 {
        fixture.transaction(2, "in the backup").await;
    }
    let copy = tempfile::tempdir().unwrap();
    let dest = copy.path().join("new/backup");
    let report = backup(dir.path(), &dest).unwrap();
    assert_eq!((report.copied.events, report.copied.newest), (60, fixture.journal().newest()));
    let (last, lsn) = (fixture.journal().newest(), fixture.lsn);
    fixture.transaction(5, "after it").await;
    let newest = fixture.journal().newest();
    fixture.journal().close().await;

    let again = backup(dir.path(), &dest).unwrap_err();
    assert!(again.kind() == Kind::Usage && again.to_string().contains("is not empty"), "{again}");
    let mut restored = Fixture::open(small(&dest)).await;
    assert_eq!(restored.lsn, lsn, "it goes on where the backup ends");
    restored.transaction(1, "restored").await;
    assert!(restored.journal().newest() > newest);
    let feed = Feed::new(restored.journal().clone(), stop().1);
    let told = told(&feed, From::After(newest)).await;
    let Told::Gap { from, reason, .. } = &told[0] else { panic!("{told:?}") };
    assert_eq!((*from, reason.as_str()), (last + 1, "source_lost"), "who saw more is told");
    assert!(matches!(restored.journal().read(last), Ok(Read::Batches(_))));
    restored.journal().close().await;
}

#[tokio::test]
async fn a_backup_that_is_broken_off_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(small(dir.path())).await;
    for _ in 0..30 {
        fixture.transaction(2, "x").await;
    }
    fixture.journal().close().await;
    let to = tempfile::tempdir().unwrap();
    backup(dir.path(), to.path()).unwrap();
    fs::remove_file(to.path().join("installation")).unwrap();
    let error = journal::open(small(to.path()), Arc::new(RealDisk)).unwrap_err();
    assert!(error.to_string().contains("installation is missing"), "{error}");

    // Damage is not passed on in silence.
    let first = crate::damage::segments(dir.path())[0].clone();
    let mut bytes = fs::read(&first).unwrap();
    bytes[1000] ^= 1;
    fs::write(&first, bytes).unwrap();
    let to = tempfile::tempdir().unwrap();
    let error = backup(dir.path(), to.path()).unwrap_err();
    assert!(error.kind() == Kind::Journal && error.to_string().contains("damaged at offset"), "{error}");
    assert!(error.to_string().contains(first.to_str().unwrap()), "the original is named: {error}");
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0, "it can be done again");
    let nothing = tempfile::tempdir().unwrap();
    let error = backup(nothing.path(), &to.path().join("x")).unwrap_err();
    assert!(error.to_string().contains("There is no journal"), "{error}");
}
