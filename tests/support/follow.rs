//! Readers that follow a door whatever happens to it, and rebuild the tables from what they are told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::debezium::DebeziumTables;
use super::kafka::{Kafka, KafkaReader};
use super::ndjson::{Ndjson, page};
use super::rebuild::Tables;
use super::sse::Sse;
use super::websocket::WebSocket;
use super::{Database, wait_for};

/// A door out over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// `text/event-stream`
    Sse,
    /// `application/x-ndjson`
    Ndjson,
    /// `application/json`, long polls
    Page,
    /// `/v1/ws`
    WebSocket,
}

impl Door {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Sse, Self::Ndjson, Self::Page, Self::WebSocket];
}

/// How long a reader waits before it connects again.
const RECONNECT: Duration = Duration::from_millis(50);

/// A reader in the background. Dropping it ends it.
pub(crate) struct Follower<T> {
    name: String,
    state: Arc<Mutex<State<T>>>,
    task: JoinHandle<()>,
}

struct State<T> {
    tables: T,
    connections: u64,
    failure: Option<String>,
}

impl<T> State<T> {
    /// Notes the first error, after which nothing counts any more; tells whether to go on.
    fn note(&mut self, result: Result<(), String>) -> bool {
        if let Err(error) = result {
            self.failure.get_or_insert(error);
        }
        self.failure.is_none()
    }
}

impl<T: Send + 'static> Follower<T> {
    fn spawn<F: Future<Output = ()> + Send + 'static>(
        name: String,
        tables: T,
        read: impl FnOnce(Arc<Mutex<State<T>>>) -> F,
    ) -> Self {
        let state = Arc::new(Mutex::new(State { tables, connections: 0, failure: None }));
        let task = tokio::spawn(read(Arc::clone(&state)));
        Self { name, state, task }
    }

    /// Looks at the tables as they are now.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&lock(&self.state).tables)
    }

    /// Changes what is expected of what comes.
    pub(crate) fn change(&self, change: impl FnOnce(&mut T)) {
        change(&mut lock(&self.state).tables);
    }

    /// How often the reader has connected.
    pub(crate) fn connections(&self) -> u64 {
        lock(&self.state).connections
    }

    /// The door's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Panics when the reader was told something that cannot be.
    pub(crate) fn check(&self) {
        if let Some(failure) = &lock(&self.state).failure {
            panic!("{}: {failure}", self.name);
        }
        assert!(!self.task.is_finished(), "{}: its reader has panicked", self.name);
    }
}

impl Follower<Tables> {
    /// Follows every channel of a door from the earliest event on.
    pub(crate) fn start(door: Door, address: SocketAddr, tables: Tables) -> Self {
        Self::spawn(format!("{door:?}"), tables, |state| async move {
            while lock(&state).failure.is_none() {
                let last_id = lock(&state).tables.last_id;
                // Nobody listening, or a broken connection: it is tried again, as a client would.
                let _ = match door {
                    Door::Sse => read_sse(address, last_id, &state).await,
                    Door::Ndjson => read_ndjson(address, last_id, &state).await,
                    Door::Page => read_page(address, last_id, &state).await,
                    Door::WebSocket => read_websocket(address, last_id, &state).await,
                };
                tokio::time::sleep(RECONNECT).await;
            }
        })
    }

    /// Waits until the rebuilt tables equal the database's, which nobody may be changing any more.
    pub(crate) async fn wait_equal(&self, database: &Database, deadline: Duration) {
        let tables = self.look(|tables| tables.channels());
        let mut expected = Vec::new();
        for channel in tables {
            let rows = database.rows(&channel).await;
            expected.push((channel, rows));
        }
        let what = format!("{} to rebuild the tables", self.name);
        wait_for(&what, deadline, async || {
            self.check();
            self.look(|tables| {
                expected.iter().try_for_each(|(channel, rows)| {
                    super::rebuild::compare(channel, &tables.rows(channel), rows)
                })
            })
        })
        .await;
    }
}

