//! The transactions of the model of the rules, on a real server with the real reader: many small worlds, a table each, in
//! which commits are in the log and streamed before anybody sees them, and capture is killed on the way.

#[path = "../../../src/snapshot/model/changes.rs"]
mod changes;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use changes::{Change, KEYS, initial, transactions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_postgres::error::SqlState;

use super::super::harness::set;
use super::load::seed;
use super::*;

/// Worlds, and how many of them live at a time. Each is read once, so that nothing makes up for what was wrong.
const WORLDS: u64 = 90;
const AT_A_TIME: u64 = 6;

/// So many are made once more when none of them was hard, which a busy machine's pace decides; and how often at most.
const ROUNDS: u64 = 4;

/// Where the model's keys stand in a table of so many rows: two in the first chunk, the others behind it.
const PLACES: [i32; KEYS as usize] = [10, 1_990, 2_010, 2_050, 2_090];
const ROWS: i32 = 2_100;

/// Times that capture is killed in a round.
const KILLS: u32 = 3;

/// Commits wait for a standby that is not there, as long as one is named.
const HELD: &str = "synchronous_commit = local";

/// What has not begun, with a number of its own.
type Waiting = Arc<Mutex<Vec<(usize, Vec<Change>)>>>;

/// One table, and who writes to it.
#[derive(Clone)]
struct World {
    name: String,
    waiting: Waiting,
    random: StdRng,
}

impl World {
    fn others(&self) -> String {
        let places = PLACES.map(|place| place.to_string()).join(", ");
        format!(
            "insert into {} select i, 0, '' from generate_series(0, {ROWS}) i where i not in ({places});",
            self.name
        )
    }

    async fn new(client: &Client, number: u64, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(number));
        // Its sessions take the last ones first. Twice as many as the model's, so that some come while it is read.
        let all = (0..2).flat_map(|_| transactions(&mut random)).enumerate().collect();
        let world = Self { name: format!("w{number}"), waiting: Arc::new(Mutex::new(all)), random };
        let World { name, .. } = &world;
        let mut sql = format!(
            "create table {name} (id int primary key, v int, big text); alter table {name} alter big set storage external;"
        );
        sql += &world.others();
        for key in initial(&mut world.random.clone()) {
            sql += &world.sql(Change::Insert(key), 1);
        }
        run(client, &sql).await;
        world
    }

    fn sql(&self, change: Change, new: usize) -> String {
        let (name, big) = (&self.name, format!("repeat('{new} ', 1500)"));
        let at = |key: u8| PLACES[usize::from(key)];
        match change {
            Change::Insert(key) => {
                format!("insert into {name} values ({}, {new}, {big}) on conflict do nothing;", at(key))
            }
            Change::Update(key) => format!("update {name} set v = {new} where id = {};", at(key)),
            Change::Rewrite(key) => {
                format!("update {name} set v = {new}, big = {big} where id = {};", at(key))
            }
            Change::Delete(key) => format!("delete from {name} where id = {};", at(key)),
            Change::Move(from, to) => format!(
                "update {name} set id = {to}, v = {new} where id = {} and not exists (select from {name} where id = {to});",
                at(from),
                to = at(to)
            ),
            Change::Truncate => format!("truncate {name}; {}", self.others()),
        }
    }

    /// Does what is waiting, one after the other, with pauses.
    async fn session(mut self, client: &Client) {
        loop {
            let Some((number, changes)) = self.waiting.lock().unwrap().pop() else { return };
            self.pause(25).await;
            if let Err(error) = self.transaction(client, number, &changes).await {
                // Two have waited for each other, or moved two rows to one key: it is rolled back, which is as good.
                let usual = [SqlState::T_R_DEADLOCK_DETECTED, SqlState::UNIQUE_VIOLATION];
                assert!(error.code().is_some_and(|code| usual.contains(code)), "{error:?}");
                client.batch_execute("rollback").await.unwrap();
            }
        }
    }

    async fn transaction(
        &mut self,
        client: &Client,
        number: usize,
        changes: &[Change],
    ) -> Result<(), tokio_postgres::Error> {
        client.batch_execute("begin").await?;
        for (place, change) in changes.iter().enumerate() {
            self.pause(3).await;
            client.batch_execute(&self.sql(*change, (number + 1) * 10 + place)).await?;
        }
        self.pause(3).await;
        client.batch_execute("commit").await
    }

    async fn pause(&mut self, longest: u64) {
        sleep(Duration::from_millis(self.random.random_range(0..longest))).await;
    }
}

/// Waits until a table is being read, which nobody else looks at so far; or for long enough to have missed it.
async fn reading(client: &Client, name: &str) {
    let lock = format!("relation = 'public.{name}'::regclass and mode = 'AccessShareLock'");
    let missed = Instant::now() + Duration::from_secs(6);
    while value(client, &format!("exists (select from pg_locks where {lock})")).await != "true"
        && Instant::now() < missed
    {
        sleep(Duration::from_millis(2)).await;
    }
}

