//! What opening says of a directory that it cannot use, and what readers are told of files that vanish meanwhile.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rowcast_engine::feed::{Feed, From};
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Journal, Options, Read, State, check, repair};
use rowcast_engine::status::Status;
use rowcast_engine::{Error, Kind, stop};

use crate::damage::{all, copy, history, segments, small, told};
use crate::guarded::{Call, Guard, Guarded};
use crate::log::{logged, record};
use crate::room::hand_over;
use crate::rounds::open_standing;
use crate::support::{Fixture, read_all};

/// Calls fail that open a file, or list a directory, with this ending.
#[derive(Debug)]
struct Refusing {
    ending: &'static str,
    kind: io::ErrorKind,
}

impl Guard for Refusing {
    fn before(&self, call: Call, path: &Path) -> io::Result<()> {
        let refused = match call {
            // A read-only file system refuses whatever is new.
            Call::Create => self.kind == io::ErrorKind::ReadOnlyFilesystem,
            Call::Open | Call::List => path.to_string_lossy().ends_with(self.ending),
            _ => false,
        };
        if refused { Err(self.kind.into()) } else { Ok(()) }
    }
}

/// Opening is refused in these words, with a remedy that holds these.
pub(crate) fn refused(error: &Error, words: &str, remedy: &str) {
    assert_eq!(error.kind(), Kind::Journal, "{error}");
    assert!(error.to_string().contains(words), "{error}");
    assert!(error.remedy().is_some_and(|hint| hint.contains(remedy)), "{:?}", error.remedy());
}

/// Reads from an event on, up to where reading fails: the last event that was given out, and why.
pub(crate) fn read_to_break(journal: &Journal, first: u64) -> (u64, Error) {
    let mut after = first - 1;
    loop {
        match journal.read(after) {
            Ok(Read::Batches(batches)) => after = batches.last().unwrap().last(),
            Ok(other) => panic!("{other:?}"),
            Err(error) => return (after, error),
        }
    }
}

fn open(dir: &Path) -> Error {
    journal::open(small(dir), Arc::new(RealDisk)).unwrap_err()
}

#[tokio::test]
async fn a_directory_that_is_none() {
    let around = tempfile::tempdir().unwrap();
    let file = around.path().join("file");
    fs::write(&file, "x").unwrap();
    refused(&open(&file), "Cannot open the journal in", "--data DIR");
    refused(&open(&file.join("below")), "Cannot open the journal in", "--data DIR");
    refused(&open(Path::new("/proc/journal")), "Cannot open the journal in", "--data DIR");
    // Parents are made.
    let fixture = Fixture::open(small(&around.path().join("a/b/journal"))).await;
    fixture.journal().close().await;
}

#[tokio::test]
async fn a_file_system_that_refuses() {
    let source = history().await;
    let newest = segments(source.path()).pop().unwrap();
    let middle = segments(source.path())[2].clone();
    let last_part = |path: &Path| -> &'static str {
        Box::leak(path.file_name().unwrap().to_string_lossy().into_owned().into_boxed_str())
    };
    for (ending, kind, words) in [
        ("none", io::ErrorKind::ReadOnlyFilesystem, "Cannot create"),
        (last_part(&newest), io::ErrorKind::PermissionDenied, "Cannot read"),
        (last_part(&middle), io::ErrorKind::PermissionDenied, "Cannot read"),
    ] {
        let dir = copy(source.path());
        // A closed segment is opened when its index does not do.
        let _ = fs::remove_file(dir.path().join(ending).with_extension("idx"));
        let disk = Guarded::new(Refusing { ending, kind });
        let error = journal::open(small(dir.path()), Arc::new(disk)).unwrap_err();
        refused(&error, words, "");
        assert!(!error.remedy().unwrap().contains("repair"), "it is not damaged");
    }
}

