//! Looks what is to be read, and has it read: a few tables at a time, each by a reader of its own.

mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rowcast_engine::abort::{self, Point};
use rowcast_engine::journal::Journal;
use rowcast_engine::schema::Schema;
use rowcast_engine::snapshots::{Command, Failing, Ordered, State};
use rowcast_engine::status::Status;
use rowcast_engine::{Error, Kind, Lsn, Result, Stop, Stopper, stop};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_postgres::Client;

use super::command;
use super::job::{ALL, Job, Jobs, Progress, Since, Wanted};
use super::order::{ORDERS, Order, Orders};
use super::read::CHUNK_MB;
use super::rowless::rows_last;
use super::scan;
use super::table::{Ended, Reading};
use super::wishes::{self, Wishes};
use crate::config::{SnapshotMode, Source};
use crate::setup::captured;
use crate::tables::Tables;
use crate::wire::answering_client;

/// How often the journal's notes are looked at for something to read.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A table that could not be read is tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// One that cannot be read before somebody has mended something: a right, a key.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Memory of all chunks that are being read, or were and wait for the stream, in megabytes: four of the largest. How many
/// tables are read at a time changes nothing about it.
const CHUNKS_MB: usize = 4 * CHUNK_MB as usize;

/// Why a table could not be read, and when that is tried again.
#[derive(Debug)]
struct Failure {
    /// As it is told, with those that came one after the other before it.
    failing: Failing,
    /// It does not pass by itself.
    lasting: bool,
    /// Rows that had been written, as soon as that was looked up: with more it has got on.
    rows: Option<u64>,
    again: Instant,
}

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
    /// A permit for each megabyte that chunks may take.
    pub(crate) memory: Arc<Semaphore>,
    /// A permit for what is looked up of a table without a key: one at a time.
    pub(crate) looking: Arc<Semaphore>,
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
        version: u32,
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
            memory: Arc::new(Semaphore::new(CHUNKS_MB)),
            looking: Arc::new(Semaphore::new(1)),
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
    /// The tables of all that have not ended: the stream looks after one reading of a table at a time.
    tables: BTreeMap<String, String>,
    /// Sinks that rows are read for alone.
    filling: BTreeSet<String>,
    /// Those that could not be read, and have not been since.
    failed: BTreeMap<String, Failure>,
    /// The stream notes what is streamed.
    watching: bool,
    /// Tells it what it may forget; ends when dropped.
    forgetting: JoinSet<()>,
}

impl Drop for Desk {
    /// Nobody tries any more: whatever stands in the way is said by the source, or by the next one.
    fn drop(&mut self) {
        self.around.status.note_held(None);
        self.around.status.snapshots(|board| {
            for shown in board.values_mut() {
                shown.failing = None;
                if shown.state == State::Failed {
                    (shown.state, shown.reason) = (State::Waiting, None);
                }
            }
        });
    }
}

