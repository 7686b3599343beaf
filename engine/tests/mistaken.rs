//! Files that are sound and stand where they do not belong: nobody's rows are given out under other numbers.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Read, repair};

use crate::damage::{all, copy, history, segments, small};

fn refusals(dir: &Path) -> [rowcast_engine::Error; 3] {
    [
        journal::open(small(dir), Arc::new(RealDisk)).unwrap_err(),
        journal::check(dir, &RealDisk).unwrap_err(),
        repair(dir, &RealDisk, 0, false).unwrap_err(),
    ]
}

#[tokio::test]
async fn a_segment_of_another_name_is_told_by_all_with_the_right_one() {
    let dir = history().await;
    let right = segments(dir.path())[2].clone();
    let wrong = dir.path().join("00000000000000000007.seg");
    fs::rename(&right, &wrong).unwrap();
    for error in refusals(dir.path()) {
        assert!(error.to_string().contains("its name is not the number of its first event"), "{error}");
        let hint = error.remedy().unwrap();
        assert!(hint.ends_with(&format!("mv {} {}", wrong.display(), right.display())), "{hint}");
    }
    fs::rename(&wrong, &right).unwrap();
    fs::copy(&right, &wrong).unwrap();
    for error in refusals(dir.path()) {
        assert!(error.remedy().unwrap().contains("Move it out"), "{error}");
    }
    fs::remove_file(&wrong).unwrap();
    journal::check(dir.path(), &RealDisk).unwrap();
}

/// Names that no segment can have: nobody touches such a file, and the newest segment stays the newest.
#[tokio::test]
async fn files_of_others_are_no_segments() {
    let dir = history().await;
    let whole = all(copy(dir.path()).path()).await;
    let strangers = ["abc.seg", "zzz.seg", "7.seg", "99999999999999999999.seg", "notes 2.seg"];
    for (name, text) in strangers.iter().zip(["", "abc", "not one", &"x".repeat(5000), "\0\0\0"]) {
        fs::write(dir.path().join(name), text).unwrap();
    }
    fs::create_dir(dir.path().join("old.seg")).unwrap();
    // As a kill leaves it.
    let newest = segments(dir.path()).into_iter().rfind(|path| path.with_extension("idx").exists()).unwrap();
    fs::remove_file(newest.with_extension("idx")).unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(&newest).unwrap();
    std::io::Write::write_all(&mut file, b"RCB1 torn").unwrap();
    journal::check(dir.path(), &RealDisk).unwrap();
    assert!(repair(dir.path(), &RealDisk, 0, false).unwrap().is_sound());
    // One that somebody has renamed is not theirs.
    let renamed = dir.path().join("renamed.seg");
    fs::rename(&newest, &renamed).unwrap();
    for error in refusals(dir.path()) {
        assert!(error.to_string().contains("its name is not the number of its first event"), "{error}");
    }
    fs::rename(&renamed, &newest).unwrap();
    assert_eq!(all(dir.path()).await, whole);
    for name in strangers {
        assert!(dir.path().join(name).exists(), "{name}");
    }
}

#[tokio::test]
async fn an_index_that_was_copied_speaks_for_nobody() {
    let dir = history().await;
    let whole = all(copy(dir.path()).path()).await;
    let index = segments(dir.path())[2].with_extension("idx");
    for name in ["00009000000000000000.idx", "00009042379102626488.idx"] {
        fs::copy(&index, dir.path().join(name)).unwrap();
    }
    journal::check(dir.path(), &RealDisk).unwrap();
    assert!(repair(dir.path(), &RealDisk, 0, false).unwrap().is_sound());
    assert_eq!(all(dir.path()).await, whole);
}