#[tokio::test]
async fn files_of_somebody_else() {
    let (source, other) = (history().await, history().await);
    let dir = copy(source.path());
    fs::copy(other.path().join("installation"), dir.path().join("installation")).unwrap();
    refused(&open(dir.path()), "belongs to another installation", "--data DIR");
    let dir = copy(source.path());
    for path in segments(other.path()) {
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    refused(&open(dir.path()), "belongs to another installation", "take files of another one out");

    let dir = copy(source.path());
    fs::remove_file(dir.path().join("installation")).unwrap();
    refused(
        &open(dir.path()),
        "installation is missing, though segments are there",
        "rowcast journal repair",
    );
    assert!(!dir.path().join("installation").exists(), "no new one in silence");
    fs::write(dir.path().join("installation"), "nobody").unwrap();
    refused(&open(dir.path()), "holds no installation number", "rowcast journal repair");

    let dir = copy(source.path());
    let path = &segments(dir.path())[2];
    let mut bytes = fs::read(path).unwrap();
    bytes[8..10].copy_from_slice(&9u16.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..124]);
    bytes[124..128].copy_from_slice(&crc.to_le_bytes());
    fs::write(path, bytes).unwrap();
    refused(&open(dir.path()), "of another version of rowcast", "newer one");
    let error = check(dir.path(), &RealDisk).unwrap_err();
    refused(&error, "of another version of rowcast", "newer one");

    // A flag of the header that this version does not know.
    let dir = copy(source.path());
    let path = &segments(dir.path())[2];
    let mut bytes = fs::read(path).unwrap();
    bytes[11] |= 0x40;
    let crc = crc32c::crc32c(&bytes[..124]);
    bytes[124..128].copy_from_slice(&crc.to_le_bytes());
    fs::write(path, &bytes).unwrap();
    refused(&open(dir.path()), "of another version of rowcast", "newer one");
    refused(&check(dir.path(), &RealDisk).unwrap_err(), "of another version of rowcast", "newer one");
    let error = repair(dir.path(), &RealDisk, 0, false).unwrap_err();
    refused(&error, "of another version of rowcast", "newer one");
    assert_eq!(fs::read(path).unwrap(), bytes, "what is not damaged is not mended");
}

