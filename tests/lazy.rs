//! A journal that syncs seldom and compresses what it has closed: a kill alone takes nothing of it, since what the
//! program has written is the kernel's to keep.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::abort::{House, KILLED};
use crate::support::rowcast::command;
use crate::support::witness::Witness;
use crate::support::{Database, Postgres, Rowcast, SOON, http, random, wait_for};

/// As the scenarios set it.
const INTERVAL: Duration = Duration::from_millis(100);

const KILLS: usize = 4;

/// The file begins with so many bytes that are not compressed.
const SEGMENT_HEADER: usize = 128;

/// RFC 8878, section 3.1.1.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A segment smaller than this stays as it is.
const SMALLEST: usize = 8 << 10;

fn lazy(rowcast: Rowcast) -> Rowcast {
    rowcast
        .set("journal.sync=interval")
        .set(&format!("journal.sync_interval={}ms", INTERVAL.as_millis()))
        .set("journal.compression=zstd")
}

/// Works until the program is killed, in the midst of whatever it does then.
async fn killed_at_work(house: &mut House, life: Duration) {
    let pid =
        house.rowcast.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("a running rowcast");
    let kill = async {
        tokio::time::sleep(life).await;
        kill_process(pid, Signal::KILL).expect("it runs until then");
    };
    let work = async {
        while house.rowcast.ended().is_none() {
            house.work().await;
        }
    };
    tokio::join!(kill, work);
    assert_eq!(house.rowcast.ended(), Some(KILLED));
}

/// Segment files, the oldest first, but for the one that is being written.
fn closed(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.join("journal")).expect("the journal").flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths.sort();
    paths.pop();
    paths
}

/// Waits until every closed segment that is worth it is compressed; gives how many are, and the bytes of all closed ones.
/// Each file is looked at once: between two looks it may be given its other form.
async fn compressed(rowcast: &Rowcast) -> (usize, u64) {
    wait_for("closed segments to be compressed", SOON * 2, async || {
        let (mut compressed, mut bytes) = (0, 0);
        for path in closed(&rowcast.data()) {
            let content = fs::read(&path).expect("a segment");
            bytes += content.len() as u64;
            if content.get(SEGMENT_HEADER..).is_some_and(|rest| rest.starts_with(&ZSTD)) {
                compressed += 1;
            } else if content.len() >= SMALLEST {
                return Err(format!("{} is not", path.display()));
            }
        }
        Ok((compressed, bytes))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_work_a_lazy_journal_loses_and_renumbers_nothing() {
    let mut rng = random("lazy");
    let mut house = House::new("lazy", lazy).await;
    house.rowcast = house.rowcast.start().await;
    let witness = Witness::start(house.rowcast.address());
    for _ in 0..KILLS {
        let life = Duration::from_millis(rng.random_range(1_000..4_000));
        killed_at_work(&mut house, life).await;
        println!("killed after {life:?}: {:?}", witness.counts());
        house.live().await;
    }
    house.all_told(&witness).await;
    let (count, bytes) = compressed(&house.rowcast).await;
    println!("{count} closed segments are compressed, {bytes} bytes");
    assert!(count > KILLS, "{count} are compressed");
    let held = house.rowcast.metric("rowcast_journal_compressed_segments").await;
    assert_eq!(held, Some(count as f64));
    // The replay from the start reads these.
    house.assert_sound(&witness).await;
    let data = house.rowcast.data().display().to_string();
    let check = command(&["journal", "check", "--data", &data, "--json"]).await;
    let check: Value = serde_json::from_str(&check.stdout).expect("JSON");
    let told = witness.look(|memory| memory.told.len());
    assert_eq!(check["events"], told, "{check}");
    assert!(check["bytes"].as_u64().is_some_and(|plain| plain > 2 * bytes), "{bytes} of {check}");
}

async fn rows_told(rowcast: &Rowcast) -> Result<Value, String> {
    Ok(http::get(rowcast.address(), "/v1/events?from=earliest&limit=10000").await?.json()["events"].clone())
}

async fn captured(name: &str) -> (Database, Rowcast) {
    let database = Postgres::shared().await.create_database(name).await;
    database.execute("create table t (id serial primary key)").await;
    let rowcast = lazy(Rowcast::of(&database)).start().await;
    (database, rowcast)
}

/// The setting is in force: many commits share a sync, and Postgres is told of no more than has been synced.
#[tokio::test]
async fn commits_share_a_sync_and_are_confirmed_behind_it() {
    const ROWS: usize = 300;
    let (database, rowcast) = captured("lazy_syncs").await;
    let client = database.client().await;
    let syncs = async || rowcast.metric("rowcast_journal_sync_seconds_count").await.unwrap_or(0.0);
    let (begun, before) = (Instant::now(), syncs().await);
    for _ in 0..ROWS {
        client.batch_execute("insert into t default values").await.expect("the database is well");
    }
    wait_for("all rows to be told", SOON, async || {
        let told = rows_told(&rowcast).await?.as_array().map_or(0, Vec::len);
        if told == ROWS { Ok(()) } else { Err(format!("{told}")) }
    })
    .await;
    let (made, took) = (syncs().await - before, begun.elapsed());
    println!("{made} syncs of {ROWS} commits in {took:?}");
    assert!(made <= took.as_secs_f64() / INTERVAL.as_secs_f64() + 2.0, "{made} syncs in {took:?}");
    // What is idle is confirmed as well, within the interval and the telling.
    let sql = "select confirmed_flush_lsn >= $1::text::pg_lsn from pg_replication_slots where slot_name = $2";
    let newest = rows_told(&rowcast).await.expect("the rows")[ROWS - 1]["tx"]["lsn"].clone();
    wait_for("the newest row to be confirmed", SOON, async || {
        let row = client.query_one(sql, &[&newest.as_str().expect("an LSN"), &database.name()]).await;
        if row.expect("the slot").get(0) { Ok(()) } else { Err(newest.to_string()) }
    })
    .await;
}
