//! A disk that is really full: capture pauses, readers are served, everybody is told, and all of it goes on by itself.

use rowcast_engine::abort::VARIABLE;
use serde_json::Value;

use crate::abort::{KILLED, Scene, points};
use crate::support::ndjson::page;
use crate::support::process::Directory;
use crate::support::rowcast::command;
use crate::support::small_disk::SmallDisk;
use crate::support::witness::{Memory, Witness};
use crate::support::{Database, Kafka, KafkaReader, Postgres, Rowcast, SOON, http, soon, wait_for};

/// Bytes of a row.
const ROW_BYTES: u64 = 50_000;

/// The journal may fill the whole disk, in segments that fit.
pub(crate) fn on(disk: &SmallDisk, database: &Database) -> Rowcast {
    let dir = format!("journal.dir={}", disk.path().join("journal").display());
    Rowcast::of(database).set(&dir).set("journal.segment_size=4MB").set("journal.max_size=1GB")
}

pub(crate) async fn with_table(name: &str) -> Database {
    let database = Postgres::shared().await.create_database(name).await;
    database.execute("create table t (id serial primary key, v text)").await;
    database
}

pub(crate) async fn insert(database: &Database, rows: u64) {
    let repeat = ROW_BYTES / 32;
    let sql =
        format!("insert into t (v) select repeat(md5(i::text), {repeat}) from generate_series(1, {rows}) i");
    database.execute(&sql).await;
}

pub(crate) async fn publish(rowcast: &Rowcast, number: i64) -> http::Answer {
    let path = "/v1/channels/custom.event/events";
    let body = number.to_string();
    soon("an answer", http::post(rowcast.address(), path, &body)).await.expect("rowcast listens")
}

/// Waits until the journal says that it has no room, and counts it.
pub(crate) async fn wait_full(rowcast: &Rowcast) {
    wait_for("the journal to be full", SOON * 2, async || {
        let status = http::get(rowcast.address(), "/v1/status").await?.json();
        let (journal, source) = (&status["journal"]["state"], &status["source"]["state"]);
        let pauses = rowcast.metric("rowcast_journal_pauses_total{reason=\"disk\"}").await;
        if journal == "full" && source == "paused" && pauses >= Some(1.0) {
            Ok(())
        } else {
            Err(format!("{journal}, {source}, {pauses:?} pauses"))
        }
    })
    .await;
}

/// Asserts that everybody who asks is told.
async fn assert_told_full(rowcast: &Rowcast) {
    let says_so = |reasons: &Value| reasons.to_string().contains("The journal waits for room");
    let status = rowcast.status().await;
    assert!(status["healthy"] == false && says_so(&status["reasons"]), "{status}");
    let flow = rowcast.get("/v1/health/flow").await;
    assert_eq!(flow.status, 503);
    assert!(says_so(&flow.json()["reasons"]), "{}", flow.text());
    assert_eq!(rowcast.metric("rowcast_healthy").await, Some(0.0));
    assert_eq!(rowcast.metric("rowcast_source_streaming").await, Some(0.0));
    let log = rowcast.log();
    let warned =
        |line: &str| line.contains("\"WARN\"") && line.contains("Capture pauses, readers are served: ");
    assert!(log.lines().any(warned), "{log}");
    assert_eq!(rowcast.get("/readyz").await.status, 200, "clients are served");
    let output = command(&["status", "--url", &format!("http://{}", rowcast.address())]).await;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stdout.contains("The journal waits for room"), "{output:?}");
    let answer = publish(rowcast, 0).await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "5"), "{}", answer.text());
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "unavailable");
    assert!(error["message"].to_string().contains("takes no events now"), "{error}");
    assert!(error["hint"].to_string().contains("Nothing was stored: try again"), "{error}");
}

/// Asserts that the server was told of nothing that the journal does not hold.
async fn assert_not_ahead(database: &Database, newest: &Value) {
    let client = database.client().await;
    let sql = "select confirmed_flush_lsn <= $1::text::pg_lsn, confirmed_flush_lsn::text \
               from pg_replication_slots where slot_name = $2";
    let row = client.query_one(sql, &[&newest.as_str().expect("an LSN"), &database.name()]).await.unwrap();
    assert!(row.get::<_, bool>(0), "confirmed {}, stored {newest}", row.get::<_, String>(1));
}

