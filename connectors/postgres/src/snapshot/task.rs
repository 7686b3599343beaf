//! Looks what is to be read, and has it read: a few tables at a time, each by a reader of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rowcast_engine::abort::{self, Point};
use rowcast_engine::journal::Journal;
use rowcast_engine::schema::Schema;
use rowcast_engine::snapshots::{Command, State};
use rowcast_engine::status::Status;
use rowcast_engine::{Error, Lsn, Result, Stop, Stopper, stop};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_postgres::Client;

use super::command;
use super::job::{ALL, Job, Jobs, Progress, Wanted};
use super::order::{ORDERS, Order, Orders, ask};
use super::scan;
use super::table::{Ended, Reading};
use super::visible::Visible;
use crate::config::{SnapshotMode, Source};
use crate::setup::publications;
use crate::tables::Tables;
use crate::wire::{sql_client, sql_error};

/// How often the journal's notes are looked at for something to read.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A table that could not be read is tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// The readers of one connection of the stream. They end with it.
#[derive(Debug)]
pub(crate) struct Snapshots {
    _stopper: Stopper,
}

/// What every reader needs.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) source: Arc<Source>,
    pub(crate) journal: Journal,
    pub(crate) status: Status,
    pub(crate) orders: Orders,
    pub(crate) version: u32,
    /// The slot's birth: which history the stream is of.
    pub(crate) history: Lsn,
    pub(crate) standby: bool,
}

impl Snapshots {
    /// Starts them. Gives what the stream hears from them.
    ///
    /// # Errors
    ///
    /// When there can be no more threads.
    pub(crate) fn start(
        source: Source,
        journal: &Journal,
        status: &Status,
        (version, standby): (u32, bool),
    ) -> Result<(Self, mpsc::Receiver<Order>)> {
        let (orders, heard) = mpsc::channel(ORDERS);
        let (stopper, stopped) = stop();
        let around = Surroundings {
            source: Arc::new(source),
            history: journal.position().slot_birth,
            journal: journal.clone(),
            status: status.clone(),
            orders,
            version,
            standby,
        };
        // A thread of its own: reading must not take time from the stream, whose thread sleeps when it is behind.
        thread::Builder::new()
            .name("snapshots".into())
            .spawn(move || run(around, &stopped))
            .map_err(|error| Error::failed("Cannot start the thread of snapshots").because(error))?;
        Ok((Self { _stopper: stopper }, heard))
    }
}

fn run(around: Surroundings, stopped: &Stop) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!("Cannot start the runtime of snapshots: {error}"),
    };
    runtime.block_on(async {
        tokio::select! {
            () = Desk::new(around).run() => {}
            () = stopped.stopped() => {}
        }
    });
}

/// Tables that are being read.
struct Desk {
    around: Surroundings,
    reading: JoinSet<(String, Result<Ended>)>,
    /// Which; told to stop when dropped.
    stops: BTreeMap<String, Stopper>,
    /// Those that have been told to.
    stopping: BTreeSet<String>,
    /// The stream notes what is streamed.
    watching: bool,
}

impl Desk {
    fn new(around: Surroundings) -> Self {
        Self {
            around,
            reading: JoinSet::new(),
            stops: BTreeMap::new(),
            stopping: BTreeSet::new(),
            watching: false,
        }
    }

