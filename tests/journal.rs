//! The journal's files under the whole program: damage, repair, backup, and a directory that cannot be used.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::ndjson::page;
use crate::support::process::Directory;
use crate::support::rowcast::{Output, command, command_on_read_only};
use crate::support::sse::Sse;
use crate::support::{Database, Kafka, KafkaReader, Postgres, Rowcast, SOON, wait_for};
use crate::yielding::wait_delivered;

/// A database with a table `t`, captured into segments of a megabyte.
async fn captured(name: &str) -> (Database, Rowcast) {
    let database = Postgres::shared().await.create_database(name).await;
    database.execute("create table t (id integer primary key, v text)").await;
    let rowcast = Rowcast::of(&database).set("journal.segment_size=1MB").start().await;
    (database, rowcast)
}

/// Commits rows of a kilobyte, 100 in each transaction.
async fn fill(database: &Database, first: u32, last: u32) {
    for start in (first..last).step_by(100) {
        let rows = format!("generate_series({start}, {})", start + 99);
        database.execute(&format!("insert into t select i, repeat('v', 1000) from {rows} i")).await;
    }
}

/// Commits 4,000 such rows in groups of a fifth of a segment: what waits together is written together, and a
/// busy machine would put megabytes of it into one.
async fn fill_segments(database: &Database, rowcast: &Rowcast) {
    for first in (1..4000).step_by(200) {
        fill(database, first, first + 199).await;
        wait_last(rowcast, first + 199).await;
    }
}

/// Waits until the newest event is of the row with this key.
async fn wait_last(rowcast: &Rowcast, key: u32) {
    wait_for("the last row to be held", SOON, async || {
        let page = page(rowcast.address(), "/v1/events?from=last:1&limit=1").await?;
        if page["events"][0]["after"]["id"] == key { Ok(()) } else { Err(page["newest"].to_string()) }
    })
    .await;
}

/// Waits until so many events are held; gives them.
async fn held(rowcast: &Rowcast, count: usize) -> Vec<Value> {
    wait_for("the events", SOON, async || {
        let (mut events, mut from) = (Vec::new(), "earliest".to_owned());
        loop {
            let page = page(rowcast.address(), &format!("/v1/events?from={from}&limit=10000")).await?;
            let more = page["events"].as_array().ok_or("no events")?;
            if more.is_empty() {
                break;
            }
            events.extend(more.clone());
            from = page["next"].to_string();
        }
        if events.len() == count { Ok(events) } else { Err(format!("{} of {count}", events.len())) }
    })
    .await
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|found| found == "seg")).collect();
    paths.sort();
    paths
}

fn id(event: &Value) -> u64 {
    event["id"].as_u64().unwrap_or_else(|| panic!("no number: {event}"))
}

async fn journal(action: &str, data: &Path, more: &[&str]) -> Output {
    command(&[&["journal", action, "--data", data.to_str().unwrap()], more].concat()).await
}

/// Starts the program where it has to refuse: its exit code and its words.
async fn refused(database: &Database, data: &Path) -> Output {
    let slot = format!("source.slot={}", database.name());
    let data = data.to_str().unwrap();
    let arguments = ["--source", database.url(), "--set", &slot, "--data", data, "--listen", "127.0.0.1:0"];
    command(&[&["run"], &arguments[..]].concat()).await
}