impl Desk {
    fn new(around: Surroundings) -> Self {
        Self {
            around,
            reading: JoinSet::new(),
            stops: BTreeMap::new(),
            stopping: BTreeSet::new(),
            tables: BTreeMap::new(),
            filling: BTreeSet::new(),
            failed: BTreeMap::new(),
            watching: false,
            forgetting: JoinSet::new(),
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
                    // The one who asked may be gone.
                    let _ = answer.send(self.command(command).await);
                }
            }
            match self.look().await {
                Ok(()) => status.note_held(None),
                Err(error) => {
                    tracing::warn!("Snapshots wait: {error}");
                    status.note_held(Some(&error.to_string()));
                    sleep(TRY_AGAIN).await;
                }
            }
        }
    }

    /// Starts what is wanted and not under way.
    async fn look(&mut self) -> Result<()> {
        // Sinks say how they begin as soon as they run; until then nobody knows whom a reading would serve.
        let Some(wishes) = self.around.status.wishes() else { return Ok(()) };
        let mut jobs = Jobs::read(&self.around.journal.notes())?;
        if let Some(wanted) = jobs.all.take() {
            self.list(&wanted, &jobs, &wishes).await?;
            jobs = Jobs::read(&self.around.journal.notes())?;
        }
        if wishes::take_up(&self.around, &jobs, &wishes).await? {
            jobs = Jobs::read(&self.around.journal.notes())?;
        }
        self.show(&jobs);
        // Behind that: whoever asks how far the rows are must find them either wished for or shown.
        let wishing = wishes.iter().filter(|(_, wish)| wish.is_some());
        wishing.for_each(|(sink, _)| self.around.status.note_taken_up(sink));
        self.tell_filled(&jobs);
        // Who is paused, or not wanted any more, stops after its chunk.
        self.stops.retain(|note, _| jobs.tables.get(note).is_some_and(|job| !job.paused));
        self.failed.retain(|note, _| jobs.tables.contains_key(note));
        self.find_places(&mut jobs).await?;
        let jobs_left = !jobs.tables.is_empty();
        let free = self.around.source.snapshot_tables.saturating_sub(self.reading.len());
        let mut ready = self.ready(jobs);
        ready.sort_by_key(|(_, job)| (job.snapshot, !job.rowless, !job.keyless, job.place));
        let mut taken: BTreeSet<String> = self.tables.values().cloned().collect();
        ready.retain(|(_, job)| taken.insert(job.channel()));
        if ready.is_empty() && self.tables.is_empty() && self.stops.is_empty() {
            self.rest(jobs_left).await;
        }
        for (note, job) in ready.into_iter().take(free) {
            self.watch().await?;
            self.begin(note, job);
        }
        Ok(())
    }

    /// Those whose turn it is: tables with rows come when those without are done with.
    fn ready(&self, jobs: Jobs) -> Vec<(String, Job)> {
        let now = Instant::now();
        let may = |note: &String, job: &Job| {
            !job.paused && self.failed.get(note).is_none_or(|failure| failure.again <= now)
        };
        let first: BTreeSet<u64> = jobs
            .tables
            .iter()
            .filter(|(note, job)| job.rowless && may(note, job))
            .map(|(_, job)| job.snapshot)
            .collect();
        let before = wishes::before_others(&jobs);
        let is_ready = |(note, job): &(String, Job)| {
            may(note, job)
                && !self.stops.contains_key(note)
                && (job.rowless || !first.contains(&job.snapshot))
                && before.get(&job.channel()).is_none_or(|first| first == note)
        };
        jobs.tables.into_iter().filter(is_ready).collect()
    }

    /// Looks up where those begin that were asked for in the log.
    async fn find_places(&self, jobs: &mut Jobs) -> Result<()> {
        for job in jobs.tables.values_mut() {
            let Since::Commit(lsn) = job.since else { continue };
            let found = scan::event_behind(&self.around.journal, lsn).await?;
            job.since = found.map_or(Since::Unknown, Since::Event);
            self.note(&[(job.note(), job.json()?)]).await?;
        }
        Ok(())
    }

    /// Nobody reads; `left`: what is not done is paused, or has failed.
    async fn rest(&mut self, left: bool) {
        if self.watching {
            self.watching = false;
            self.forgetting = JoinSet::new();
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
        self.tables.insert(note.clone(), job.channel());
        let (rows, lasting) = (job.progress.rows, self.failed.get(&note).is_some_and(|it| it.lasting));
        let reading = Reading::new(self.around.clone(), job, stopped);
        self.stops.insert(note.clone(), stopper);
        self.around.status.snapshots(|board| {
            if let Some(shown) = board.get_mut(&note) {
                shown.rows = rows;
                shown.reason.take_if(|_| !lasting);
            }
        });
        self.reading.spawn(async move { (note, Box::pin(reading.run()).await) });
    }

    fn ended(&mut self, note: &str, ended: Result<Ended>) {
        self.tables.remove(note);
        self.stops.remove(note);
        self.stopping.remove(note);
        let Err(error) = ended else {
            self.failed.remove(note);
            return;
        };
        let lasting = error.kind() != Kind::Transient;
        let reason = error.remedy().map_or_else(|| error.to_string(), |remedy| format!("{error}. {remedy}"));
        let before = self.failed.get(note).map(|failure| &failure.failing);
        let known = before.is_some_and(|before| before.reason == reason);
        let last = Instant::now();
        let (first, behind) =
            before.map_or((last, Duration::ZERO), |before| (before.first, last - before.last));
        match (lasting, known) {
            (_, true) => tracing::debug!("A snapshot has failed again: {error}"),
            (true, false) => tracing::error!(hint = error.remedy(), "A snapshot has failed: {error}"),
            (false, false) => {
                tracing::warn!(hint = error.remedy(), "A snapshot waits and tries again: {error}");
            }
        }
        let again = last + if lasting { LOOK_AGAIN } else { TRY_AGAIN };
        let failing = Failing { first, last, behind, reason };
        self.failed.insert(note.to_owned(), Failure { failing, lasting, rows: None, again });
    }

    /// Makes a job of each captured table. Its rows are still to come, for everybody: whoever wishes for rows gets them.
    async fn list(&self, wanted: &Wanted, jobs: &Jobs, wishes: &Wishes) -> Result<()> {
        // Whoever follows begins with the history.
        let start = self.around.journal.seek_history();
        let whole = Job { snapshot: wanted.snapshot, since: Since::Event(start), ..Job::default() };
        let mut notes = wishes::answered(jobs, wishes)?;
        let listed = jobs_of(&self.around, &whole, &[]).await?;
        let first = start.max(self.around.journal.seek_earliest());
        let mut later = wishes::places(jobs, wishes);
        later.retain(|(_, place)| *place > first);
        tracing::info!(tables = listed.len(), "A snapshot of all captured tables begins");
        // Of the rows of such a table they would lack what was told before they began.
        let keyless = listed.iter().filter(|job| job.keyless && !later.is_empty()).cloned();
        let alone: Vec<Job> = keyless.flat_map(|job| wishes::shared_by(job, &later)).collect();
        notes.extend(notes_of(listed.into_iter().chain(alone))?);
        notes.push((ALL.to_owned(), Vec::new()));
        self.note(&notes).await?;
        abort::point(Point::SnapshotListed);
        Ok(())
    }

    async fn note(&self, notes: &[(String, Vec<u8>)]) -> Result<()> {
        self.around.note(notes).await
    }

    async fn command(&mut self, command: Command) -> Result<Ordered> {
        self.quiet(&command).await?;
        // Who orders something may have mended what was wrong.
        self.failed.clear();
        let jobs = Jobs::read(&self.around.journal.notes())?;
        let (notes, named) = command::carry_out(&self.around, jobs, command).await?;
        self.note(&notes).await?;
        // Whoever asks next finds what was wished for.
        self.show(&Jobs::read(&self.around.journal.notes())?);
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

    fn tell_filled(&mut self, jobs: &Jobs) {
        let filling = jobs.tables.values().flat_map(|job| job.sinks.iter().cloned()).collect();
        for sink in self.filling.difference(&filling) {
            tracing::info!(sink, "No more rows are to be read for the sink {sink} alone");
        }
        self.filling = filling;
    }

    /// Brings the board up to date: what is not being read, and what is not wanted any more.
    fn show(&mut self, jobs: &Jobs) {
        let Self { around, stops, failed, tables, .. } = self;
        around.status.snapshots(|board| {
            // A reading that has not ended has not said yet how many rows there were.
            board.retain(|note, _| jobs.tables.contains_key(note) || tables.contains_key(note));
            for (note, job) in &jobs.tables {
                let shown = board.entry(note.clone()).or_default();
                let is_read = stops.contains_key(note);
                let progress = &job.progress;
                // Of a table that is read in one piece the note says nothing before the end.
                let told = if is_read { (shown.rows, shown.estimate) } else { (0, 0) };
                shown.channel = job.channel();
                shown.rows = progress.rows.max(told.0);
                shown.estimate = progress.estimate.max(shown.rows).max(told.1);
                shown.ad_hoc = job.ad_hoc;
                shown.sinks.clone_from(&job.sinks);
                shown.since = match job.since {
                    Since::Event(id) if job.keyless => Some(id),
                    _ => None,
                };
                if let Some(failure) = failed.get_mut(note) {
                    let before = failure.rows.replace(progress.rows).unwrap_or(progress.rows);
                    // Rows of a table that is read in one piece are not written yet, but they may be read again.
                    failure.lasting &= !is_read || shown.rows <= progress.rows;
                    if progress.rows > before {
                        failed.remove(note);
                    }
                }
                let failure = failed.get(note);
                // What the reader says of itself is newer than what has passed by itself.
                if let Some(failure) = failure.filter(|failure| !is_read || failure.lasting) {
                    shown.reason = Some(failure.failing.reason.clone());
                }
                shown.failing = failure.map(|failure| failure.failing.clone());
                if !is_read {
                    shown.rows_per_second = 0;
                }
                shown.state = match (job.paused, failure) {
                    (true, _) => State::Paused,
                    (false, Some(failure)) if failure.lasting => State::Failed,
                    (false, _) if is_read && shown.reason.is_none() => State::Reading,
                    (false, _) => State::Waiting,
                };
            }
        });
    }
}

impl Surroundings {
    /// Stores notes, durably.
    pub(super) async fn note(&self, notes: &[(String, Vec<u8>)]) -> Result<()> {
        let notes: Vec<(&str, &[u8])> =
            notes.iter().map(|(name, json)| (name.as_str(), json.as_slice())).collect();
        self.journal.note(&notes).await
    }
}

pub(super) fn notes_of(jobs: impl IntoIterator<Item = Job>) -> Result<Vec<(String, Vec<u8>)>> {
    jobs.into_iter().map(|job| Ok((job.note(), job.json()?))).collect()
}

/// Jobs like this one, for each captured table; `sinks` are those that they are for alone, with their places.
pub(super) async fn jobs_of(around: &Surroundings, like: &Job, sinks: &[(String, u64)]) -> Result<Vec<Job>> {
    let client = answering_client(&around.source.info).await?;
    command::hurry(&client).await?;
    let tables = tables(&client, &around.source, around.version).await?;
    let mut jobs = Vec::new();
    for found in rows_last(&client, tables).await? {
        let Job { place, schema, table, rowless, keyless, .. } = found;
        let progress = Progress::default();
        let job = Job { place, schema, table, rowless, keyless, progress, ..like.clone() };
        jobs.extend(wishes::shared_by(job, sinks));
    }
    Ok(jobs)
}

/// The captured tables, as they stand in the publications.
pub(super) async fn tables(client: &Client, source: &Source, version: u32) -> Result<Vec<(String, String)>> {
    let mut names = captured::names(client, source, version).await?;
    names.sort_by_key(|(schema, table)| Schema::channel_of(schema, table));
    Ok(names)
}
