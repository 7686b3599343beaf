//! A table that is changed while it is read, in all the ways that could fool a reader.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rowcast_engine::journal::Journal;
use tokio::task::JoinHandle;

use super::*;

/// Keys that rows move between: half of them have one, which is more than a first chunk holds.
const KEYS: i32 = 10_000;

/// Times that capture is killed while they are read.
const CRASHES: u32 = 8;

/// What is changed meanwhile: 120 MB, which is read in some sixteen chunks.
pub(super) const TABLE: &str = "create table t (id int primary key, v text, big text);
    alter table t alter big set storage external;
    insert into t select i, 'v', repeat(i || ' ', 5000) from generate_series(0, 9999, 2) i";

pub(in crate::capture) fn seed() -> u64 {
    let seed = std::env::var("ROWCAST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().random());
    println!("ROWCAST_SEED={seed}");
    seed
}

/// One transaction: rows change, move, vanish and come, the large column untouched for the most part.
pub(in crate::capture) fn transaction(random: &mut StdRng) -> String {
    let mut sql = "begin;".to_owned();
    for _ in 0..random.random_range(1..6) {
        let (key, other) = (random.random_range(0..KEYS), random.random_range(0..KEYS));
        sql += &match random.random_range(0..100) {
            0..40 => format!("update t set v = v || 'u' where id = {key};"),
            40..55 => format!(
                "update t set id = {other} where id = {key} and not exists (select from t where id = {other});"
            ),
            55..65 => format!("delete from t where id = {key};"),
            65..80 => format!(
                "insert into t values ({key}, 'new', repeat('{other} ', 900)) on conflict do nothing;"
            ),
            80..88 => format!(
                "delete from t where id = {key}; insert into t values ({key}, 'again', repeat('{other} ', 900));"
            ),
            88..93 => format!("update t set v = 'range' where id between {key} and {key} + 40;"),
            93..97 => format!("savepoint s; update t set big = 'lost' where id = {key}; rollback to s;"),
            97 => format!("update t set big = repeat('{other}', 800) where id = {key};"),
            _ => format!(
                "insert into t select i, 'bulk', repeat('x', 3000) from generate_series({key}, {key} + 20) i on conflict do nothing;"
            ),
        };
    }
    sql + if random.random_range(0..12) == 0 { "rollback" } else { "commit" }
}

/// Sessions that write as fast as they can.
pub(super) struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<u32>>,
}

impl Writers {
    pub(super) async fn start<const COUNT: usize>(clients: [Client; COUNT], seed: u64) -> Self {
        Self::start_with(clients, seed, transaction).await
    }

    /// Sessions that write other transactions.
    pub(super) async fn start_with<const COUNT: usize>(
        clients: [Client; COUNT],
        seed: u64,
        transaction: fn(&mut StdRng) -> String,
    ) -> Self {
        let (stop, mut tasks) = (Arc::new(AtomicBool::new(false)), Vec::new());
        for (number, client) in (0..).zip(clients) {
            let (stop, mut random) = (Arc::clone(&stop), StdRng::seed_from_u64(seed.wrapping_add(number)));
            run(&client, "select 1").await;
            tasks.push(tokio::spawn(async move {
                let mut done = 0;
                while !stop.load(Ordering::Relaxed) {
                    // A deadlock or a key that is taken rolls it back, which is as good.
                    if client.batch_execute(&transaction(&mut random)).await.is_err() {
                        let _ = client.batch_execute("rollback").await;
                    }
                    // The server has gone: nothing here would ever wait, and the test could not even end.
                    if client.is_closed() {
                        break;
                    }
                    done += 1;
                }
                done
            }));
        }
        Self { stop, tasks }
    }

    /// Gives how many transactions there were.
    pub(super) async fn stop(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        let mut done = 0;
        for task in self.tasks {
            done += task.await.unwrap();
        }
        done
    }
}

