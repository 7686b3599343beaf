//! A data directory that may not be used, at the start and all of a sudden: rights, a read-only file system, files that
//! somebody takes away. It is told with its remedy, what is held is served, and nothing is lost or passed in silence.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::full::{assert_all_told, insert, publish, with_table};
use crate::support::failing_disk::{FailingDisk, is_root};
use crate::support::process::{Directory, run};
use crate::support::rowcast::{Output, PROGRAM, command};
use crate::support::witness::{Memory, Witness};
use crate::support::{Rowcast, SOON, http, wait_for};

/// The user `nobody`.
const NOBODY: u32 = 65534;
const AS_NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// Whether rowcast can be run as somebody who has no rights; says so when not.
fn can_be_nobody(test: &str) -> bool {
    if !is_root(test) {
        return false;
    }
    let able = Command::new(AS_NOBODY[0]).args(&AS_NOBODY[1..]).args(["test", "-x", PROGRAM]).status();
    let able = able.is_ok_and(|status| status.success());
    if !able {
        println!("{test}: skipped, since {PROGRAM} cannot be executed by others (or there is no setpriv)");
    }
    able
}

/// A start as nobody, which does not come about.
fn start_as_nobody(source: &str, data: &Path) -> Output {
    let directory = Directory::new("nobody");
    let mut start = Command::new(AS_NOBODY[0]);
    start.args(&AS_NOBODY[1..]).args([PROGRAM, "run", "--source", source, "--listen", "127.0.0.1:0"]);
    let output = start.arg("--data").arg(data).current_dir(directory.path()).output().expect("it starts");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn assert_forbidden(start: &Output, why: &str, remedy: &str) {
    assert_eq!(start.code, 4, "{start:?}");
    assert!(start.stderr.contains(why) && start.stderr.contains("hint:"), "{start:?}");
    assert!(start.stderr.contains(remedy), "{start:?}");
}

async fn refused(source: &str, data: &Path) -> Output {
    let data = data.to_str().expect("a path");
    command(&["run", "--source", source, "--data", data, "--listen", "127.0.0.1:0"]).await
}

fn give_to(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).expect("root may");
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a directory").flatten() {
            give_to(&entry.path(), user);
        }
    }
}

/// Waits until the journal takes nothing any more; gives what the status says of it.
async fn wait_failed(rowcast: &Rowcast) -> String {
    wait_for("the journal to refuse", SOON, async || {
        let status = http::get(rowcast.address(), "/v1/status").await?.json();
        let journal = &status["journal"];
        let failed = journal["state"] == "failed" && status["healthy"] == false;
        if failed { Ok(status["reasons"].to_string()) } else { Err(journal.to_string()) }
    })
    .await
}