fn segment_bytes(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    segments(dir).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[tokio::test]
async fn segments_that_are_missing_or_cut() {
    let source = history().await;
    let broken = |damage: &dyn Fn(&Path), words: &str| {
        let dir = copy(source.path());
        damage(dir.path());
        let before = segment_bytes(dir.path());
        refused(&open(dir.path()), words, "rowcast journal repair");
        assert!(segment_bytes(dir.path()) == before, "opening changes nothing of it");
        refused(&check(dir.path(), &RealDisk).unwrap_err(), words, "rowcast journal repair");
    };
    let set_length =
        |path: &Path, length| OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
    broken(&|dir| fs::remove_file(&segments(dir)[3]).unwrap(), "a segment is missing or cut");
    broken(&|dir| set_length(&segments(dir)[3], 0), "it is no journal segment");
    broken(&|dir| set_length(&segments(dir)[3], 1000), "damaged at offset");
    broken(&|dir| set_length(&segments(dir)[3], 128), "a segment is missing or cut");
    broken(&|dir| fs::write(&segments(dir)[3], vec![7; 4000]).unwrap(), "it is no journal segment");
    broken(&|dir| fs::write(&segments(dir)[3], vec![0; 4000]).unwrap(), "it is no journal segment");
}

/// The command that mends a journal, where it is known which one is meant.
const MENDS: &str = "rowcast journal repair --data /srv/rowcast";

/// Nobody reads them, and yet it is told, before the next start refuses.
#[tokio::test]
async fn a_closed_segment_that_somebody_takes_away_cuts_or_replaces_is_missed_while_it_runs() {
    let source = history().await;
    record();
    let longest = segments(source.path()).into_iter().max_by_key(|path| fs::metadata(path).unwrap().len());
    let longest = longest.unwrap();
    for how in ["was removed", "was cut", "was replaced by another file"] {
        let dir = copy(source.path());
        let options = Options { repair: Some(MENDS.to_owned()), ..small(dir.path()) };
        let journal = journal::open(options, Arc::new(RealDisk)).unwrap();
        let path = segments(dir.path())[2].clone();
        match how {
            "was removed" => fs::remove_file(&path).unwrap(),
            "was cut" => OpenOptions::new().write(true).open(&path).unwrap().set_len(900).unwrap(),
            _ => {
                // At once: a copy into the file would cut it first.
                let beside = path.with_extension("new");
                fs::copy(&longest, &beside).unwrap();
                fs::rename(&beside, &path).unwrap();
            }
        }
        let begun = std::time::Instant::now();
        let told = loop {
            if let Some(told) = journal.summary().damage {
                break told;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it is not missed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(told.contains(how) && told.contains(path.to_str().unwrap()), "{told}");
        let logged = logged(dir.path().to_str().unwrap(), "while rowcast ran");
        assert!(logged.len() == 1 && logged[0].contains(MENDS), "{logged:?}");
        journal.close().await;
    }
}

#[tokio::test]
async fn what_is_no_harm() {
    let source = history().await;
    let whole = all(copy(source.path()).path()).await;
    // The oldest ones removed by hand.
    let dir = copy(source.path());
    segments(dir.path())[..2].iter().for_each(|path| fs::remove_file(path).unwrap());
    let kept = all(dir.path()).await;
    assert!(!kept.is_empty() && kept.len() < whole.len() && whole.ends_with(&kept));
    // The indexes are gone, cut, garbage, those of others, or of a segment that was shorter.
    let swap = |dir: &Path| {
        let length = |path: &PathBuf| fs::metadata(path).unwrap().len();
        let paths = segments(dir);
        let pair = paths.windows(2).find(|pair| length(&pair[0]) == length(&pair[1]));
        let pair = pair.expect("two segments of the same length");
        fs::copy(pair[0].with_extension("idx"), pair[1].with_extension("idx")).unwrap();
    };
    let damages: [&dyn Fn(&Path); 5] = [
        &|dir| {
            segments(dir)
                .iter()
                .for_each(|path| fs::remove_file(path.with_extension("idx")).unwrap_or_default())
        },
        &|dir| segments(dir).iter().for_each(|path| fs::write(path.with_extension("idx"), "").unwrap()),
        &|dir| {
            segments(dir).iter().for_each(|path| fs::write(path.with_extension("idx"), "{}garbage").unwrap())
        },
        &|dir| {
            for path in
                segments(dir).iter().map(|path| path.with_extension("idx")).filter(|path| path.exists())
            {
                let length = fs::metadata(&path).unwrap().len();
                OpenOptions::new().write(true).open(&path).unwrap().set_len(length / 2).unwrap();
            }
        },
        &swap,
    ];
    for damage in damages {
        let dir = copy(source.path());
        damage(dir.path());
        assert_eq!(all(dir.path()).await, whole);
    }
    // The first write of the newest segment never came.
    let dir = copy(source.path());
    fs::write(dir.path().join("90000000000000000000.seg"), "").unwrap();
    assert_eq!(check(dir.path(), &RealDisk).unwrap().segments as usize, segments(dir.path()).len() - 1);
    assert_eq!(all(dir.path()).await, whole);
}

/// What happens to a file, and in which words it is told.
type Vanishing = (&'static dyn Fn(&Path), &'static str);

#[tokio::test]
async fn files_that_vanish_meanwhile_are_noticed_by_who_reads_them() {
    let source = history().await;
    let vanish: [Vanishing; 3] = [
        (&|path| fs::remove_file(path).unwrap(), "Cannot read"),
        (
            &|path| OpenOptions::new().write(true).open(path).unwrap().set_len(1000).unwrap(),
            "damaged at offset",
        ),
        (
            &|path| {
                OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"garbage", 1000).unwrap()
            },
            "damaged at offset",
        ),
    ];
    for (vanish, words) in vanish {
        let dir = copy(source.path());
        let options = Options { repair: Some(MENDS.to_owned()), ..small(dir.path()) };
        let mut fixture = Fixture::open(options).await;
        let whole = read_all(fixture.journal(), 0);
        vanish(&segments(dir.path())[2]);
        let journal = fixture.journal().clone();
        let board = Status::default();
        // Up to the break all is given out, then the error, to each reader that comes there.
        let (after, error) = read_to_break(&journal, whole[0].0);
        refused(&error, words, MENDS);
        let place = whole.iter().position(|seen| seen.0 == after).unwrap();
        assert!(place > 20 && place < whole.len() - 20);
        assert!(journal.read(after).is_err());
        // At once: the look of each second may find more.
        let report = board.report(&journal);
        // Who reads elsewhere is served, what is new is taken, and status says it.
        fixture.transaction(2, "new").await;
        let newest = whole[whole.len() - 1].0;
        assert_eq!(read_all(&journal, newest).len(), 2);
        assert_eq!(read_all(&journal, newest - 20)[..20], whole[whole.len() - 20..]);
        let reason = report.reasons.iter().find(|reason| reason.starts_with("The journal is damaged"));
        assert!(
            !report.healthy && reason.is_some_and(|reason| reason.contains(words)),
            "{:?}",
            report.reasons
        );
        journal.close().await;
    }
}

/// What goes into a file that is nobody's any more is nowhere: nothing more is taken.
#[tokio::test]
async fn a_file_that_is_taken_away_while_it_is_written_ends_writing() {
    type Way = fn(&Path);
    let cut: Way = |path| OpenOptions::new().write(true).open(path).unwrap().set_len(200).unwrap();
    let remove: Way = |path| fs::remove_file(path).unwrap();
    let remove_all: Way = |path| fs::remove_dir_all(path.parent().unwrap()).unwrap();
    let ways = [(cut, "was cut"), (remove, "was removed"), (remove_all, "was removed")];
    for ((take, words), writes) in ways.into_iter().flat_map(|way| [(way, true), (way, false)]) {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new(dir.path());
        let journal = if writes {
            // It is missed by what is written next, and not by the look of each second.
            open_standing(options, Arc::new(RealDisk))
        } else {
            journal::open(options, Arc::new(RealDisk)).unwrap()
        };
        let mut fixture = Fixture::over(journal.clone()).await;
        fixture.transaction(5, "told").await;
        let told = journal.position().lsn;
        take(&segments(dir.path()).pop().unwrap());
        if writes {
            hand_over(&mut fixture).await;
        }
        let mut state = journal.state();
        let failed = state.wait_for(|state| matches!(state, State::Failed(_)));
        let failed = tokio::time::timeout(std::time::Duration::from_secs(20), failed).await.unwrap().unwrap();
        assert!(matches!(&*failed, State::Failed(why) if why.contains(words)), "{failed:?}");
        assert_eq!(journal.position().lsn, told, "nothing more is confirmed");
        assert!(journal.publish(&[("custom.event", b"2")], 1).await.is_err());
    }
}

/// Each segment holds the schema versions that its events name.
#[tokio::test]
async fn any_segment_can_be_read_when_all_older_ones_are_gone() {
    let source = history().await;
    let whole = all(copy(source.path()).path()).await;
    let count = segments(source.path()).len();
    for gone in 1..count {
        for indexes in [true, false] {
            let dir = copy(source.path());
            for (at, path) in segments(dir.path()).into_iter().enumerate() {
                if at < gone {
                    fs::remove_file(&path).unwrap();
                }
                if at < gone || !indexes {
                    // The newest one may have none.
                    let _ = fs::remove_file(path.with_extension("idx"));
                }
            }
            let kept = all(dir.path()).await;
            assert!(!kept.is_empty() && whole.ends_with(&kept), "without the oldest {gone}");
            check(dir.path(), &RealDisk).unwrap();
            assert_eq!(all(dir.path()).await, kept, "after it was opened");
        }
    }
}

#[tokio::test]
async fn a_segment_alone_knows_all_its_tables() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(small(dir.path())).await;
    for round in 0..40 {
        // Tables old and new by turns, so that versions are of other numbers than their order in the segment.
        let name = if round % 2 == 0 { "orders".to_owned() } else { format!("t{}", round % 7) };
        fixture.orders = fixture.journal().register(crate::support::table(&name)).unwrap();
        fixture.transaction(3, "of several tables").await;
        if round % 10 == 5 {
            crate::damage::spilled(&mut fixture, 11).await;
        }
    }
    fixture.journal().close().await;
    let whole = all(copy(dir.path()).path()).await;
    for path in segments(dir.path()) {
        let alone = tempfile::tempdir().unwrap();
        for name in [path.clone(), dir.path().join("installation")] {
            fs::copy(&name, alone.path().join(name.file_name().unwrap())).unwrap();
        }
        let journal = journal::open(Options::new(alone.path()), Arc::new(RealDisk)).unwrap();
        let (_stopper, stop) = stop();
        let held = told(&Feed::new(journal.clone(), stop), From::Earliest).await;
        assert!(whole.windows(held.len()).any(|window| window == held), "{}", path.display());
        journal.close().await;
    }
}
