//! Looks after the set of captured tables while the stream runs.

use std::time::Duration;

use rowcast_engine::Result;
use rowcast_engine::status::Status;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_postgres::Client;

use super::progress::Progress;
use super::reading::Reading;
use super::waiting::is_waiting;
use crate::config::Source;
use crate::setup::captured;
use crate::setup::publications::{self, Reconciled, Slot};
use crate::setup::server::Server;
use crate::setup::slot;
use crate::setup::trigger::Attempt;
use crate::wire::answering_client;

/// Where no event trigger does it at once, a new table is captured at most so late; what was inserted before is told
/// as a gap.
const EVERY: Duration = Duration::from_secs(5);

/// A round takes moments; longer means locks or a lost connection, and the next round begins anew.
const ROUND_TIMEOUT: Duration = Duration::from_secs(120);

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
    pub(super) fn start(source: Source, status: Status, reading: Reading) -> Self {
        Self(tokio::spawn(async move {
            let mut rounds = interval(EVERY);
            rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first tick is at once, and the start has just looked.
            rounds.tick().await;
            let (mut client, mut before) = (None, Reconciled::default());
            let mut progress = Progress::default();
            loop {
                let attempt = tokio::select! {
                    _ = rounds.tick() => Attempt::Look,
                    () = status.asked_to_look() => Attempt::Full,
                };
                // The slot and its publications may be another one's by now.
                if is_waiting(&status) {
                    continue;
                }
                let seen = (&mut progress, &mut before);
                let round = round(&mut client, &source, (&status, &reading), seen, attempt);
                match timeout(ROUND_TIMEOUT, round).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(error)) => tracing::warn!("Cannot look for new tables: {error}"),
                    Err(_) => tracing::warn!("Looking for new tables took too long"),
                }
                client = None;
            }
        }))
    }
}

async fn round(
    client: &mut Option<Client>,
    source: &Source,
    (status, reading): (&Status, &Reading),
    (progress, before): (&mut Progress, &mut Reconciled),
    attempt: Attempt,
) -> Result<()> {
    if client.as_ref().is_none_or(Client::is_closed) {
        *client = Some(answering_client(&source.info).await?);
    }
    let Some(client) = client else { return Ok(()) };
    progress.look(client, &source.slot, status).await?;
    if reading.missing(&slot::observe(client, source).await?.publications).is_some() {
        // Made again it would look as if nothing had happened. The guard has it told.
        return Ok(());
    }
    let server = Server::read(client).await?;
    if source.manage {
        let reconciled = publications::reconcile(client, source, &server, Slot::Present, attempt).await?;
        if reconciled.foreign != before.foreign {
            crate::setup::warn_of(source, &reconciled);
        }
        if attempt == Attempt::Full {
            crate::setup::tell_of(source, &reconciled);
        }
        *before = reconciled;
    }
    let tables = captured::tables(client, source, server.version).await?;
    status.source(|source| source.tables = tables);
    Ok(())
}
