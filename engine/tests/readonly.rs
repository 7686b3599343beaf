//! Files that may only be read: what has to be changed of them is told with file and remedy, and who only looks is
//! served.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Read, check, repair};
use rowcast_engine::{Error, Kind};

use crate::damage::{contents, copy, history, segments, small};
use crate::guarded::{Call, Guard, Guarded};

/// Nothing may be changed of files with this ending, as for one who lacks the right; root has all.
#[derive(Debug)]
struct ReadOnly(String);

impl Guard for ReadOnly {
    fn before(&self, call: Call, path: &Path) -> io::Result<()> {
        let guarded = path.to_string_lossy().ends_with(&self.0);
        if guarded && matches!(call, Call::Write | Call::Truncate) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(())
    }
}

fn guarded(path: &Path) -> Guarded<ReadOnly> {
    Guarded::new(ReadOnly(path.file_name().unwrap().to_str().unwrap().to_owned()))
}

fn told(error: &Error, words: &str, path: &Path) {
    let (text, hint) = (error.to_string(), error.remedy().unwrap_or_default());
    assert_eq!(error.kind(), Kind::Journal, "{text}");
    assert!(text.starts_with(&format!("{words} {}", path.display())), "{text}");
    assert!(!text.contains("descriptor") && !text.contains("Invalid"), "{text}");
    assert!(hint.contains(&format!("chmod u+w {}", path.display())), "{hint}");
}

/// The newest segment as after a kill: without an index.
async fn killed() -> (tempfile::TempDir, PathBuf, Guarded<ReadOnly>) {
    let source = history().await;
    let newest = segments(source.path()).pop().unwrap();
    fs::remove_file(newest.with_extension("idx")).unwrap();
    let guarded = guarded(&newest);
    (source, newest, guarded)
}

#[tokio::test]
async fn a_newest_segment_that_may_not_be_written_is_told_when_it_has_to_be() {
    let (dir, newest, guarded) = killed().await;
    let open = || journal::open(small(dir.path()), Arc::new(guarded.clone())).unwrap_err();
    told(&open(), "Cannot write again what may not be on the disk of", &newest);
    let length = fs::metadata(&newest).unwrap().len();
    File::options().write(true).open(&newest).unwrap().set_len(length - 7).unwrap();
    told(&open(), "Cannot cut the torn end of", &newest);
    assert_eq!(fs::metadata(&newest).unwrap().len(), length - 7, "nothing of it is changed");
    // With the right it opens.
    journal::open(small(dir.path()), Arc::new(RealDisk)).unwrap().close().await;
}

#[tokio::test]
async fn one_that_was_closed_in_order_need_not_be_written() {
    let source = history().await;
    let newest = segments(source.path()).pop().unwrap();
    let guarded = guarded(&newest);
    let journal = journal::open(small(source.path()), Arc::new(guarded)).unwrap();
    assert!(matches!(journal.read(journal.seek_last(1)).unwrap(), Read::Batches(_)));
    journal.close().await;
}

#[tokio::test]
async fn repair_says_which_file_it_may_not_cut() {
    let source = history().await;
    let broken = segments(source.path())[2].clone();
    let mut bytes = fs::read(&broken).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 20].fill(b'x');
    fs::write(&broken, bytes).unwrap();
    fs::remove_file(broken.with_extension("idx")).unwrap();
    let guarded = guarded(&broken);
    let error = repair(source.path(), &guarded, 0, false).unwrap_err();
    told(&error, "Cannot cut", &broken);
    assert!(error.remedy().unwrap().contains("run it again"), "{:?}", error.remedy());
    assert!(!repair(source.path(), &RealDisk, 0, false).unwrap().is_sound());
    check(source.path(), &RealDisk).unwrap();
}

#[tokio::test]
async fn a_dry_run_of_repair_writes_nothing_not_even_a_lock() {
    let source = history().await;
    let broken = segments(source.path())[2].clone();
    fs::OpenOptions::new().write(true).open(&broken).unwrap().set_len(1000).unwrap();
    let dir = copy(source.path());
    fs::remove_file(dir.path().join("lock")).unwrap();
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let (before, files) = (contents(dir.path()), names());
    let plan = repair(dir.path(), &RealDisk, 0, true).unwrap();
    assert!(plan.dry_run && plan.cuts.len() == 1, "{plan:?}");
    assert!(contents(dir.path()) == before && names() == files, "{:?}", names());
}
