//! A client that forgets nothing: what it was shown has to be there in every later replay, with the same numbers.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;

use super::Database;
use super::ndjson::Ndjson;
use super::sse::Sse;

/// How long it waits before it connects again.
const RECONNECT: Duration = Duration::from_millis(20);

/// One event as it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Its number.
    pub(crate) id: u64,
    /// Where it is told.
    pub(crate) channel: String,
    /// The row's key; the payload's number where it is a custom event.
    pub(crate) key: i64,
    /// Everything that was said of it.
    digest: u64,
}

/// What one reader was told, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// The events.
    pub(crate) told: Vec<Told>,
    changes: HashSet<(String, u64)>,
    /// The event before, when it was not the last of its transaction.
    open: Option<(String, u64)>,
}

impl Memory {
    fn last_id(&self) -> u64 {
        self.told.last().map_or(0, |told| told.id)
    }

    /// Takes an event. Numbers have to rise, each change to come once, and transactions whole and unmixed.
    fn take(&mut self, event: &Value) -> Result<(), String> {
        let id = event["id"].as_u64().ok_or_else(|| format!("no number: {event}"))?;
        if id <= self.last_id() {
            return Err(format!("{id} comes after {}", self.last_id()));
        }
        if let Some(lsn) = event["tx"]["lsn"].as_str() {
            self.take_change(lsn, &event["tx"])?;
        }
        let mut hasher = DefaultHasher::new();
        event.to_string().hash(&mut hasher);
        let channel = event["channel"].as_str().unwrap_or_default().to_owned();
        let key = [&event["after"]["id"], &event["payload"]].into_iter().find_map(Value::as_i64);
        let key = key.ok_or_else(|| format!("no key: {event}"))?;
        self.told.push(Told { id, channel, key, digest: hasher.finish() });
        Ok(())
    }

    fn take_change(&mut self, lsn: &str, tx: &Value) -> Result<(), String> {
        let (seq, last) = (tx["seq"].as_u64().unwrap_or(u64::MAX), tx["last"] == true);
        if !self.changes.insert((lsn.to_owned(), seq)) {
            return Err(format!("change {seq} of {lsn} comes for the second time"));
        }
        let expected = match &self.open {
            Some((open, before)) if open == lsn => before + 1,
            Some((open, before)) => return Err(format!("{open} breaks off after {before}, before {lsn}")),
            None => 0,
        };
        self.open = (!last).then(|| (lsn.to_owned(), seq));
        if seq == expected { Ok(()) } else { Err(format!("change {seq} of {lsn} where {expected} was due")) }
    }

    /// The keys that a channel told, in order.
    pub(crate) fn keys(&self, channel: &str) -> Vec<i64> {
        self.told.iter().filter(|told| told.channel == channel).map(|told| told.key).collect()
    }

    /// Everything that is held now, read anew.
    pub(crate) async fn replay(address: SocketAddr, until: u64) -> Self {
        let mut stream = Ndjson::open(address, "/v1/events?channel=*&from=earliest").await.expect("a stream");
        let mut memory = Self::default();
        while memory.last_id() < until {
            let line = stream.expect("the next event").await;
            if line["op"].is_string() {
                memory.take(&line).unwrap_or_else(|error| panic!("the replay: {error}"));
            }
        }
        memory
    }

    /// Asserts that the replay is what was told, from its first event on; gives how many events it lacks before.
    pub(crate) fn assert_told_again(&self, replay: &Self) -> usize {
        let first = replay.told.first().expect("something is held").id;
        let before = self.told.iter().take_while(|told| told.id < first).count();
        for (at, (told, again)) in self.told[before..].iter().zip(&replay.told).enumerate() {
            assert_eq!(told, again, "event {at} of the replay is what was told");
        }
        assert_eq!(self.told.len() - before, replay.told.len());
        before
    }

    /// Asserts that each row of a table that only one session has inserted into, with rising `id`, was told once
    /// and in order.
    pub(crate) async fn assert_has_rows(&self, database: &Database, table: &str) {
        let sql = format!("select id::bigint from {table} order by id");
        let rows = database.client().await.query(&sql, &[]).await.expect("the table");
        let rows: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        let keys = self.keys(&format!("public.{table}"));
        let first = keys.iter().zip(&rows).position(|(told, row)| told != row);
        assert_eq!(first, None, "{table}: told {:?}, rows {:?}", keys.first(), rows.first());
        assert_eq!(keys.len(), rows.len(), "{table}: told {:?}, rows {:?}", keys.last(), rows.last());
    }
}

struct State {
    memory: Memory,
    failure: Option<String>,
    connections: u64,
}

/// A reader of all channels that follows by SSE and by NDJSON in turn, for as long as it lives.
pub(crate) struct Witness {
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Witness {
    /// Follows from the earliest event on.
    pub(crate) fn start(address: SocketAddr) -> Self {
        let state = Arc::new(Mutex::new(State { memory: Memory::default(), failure: None, connections: 0 }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while lock(&shared).failure.is_none() {
                let turn = lock(&shared).connections;
                // Nobody listening, or a broken connection: it is tried again, as a client would.
                let _ = if turn.is_multiple_of(2) {
                    by_sse(address, &shared).await
                } else {
                    by_ndjson(address, &shared).await
                };
                tokio::time::sleep(RECONNECT).await;
            }
        });
        Self { state, task }
    }

    /// Looks at what it was told. Panics when it was told what cannot be.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&Memory) -> R) -> R {
        let state = lock(&self.state);
        if let Some(failure) = &state.failure {
            panic!("The witness was told what cannot be: {failure}");
        }
        look(&state.memory)
    }

    /// How often it has connected.
    pub(crate) fn connections(&self) -> u64 {
        lock(&self.state).connections
    }

    /// Events told by channel, for people.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        self.look(|memory| {
            memory.told.iter().for_each(|told| *counts.entry(told.channel.clone()).or_default() += 1);
        });
        counts
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes what a door says; `Err` ends the reading.
fn take(state: &Mutex<State>, message: &Value) -> Result<(), String> {
    let mut state = lock(state);
    let result = if message["type"] == "gap" || message["op"] == "gap" {
        Err(format!("a gap: {message}"))
    } else if message["op"].is_string() {
        state.memory.take(message)
    } else {
        Ok(())
    };
    result.inspect_err(|error| state.failure = Some(error.clone()))
}

async fn by_sse(address: SocketAddr, state: &Mutex<State>) -> Result<(), String> {
    let last = lock(state).memory.last_id();
    let last = (last > 0).then(|| last.to_string());
    let mut stream = Sse::resume(address, "/v1/events?channel=*&from=earliest", last.as_deref()).await?;
    lock(state).connections += 1;
    while let Some(event) = stream.next().await {
        match event.event.as_str() {
            "message" => take(state, &event.json())?,
            "gap" => take(state, &serde_json::json!({"type": "gap", "data": event.data}))?,
            _ => {}
        }
    }
    Ok(())
}

async fn by_ndjson(address: SocketAddr, state: &Mutex<State>) -> Result<(), String> {
    let from = match lock(state).memory.last_id() {
        0 => "earliest".to_owned(),
        id => id.to_string(),
    };
    let mut stream = Ndjson::open(address, &format!("/v1/events?channel=*&from={from}")).await?;
    lock(state).connections += 1;
    while let Some(line) = stream.next().await {
        take(state, &line)?;
    }
    Ok(())
}
