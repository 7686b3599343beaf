//! Looks after the set of captured tables while the stream runs.

use std::time::Duration;

use rowcast_engine::journal::Journal;
use rowcast_engine::status::Status;
use rowcast_engine::{Lsn, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_postgres::Client;

use super::contents::Keeper;
use super::progress::Progress;
use super::reading::Reading;
use super::waiting::is_waiting;
use crate::config::Source;
use crate::setup::fingerprint;
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
            progress: Progress::default(),
            known: Known::default(),
            before: Reconciled::default(),
            settled: None,
            // Asked at the first look.
            due: None,
        };
        Self(tokio::spawn(looks.run(journal.durable())))
    }
}

/// What one look leaves for the next.
struct Looks {
    source: Source,
    status: Status,
    reading: Reading,
    keeper: Keeper,
    client: Option<Client>,
    progress: Progress,
    known: Known,
    before: Reconciled,
    /// When all was as it should be, and what the catalog was then.
    settled: Option<(String, Instant)>,
    /// A gap is owed from here on.
    due: Option<Lsn>,
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
            // The slot and its publications may be another one's by now.
            if !is_waiting(&self.status) {
                match timeout(ROUND_TIMEOUT, self.round(attempt)).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(error)) => tracing::warn!("Cannot look for new tables: {error}"),
                    Err(_) => tracing::warn!("Looking for new tables took too long"),
                }
                self.client = None;
            }
            // The next tick sees.
            (self.settled, self.due) = (None, None);
        }
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
        let server = Server::read(&client).await?;
        // Before the look: what changes while it looks is seen by the next one.
        let catalog = fingerprint::read(&client, server.version).await?;
        let is_same = self.settled.as_ref().is_some_and(|(was, at)| *was == catalog && at.elapsed() < ANYWAY);
        if attempt == Attempt::Full || !is_same || self.due.is_some() {
            let settled = self.look(&mut client, &server, attempt).await?;
            self.settled = settled.then(|| (catalog, Instant::now()));
        }
        self.client = Some(client);
        Ok(())
    }

    /// A whole look. Gives whether all is as it should be.
    async fn look(&mut self, client: &mut Client, server: &Server, attempt: Attempt) -> Result<bool> {
        // What was lost is noted before anything is set right.
        let mut seen = self.keeper.look(client, &self.source, server.version, false).await?;
        let mut settled = true;
        if self.source.manage {
            self.known.left = self.keeper.left()?;
            let (source, known) = (&self.source, &mut self.known);
            let reconciled =
                publications::reconcile(client, source, server, Slot::Present, attempt, known).await?;
            if reconciled.foreign != self.before.foreign {
                crate::setup::warn_of(source, &reconciled);
            }
            if attempt == Attempt::Full {
                crate::setup::tell_of(source, &reconciled);
            }
            settled = !reconciled.unsettled;
            if !settled {
                seen = self.keeper.look(client, source, server.version, reconciled.altered).await?;
            }
            self.before = reconciled;
        }
        self.keeper.tell(client, &seen, &self.source).await?;
        self.due = self.keeper.due()?;
        let uncaptured = self.before.uncaptured.clone();
        self.status.source(|source| (source.tables, source.uncaptured) = (seen.captured, uncaptured));
        Ok(settled)
    }
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
