//! Looks what is to be read, and has it read: a few tables at a time, each by a reader of its own.

mod board;
mod quiet;
mod turn;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
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
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;

use super::command;
use super::job::{ALL, Job, Jobs, Known, Since, Wanted, is_job};
use super::order::{ORDERS, Order, Orders};
use super::read::CHUNK_MB;
use super::room;
use super::rowless::{self, rows_last};
use super::scan;
use super::table::{Ended, Reading};
use super::unread::{self, not_all_read};
use super::wishes::{self, Wishes};
use crate::config::{SnapshotMode, Source};
use crate::setup::captured;
use crate::wire::answering_client;
pub use board::show_left;

/// How often the journal's notes are looked at for what has changed, and may be read now. A new one is looked at when it
/// comes.
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
    /// Notes of tables whose rows may be on their way into the journal.
    pub(crate) busy: Arc<Mutex<BTreeSet<String>>>,
    /// A permit for each megabyte that chunks may take.
    pub(crate) memory: Arc<Semaphore>,
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
            busy: Arc::default(),
            memory: Arc::new(Semaphore::new(CHUNKS_MB)),
        };
        // By now it is known of which tables all rows are wanted, if they are.
        show_left(journal, status);
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
    stops: BTreeMap<String, (u64, Stopper)>,
    /// Those that have been told to.
    stopping: BTreeSet<String>,
    /// The tables of all that have not ended: the stream looks after one reading of a table at a time.
    tables: BTreeMap<String, String>,
    /// Those that would be read, but for sinks that are far behind.
    held_back: BTreeSet<String>,
    /// Sinks that rows are read for alone.
    filling: BTreeSet<String>,
    /// Those that could not be read, and have not been since.
    failed: BTreeMap<String, Failure>,
    /// The stream notes what is streamed.
    watching: bool,
    /// It has been asked to.
    beginning: JoinSet<Result<Client>>,
    /// Snapshots of which it is known whether they find room.
    measured: BTreeSet<u64>,
    measuring: JoinSet<()>,
    known: Known,
    /// Tells it what it may forget; ends when dropped.
    forgetting: JoinSet<()>,
}