/// Worlds one after the other: the table's rows are wished for, and two sessions write when its reader is there, or at any
/// moment before.
async fn lives(worlds: Vec<World>, clients: [Client; 3], mut random: StdRng) {
    for client in &clients[..2] {
        run(client, "set synchronous_commit = on").await;
    }
    for world in worlds {
        let other = World { random: StdRng::seed_from_u64(random.random()), ..world.clone() };
        run(&clients[2], &format!("select rowcast.snapshot('public.{}')", world.name)).await;
        if random.random() {
            reading(&clients[2], &world.name).await;
        } else {
            sleep(Duration::from_millis(random.random_range(0..300))).await;
        }
        tokio::join!(world.session(&clients[0]), other.session(&clients[1]));
    }
}

/// Lets commits wait, and lets them go, until all worlds have ended.
async fn hold(client: Client, mut random: StdRng, mut all: JoinSet<()>) {
    while !all.is_empty() {
        set(&client, "synchronous_standby_names = 'nobody'").await;
        sleep(Duration::from_millis(random.random_range(20..120))).await;
        set(&client, "synchronous_standby_names = ''").await;
        sleep(Duration::from_millis(random.random_range(20..80))).await;
        while let Some(ended) = all.try_join_next() {
            ended.unwrap();
        }
    }
}

/// Tables with which it was as hard as it is meant to be.
#[derive(Default)]
struct Hard {
    /// A chunk had to be read again.
    repeated: BTreeSet<String>,
    /// Keys waited to be read again.
    again: BTreeSet<String>,
}

impl Hard {
    /// Looks at them for as long as something holds.
    async fn watch(&mut self, capture: &Capture, mut holds: impl FnMut() -> bool) {
        while holds() {
            let shown = capture.report().snapshots.into_iter().filter(|shown| shown.chunks_repeated > 0);
            self.repeated.extend(shown.map(|shown| shown.channel));
            for (name, note) in capture.journal.notes() {
                let Some(channel) = name.strip_prefix("snapshot ") else { continue };
                let job: serde_json::Value = serde_json::from_slice(&note).unwrap();
                if job["progress"]["again"].as_array().is_some_and(|keys| !keys.is_empty()) {
                    self.again.insert(channel.to_owned());
                }
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    fn is_enough(&self) -> bool {
        !self.repeated.is_empty() && !self.again.is_empty()
    }
}

/// The worlds from this number on, in lanes.
async fn worlds(client: &Client, first: u64, seed: u64) -> Vec<Vec<World>> {
    let mut lanes: Vec<Vec<World>> = (0..AT_A_TIME).map(|_| Vec::new()).collect();
    for number in first..first + WORLDS {
        lanes[(number % AT_A_TIME) as usize].push(World::new(client, number, seed).await);
    }
    lanes
}

/// They live, are read, and capture is killed meanwhile.
async fn round(
    server: &Server,
    (config, directory): (&rowcast_postgres::Config, &Directory),
    (mut capture, lanes): (Capture, Vec<Vec<World>>),
    hard: &mut Hard,
    random: &mut StdRng,
) -> Capture {
    let mut all = JoinSet::new();
    for worlds in lanes {
        let clients = [sql(server).await, sql(server).await, sql(server).await];
        all.spawn(lives(worlds, clients, StdRng::seed_from_u64(random.random())));
    }
    let holding = tokio::spawn(hold(sql(server).await, StdRng::seed_from_u64(random.random()), all));
    for _ in 0..KILLS {
        let kill = Instant::now() + Duration::from_millis(random.random_range(100..1000));
        hard.watch(&capture, || Instant::now() < kill).await;
        capture.crash().await;
        capture = Capture::start(config.clone(), directory.path()).await;
    }
    hard.watch(&capture, || !holding.is_finished()).await;
    holding.await.unwrap();
    read_whole(&capture).await;
    capture
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_models_transactions_beside_the_real_reader() {
    let (server, directory) = (Server::start(HELD), Directory::new());
    let (client, seed) = (sql(&server).await, seed());
    let mut random = StdRng::seed_from_u64(!seed);
    let mut lanes = worlds(&client, 0, seed).await;
    // All that live at a time.
    let config = rowcast_postgres::Config { snapshot_tables: AT_A_TIME as usize, ..config(&server) };
    let mut capture = Capture::start(config.clone(), directory.path()).await;
    let (mut hard, mut rounds) = (Hard::default(), 0);
    loop {
        capture = round(&server, (&config, &directory), (capture, lanes), &mut hard, &mut random).await;
        rounds += 1;
        if hard.is_enough() || rounds == ROUNDS {
            break;
        }
        lanes = worlds(&client, rounds * WORLDS, seed).await;
    }
    caught_up(&client, &capture).await;
    let events = capture.events();
    let (repeated, again) = (hard.repeated.len(), hard.again.len());
    println!(
        "{} events in {rounds} rounds; {repeated} tables with chunks and {again} with keys that were read again",
        events.len()
    );
    assert!(hard.is_enough(), "too easy");
    for number in 0..rounds * WORLDS {
        let (name, columns) = (format!("w{number}"), ["id", "v", "big"]);
        let mut built = rebuilt(&events, &format!("public.{name}"), columns.len());
        for (key, row) in actual(&client, &name, &columns).await {
            assert_eq!(built.remove(&key).as_ref(), Some(&row), "{name}, row {key}");
        }
        assert!(built.is_empty(), "{name} has no more {:?}", built.keys());
    }
    capture.stop().await;
}