/// The commit's position of the newest event of a table.
async fn newest_lsn(rowcast: &Rowcast) -> Value {
    let newest = page(rowcast.address(), "/v1/events?channel=public.t&from=last:1").await;
    newest.expect("a page")["events"][0]["tx"]["lsn"].clone()
}

async fn last_row(database: &Database) -> i64 {
    let sql = "select coalesce(max(id), 0)::bigint from t";
    database.client().await.query_one(sql, &[]).await.unwrap().get(0)
}

/// Waits until the witness has every row and asserts that it has each once, and everybody else has too.
pub(crate) async fn assert_all_told(rowcast: &Rowcast, database: &Database, witness: &Witness) {
    let last = last_row(database).await;
    wait_for("the witness to be told everything", SOON * 3, async || {
        let told = witness.look(|memory| memory.keys("public.t").last().copied());
        if told == Some(last) { Ok(()) } else { Err(format!("{told:?} of {last}")) }
    })
    .await;
    let told = witness.look(Memory::clone);
    told.assert_has_rows(database, "t").await;
    let until = told.told.last().expect("an event").id;
    told.assert_told_again(&Memory::replay(rowcast.address(), until).await);
    wait_for("rowcast to be well", SOON, async || {
        let flow = rowcast.get("/v1/health/flow").await;
        if flow.status == 200 { Ok(()) } else { Err(flow.text()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capture_fills_the_disk_and_goes_on_when_there_is_room() {
    let (disk, database) = (SmallDisk::new().await, with_table("full").await);
    let mut rowcast = on(&disk, &database).start().await;
    let witness = Witness::start(rowcast.address());
    assert_eq!(publish(&rowcast, 1).await.status, 201);
    disk.fill_up_to(12 << 20);
    // Of 12 MB free 4.8 are kept for others.
    for _ in 0..12 {
        insert(&database, 20).await;
    }
    wait_full(&rowcast).await;
    assert_told_full(&rowcast).await;
    assert!(disk.free() > 3 << 20, "room is left to others: {}", disk.free());
    assert_not_ahead(&database, &newest_lsn(&rowcast).await).await;
    let held = wait_for("the witness to have what fits", SOON, async || {
        let held = witness.look(Memory::clone);
        if held.keys("public.t").len() > 20 { Ok(held) } else { Err(format!("{:?}", held.keys("public.t"))) }
    })
    .await;
    assert!(held.keys("public.t").last() < Some(&last_row(&database).await));
    held.assert_told_again(&Memory::replay(rowcast.address(), held.told.last().unwrap().id).await);

    // What has no room at the end has none after a crash either.
    rowcast.kill9().await;
    rowcast.resume().await;
    wait_full(&rowcast).await;
    assert_told_full(&rowcast).await;
    // Nor has anything, now.
    disk.fill_up_to(0);
    rowcast.kill9().await;
    rowcast.resume().await;
    wait_full(&rowcast).await;
    assert_told_full(&rowcast).await;
    held.assert_told_again(&Memory::replay(rowcast.address(), held.told.last().unwrap().id).await);
    assert_not_ahead(&database, &newest_lsn(&rowcast).await).await;
    assert_eq!(rowcast.terminate().await, 0, "it ends in order");
    assert!(rowcast.log().contains("The journal ends without room"), "{}", rowcast.log());
    assert!(!rowcast.log().contains("takes no more events"), "that is no failure: {}", rowcast.log());
    assert!(!rowcast.log().contains("\"ERROR\""), "nor anything else: {}", rowcast.log());
    rowcast.resume().await;

    disk.make_room();
    assert_all_told(&rowcast, &database, &witness).await;
    assert!(rowcast.log().contains("There is room again: capture goes on"), "{}", rowcast.log());
    assert_eq!(publish(&rowcast, 2).await.status, 201);
    wait_for("the second custom event", SOON, async || {
        let told = witness.look(|memory| memory.keys("custom.event"));
        if told == [1, 2] { Ok(()) } else { Err(format!("{told:?}: what was refused is not stored")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_at_once_is_told_at_once() {
    let (disk, database) = (SmallDisk::new().await, with_table("full_once").await);
    let rowcast = on(&disk, &database).start().await;
    let witness = Witness::start(rowcast.address());
    insert(&database, 1).await;
    // No look at the free space comes before the next write.
    disk.fill_up_to(0);
    insert(&database, 20).await;
    // What fits into what there is of the file is taken until capture has found out, and nothing else.
    let (mut taken, mut refused) = (Vec::new(), 0);
    for number in 0..10_000 {
        match publish(&rowcast, number).await.status.as_u16() {
            201 => taken.push(number),
            status => {
                assert_eq!(status, 503);
                refused += 1;
            }
        }
        if refused == 20 {
            break;
        }
    }
    assert_eq!(refused, 20, "{} are taken", taken.len());
    wait_full(&rowcast).await;
    disk.make_room();
    assert_all_told(&rowcast, &database, &witness).await;
    assert_eq!(witness.look(|memory| memory.keys("custom.event")), taken);
}

/// What was published and did not fit is cut off before anybody is told so: whoever has no answer finds nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_when_what_did_not_fit_was_cut_off() {
    let (disk, database) = (SmallDisk::new().await, with_table("full_cut").await);
    let mut rowcast = on(&disk, &database).start().await;
    let witness = Witness::start(rowcast.address());
    insert(&database, 1).await;
    for point in points(Scene::Full) {
        assert_eq!(rowcast.terminate().await, 0);
        rowcast.set_env(VARIABLE, Some(&format!("{}:1", point.name())));
        rowcast.resume().await;
        rowcast.wait_streaming().await;
        disk.fill_up_to(0);
        let (mut taken, mut is_filled) = (Vec::new(), true);
        for number in 0..10_000 {
            let path = "/v1/channels/custom.event/events";
            // Longer than what the file has ahead.
            let body = format!("{}{number}", " ".repeat(300_000));
            match soon("an answer", http::post(rowcast.address(), path, &body)).await {
                Ok(answer) if answer.status == 201 => {
                    taken.push(number);
                    if !std::mem::replace(&mut is_filled, true) {
                        disk.fill_up_to(0);
                    }
                }
                // What capture had to write has met the full disk first: then nothing is begun that could be cut off.
                Ok(answer) => {
                    assert_eq!(answer.status, 503);
                    if std::mem::take(&mut is_filled) {
                        disk.make_room();
                    }
                }
                Err(_) => break,
            }
        }
        assert_eq!(rowcast.wait_end().await, KILLED, "{}", point.name());
        insert(&database, 20).await;
        disk.make_room();
        rowcast.set_env(VARIABLE, None);
        rowcast.resume().await;
        assert_all_told(&rowcast, &database, &witness).await;
        assert_eq!(witness.look(|memory| memory.keys("custom.event")), taken);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_makes_room_by_itself() {
    let (disk, database) = (SmallDisk::new().await, with_table("full_old").await);
    let mut rowcast = on(&disk, &database).start().await;
    disk.fill_up_to(12 << 20);
    for _ in 0..12 {
        insert(&database, 20).await;
    }
    wait_full(&rowcast).await;
    // Less is kept from now on.
    rowcast.kill9().await;
    rowcast = rowcast.set("journal.segment_size=1MB").set("journal.max_size=3MB");
    rowcast.resume().await;
    let last = last_row(&database).await;
    wait_for("capture to go on", SOON * 2, async || {
        let newest = page(rowcast.address(), "/v1/events?channel=public.t&from=last:1");
        let newest = newest.await?["events"][0]["after"]["id"].clone();
        if newest == last { Ok(()) } else { Err(format!("{newest} of {last}")) }
    })
    .await;
    assert_eq!(rowcast.status().await["healthy"], true);
    let removed = rowcast.metric("rowcast_journal_segments_removed_total{reason=\"size\"}").await;
    assert!(removed >= Some(1.0), "{removed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_transaction_that_has_no_room_waits_for_it() {
    let (disk, database) = (SmallDisk::new().await, with_table("full_huge").await);
    let mut rowcast = on(&disk, &database).start().await;
    let witness = Witness::start(rowcast.address());
    insert(&database, 1).await;
    disk.fill_up_to(20 << 20);
    // 25 MB, and then a small one.
    insert(&database, 500).await;
    insert(&database, 1).await;
    wait_full(&rowcast).await;
    assert_told_full(&rowcast).await;
    assert!(disk.free() > 3 << 20, "room is left to others: {}", disk.free());
    assert_eq!(witness.look(|memory| memory.keys("public.t")), [1], "nothing of it is shown");
    // It waits where it is: nothing is begun anew.
    let reconnects = rowcast.status().await["source"]["reconnects"].clone();
    assert_eq!(reconnects, 0);
    rowcast.kill9().await;
    rowcast.resume().await;
    wait_full(&rowcast).await;
    disk.make_room();
    assert_all_told(&rowcast, &database, &witness).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_cannot_store_its_position_waits_and_sends_nothing_twice() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("full");
    let (disk, database) = (SmallDisk::new().await, with_table("full_sink").await);
    // The positions are on the small disk, the journal is not.
    let journal = Directory::new("journal");
    let mut rowcast = Rowcast::of(&database)
        .data_at(&disk.path().join("data"))
        .set(&format!("journal.dir={}", journal.path().join("journal").display()))
        .kafka(kafka, &prefix)
        .start()
        .await;
    let mut reader = KafkaReader::start(kafka, &prefix);
    insert(&database, 1).await;
    assert_eq!(next_key(&mut reader).await, 1);
    // That is shown when it is stored.
    wait_for("the position of the first", SOON, async || {
        let status = rowcast.status().await;
        let (stored, newest) = (&status["doors"]["kafka"]["position"], &status["journal"]["newest"]);
        if stored == newest { Ok(()) } else { Err(format!("{stored} of {newest}")) }
    })
    .await;
    disk.fill_up_to(0);
    insert(&database, 20).await;
    for key in 2..=21 {
        assert_eq!(next_key(&mut reader).await, key);
    }
    wait_door(&rowcast, "retrying", "Cannot write the sink's position").await;
    let witness = Witness::start(rowcast.address());
    insert(&database, 1).await;
    wait_for("the other doors to go on", SOON, async || {
        let told = witness.look(|memory| memory.keys("public.t").len());
        if told == 22 { Ok(()) } else { Err(format!("{told}")) }
    })
    .await;
    // A start without room for a position, or even for its own address, is one all the same.
    assert_eq!(rowcast.terminate().await, 0);
    disk.fill_up_to(0);
    rowcast.spawn();
    rowcast.wait_ready().await;
    wait_door(&rowcast, "retrying", "Cannot write the sink's position").await;
    disk.make_room();
    wait_door(&rowcast, "running", "").await;
    assert_all_told(&rowcast, &database, &witness).await;
    // Sent again by the second start alone, from the position that was stored.
    let mut keys = Vec::new();
    while keys.last() != Some(&22) {
        keys.push(next_key(&mut reader).await);
    }
    assert!(keys.is_sorted() && keys.first().is_some_and(|first| *first >= 2), "{keys:?}");
}

#[tokio::test]
async fn a_first_start_on_a_full_disk_says_what_to_do() {
    let (disk, database) = (SmallDisk::new().await, with_table("full_first").await);
    disk.fill_up_to(0);
    let data = disk.path().join("data").display().to_string();
    let arguments = ["run", "--source", database.url(), "--data", &data, "--listen", "127.0.0.1:0"];
    for _ in 0..2 {
        let output = command(&arguments).await;
        assert_eq!(output.code, 4, "{output:?}");
        assert!(output.stderr.contains("No space left") && output.stderr.contains("Make room"), "{output:?}");
    }
}

async fn next_key(reader: &mut KafkaReader) -> i64 {
    let record = reader.next(SOON).await.expect("a record");
    record.value.expect("a row")["after"]["id"].as_i64().expect("a key")
}

async fn wait_door(rowcast: &Rowcast, state: &str, reason: &str) {
    wait_for("the sink to be so", SOON * 2, async || {
        let status = http::get(rowcast.address(), "/v1/status").await?.json();
        let door = &status["doors"]["kafka"];
        let said = door["reason"].as_str().unwrap_or_default();
        if door["state"] == state && said.contains(reason) { Ok(()) } else { Err(door.to_string()) }
    })
    .await;
}