/// How far a reading has come, as the journal has it: rows that have been read, and how many keys wait to be read again;
/// none when the table has been read.
pub(super) fn progress(journal: &Journal) -> Option<(u64, usize)> {
    let notes = journal.notes();
    // For everybody, by whatever wish.
    let is_ours = |name: &str| name == "snapshot public.t" || name.starts_with("snapshot public.t wished");
    let (_, note) = notes.iter().find(|(name, _)| is_ours(name))?;
    let job: serde_json::Value = serde_json::from_slice(note).unwrap();
    let progress = &job["progress"];
    Some((progress["rows"].as_u64()?, progress["again"].as_array()?.len()))
}

/// The second of these.
pub(super) fn again(journal: &Journal) -> Option<usize> {
    Some(progress(journal)?.1)
}

/// Has [`TABLE`] changed and capture killed again and again until all that is wanted has been read.
pub(super) async fn read_under_load(
    server: &Server,
    config: &rowcast_postgres::Config,
    sinks: &[Sink<'_>],
    wanted: Option<&str>,
) -> (Client, Capture, Directory) {
    let client = sql(server).await;
    let (seed, directory) = (seed(), Directory::new());
    let writers = Writers::start([sql(server).await, sql(server).await, sql(server).await], seed).await;
    let mut config = config.clone();
    config.tables = vec!["public.*".to_owned()];
    let mut capture = Capture::start_for(config.clone(), directory.path(), sinks).await;
    if let Some(wanted) = wanted {
        run(&client, wanted).await;
    }
    until("the reading to begin", async || progress(&capture.journal).is_some()).await;
    let mut random = StdRng::seed_from_u64(!seed);
    // Crashes of a reading, those of one that was further than at the crash before, and keys that waited in them.
    let (mut unfinished, mut further, mut waited, mut before) = (0, 0, 0, 0);
    for number in 0..CRASHES {
        if number % 2 == 0 {
            let pause = random.random_range(1..120);
            tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
        } else {
            until("more rows, and keys to be read again", async || {
                progress(&capture.journal).is_none_or(|(rows, keys)| rows > before && keys > 0)
            })
            .await;
        }
        let journal = capture.journal.clone();
        capture.crash().await;
        if let Some((rows, keys)) = progress(&journal) {
            unfinished += 1;
            further += u32::from(rows > before);
            waited += keys;
            before = rows;
        }
        capture = Capture::start_for(config.clone(), directory.path(), sinks).await;
    }
    read_whole(&capture).await;
    let transactions = writers.stop().await;
    caught_up(&client, &capture).await;
    println!(
        "{transactions} transactions; {unfinished} crashes of a reading, {further} of them further on, and {waited} keys waited"
    );
    assert!(
        unfinished >= CRASHES / 2 && further >= 2 && waited > 0,
        "most crashes came too late to test anything"
    );
    (client, capture, directory)
}

pub(super) async fn equal_to_the_table(client: &Client, events: &[Seen]) {
    let reads = events.iter().filter(|event| event.op == Op::Read).count();
    println!("{reads} rows read, {} events", events.len());
    let (built, real) = (rebuilt(events, "public.t", 3), actual(client, "t", &["id", "v", "big"]).await);
    for (key, row) in &real {
        assert_eq!(built.get(key), Some(row), "row {key}");
    }
    assert_eq!(built.len(), real.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn under_full_write_load_it_ends_equal_to_the_table() {
    let server = Server::start("");
    run(&sql(&server).await, TABLE).await;
    let (client, capture, _directory) = read_under_load(&server, &initial(&server), &[], None).await;
    equal_to_the_table(&client, &capture.events()).await;
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_full_write_load_a_sink_and_everybody_end_equal_to_the_table() {
    let server = Server::start("");
    run(&sql(&server).await, TABLE).await;
    let (sinks, wanted) = ([("a", Some(5)), ("b", None)], Some("select rowcast.snapshot('t')"));
    let (client, capture, _directory) = read_under_load(&server, &config(&server), &sinks, wanted).await;
    equal_to_the_table(&client, &capture.events_for("a")).await;
    equal_to_the_table(&client, &capture.events()).await;
    capture.stop().await;
}