impl Drop for Desk {
    /// Nobody tries any more: whatever stands in the way is said by the source, or by the next one.
    fn drop(&mut self) {
        self.around.status.note_held(None);
        self.around.status.snapshots(|board| {
            for shown in board.values_mut() {
                (shown.failing, shown.still) = (None, None);
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
            held_back: BTreeSet::new(),
            filling: BTreeSet::new(),
            failed: BTreeMap::new(),
            watching: false,
            beginning: JoinSet::new(),
            measured: BTreeSet::new(),
            measuring: JoinSet::new(),
            known: Known::default(),
            forgetting: JoinSet::new(),
        }
    }

    async fn run(mut self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let status = self.around.status.clone();
        let mut notes = self.around.journal.note_changes();
        loop {
            let begun = tokio::select! {
                _ = looks.tick() => Ok(()),
                Ok(()) = notes.changed() => {
                    if !self.is_new_wished() {
                        continue;
                    }
                    Ok(())
                }
                Some(begun) = self.beginning.join_next(), if !self.beginning.is_empty() => self.watched(begun),
                Some(ended) = self.reading.join_next(), if !self.reading.is_empty() => {
                    if let Ok((note, ended)) = ended {
                        self.ended(&note, ended);
                    }
                    Ok(())
                }
                asked = status.asked_for_snapshot() => {
                    let (command, answer) = asked.into_parts();
                    // Nobody waits for it any more, and who has been told that it failed must not see it done later.
                    if !answer.is_closed() {
                        // The one who asked may go meanwhile.
                        let _ = answer.send(self.command(command).await);
                    }
                    Ok(())
                }
            };
            let looked = match begun {
                Ok(()) => self.look().await,
                failed => failed,
            };
            match looked {
                // Whether it can be begun is not known yet.
                Ok(()) if !self.beginning.is_empty() => {}
                Ok(()) => status.note_held(None),
                Err(error) => {
                    tracing::warn!("Snapshots wait: {error}");
                    status.note_held(Some(&error.to_string()));
                    // Orders are taken meanwhile.
                    looks.reset_after(TRY_AGAIN);
                }
            }
        }
    }

    /// Whether something is to be read that was not wanted at the last look. Each chunk changes the notes, too.
    fn is_new_wished(&self) -> bool {
        self.around.journal.any_note(|name, _| is_job(name) && !self.known.has(name))
    }

    /// What the journal's notes want.
    fn jobs(&mut self) -> Result<Jobs> {
        self.known.read(&self.around.journal.notes())
    }

    /// Starts what is wanted and not under way.
    async fn look(&mut self) -> Result<()> {
        // Sinks say how they begin as soon as they run; until then nobody knows whom a reading would serve.
        let Some(wishes) = self.around.status.wishes() else { return Ok(()) };
        let mut jobs = self.jobs()?;
        if let Some(wanted) = jobs.all.take() {
            self.list(&wanted, &jobs, &wishes).await?;
            jobs = self.jobs()?;
        }
        if wishes::take_up(&self.around, &jobs, &wishes).await? {
            jobs = self.jobs()?;
        }
        self.show(&jobs);
        // Behind that: whoever asks how far the rows are must find them either wished for or shown.
        let wishing = wishes.iter().filter(|(_, wish)| wish.is_some());
        wishing.for_each(|(sink, _)| self.around.status.note_taken_up(sink));
        self.tell_filled(&jobs);
        // Who is paused, not wanted any more, or wanted anew, stops after its chunk.
        let goes_on = |job: &Job, snapshot| !job.paused && job.snapshot == snapshot;
        self.stops
            .retain(|note, (snapshot, _)| jobs.tables.get(note).is_some_and(|job| goes_on(job, *snapshot)));
        self.failed.retain(|note, _| jobs.tables.contains_key(note));
        self.find_places(&mut jobs).await?;
        self.look_for_room(&jobs);
        let jobs_left = !jobs.tables.is_empty();
        let free = self.around.source.snapshot_tables.saturating_sub(self.reading.len());
        let mut ready = self.ready(jobs);
        // Those whose sinks are far behind go on any moment: what was streamed is remembered for them.
        let is_waited_for = !self.held_back.is_empty();
        if ready.is_empty() && !is_waited_for && self.tables.is_empty() && self.stops.is_empty() {
            self.rest(jobs_left).await;
        }
        ready.truncate(free);
        if !ready.is_empty() && self.watch() {
            ready.into_iter().for_each(|(note, job)| self.begin(note, job));
        }
        Ok(())
    }

    /// Looks up where those begin that were asked for in the log, and which of their tables have no key.
    async fn find_places(&self, jobs: &mut Jobs) -> Result<()> {
        let asked = |job: &Job| matches!(job.since, Since::Commit(_));
        let name = |job: &Job| (job.schema.clone(), job.table.clone());
        let wished: Vec<_> = jobs.tables.values().filter(|job| asked(job)).map(name).collect();
        if wished.is_empty() {
            return Ok(());
        }
        let client = answering_client(&self.around.source.info).await?;
        let tables = rowless::look_up(&client, &wished, self.around.source.publications()).await?;
        for job in jobs.tables.values_mut() {
            let Since::Commit(lsn) = job.since else { continue };
            let found = scan::event_behind(&self.around.journal, lsn).await?;
            job.since = found.map_or(Since::Unknown, Since::Event);
            let table = tables.get(&name(job)).copied().unwrap_or_default();
            (job.keyless, job.progress) = (table.keyless, table.progress(self.around.history));
            self.note(&[(job.note(), job.json()?)]).await?;
        }
        Ok(())
    }

    /// Once for each snapshot, before it reads anything; one at a time, each with a connection of its own.
    fn look_for_room(&mut self, jobs: &Jobs) {
        while self.measuring.try_join_next().is_some() {}
        if !self.measuring.is_empty() {
            return;
        }
        let wanted = jobs.tables.values().filter(|job| !job.paused).map(|job| job.snapshot);
        let Some(snapshot) = wanted.into_iter().find(|snapshot| self.measured.insert(*snapshot)) else {
            return;
        };
        let of_it = jobs.tables.values().filter(|job| job.snapshot == snapshot).cloned();
        // Apart: nobody waits for a word of advice.
        self.measuring.spawn(room::look(self.around.clone(), of_it.collect()));
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
            // What is missing is told with the end of the program.
            match not_all_read(&self.around.journal) {
                Some(_) => {}
                None if self.measured.is_empty() => tracing::warn!(
                    "Nothing was left to be read. source.snapshot counts where a history begins: tables that were \
                     captured before are read by `rowcast snapshot`"
                ),
                None => tracing::info!(
                    "All tables have been read, and nothing else is wanted (source.snapshot = \"only\")"
                ),
            }
            let _ = self.around.orders.send(Order::Done).await;
        }
    }

    fn begin(&mut self, note: String, job: Job) {
        let (stopper, stopped) = stop();
        self.tables.insert(note.clone(), job.channel());
        let (snapshot, rows, lasting) =
            (job.snapshot, job.progress.rows, self.failed.get(&note).is_some_and(|it| it.lasting));
        let reading = Reading::new(self.around.clone(), job, stopped);
        self.stops.insert(note.clone(), (snapshot, stopper));
        self.around.status.snapshots(|board| {
            if let Some(shown) = board.get_mut(&note) {
                (shown.rows, shown.still, shown.whole) = (rows, None, None);
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
        notes.extend(listed.iter().flat_map(|job| unread::for_everybody(&self.around.journal, job)));
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
        // Who orders something may have mended what was wrong. Whether he has, the next try tells.
        let now = Instant::now();
        self.failed.values_mut().for_each(|failure| failure.again = now);
        let begins = matches!(command, Command::Start { .. });
        let jobs = self.jobs()?;
        let (notes, named) = command::carry_out(&self.around, jobs, command).await?;
        if !notes.is_empty() {
            self.note(&notes).await?;
        }
        if begins {
            named.tables.iter().for_each(|channel| self.around.status.note_wanted(channel));
        }
        // Whoever asks next finds what was wished for.
        let jobs = self.jobs()?;
        self.show(&jobs);
        Ok(named)
    }

    fn tell_filled(&mut self, jobs: &Jobs) {
        let filling = jobs.tables.values().flat_map(|job| job.sinks.iter().cloned()).collect();
        for sink in self.filling.difference(&filling) {
            tracing::info!(sink, "No more rows are to be read for the sink {sink} alone");
        }
        self.filling = filling;
    }
}

impl Surroundings {
    /// Stores notes, durably. Where there is no room it is told at once: whoever waits for it would hear no order.
    pub(super) async fn note(&self, notes: &[(String, Vec<u8>)]) -> Result<()> {
        let notes: Vec<(&str, &[u8])> =
            notes.iter().map(|(name, json)| (name.as_str(), json.as_slice())).collect();
        self.journal.note_if_room(&notes).await
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
    let publications = around.source.publications();
    for found in rows_last(&client, tables, around.history, publications).await? {
        let Job { place, schema, table, rowless, keyless, progress, .. } = found;
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