#[tokio::test]
async fn a_damaged_journal_is_mended_and_readers_are_told_once() {
    let (database, mut rowcast) = captured("mended").await;
    fill_segments(&database, &rowcast).await;
    let whole = held(&rowcast, 4000).await;
    let data = rowcast.data();
    let running = journal("repair", &data, &[]).await;
    assert!(running.code == 4 && running.stderr.contains("in use by another process"), "{running:?}");
    assert_eq!(rowcast.terminate().await, 0);
    let sound = journal("repair", &data, &[]).await;
    assert_eq!((sound.code, sound.stdout.as_str()), (0, "There is nothing to repair\n"), "{sound:?}");

    let paths = segments(&data);
    assert!(paths.len() > 3, "{paths:?}");
    fs::File::options().write(true).open(&paths[1]).unwrap().write_all_at(b"garbage", 500_000).unwrap();
    fs::remove_file(paths[1].with_extension("idx")).unwrap();
    let start = refused(&database, &data).await;
    assert!(start.code == 4 && start.stderr.contains("rowcast journal repair"), "{start:?}");
    let check = journal("check", &data, &[]).await;
    assert!(check.code == 4 && check.stderr.contains("rowcast journal repair"), "{check:?}");
    let plan = journal("repair", &data, &["--dry-run", "--json"]).await;
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!((plan["dry_run"].as_bool(), segments(&data)), (Some(true), paths));
    plan_on_read_only(&data, &plan).await;
    let done = journal("repair", &data, &[]).await;
    assert!(done.code == 0 && done.stdout.contains("readers are told a gap"), "{done:?}");
    let saved = plan["cuts"][0]["saved"].as_str().unwrap();
    assert_eq!(fs::metadata(saved).unwrap().len(), plan["cuts"][0]["bytes"].as_u64().unwrap());

    let (from, to) = (plan["gaps"][0]["from"].as_u64().unwrap(), plan["gaps"][0]["to"].as_u64().unwrap());
    let lost = whole.iter().filter(|event| (from..=to).contains(&id(event))).count();
    assert!(lost > 300 && lost as u64 == to - from + 1, "{lost} are lost");
    rowcast.resume().await;
    rowcast.wait_streaming().await;
    fill(&database, 4001, 4100).await;
    let kept = held(&rowcast, 4100 - lost + 1).await;
    let same = |event: &&Value| event["type"].is_null() && id(event) <= id(&whole[3999]);
    let before: Vec<_> = kept.iter().filter(same).collect();
    assert!(before.iter().all(|event| whole.contains(event)) && before.len() == 4000 - lost);

    // From before it, within it, and at its end.
    for (position, told) in [(from - 1, true), (from, true), (to - 1, true), (to, false)] {
        let path = "/v1/events?channel=public.t&op=insert";
        let mut stream = Sse::resume(rowcast.address(), path, Some(&position.to_string())).await.unwrap();
        assert_eq!(stream.expect("open").await.event, "open");
        if told {
            let gap = stream.expect("the gap").await;
            assert_eq!((gap.event.as_str(), gap.id.as_deref()), ("gap", Some(to.to_string().as_str())));
            let gap = gap.json();
            assert_eq!((&gap["from"], &gap["to"]), (&json!(from), &json!(to)));
            assert_eq!((&gap["reason"], &gap["channel"]), (&json!("journal_damaged"), &Value::Null));
        }
        let next = stream.expect_event("message").await.json();
        let expected = whole.iter().find(|event| id(event) > to).unwrap();
        assert_eq!(&next, expected, "from {position}");
    }
}

/// What has been copied to a file system that may only be read can be looked at there; only mending is refused.
async fn plan_on_read_only(data: &Path, plan: &Value) {
    let dir = data.to_str().unwrap();
    let journal = |action: &'static str, more: &'static [&'static str]| async move {
        command_on_read_only(data, &[&["journal", action, "--data", dir], more].concat()).await
    };
    let Some(same) = journal("repair", &["--dry-run", "--json"]).await else { return };
    assert_eq!(same.code, 0, "{same:?}");
    assert_eq!(&serde_json::from_str::<Value>(&same.stdout).unwrap(), plan);
    let refused = journal("repair", &[]).await.unwrap();
    assert!(refused.code == 4 && refused.stderr.contains("Read-only file system"), "{refused:?}");
    let shown = journal("show", &["--from", "last:1"]).await.unwrap();
    assert_eq!((shown.code, shown.stdout.lines().count()), (0, 1), "{shown:?}");
}

