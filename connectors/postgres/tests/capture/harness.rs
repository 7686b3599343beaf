//! A capture of one server into a journal of its own, and what has arrived there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rowcast_engine::cursor::Started;
use rowcast_engine::event::{Body, Event, Micros, Old, Op};
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::disk::{Disk, RealDisk};
use rowcast_engine::journal::{Journal, Options, Read, open};
use rowcast_engine::record::{Tuple, Value};
use rowcast_engine::schema::{Column, Schema, Type, TypeKind};
use rowcast_engine::sink::Start;
use rowcast_engine::status::{Report, Status};
use rowcast_engine::{Error, Lsn, Result, Source, Stopper, stop};
use rowcast_postgres::conninfo::Conninfo;
use rowcast_postgres::wire::sql_client;
use rowcast_postgres::{Config, Postgres};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tracing::Instrument;

use super::measured;
use super::said::span_of;
use crate::support::Server;

/// No test waits longer for something that must happen.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// Between two looks at something that must happen.
const LOOK: Duration = Duration::from_millis(10);

/// What a slot can be.
pub(super) const SLOT_STATES: [&str; 12] = [
    "active",
    "inactive",
    "in_use",
    "missing",
    "synced",
    "other",
    "wal_removed",
    "rows_removed",
    "wal_level_insufficient",
    "idle_timeout",
    "conflicting",
    "invalidated",
];

/// A directory that vanishes.
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rowcast-capture-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The files of another one.
    pub(super) fn copy_from(&self, other: &Path) {
        std::fs::create_dir(&self.0).unwrap();
        for entry in std::fs::read_dir(other).unwrap().flatten() {
            std::fs::copy(entry.path(), self.0.join(entry.file_name())).unwrap();
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What an event was, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) id: u64,
    pub(super) at: Micros,
    pub(super) op: Op,
    pub(super) channel: String,
    pub(super) lsn: Lsn,
    /// `K:1,NULL` or `O:1,a`; empty when there is none.
    pub(super) old: String,
    /// `1,a`; the payload of a message, the reason of a gap.
    pub(super) new: String,
    pub(super) end_lsn: Lsn,
    pub(super) previous_end: Lsn,
    pub(super) final_lsn: Lsn,
    pub(super) xid: u32,
    pub(super) seq: u32,
    pub(super) last: bool,
    pub(super) origin: String,
    /// Its table's columns: `id int4, m mood(sad|ok)`.
    pub(super) columns: String,
}

impl Seen {
    /// `insert public.t 1,a`, with the old row in front of the new one.
    pub(super) fn brief(&self) -> String {
        let parts = [self.op.name(), &self.channel, &self.old, &self.new];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

fn row(tuple: Tuple<'_>) -> String {
    let text = |value| match value {
        Value::Null => "NULL".to_owned(),
        Value::Unchanged => "UNCHANGED".to_owned(),
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
    };
    tuple.values().map(text).collect::<Vec<_>>().join(",")
}

/// `mood(sad|ok)`, `_pair(a,b)`.
fn type_of(ty: &Type) -> String {
    let (name, made) = (&ty.name, made_of(ty));
    if made.is_empty() { name.clone() } else { format!("{name}({made})") }
}

fn made_of(ty: &Type) -> String {
    match &ty.kind {
        TypeKind::Enum(labels) => labels.join("|"),
        TypeKind::Composite(fields) => {
            fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(",")
        }
        TypeKind::Array { element, .. } => made_of(element),
        TypeKind::Domain { base, .. } => type_of(base),
        _ => String::new(),
    }
}

fn seen(event: &Event<'_>) -> Seen {
    let (old, new) = match event.body {
        Body::Row { old, new, .. } => {
            let old = match old {
                Some(Old::Key(tuple)) => format!("K:{}", row(tuple)),
                Some(Old::Full(tuple)) => format!("O:{}", row(tuple)),
                None => String::new(),
            };
            (old, new.map(row).unwrap_or_default())
        }
        Body::Truncate { cascade, restart_identity, .. } => {
            (String::new(), format!("cascade={cascade} restart={restart_identity}"))
        }
        Body::Message { payload, .. } => (String::new(), payload.to_owned()),
        Body::Gap { reason, .. } => (String::new(), reason.to_owned()),
    };
    let tx = event.tx;
    let columns = match event.body {
        Body::Row { schema, .. } | Body::Truncate { schema, .. } => {
            let of = |column: &Column| format!("{} {}", column.name, type_of(&column.ty));
            schema.columns.iter().map(of).collect::<Vec<_>>().join(", ")
        }
        Body::Message { .. } | Body::Gap { .. } => String::new(),
    };
    Seen {
        id: event.id,
        at: event.at,
        columns,
        op: event.op,
        channel: event.channel().to_owned(),
        lsn: event.lsn,
        old,
        new,
        end_lsn: tx.map(|tx| tx.end_lsn).unwrap_or_default(),
        previous_end: tx.map(|tx| tx.previous_end_lsn).unwrap_or_default(),
        final_lsn: tx.map(|tx| tx.final_lsn).unwrap_or_default(),
        xid: tx.map_or(0, |tx| tx.xid),
        seq: event.seq,
        last: event.last,
        origin: tx.map(|tx| tx.origin.to_owned()).unwrap_or_default(),
    }
}

/// A push door by name, with the moment of its wish for the rows that are there, if it has one.
pub(super) type Sink<'a> = (&'a str, Option<Micros>);

/// Where a sink begins that wishes for rows, the first time that it is heard of: a sink stores that, here it is remembered.
fn place(journal: &Journal, name: &str, wish: Micros) -> u64 {
    static PLACES: Mutex<BTreeMap<(PathBuf, String, Micros), u64>> = Mutex::new(BTreeMap::new());
    let is_fresh = journal.position().slot.is_empty();
    let now = if is_fresh { journal.seek_earliest() } else { journal.newest() };
    let key = (journal.dir().to_owned(), name.to_owned(), wish);
    *PLACES.lock().unwrap().entry(key).or_insert(now)
}

/// A capture that runs.
pub(super) struct Capture {
    pub(super) journal: Journal,
    pub(super) status: Status,
    stopper: Stopper,
    task: JoinHandle<Result<()>>,
}

pub(super) fn config(server: &Server) -> Config {
    Config { url: server.admin(), ..Config::default() }
}

impl Capture {
    /// Starts; does not wait for anything.
    pub(super) fn launch(config: Config, directory: &Path) -> Self {
        Self::launch_with(config, Options::new(directory))
    }