    async fn run(mut self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let status = self.around.status.clone();
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                Some(ended) = self.reading.join_next(), if !self.reading.is_empty() => {
                    if let Ok((note, ended)) = ended {
                        self.ended(&note, ended);
                    }
                }
                asked = status.asked_for_snapshot() => {
                    let (command, answer) = asked.into_parts();
                    let named = self.command(command).await;
                    // Whoever asks next must not take it for done.
                    if let Ok(jobs) = Jobs::read(&self.around.journal.notes()) {
                        self.show(&jobs);
                    }
                    // The one who asked may be gone.
                    let _ = answer.send(named);
                }
            }
            if let Err(error) = self.look().await {
                tracing::warn!("Snapshots wait: {error}");
                sleep(TRY_AGAIN).await;
            }
        }
    }

    /// Starts what is wanted and not under way.
    async fn look(&mut self) -> Result<()> {
        let mut jobs = Jobs::read(&self.around.journal.notes())?;
        if let Some(wanted) = jobs.all.take() {
            self.list(&wanted).await?;
            jobs = Jobs::read(&self.around.journal.notes())?;
        }
        self.show(&jobs);
        // Who is paused, or not wanted any more, stops after its chunk.
        self.stops.retain(|note, _| jobs.tables.get(note).is_some_and(|job| !job.paused));
        let jobs_left = !jobs.tables.is_empty();
        let free = self.around.source.snapshot_tables.saturating_sub(self.reading.len());
        let mut ready: Vec<(String, Job)> = jobs
            .tables
            .into_iter()
            .filter(|(note, job)| !job.paused && !self.stops.contains_key(note))
            .collect();
        ready.sort_by_key(|(_, job)| (job.snapshot, job.place));
        if ready.is_empty() && self.reading.is_empty() && self.stops.is_empty() {
            self.rest(jobs_left).await;
        }
        for (note, job) in ready.into_iter().take(free) {
            self.watch().await?;
            self.begin(note, job);
        }
        Ok(())
    }

    /// Nobody reads; `left`: what is not done is paused.
    async fn rest(&mut self, left: bool) {
        if self.watching {
            self.watching = false;
            // The stream may be gone.
            let _ = self.around.orders.send(Order::Rest).await;
        }
        if !left && self.around.source.snapshot == SnapshotMode::Only {
            tracing::info!(
                "All tables have been read, and nothing else is wanted (source.snapshot = \"only\")"
            );
            let _ = self.around.orders.send(Order::Done).await;
        }
    }

    fn begin(&mut self, note: String, job: Job) {
        let (stopper, stopped) = stop();
        let reading = Reading::new(self.around.clone(), job, stopped);
        self.stops.insert(note.clone(), stopper);
        self.reading.spawn(async move {
            let ended = Box::pin(reading.run()).await;
            if ended.is_err() {
                sleep(TRY_AGAIN).await;
            }
            (note, ended)
        });
    }

    fn ended(&mut self, note: &str, ended: Result<Ended>) {
        self.stops.remove(note);
        self.stopping.remove(note);
        if let Err(error) = ended {
            tracing::warn!(hint = error.remedy(), "A snapshot waits and tries again: {error}");
        }
    }

    /// Has the stream note what it streams, with what it has streamed before and may still be invisible.
    async fn watch(&mut self) -> Result<()> {
        if self.watching {
            return Ok(());
        }
        let gone = |_| Error::transient("The stream has ended");
        ask(&self.around.orders, Order::Watch).await.map_err(gone)?;
        let client = sql_client(&self.around.source.info).await?;
        let failed = |error| sql_error("Cannot take a snapshot", error);
        let row = client.query_one("select pg_current_snapshot()::text", &[]).await.map_err(failed)?;
        let visible: Visible = row
            .get::<_, &str>(0)
            .parse()
            .map_err(|_| Error::failed("The server's snapshot cannot be understood"))?;
        let streamed = scan::streamed(&self.around.journal, visible).await?;
        self.around.orders.send(Order::Seed(streamed)).await.map_err(|_| gone(super::order::Gone))?;
        self.watching = true;
        Ok(())
    }

    /// Makes a job of each captured table.
    async fn list(&self, wanted: &Wanted) -> Result<()> {
        let client = sql_client(&self.around.source.info).await?;
        let tables = tables(&client, &self.around.source).await?;
        let mut notes = vec![(ALL.to_owned(), Vec::new())];
        for (place, (schema, table)) in (0..).zip(tables) {
            let snapshot = wanted.snapshot;
            let job = Job { snapshot, place, schema, table, progress: Progress::default(), ..Job::default() };
            notes.push((job.note(), job.json()?));
        }
        tracing::info!(tables = notes.len() - 1, "A snapshot of all captured tables begins");
        self.note(&notes).await?;
        abort::point(Point::SnapshotListed);
        Ok(())
    }

    pub(super) async fn note(&self, notes: &[(String, Vec<u8>)]) -> Result<()> {
        let notes: Vec<(&str, &[u8])> =
            notes.iter().map(|(name, json)| (name.as_str(), json.as_slice())).collect();
        self.around.journal.note(&notes).await
    }

    async fn command(&mut self, command: Command) -> Result<Vec<String>> {
        self.quiet(&command).await?;
        let jobs = Jobs::read(&self.around.journal.notes())?;
        let (notes, named) = command::carry_out(&self.around, jobs, command).await?;
        self.note(&notes).await?;
        Ok(named)
    }

    /// Waits until nobody reads what is about to be changed: a chunk on its way brings its job as it was.
    async fn quiet(&mut self, command: &Command) -> Result<()> {
        let (Command::Pause(patterns) | Command::Cancel(patterns)) = command else { return Ok(()) };
        let wanted = Tables::parse(patterns, &[])?;
        let jobs = Jobs::read(&self.around.journal.notes())?.tables;
        for (note, _) in jobs.iter().filter(|(_, job)| wanted.matches(&job.schema, &job.table)) {
            self.stops.remove(note).is_some().then(|| self.stopping.insert(note.clone()));
        }
        while !self.stopping.is_empty()
            && let Some(ended) = self.reading.join_next().await
        {
            if let Ok((note, ended)) = ended {
                self.ended(&note, ended);
            }
        }
        Ok(())
    }

    /// Brings the board up to date: what is not being read, and what is not wanted any more.
    fn show(&self, jobs: &Jobs) {
        self.around.status.snapshots(|board| {
            board.retain(|_, shown| jobs.tables.values().any(|job| job.channel() == shown.channel));
            for (note, job) in &jobs.tables {
                let shown = board.entry(note.clone()).or_default();
                shown.channel = job.channel();
                shown.rows = job.progress.rows;
                shown.estimate = job.progress.estimate.max(job.progress.rows);
                shown.ad_hoc = job.ad_hoc;
                shown.state = match (job.paused, self.stops.contains_key(note)) {
                    (true, _) => State::Paused,
                    (false, true) if shown.reason.is_some() => State::Waiting,
                    (false, true) => State::Reading,
                    (false, false) => State::Waiting,
                };
            }
        });
    }
}

/// The captured tables, as they stand in the publications.
pub(super) async fn tables(client: &Client, source: &Source) -> Result<Vec<(String, String)>> {
    let names = publications::members(client, source).await?;
    let wanted = |(schema, table): &(String, String)| {
        source.tables.matches(schema, table) || !source.via_partition_root
    };
    let mut names: Vec<(String, String)> = names.into_iter().filter(wanted).collect();
    names.sort_by_key(|(schema, table)| Schema::channel_of(schema, table));
    Ok(names)
}
