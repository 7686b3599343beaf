//! The floor plan: what is opened, what is plugged into what, and in which order it ends.
//!
//! ```text
//! source ──> ingest ──> journal ──> feed ──> HTTP door ──> clients
//!                          └──────────────> sinks ──> Kafka
//! ```
//! The end comes in the order source, doors, journal: nothing is taken that nobody could be told, and nobody reads
//! from a journal that is closed.

mod capture;
mod doors;
mod metrics;
mod signals;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rowcast_engine::adoption::Adopted;
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Journal, Options};
use rowcast_engine::status::Status;
use rowcast_engine::{Error, Result, cursor};
use rowcast_postgres::SnapshotMode;
use tokio::time::{interval, timeout};

use crate::config::Config;
use crate::failure::{Failure, code};
use capture::Capture;
use doors::Doors;
pub(crate) use signals::Signals;

/// How often it is looked whether sinks have all, when nothing more comes.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Everything has to have ended by then.
const END_WITHIN: Duration = Duration::from_millis(9500);
/// For the source to confirm its position and say goodbye.
const SOURCE_WITHIN: Duration = Duration::from_secs(3);
/// For clients to be sent away, and for sinks to finish their round.
const DOORS_WITHIN: Duration = Duration::from_secs(5);
/// For threads that are still reading files when everything else has ended.
const THREADS_WITHIN: Duration = Duration::from_millis(300);

/// Runs a future on all cores: the program.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    run_on(tokio::runtime::Builder::new_multi_thread(), future)
}

/// Runs a future on this thread: the commands.
pub(crate) fn block_on_one<T>(future: impl Future<Output = T>) -> Result<T> {
    run_on(tokio::runtime::Builder::new_current_thread(), future)
}

fn run_on<T>(mut builder: tokio::runtime::Builder, future: impl Future<Output = T>) -> Result<T> {
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Error::failed("Cannot start the runtime").because(error))?;
    let done = runtime.block_on(future);
    runtime.shutdown_timeout(THREADS_WITHIN);
    Ok(done)
}

/// Open files that are not clients: the journal's, the source's, sinks' and what stands beside the streams.
const FILES_BESIDE: u64 = 768;

/// Each client is an open file, and the usual soft limit of 1,024 is far below the door's. Where the hard one is below it,
/// too, fewer clients are taken: a journal that can open no file has to wait.
fn raise_open_files(config: &mut Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "Cannot raise the limit of open files; it bounds the number of clients");
    }
    let (Some(files), wanted) = (getrlimit(Resource::Nofile).current, config.http.max_connections) else {
        return;
    };
    let clients = usize::try_from(files.saturating_sub(FILES_BESIDE).max(files / 4)).unwrap_or(usize::MAX);
    if clients < wanted {
        tracing::warn!(
            files,
            hint = "Raise the limit of open files (ulimit -n, LimitNOFILE=), or lower http.max_connections",
            "Takes {clients} clients at once, not {wanted} (http.max_connections): no more files may be open"
        );
        config.http.max_connections = clients;
    }
}

/// `rowcast run`: until a signal comes, or the source refuses before the first success of the journal.
pub(crate) async fn run(config: Config) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new()?;
    // Many segments without an index take minutes.
    let house = tokio::select! {
        house = House::open(config) => house?,
        () = signals.first() => {
            tracing::info!("Stopped before everything was open");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let status = house.status.clone();
    house.run(signals.on_hang_up(move || status.look_again())).await
}

/// `rowcast adopt` where none runs: until the stream runs once; no door is opened. Gives the gap, if there is one.
pub(crate) async fn adopt(mut config: Config) -> Result<Option<Adopted>, Failure> {
    let mut signals = Signals::new()?;
    // An error ends it, and nobody stays to look after the slot that it is about.
    (config.source.brief, config.source.wal_budget) = (true, None);
    // No sink runs that could move on: waiting for one at max_size would have no end.
    let journal = tokio::select! {
        journal = opened_journal(&config, |options| options.max_size = Some(u64::MAX)) => journal?,
        () = signals.first() => return Ok(None),
    };
    let status = Status::default();
    let sinks = sinks(&config);
    let mut capture = Capture::start(config.source, &journal, &status, sinks)?;
    let adopted = tokio::select! {
        ended = capture.established() => ended.map_err(Failure::source),
        () = signals.first() => Ok(()),
    };
    capture.stop(SOURCE_WITHIN).await;
    journal.close().await;
    adopted.map(|()| status.adopted())
}

/// Everything but the source, open.
pub(crate) struct House {
    config: Config,
    journal: Journal,
    status: Status,
    doors: Doors,
}

impl House {
    /// Opens journal and doors, so that whatever stands in the way is told before the source is touched.
    pub(crate) async fn open(mut config: Config) -> Result<Self> {
        raise_open_files(&mut config);
        let metrics = metrics::install()?;
        make_data(&config.data)?;
        let journal = opened_journal(&config, |_| {}).await?;
        let status = Status::default();
        // Before anybody can ask for it.
        rowcast_postgres::show_left(&journal, &status);
        // Not ready before the first success: what is written to the source until then may not be seen.
        status.source(|source| source.state = "starting");
        match Doors::open(&config, &journal, &status, metrics).await {
            Ok(doors) => Ok(Self { config, journal, status, doors }),
            Err(error) => {
                journal.close().await;
                Err(error)
            }
        }
    }

    /// Where the HTTP door listens.
    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.doors.address()
    }

    /// Captures and serves until a signal comes.
    pub(crate) async fn run(self, mut signals: Signals) -> Result<ExitCode, Failure> {
        let Self { config, journal, status, doors } = self;
        let sinks = sinks(&config);
        let required = sinks.clone();
        let ends_by_itself = config.source.snapshot == Some(SnapshotMode::Only);
        let capture = Capture::start(config.source, &journal, &status, sinks);
        let mut capture = match capture {
            Ok(capture) => capture,
            Err(error) => {
                end(None, doors, &journal).await;
                return Err(error.into());
            }
        };
        let ended = tokio::select! {
            () = signals.first() => Ok(ExitCode::SUCCESS),
            ended = async {
                match capture.refused(ends_by_itself).await {
                    Some(error) => Err(Failure::source(error)),
                    None => delivered(&journal, &status, &required).await,
                }
            } => ended,
        };
        tracing::info!("Stopping");
        tokio::select! {
            in_time = timeout(END_WITHIN, end(Some(capture), doors, &journal)) => {
                if in_time.is_err() {
                    tracing::warn!("Not everything has ended in time; the next start goes on where the journal ends");
                }
                ended
            }
            () = signals.second() => {
                tracing::warn!("A second signal: ends at once");
                ended.and(Ok(ExitCode::from(code::FAILED)))
            }
        }
    }
}