    /// Starts on a journal of certain options.
    pub(super) fn launch_with(config: Config, options: Options) -> Self {
        Self::launch_for(config, options, &[])
    }

    /// Likewise beside these sinks, each with the moment of its wish for rows.
    pub(super) fn launch_for(config: Config, options: Options, sinks: &[Sink<'_>]) -> Self {
        Self::launch_on(Arc::new(RealDisk), config, options, sinks)
    }

    /// Likewise on a disk of the test's own.
    pub(super) fn launch_on(
        disk: Arc<dyn Disk>,
        config: Config,
        options: Options,
        sinks: &[Sink<'_>],
    ) -> Self {
        Self::launch_into(Ingest::new(open(options, disk).unwrap()), config, sinks)
    }

    /// Likewise into a journal that is open.
    pub(super) fn launch_into(ingest: Ingest, config: Config, sinks: &[Sink<'_>]) -> Self {
        let journal = ingest.journal().clone();
        let (status, (stopper, stopped)) = (Status::default(), stop());
        if !sinks.is_empty() {
            let names: Vec<String> = sinks.iter().map(|(name, _)| (*name).to_owned()).collect();
            status.expect_sinks(names.iter(), &journal);
            for (name, wish) in sinks {
                let began = |at| Started { how: Start::Snapshot, id: place(&journal, name, at), at };
                status.sink_began(name, wish.map(began));
            }
        }
        measured::record();
        let capture = Postgres::new(config).run(ingest, status.clone(), stopped);
        let task = tokio::spawn(capture.instrument(span_of(journal.dir())));
        Self { journal, status, stopper, task }
    }

    /// Starts and waits until it streams.
    pub(super) async fn start(config: Config, directory: &Path) -> Self {
        Self::start_for(config, directory, &[]).await
    }

    /// Likewise beside these sinks.
    pub(super) async fn start_for(config: Config, directory: &Path, sinks: &[Sink<'_>]) -> Self {
        let mut capture = Self::launch_for(config, Options::new(directory), sinks);
        capture.streams().await;
        capture
    }

    pub(super) async fn streams(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        while self.report().source.state != "streaming" {
            if self.task.is_finished() {
                let error = (&mut self.task).await.unwrap().unwrap_err();
                panic!("it ended: {error}; {:?}", error.remedy());
            }
            assert!(Instant::now() < deadline, "still {:?}", self.report().source);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until the slot is seen to be in this state, which is then told to monitors as well. In a runtime of one thread.
    pub(super) async fn slot_is(&self, state: &str) {
        until(state, async || self.report().source.slot_state == state).await;
        let told = measured::one_of("rowcast_source_slot_state", "state", &SLOT_STATES);
        assert_eq!(told.as_deref(), Some(state));
    }

    /// A gauge of the source's as a monitor has it now. What capture sets itself is there in a runtime of one thread alone.
    pub(super) fn gauge(&self, name: &str) -> f64 {
        self.status.record(&self.journal);
        let name = format!("rowcast_source_{name}");
        measured::shown(&name).unwrap_or_else(|| panic!("nobody has told {name}"))
    }

    pub(super) fn report(&self) -> Report {
        self.status.report(&self.journal)
    }

    /// Ends in order; the journal is closed, too.
    pub(super) async fn stop(self) {
        self.stopper.stop();
        tokio::time::timeout(DEADLINE, self.task).await.unwrap().unwrap().unwrap();
        self.journal.close().await;
    }

    /// Ends as a crash would: nothing is flushed, nothing is told.
    pub(super) async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
        self.journal.close().await;
    }

    /// Waits until it waits for a person; gives why, with the remedy. No gap is written meanwhile.
    pub(super) async fn waits(&self, words: &str) -> String {
        until("capture to wait", async || self.report().source.state == "waiting").await;
        let report = self.report();
        let reason = report.source.reason.unwrap_or_default();
        assert!(reason.contains(words) && reason.contains("rowcast adopt"), "{reason}");
        assert!(!report.healthy && report.reasons.iter().any(|said| said.contains(&reason)), "{reason}");
        assert!(!self.task.is_finished());
        reason
    }

    /// The error that ends it. Where there is something to serve, the slot is looked after until it is told to stop.
    pub(super) async fn fails(self) -> Error {
        until("the end", async || self.task.is_finished() || self.report().source.state == "stopped").await;
        self.stopper.stop();
        let ended = tokio::time::timeout(DEADLINE, self.task).await.unwrap().unwrap();
        let report = self.status.report(&self.journal);
        assert_eq!(report.source.state, "stopped");
        self.journal.close().await;
        let error = ended.unwrap_err();
        assert!(report.source.reason.is_some_and(|reason| reason.contains(&error.to_string())));
        error
    }

    /// All events after a number that are for everybody.
    pub(super) fn after(&self, after: u64) -> Vec<Seen> {
        self.told(after, |event| event.sinks.is_empty())
    }

    /// Behind which event a sink began that wishes for rows.
    pub(super) fn place_of(&self, sink: &str) -> u64 {
        self.status.wishes().unwrap()[sink].unwrap().id
    }

    /// All events that a sink is to have.
    pub(super) fn events_for(&self, sink: &str) -> Vec<Seen> {
        self.told(0, |event| event.is_for(sink))
    }

    fn told(&self, mut after: u64, of: impl Fn(&Event<'_>) -> bool) -> Vec<Seen> {
        let mut all = Vec::new();
        loop {
            match self.journal.read(after).unwrap() {
                Read::AtHead => return all,
                Read::Gone(gone) => after = gone.to,
                Read::Batches(batches) => {
                    for batch in batches {
                        let events = batch.all_events().filter(|event| event.id > after && of(event));
                        all.extend(events.map(|event| seen(&event)));
                        after = after.max(batch.last());
                    }
                }
            }
        }
    }

    pub(super) fn events(&self) -> Vec<Seen> {
        self.after(0)
    }

    /// Waits until there are `count` events, and makes sure that there are no more.
    pub(super) async fn wait(&self, count: usize) -> Vec<Seen> {
        let deadline = Instant::now() + DEADLINE;
        let mut events: Vec<Seen> = Vec::new();
        loop {
            events.extend(self.after(events.last().map_or(0, |event| event.id)));
            if events.len() >= count {
                let briefs: Vec<String> = events.iter().take(40).map(Seen::brief).collect();
                assert_eq!(events.len(), count, "{briefs:#?}");
                return events;
            }
            if self.task.is_finished() || Instant::now() > deadline {
                let briefs: Vec<String> = events.iter().take(40).map(Seen::brief).collect();
                panic!("{} events only, state {:?}: {briefs:#?}", events.len(), self.report().source);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The same, in brief.
    pub(super) async fn briefs(&self, count: usize) -> Vec<String> {
        self.wait(count).await.iter().map(Seen::brief).collect()
    }

    /// The newest schema version of a channel.
    pub(super) fn schema(&self, channel: &str) -> Arc<Schema> {
        let schemas = self.journal.schemas();
        let of_channel = schemas.into_iter().filter(|schema| schema.channel == channel);
        of_channel.max_by_key(|schema| schema.id).unwrap_or_else(|| panic!("no schema of {channel}"))
    }
}

/// SQL as superuser.
pub(super) async fn sql(server: &Server) -> Client {
    sql_client(&Conninfo::parse(&server.admin()).unwrap()).await.unwrap()
}

/// Runs statements; tables are looked for in `public`.
pub(super) async fn run(client: &Client, statements: &str) {
    let statements = format!("set search_path = public, pg_catalog; {statements}");
    client.batch_execute(&statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
}

/// A setting of the server.
pub(super) async fn set(client: &Client, setting: &str) {
    client.batch_execute(&format!("alter system set {setting}")).await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
}

/// The first value of the first row, as text.
pub(super) async fn value(client: &Client, query: &str) -> String {
    let row = client.query_one(&format!("select ({query})::text"), &[]).await.unwrap();
    row.get::<_, Option<String>>(0).unwrap_or_else(|| "NULL".to_owned())
}

/// From here on the server sends nothing of transactions that changed nothing that is published.
pub(super) const SENDS_NO_EMPTY: u32 = 150_000;

/// The server's version as a number: 150018.
pub(super) async fn version(client: &Client) -> u32 {
    value(client, "current_setting('server_version_num')").await.parse().unwrap()
}

/// What the slot has confirmed.
pub(super) async fn confirmed(client: &Client) -> Lsn {
    value(client, "select confirmed_flush_lsn from pg_replication_slots where slot_name = 'rowcast'")
        .await
        .parse()
        .unwrap()
}

/// Waits for something that must happen.
pub(super) async fn until(what: &str, mut happened: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !happened().await {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(LOOK).await;
    }
}
