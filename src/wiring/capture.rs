//! The source, on a thread of its own: whatever the doors do, the server's questions are answered in time.

use std::thread;
use std::time::Duration;

use rowcast_engine::adoption::WAITING;
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::Journal;
use rowcast_engine::status::Status;
use rowcast_engine::{Confirm, Error, Kind, Result, Source, Stop, Stopper, stop};
use rowcast_postgres::{Config, Postgres};
use tokio::sync::oneshot;
use tokio::time::{interval, timeout};

/// How often the first success is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The running source.
pub(crate) struct Capture {
    status: Status,
    stopper: Stopper,
    /// The journal has streamed before this start: it is worth serving whatever the source says.
    known: bool,
    /// How it ended; `None` when that has been taken.
    ended: Option<oneshot::Receiver<Result<()>>>,
}

impl Capture {
    /// Starts it; `sinks` are the doors that push.
    pub(crate) fn start(
        config: Config,
        journal: &Journal,
        status: &Status,
        sinks: Vec<String>,
    ) -> Result<Self> {
        let (stopper, stop) = stop();
        let (end, ended) = oneshot::channel();
        let known = !journal.position().slot.is_empty();
        let required = required(&config, status, sinks);
        let (ingest, board) = (Ingest::new(journal.clone()).required(required), status.clone());
        thread::Builder::new()
            .name("capture".into())
            .spawn(move || {
                // Nobody listens any more when the program ends.
                let _ = end.send(capture(config, ingest, board, stop));
            })
            .map_err(|error| Error::failed("Cannot start the thread of the source").because(error))?;
        Ok(Self { status: status.clone(), stopper, known, ended: Some(ended) })
    }

    /// Waits for an end before the first success of the journal, which is the program's. After that it never
    /// returns: a source that has ended then is told by the log and the board, and the doors go on serving.
    /// Where it may end by itself, that is no error.
    pub(crate) async fn refused(&mut self, may_end: bool) -> Option<Error> {
        let error = match self.end().await {
            Ok(()) if may_end => return None,
            Ok(()) => Error::failed("The source has ended by itself"),
            Err(error) => error,
        };
        if self.is_served(&error) {
            tracing::error!(hint = error.remedy(), "Capture has ended, the doors go on serving: {error}");
            std::future::pending::<()>().await;
        }
        Some(error)
    }

    /// Waits for the first success, or for an end before it.
    pub(crate) async fn established(&mut self) -> Result<()> {
        let status = self.status.clone();
        let mut look = interval(LOOK_EVERY);
        let success = async {
            while !has_succeeded(&status) {
                look.tick().await;
                waits(&status)?;
            }
            Ok(())
        };
        tokio::select! {
            done = success => done,
            ended = self.end() => ended,
        }
    }

    /// There is something to serve without the source. What is wrong with the configuration or the journal itself
    /// is said at the start, and ends it.
    fn is_served(&self, error: &Error) -> bool {
        let from_source = !matches!(error.kind(), Kind::Usage | Kind::Journal);
        has_succeeded(&self.status) || (self.known && from_source)
    }

    async fn end(&mut self) -> Result<()> {
        match &mut self.ended {
            Some(ended) => {
                let result = ended.await;
                self.ended = None;
                result.unwrap_or_else(|_| Err(self.broken_off()))
            }
            None => std::future::pending().await,
        }
    }

    /// By a fault of ours; what the board says last would stay there for ever.
    fn broken_off(&self) -> Error {
        let error = Error::failed("The thread of the source has ended by a fault of rowcast's own")
            .hint("Please report it, with what the program has printed. Restart rowcast");
        self.status.source(|source| {
            source.state = "stopped";
            source.reason = Some(error.to_string());
        });
        error
    }

    /// Tells it to stop and waits for it.
    pub(crate) async fn stop(&mut self, patience: Duration) {
        self.stopper.stop();
        let Some(ended) = self.ended.take() else { return };
        match timeout(patience, ended).await {
            Ok(Ok(Err(error))) => tracing::warn!("The source did not end well: {error}"),
            Ok(_) => {}
            Err(_) => tracing::warn!("The source has not ended in time"),
        }
    }
}

/// The server has been heard on a running stream, be it long ago.
fn has_succeeded(status: &Status) -> bool {
    let mut heard = false;
    status.source(|source| heard = source.heard.is_some());
    heard
}

/// A source that waits for a person does not go on by itself.
fn waits(status: &Status) -> Result<()> {
    let mut reason = None;
    status.source(|source| reason = source.reason.clone().filter(|_| source.state == WAITING));
    reason.map_or(Ok(()), |reason| Err(Error::refused(reason)))
}

/// The sinks that have to have a change before the source may forget it.
fn required(config: &Config, status: &Status, sinks: Vec<String>) -> Vec<String> {
    let required = if config.confirm == Confirm::Sinks { sinks } else { Vec::new() };
    if config.confirm == Confirm::Sinks && required.is_empty() {
        tracing::warn!(
            "source.confirm is \"sinks\", and there is no sink: changes are confirmed when the journal has them"
        );
    }
    status.source(|source| {
        source.confirm = config.confirm;
        source.required.clone_from(&required);
    });
    required
}

fn capture(config: Config, ingest: Ingest, status: Status, stop: Stop) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::failed("Cannot start the runtime of the source").because(error))?;
    runtime.block_on(Postgres::new(config).run(ingest, status, stop))
}