/// Waits until every sink has all that the journal has, now that nothing more comes (`source.snapshot = "only"`).
async fn delivered(journal: &Journal, status: &Status, sinks: &[String]) -> Result<ExitCode, Failure> {
    let mut look = interval(LOOK_EVERY);
    let mut told = false;
    loop {
        look.tick().await;
        let lacking = journal.lacking(sinks);
        if lacking.is_empty() {
            let missing = rowcast_postgres::not_all_read(journal);
            return missing.map_or(Ok(ExitCode::SUCCESS), |missing| Err(missing.into()));
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!(sinks = lacking.join(", "), "All has been read; waiting until the sinks have it");
        }
        for name in &lacking {
            let mut halted = None;
            status.door(name, |door| {
                let halts = matches!(door.state, "stopped" | "paused");
                halted = halts.then(|| (door.state, door.reason.clone().unwrap_or_default()));
            });
            if let Some((state, reason)) = halted {
                let what = format!(
                    "All has been read, but the sink {name} is {state} and lacks some of it: {reason}"
                );
                return Err(Error::failed(what)
                    .hint(
                        "Nothing is lost: start it again when that is mended, and it goes on where it stands",
                    )
                    .into());
            }
        }
    }
}

/// The names of the doors that push.
fn sinks(config: &Config) -> Vec<String> {
    config.sinks.iter().map(|(name, _)| name.clone()).collect()
}

/// Makes the data directory, which the journal need not lie in, for its owner only. One that is there already may be
/// somebody else's, which is told before a directory in it is asked for.
fn make_data(data: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.and_then(|()| std::fs::read_dir(data)).map(drop).map_err(|error| {
        Error::journal(format!("Cannot open the journal in {}", data.display()))
            .because(error)
            .hint("Name one that the user who runs rowcast may write to (--data DIR)")
    })
}

/// Opens the journal where it keeps nobody from hearing a signal. When that ends the program meanwhile, it is as if it had
/// been killed, which costs nothing.
async fn opened_journal(
    config: &Config,
    adjust: impl FnOnce(&mut Options) + Send + 'static,
) -> Result<Journal> {
    let config = config.clone();
    let opened = tokio::task::spawn_blocking(move || open_journal(&config, adjust)).await;
    opened.map_err(|error| Error::failed("Opening the journal was broken off").because(error))?
}

fn open_journal(config: &Config, adjust: impl FnOnce(&mut Options)) -> Result<Journal> {
    let cursors = config.cursors();
    let mut options = config.journal.options(&config.data, cursor::highest(&cursors)?);
    // What was a sink once and is none now holds nothing.
    options.holds = cursor::positions(&cursors)?;
    options.holds.retain(|name, _| config.sinks.iter().any(|(sink, _)| sink == name));
    options.repair = Some(config.repair());
    adjust(&mut options);
    let journal =
        journal::open(options, Arc::new(RealDisk)).map_err(|error| config.name_directories(error))?;
    tracing::info!(
        dir = %journal.dir().display(),
        oldest = journal.oldest(),
        newest = journal.newest(),
        "The journal is open"
    );
    Ok(journal)
}

/// Source, doors, journal.
async fn end(capture: Option<Capture>, doors: Doors, journal: &Journal) {
    if let Some(mut capture) = capture {
        capture.stop(SOURCE_WITHIN).await;
    }
    doors.close(DOORS_WITHIN).await;
    journal.close().await;
    tracing::info!("Stopped");
}