#[tokio::test]
async fn a_check_asks_whose_they_are() {
    let dir = history().await;
    let file = dir.path().join("installation");
    let ours = fs::read(&file).unwrap();
    for (other, words) in [
        (None, "is missing, though segments are there"),
        (Some("me"), "holds no installation number"),
        (Some("6b9c2f5e-8c3c-4f6e-9d53-0c7a1a5b2f10\n"), "belongs to another installation"),
    ] {
        let _ = fs::remove_file(&file);
        other.into_iter().for_each(|text| fs::write(&file, text).unwrap());
        let error = journal::check(dir.path(), &RealDisk).unwrap_err();
        assert!(error.to_string().contains(words) && error.remedy().is_some(), "{error}");
    }
    fs::write(&file, ours).unwrap();
    journal::check(dir.path(), &RealDisk).unwrap();
}

/// One wrong byte in the file, and not a whole journal of somebody else's.
#[tokio::test]
async fn a_wrong_installation_file_is_told_from_foreign_segments() {
    let dir = history().await;
    let whole = all(copy(dir.path()).path()).await;
    let file = dir.path().join("installation");
    let mut text = fs::read(&file).unwrap();
    text[2] = if text[2] == b'a' { b'b' } else { b'a' };
    fs::write(&file, text).unwrap();
    for error in refusals(dir.path()) {
        let hint = error.remedy().unwrap();
        assert!(
            error.to_string().contains("Every segment") && !hint.contains("take files"),
            "{error}: {hint}"
        );
        assert!(
            hint.contains(&format!("rm {}", file.display())) && hint.contains("journal repair"),
            "{hint}"
        );
    }
    fs::remove_file(&file).unwrap();
    assert!(repair(dir.path(), &RealDisk, 0, false).unwrap().installation_restored);
    assert_eq!(all(dir.path()).await, whole);
}

/// What would put it right is said at first, and works as it is written.
#[tokio::test]
async fn a_segment_that_was_renamed_behind_its_successor_is_given_its_name_again() {
    let around = tempfile::tempdir().unwrap();
    let dir = around.path().join("o'clock data");
    fs::create_dir(&dir).unwrap();
    let source = history().await;
    for entry in fs::read_dir(source.path()).unwrap().flatten() {
        fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
    }
    let whole = all(copy(&dir).path()).await;
    let paths = segments(&dir);
    let number: u64 = paths[3].file_stem().unwrap().to_str().unwrap().parse().unwrap();
    fs::rename(&paths[2], dir.join(format!("{:020}.seg", number + 1))).unwrap();
    for error in refusals(&dir) {
        assert!(error.to_string().contains("its name is not the number"), "{error}");
        assert!(error.remedy().unwrap().contains(": mv "), "{:?}", error.remedy());
    }
    let error = journal::check(&dir, &RealDisk).unwrap_err();
    let (_, command) = error.remedy().unwrap().split_once(": ").unwrap();
    assert!(std::process::Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
    assert_eq!(all(&dir).await, whole);
}

#[tokio::test]
async fn of_a_segment_and_its_copy_the_copy_is_named() {
    let dir = history().await;
    let paths = segments(dir.path());
    fs::copy(&paths[1], &paths[3]).unwrap();
    for error in refusals(dir.path()) {
        assert!(error.to_string().contains(paths[3].to_str().unwrap()), "{error}");
        let hint = error.remedy().unwrap();
        assert!(
            hint.contains("this one is a copy of it") && hint.contains(paths[1].to_str().unwrap()),
            "{hint}"
        );
    }
}

#[tokio::test]
async fn a_reader_does_not_take_a_file_for_the_one_whose_place_it_has() {
    let dir = history().await;
    let journal = journal::open(small(dir.path()), Arc::new(RealDisk)).unwrap();
    let paths = segments(dir.path());
    let of = |path: &Path| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    let before = of(&paths[1]) - 1;
    assert!(matches!(journal.read(before).unwrap(), Read::Batches(_)));
    fs::copy(&paths[2], &paths[1]).unwrap();
    let error = journal.read(before).unwrap_err();
    assert!(error.to_string().contains(paths[1].to_str().unwrap()) && error.remedy().is_some(), "{error}");
    assert!(journal.summary().damage.is_some(), "status says so");
    assert!(matches!(journal.read(of(&paths[2]) - 1).unwrap(), Read::Batches(_)), "the others are served");
    journal.close().await;
}