#[tokio::test]
async fn damage_among_the_newest_events_is_mended_and_adopted() {
    let (database, mut rowcast) = captured("newest").await;
    // Each transaction is synced before the next is written: damage within one group looks like its torn end.
    for first in (1..500).step_by(100) {
        fill(&database, first, first + 99).await;
        held(&rowcast, first as usize + 99).await;
    }
    let whole = held(&rowcast, 500).await;
    let (data, slot) = (rowcast.data(), format!("source.slot={}", database.name()));
    assert_eq!(rowcast.terminate().await, 0);
    let newest = segments(&data).pop().unwrap();
    fs::File::options().write(true).open(&newest).unwrap().write_all_at(b"garbage", 300_000).unwrap();
    // As after a kill: what an index speaks for is not read at the start.
    fs::remove_file(newest.with_extension("idx")).unwrap();
    assert_eq!(refused(&database, &data).await.code, 4);
    let done = journal("repair", &data, &[]).await;
    assert!(done.code == 0 && done.stdout.contains("rowcast adopt"), "{done:?}");
    // Postgres has forgotten what is lost.
    let data = data.to_str().unwrap();
    let adopted = command(&["adopt", "--source", database.url(), "--set", &slot, "--data", data]).await;
    assert_eq!(adopted.code, 0, "{adopted:?}");
    rowcast.resume().await;
    rowcast.wait_streaming().await;
    fill(&database, 501, 600).await;
    let mut stream =
        Sse::resume(rowcast.address(), "/v1/events", Some(&id(&whole[499]).to_string())).await.unwrap();
    let mut told = Vec::new();
    let next = loop {
        let next = stream.expect("what comes next").await;
        match next.event.as_str() {
            "gap" => told.push(next.json()["reason"].as_str().unwrap().to_owned()),
            "message" => break next.json(),
            _ => {}
        }
    };
    assert_eq!(told, ["journal_damaged", "journal_behind"]);
    assert!(next["after"]["id"] == 501 && id(&next) > id(&whole[499]), "{next}");
}

#[tokio::test]
async fn a_backup_is_made_while_it_runs_and_goes_on_behind_a_gap() {
    let (database, mut rowcast) = captured("backup").await;
    fill(&database, 1, 3000).await;
    let whole = held(&rowcast, 3000).await;
    let around = Directory::new("backup");
    let dest = around.path().join("copy");
    let dest_text = dest.to_str().unwrap();
    let data = rowcast.data();
    let backup = async { journal("backup", &data, &[dest_text]).await };
    let (done, ()) = tokio::join!(backup, fill(&database, 3001, 4000));
    assert!(done.code == 0 && done.stdout.starts_with("Copied to "), "{done:?}");
    let again = journal("backup", &rowcast.data(), &[dest_text]).await;
    assert!(again.code == 2 && again.stderr.contains("is not empty"), "{again:?}");
    let sound = journal("check", &dest, &[]).await;
    assert!(sound.code == 0 && sound.stdout.contains("The journal is sound"), "{sound:?}");
    let last = journal("show", &dest, &["--from", "last:1"]).await;
    let last: Value = serde_json::from_str(&last.stdout).unwrap();
    let all = held(&rowcast, 4000).await;
    assert!(all.contains(&last) && id(&last) >= id(&whole[2999]));

    // The original is lost; Postgres has forgotten what came after the backup.
    let newest = id(&all[3999]);
    assert_eq!(rowcast.terminate().await, 0);
    let slot = format!("source.slot={}", database.name());
    let adopted = command(&["adopt", "--source", database.url(), "--set", &slot, "--data", dest_text]).await;
    assert_eq!(adopted.code, 0, "{adopted:?}");
    fs::remove_dir_all(rowcast.data()).unwrap();
    fs::rename(&dest, rowcast.data()).unwrap();
    rowcast.resume().await;
    rowcast.wait_streaming().await;
    let mut stream = Sse::resume(rowcast.address(), "/v1/events", Some(&newest.to_string())).await.unwrap();
    stream.expect("open").await;
    let gap = stream.expect("the gap").await;
    assert!(gap.event == "gap" && gap.json()["from"] == id(&last) + 1, "{gap:?}");
    fill(&database, 4001, 4100).await;
    let next = loop {
        let next = stream.expect("what comes next").await;
        if next.event == "message" {
            break next.json();
        }
    };
    assert!(next["after"]["id"] == 4001 && id(&next) > newest, "{next}");
}

