//! Looks after the set of captured tables while the stream runs.

use std::time::Duration;

use rowcast_engine::journal::Journal;
use rowcast_engine::status::Status;
use rowcast_engine::{Error, Kind, Lsn, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_postgres::Client;

use super::connect::Link;
use super::contents::Keeper;
use super::progress::Progress;
use super::reading::Reading;
use super::waiting::is_waiting;
use super::with_remedy;
use crate::config::Source;
use crate::setup::exposed;
use crate::setup::fingerprint;
use crate::setup::foreign;
use crate::setup::publications::{self, Known, Reconciled, Slot};
use crate::setup::server::Server;
use crate::setup::slot;
use crate::setup::trigger::Attempt;
use crate::wire::answering_client;

/// Where no event trigger does it at once, a new table is captured at most so late; what was inserted before is told
/// as a gap.
const EVERY: Duration = Duration::from_secs(5);

/// A round takes moments; longer means locks or a lost connection, and the next round begins anew.
const ROUND_TIMEOUT: Duration = Duration::from_secs(120);

/// As long as the catalog is the same it is not looked at whole before this has passed. Rights and a few definitions can be
/// others without that being seen.
const ANYWAY: Duration = Duration::from_secs(300);

/// Looks that fail in a row before health says so: locks and connections come back within so many. What does not pass by
/// itself is said at once.
const FAILED_LOOKS: u32 = 3;

/// Ends with its owner.
#[derive(Debug)]
pub(super) struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Watch {
    /// Starts looking.
    pub(super) fn start(source: Source, journal: &Journal, status: Status, reading: Reading) -> Self {
        let looks = Looks {
            keeper: Keeper::new(journal),
            source,
            status,
            reading,
            client: None,
            inserts: String::new(),
            progress: Progress::default(),
            known: Known::default(),
            before: Reconciled::default(),
            settled: None,
            // Asked at the first look.
            due: None,
            failed: 0,
            said: String::new(),
        };
        Self(tokio::spawn(looks.run(journal.durable())))
    }
}

impl Link {
    /// Looks after the tables at the server that the newest connection leads to.
    pub(super) fn watch(&self) -> Watch {
        let source = Source { info: self.here.clone(), ..self.source.clone() };
        Watch::start(source, self.ingest.journal(), self.status.clone(), self.reading.clone())
    }
}

/// What one look leaves for the next.
struct Looks {
    source: Source,
    status: Status,
    reading: Reading,
    keeper: Keeper,
    client: Option<Client>,
    /// The second publication of those that the stream read at the last look.
    inserts: String,
    progress: Progress,
    known: Known,
    before: Reconciled,
    /// When all was as it should be, and what the catalog was then.
    settled: Option<(String, Instant)>,
    /// A gap is owed from here on.
    due: Option<Lsn>,
    /// Looks in a row that came to nothing, and why the last one did.
    failed: u32,
    said: String,
}

impl Looks {
    async fn run(mut self, mut durable: watch::Receiver<Lsn>) {
        let mut rounds = interval(EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once, and the start has just looked.
        rounds.tick().await;
        loop {
            let attempt = tokio::select! {
                _ = rounds.tick() => Attempt::Look,
                () = self.status.asked_to_look() => Attempt::Full,
                () = reached(&mut durable, self.due) => Attempt::Look,
            };
            // The slot and its publications may be another one's by now, unless a stream has begun from it.
            if !is_waiting(&self.status) || self.reading.is_comparing() {
                match timeout(ROUND_TIMEOUT, self.round(attempt)).await {
                    Ok(Ok(())) => {
                        self.succeeded();
                        continue;
                    }
                    Ok(Err(error)) => self.has_failed(&error),
                    Err(_) => self.has_failed(&took_too_long()),
                }
                self.client = None;
            } else {
                self.succeeded();
            }
            // The next tick sees.
            (self.settled, self.due) = (None, None);
        }
    }

    /// Nothing is wrong with looking, or nobody looks. What is on the board may be of those who looked before, at another
    /// server perhaps.
    fn succeeded(&mut self) {
        self.failed = 0;
        self.said.clear();
        self.status.source(|source| source.unattended = None);
    }

    /// Says it in the log when it is news, and to whoever looks after rowcast when it lasts.
    fn has_failed(&mut self, error: &Error) {
        self.failed += 1;
        metrics::counter!("rowcast_source_looks_failed_total").increment(1);
        let why = error.to_string();
        if self.said == why {
            tracing::debug!("Cannot look which tables are to be captured again: {why}");
        } else {
            tracing::warn!(hint = error.remedy(), "Cannot look which tables are to be captured: {why}");
        }
        if self.failed >= FAILED_LOOKS || error.kind() != Kind::Transient {
            let text = format!(
                "It cannot be looked which tables are to be captured: new ones are not, and UPDATE and DELETE of one that loses \
                 its key may fail. {}. `rowcast check` says what is wrong",
                with_remedy(error).trim_end_matches('.')
            );
            self.status.source(|source| source.unattended = Some(text));
        }
        self.said = why;
    }

    async fn round(&mut self, attempt: Attempt) -> Result<()> {
        let mut client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => answering_client(&self.source.info).await?,
        };
        self.progress.look(&client, &self.source.slot, &self.status).await?;
        if self.reading.missing(&slot::observe(&client, &self.source).await?.publications).is_some() {
            // Made again it would look as if nothing had happened. The guard has it told.
            self.client = Some(client);
            (self.settled, self.due) = (None, None);
            return Ok(());
        }
        let shown = self.reading.shown(&self.source);
        if self.inserts != shown.inserts {
            (self.inserts, self.settled) = (shown.inserts.clone(), None);
        }
        let server = Server::read(&client).await?;
        // Before the look: what changes while it looks is seen by the next one.
        let catalog = fingerprint::read(&client, server.version).await?;
        let is_same = self.settled.as_ref().is_some_and(|(was, at)| *was == catalog && at.elapsed() < ANYWAY);
        if attempt == Attempt::Full || !is_same || self.due.is_some() {
            let settled = self.look(&mut client, &shown, &server, attempt).await?;
            self.settled = settled.then(|| (catalog, Instant::now()));
        }
        self.client = Some(client);
        Ok(())
    }

    /// A whole look, at what the stream reads (`shown`). Gives whether all is as it should be.
    async fn look(
        &mut self,
        client: &mut Client,
        shown: &Source,
        server: &Server,
        attempt: Attempt,
    ) -> Result<bool> {
        // What was lost is noted before anything is set right.
        let mut seen = self.keeper.look(client, shown, server.version, false).await?;
        let mut settled = true;
        if self.source.manage {
            self.known.left = self.keeper.left()?;
            let (source, known) = (&self.source, &mut self.known);
            let reconciled =
                publications::reconcile(client, source, server, Slot::Present, attempt, known).await?;
            if reconciled.foreign != self.before.foreign {
                foreign::warn(&reconciled.foreign, &source.publication);
            }
            if attempt == Attempt::Full {
                crate::setup::tell_of(source, &reconciled);
            }
            settled = !reconciled.unsettled;
            if !settled {
                seen = self.keeper.look(client, shown, server.version, reconciled.altered).await?;
            }
            self.before = reconciled;
        }
        self.keeper.tell(client, &seen, &self.source).await?;
        self.due = self.keeper.due()?;
        let exposed = exposed::read(client, &self.source, server).await?;
        let (uncaptured, told) = (self.before.uncaptured.clone(), exposed::by_channel(&exposed));
        let mut is_news = false;
        self.status.source(|source| {
            // The start has said what it has found.
            is_news = source.exposed != told;
            (source.tables, source.uncaptured, source.exposed) = (seen.captured, uncaptured, told);
        });
        if is_news {
            exposed::warn(&exposed);
        }
        Ok(settled)
    }
}

fn took_too_long() -> Error {
    let what = format!("That took longer than {} s", ROUND_TIMEOUT.as_secs());
    Error::transient(what).hint("See pg_stat_activity for what rowcast's sessions wait for")
}

/// Waits until the journal holds all up to there, where something is owed.
async fn reached(durable: &mut watch::Receiver<Lsn>, due: Option<Lsn>) {
    if let Some(due) = due
        && durable.wait_for(|durable| *durable >= due).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