impl Follower<DebeziumTables> {
    /// Follows all topics under a prefix.
    pub(crate) fn kafka(kafka: &Kafka, prefix: &str, tables: DebeziumTables) -> Self {
        let mut reader = KafkaReader::start(kafka, prefix);
        Self::spawn("Kafka".into(), tables, |state| async move {
            lock(&state).connections += 1;
            loop {
                if let Some(record) = reader.next(Duration::from_secs(1)).await {
                    let mut state = lock(&state);
                    let result = state.tables.apply(&record);
                    if !state.note(result) {
                        return;
                    }
                }
            }
        })
    }

    /// Likewise.
    pub(crate) async fn wait_equal(&self, database: &Database, deadline: Duration) {
        let tables = self.look(|tables| tables.tables());
        let expected = DebeziumTables::expected(&tables, database).await;
        wait_for("Kafka to rebuild the tables", deadline, async || {
            self.check();
            self.look(|tables| tables.compare(&expected))
        })
        .await;
    }
}

impl<T> Drop for Follower<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(state: &Mutex<State<T>>) -> MutexGuard<'_, State<T>> {
    // A reader that panicked has said why.
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

type Shared = Arc<Mutex<State<Tables>>>;

/// Applies an event, or another message of the door; `Err` ends the reading.
fn apply(state: &Shared, message: &Value) -> Result<(), String> {
    let mut state = lock(state);
    let result = if ["op", "type", "event"].iter().any(|name| message[name] == "gap") {
        Err(format!("A gap: {message}"))
    } else if message["op"].is_string() {
        state.tables.apply(message)
    } else {
        Ok(())
    };
    if state.note(result) { Ok(()) } else { Err("An error".into()) }
}

async fn read_sse(address: SocketAddr, last_id: u64, state: &Shared) -> Result<(), String> {
    let last = (last_id > 0).then(|| last_id.to_string());
    let mut stream = Sse::resume(address, "/v1/events?channel=*&from=earliest", last.as_deref()).await?;
    lock(state).connections += 1;
    while let Some(event) = stream.next().await {
        match event.event.as_str() {
            "message" => {
                let data = event.json();
                if event.id != Some(data["id"].to_string()) {
                    lock(state).note(Err(format!("A frame with id {:?} of {data}", event.id)));
                }
                apply(state, &data)?;
            }
            "gap" => apply(state, &json!({"type": "gap", "data": event.data}))?,
            _ => {}
        }
    }
    Ok(())
}

/// `from=earliest`, or after the newest event that we have.
fn from(last_id: u64) -> String {
    if last_id == 0 { "earliest".into() } else { last_id.to_string() }
}

async fn read_ndjson(address: SocketAddr, last_id: u64, state: &Shared) -> Result<(), String> {
    let path = format!("/v1/events?channel=*&from={}", from(last_id));
    let mut stream = Ndjson::open(address, &path).await?;
    lock(state).connections += 1;
    while let Some(line) = stream.next().await {
        apply(state, &line)?;
    }
    Ok(())
}

async fn read_page(address: SocketAddr, last_id: u64, state: &Shared) -> Result<(), String> {
    let path = format!("/v1/events?channel=*&wait=2s&limit=1000&from={}", from(last_id));
    let page = page(address, &path).await?;
    lock(state).connections += 1;
    if !page["gap"].is_null() {
        lock(state).note(Err(format!("A gap: {page}")));
    }
    let events = page["events"].as_array().ok_or_else(|| format!("No events in {page}"))?;
    events.iter().try_for_each(|event| apply(state, event))
}

async fn read_websocket(address: SocketAddr, last_id: u64, state: &Shared) -> Result<(), String> {
    let mut socket = WebSocket::open(address).await?;
    lock(state).connections += 1;
    let from = if last_id == 0 { json!("earliest") } else { json!(last_id) };
    socket.send(&json!({"type": "subscribe", "id": "all", "channel": "*", "from": from})).await;
    while let Some(message) = socket.next().await {
        if message["type"] == "error" {
            lock(state).note(Err(format!("An error: {message}")));
        }
        apply(state, &message)?;
    }
    Ok(())
}