/// Journal and positions of sinks, as `cp` comes to them, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_copy_of_the_whole_data_directory_goes_on_with_its_sinks() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("copied");
    let database = Postgres::shared().await.create_database("copied").await;
    database.execute("create table t (id integer primary key, v text)").await;
    let mut rowcast = Rowcast::of(&database)
        .kafka(kafka, &prefix)
        .set("kafka.on_gap=continue")
        .set("journal.segment_size=1MB")
        .start()
        .await;
    fill(&database, 1, 2000).await;
    held(&rowcast, 2000).await;
    let around = Directory::new("copied");
    let dest = around.path().join("copy");
    let (data, to) = (rowcast.data(), dest.clone());
    let copy = tokio::task::spawn_blocking(move || {
        let done = std::process::Command::new("cp").arg("-r").args([data, to]).output().unwrap();
        // The socket of the running program cannot be copied.
        String::from_utf8_lossy(&done.stderr).into_owned()
    });
    let (said, ()) = tokio::join!(copy, fill(&database, 2001, 3900));
    // These are behind the copy for certain.
    fill(&database, 3901, 4000).await;
    let all = held(&rowcast, 4000).await;
    wait_delivered(&rowcast, "kafka").await;
    assert_eq!(rowcast.terminate().await, 0);

    // The original is lost; Postgres has forgotten what came after the copy.
    fs::remove_dir_all(rowcast.data()).unwrap();
    fs::rename(&dest, rowcast.data()).unwrap_or_else(|error| panic!("{error}: {}", said.unwrap()));
    rowcast.resume().await;
    wait_for("capture to wait", SOON, async || {
        let broken = rowcast.metric("rowcast_source_broken{reason=\"journal_behind\"}").await;
        if broken == Some(1.0) { Ok(()) } else { Err(format!("{broken:?}")) }
    })
    .await;
    let data = rowcast.data();
    let adopted = command(&["adopt", "--data", data.to_str().unwrap()]).await;
    assert_eq!(adopted.code, 0, "{adopted:?}");
    rowcast.wait_streaming().await;
    fill(&database, 4001, 4100).await;
    wait_last(&rowcast, 4100).await;
    wait_delivered(&rowcast, "kafka").await;

    // Whatever comes twice has its number, and new ones are above all that were given.
    let mut reader = KafkaReader::start(kafka, &prefix);
    let (mut rows, mut gaps): (BTreeMap<u64, Value>, Vec<Value>) = (BTreeMap::new(), Vec::new());
    while gaps.is_empty() || rows.last_key_value().is_none_or(|(_, row)| row["after"]["id"] != 4100) {
        let record =
            reader.next(SOON).await.unwrap_or_else(|| panic!("{gaps:?}, {:?}", rows.last_key_value()));
        let number = record.headers["rowcast.id"].parse().unwrap();
        let value = record.value.unwrap();
        if record.topic == format!("{prefix}.rowcast") {
            gaps.push(value["reason"].clone());
        } else if let Some(before) = rows.insert(number, value.clone()) {
            assert_eq!(before["after"], value["after"], "{number}");
        }
    }
    assert_eq!(gaps, ["journal_behind"]);
    let ids: Vec<_> = rows.values().map(|row| row["after"]["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (1..=4100).collect::<Vec<_>>());
    assert!(rows.keys().take(4000).copied().eq(all.iter().map(id)));
}

#[tokio::test]
async fn a_segment_that_vanishes_meanwhile_is_told_and_others_are_served() {
    let (database, rowcast) = captured("vanishes").await;
    fill_segments(&database, &rowcast).await;
    let whole = held(&rowcast, 4000).await;
    // Enough to push the oldest ones out of memory.
    let database_rows = "insert into t select i, repeat('w', 10000) from generate_series(5001, 9000) i";
    database.execute(database_rows).await;
    wait_last(&rowcast, 9000).await;
    fs::remove_file(&segments(&rowcast.data())[1]).unwrap();
    let mut stream = Sse::open(rowcast.address(), "/v1/events?from=earliest").await;
    let mut given = 0;
    let end = loop {
        let next = stream.expect("an event or the end").await;
        match next.event.as_str() {
            "message" => given += 1,
            "end" => break next,
            _ => {}
        }
    };
    assert!(given > 100 && given < whole.len(), "{given} before the break");
    assert_eq!(end.json()["reason"], "error");
    assert!(end.json()["message"].to_string().contains(".seg"), "{}", end.data);
    assert!(end.json()["hint"].to_string().contains("rowcast journal repair"), "{}", end.data);
    let url = format!("http://{}", rowcast.address());
    let tail = command(&["tail", "*", "--from", "earliest", "--url", &url]).await;
    assert_eq!(tail.code, 1, "it ends: {}", tail.stderr);
    assert!(tail.stderr.contains("rowcast journal repair"), "{}", tail.stderr);
    let told = rowcast.log().lines().filter(|line| line.contains("since it cannot be read")).count();
    assert_eq!(told, 1, "two clients, one word");
    assert_eq!(end.id, Some(id(&whole[given - 1]).to_string()), "where to go on once it is mended");
    let status = rowcast.status().await;
    let reasons = status["reasons"].to_string();
    assert!(status["healthy"] == false && reasons.contains("The journal is damaged"), "{reasons}");
    assert!(rowcast.log().contains("rowcast journal repair"), "the log says what to do");
    database.execute("insert into t values (10000, 'still taken')").await;
    let mut live = Sse::open(rowcast.address(), "/v1/events?from=last:1").await;
    live.expect("open").await;
    assert!(live.expect_event("message").await.json()["op"] == "insert");
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_told_with_a_remedy() {
    let database = Postgres::shared().await.create_database("nowhere").await;
    let around = Directory::new("nowhere");
    let file = around.path().join("file");
    fs::write(&file, "x").unwrap();
    for data in [file.as_path(), Path::new("/proc/rowcast")] {
        let start = refused(&database, data).await;
        assert!(start.code == 4 && start.stderr.contains("hint:"), "{start:?}");
        assert!(start.stderr.contains("Cannot open the journal in"), "{start:?}");
        let repair = journal("repair", data, &[]).await;
        assert!(repair.code == 4 && repair.stderr.contains("There is no journal"), "{repair:?}");
    }
}

#[tokio::test]
async fn files_of_another_installation_are_refused_with_a_remedy() {
    let ((database, mut rowcast), (other_database, mut other)) =
        tokio::join!(captured("mine"), captured("theirs"));
    for (database, rowcast) in [(&database, &mut rowcast), (&other_database, &mut other)] {
        fill(database, 1, 100).await;
        held(rowcast, 100).await;
        assert_eq!(rowcast.terminate().await, 0);
    }
    let (data, theirs) = (rowcast.data(), other.data());
    let path = segments(&theirs).pop().unwrap();
    let copied = data.join("journal").join(path.file_name().unwrap());
    fs::copy(&path, &copied).unwrap();
    let start = refused(&database, &data).await;
    assert!(start.code == 4 && start.stderr.contains("belongs to another installation"), "{start:?}");
    assert!(start.stderr.contains(copied.to_str().unwrap()), "which one: {start:?}");
    assert!(start.stderr.contains("hint:"), "{start:?}");

    // Taken out again, it starts; with another identity it does not.
    fs::remove_file(&copied).unwrap();
    rowcast.resume().await;
    rowcast.wait_streaming().await;
    assert_eq!(rowcast.terminate().await, 0);
    fs::copy(theirs.join("journal/installation"), data.join("journal/installation")).unwrap();
    let start = refused(&database, &data).await;
    assert!(start.code == 4 && start.stderr.contains("belongs to another installation"), "{start:?}");
}

#[tokio::test]
async fn events_on_disk_are_shown_from_any_place() {
    let (database, rowcast) = captured("places").await;
    fill(&database, 1, 300).await;
    let whole = held(&rowcast, 300).await;
    let data = rowcast.data();
    let time = whole[200]["ts"].as_str().unwrap();
    for (from, first) in [
        ("earliest", 0),
        ("last:3", 297),
        ("last:1000", 0),
        (id(&whole[150]).to_string().as_str(), 150),
        (time, 200),
        ("latest", 300),
    ] {
        let shown = journal("show", &data, &["--from", from]).await;
        let events: Vec<Value> =
            shown.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(shown.code == 0 && events == whole[first..], "{from}: {} events", events.len());
    }
    let wrong = journal("show", &data, &["--from", "yesterday"]).await;
    assert!(wrong.code == 2 && wrong.stderr.contains("not a place to start from"), "{wrong:?}");
}