/// Asserts that everybody is told, and that what is held is served.
async fn assert_served_and_told(rowcast: &Rowcast, held: &Memory, words: &str) {
    let flow = rowcast.get("/v1/health/flow").await;
    assert!(flow.status == 503 && flow.text().contains(words), "{}", flow.text());
    assert_eq!(rowcast.metric("rowcast_journal_open").await, Some(0.0));
    let answer = publish(rowcast, 1).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(rowcast.get("/readyz").await.status, 200, "clients are served");
    let until = held.told.last().expect("an event").id;
    held.assert_told_again(&Memory::replay(rowcast.address(), until).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_without_the_rights_is_told_with_the_remedy() {
    if !can_be_nobody("a_directory_without_the_rights_is_told_with_the_remedy") {
        return;
    }
    let database = with_table("forbidden").await;
    let around = Directory::new("forbidden");
    let data = around.path().join("data");
    // It cannot be made.
    let start = start_as_nobody(database.url(), &data);
    assert_forbidden(&start, "Permission denied", "may write to");
    // It is root's, who ran rowcast once.
    let mut rowcast = Rowcast::of(&database).data_at(&data).start().await;
    let witness = Witness::start(rowcast.address());
    insert(&database, 5).await;
    assert_all_told(&rowcast, &database, &witness).await;
    assert_eq!(rowcast.terminate().await, 0);
    assert_forbidden(&start_as_nobody(database.url(), &data), "Permission denied", "may write to");
    // The directories are given away, their files are not; then one file is not.
    fs::set_permissions(around.path(), fs::Permissions::from_mode(0o755)).expect("root may");
    for directory in [data.clone(), data.join("journal")] {
        chown(&directory, Some(NOBODY), Some(NOBODY)).expect("root may");
    }
    assert_forbidden(&start_as_nobody(database.url(), &data), "Permission denied", "may write to");
    give_to(&data, NOBODY);
    let segment = segments(&data.join("journal")).pop().expect("a segment");
    chown(&segment, Some(0), Some(0)).expect("root may");
    let start = start_as_nobody(database.url(), &data);
    assert_forbidden(&start, "Permission denied", "The user who runs rowcast");
    assert!(start.stderr.contains(segment.file_name().unwrap().to_str().unwrap()), "{start:?}");
    // The remedy.
    give_to(&data, NOBODY);
    insert(&database, 5).await;
    let mut rowcast = rowcast.under(&AS_NOBODY);
    rowcast.resume().await;
    assert_all_told(&rowcast, &database, &witness).await;
}

fn segments(journal: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(journal).expect("a journal").flatten().map(|entry| entry.path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
    paths.sort();
    paths
}

#[tokio::test]
async fn a_read_only_file_system_is_told_with_the_remedy() {
    let Some(disk) = FailingDisk::read_only("a_read_only_file_system_is_told_with_the_remedy") else {
        return;
    };
    let database = with_table("read_only").await;
    let start = refused(database.url(), &disk.path().join("data")).await;
    assert_forbidden(&start, "Read-only file system", "may write to");
}

/// As ext4 does when its disk fails: what is told is there, what was captured too late is not confirmed, and on another
/// disk it all goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_system_that_turns_read_only_ends_capture_and_loses_nothing() {
    let test = "a_file_system_that_turns_read_only_ends_capture_and_loses_nothing";
    let Some(mut disk) = FailingDisk::sound(test) else { return };
    let database = with_table("turns").await;
    let data = disk.path().join("data");
    let mut rowcast = Rowcast::of(&database).data_at(&data).set("journal.segment_size=4MB").start().await;
    let witness = Witness::start(rowcast.address());
    // More than is held in memory.
    for _ in 0..9 {
        insert(&database, 100).await;
    }
    assert_all_told(&rowcast, &database, &witness).await;
    disk.fail();
    insert(&database, 3).await;
    let reasons = wait_failed(&rowcast).await;
    assert!(reasons.contains("Read-only file system"), "{reasons}");
    let held = witness.look(Memory::clone);
    assert_served_and_told(&rowcast, &held, "Read-only file system").await;
    assert!(rowcast.log().contains("takes no more events until rowcast is started again"));
    rowcast.terminate().await;
    let start = refused(database.url(), &data).await;
    assert_forbidden(&start, "Read-only file system", "may write to");
    // It can be looked at and copied all the same.
    let text = data.to_str().expect("a path");
    let check = command(&["journal", "check", "--data", text]).await;
    assert_eq!(check.code, 0, "{check:?}");
    let last = command(&["journal", "show", "--data", text, "--from", "last:1"]).await;
    let last: Value = serde_json::from_str(&last.stdout).expect("an event");
    assert_eq!(last["id"].as_u64(), held.told.last().map(|told| told.id));
    let elsewhere = Directory::new("elsewhere");
    let copy = elsewhere.path().join("data");
    run(&["cp", "-a", text, copy.to_str().expect("a path")].map(str::to_owned));
    let mut rowcast = rowcast.data_at(&copy);
    rowcast.resume().await;
    assert_all_told(&rowcast, &database, &witness).await;
    witness.look(Memory::clone).assert_has_rows(&database, "t").await;
}

#[tokio::test]
async fn a_second_rowcast_on_the_directory_is_refused_and_harms_nothing() {
    let database = with_table("second").await;
    let mut rowcast = Rowcast::of(&database).start().await;
    let witness = Witness::start(rowcast.address());
    insert(&database, 3).await;
    let second = refused(database.url(), &rowcast.data()).await;
    assert_forbidden(&second, "is in use by another process", "a directory of its own");
    // The address that commands find it by is still the first one's.
    let data = rowcast.data();
    let status = command(&["status", "--data", data.to_str().expect("a path")]).await;
    assert_eq!(status.code, 0, "{status:?}");
    insert(&database, 3).await;
    assert_all_told(&rowcast, &database, &witness).await;
    assert_eq!(rowcast.terminate().await, 0);
}

/// What goes into a file without a name is nowhere: it is noticed within a second or two, not at the next start alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_somebody_takes_away_end_capture() {
    let database = with_table("taken").await;
    let mut rowcast = Rowcast::of(&database).set("journal.segment_size=1MB").start().await;
    let witness = Witness::start(rowcast.address());
    let journal = rowcast.data().join("journal");
    // Until there is something to lose in the newest one.
    let (newest, length) = loop {
        insert(&database, 3).await;
        assert_all_told(&rowcast, &database, &witness).await;
        let newest = segments(&journal).pop().expect("a segment");
        let length = fs::metadata(&newest).expect("a file").len();
        if length > 400_000 {
            break (newest, length);
        }
    };
    fs::File::options().write(true).open(&newest).expect("ours").set_len(length / 2).expect("it is cut");
    let reasons = wait_failed(&rowcast).await;
    assert!(reasons.contains("was cut while it was being written"), "{reasons}");
    assert_eq!(publish(&rowcast, 1).await.status, 503);
    rowcast.terminate().await;
    // What Postgres was told is not there any more: a person is asked.
    rowcast.resume().await;
    let waiting = wait_for("capture to wait", SOON * 2, async || {
        let source = rowcast.status().await["source"].clone();
        if source["state"] == "waiting" { Ok(source["reason"].to_string()) } else { Err(source.to_string()) }
    })
    .await;
    assert!(
        waiting.contains("beyond the journal's position") && waiting.contains("rowcast adopt"),
        "{waiting}"
    );
    let data = rowcast.data();
    let adopted = command(&["adopt", "--data", data.to_str().expect("a path")]).await;
    assert_eq!(adopted.code, 0, "{adopted:?}");
    rowcast.wait_streaming().await;

    fs::remove_dir_all(&journal).expect("ours");
    let reasons = wait_failed(&rowcast).await;
    assert!(reasons.contains("was removed while it was being written"), "{reasons}");
}
