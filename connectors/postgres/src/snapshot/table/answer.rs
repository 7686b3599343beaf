//! Waiting for what the stream says of rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rowcast_engine::Result;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;
use tokio_postgres::Client;

use super::board::say;
use super::{Reading, gone};
use crate::snapshot::job::Job;
use crate::snapshot::moment;
use crate::snapshot::order::{Gone, Order, Taken, begin};
use crate::snapshot::read::CHUNK_MB;
use crate::snapshot::server::{Nudged, nudge};
use crate::snapshot::task::Surroundings;

/// An idle server does not send what would show that the stream has passed a chunk's position: after this it is given
/// something to send.
const NUDGE_AFTER: Duration = Duration::from_millis(200);

/// Bytes of the server's log that are soon taken in.
const NEAR: u64 = 1 << 20;

/// For how long what a standby has not replayed yet is not worth a word.
const REPLAY_SILENT: Duration = Duration::from_secs(10);

impl Reading {
    /// Has the stream look after the table. False when somebody has stopped the reading before it has begun to.
    pub(super) async fn follow(&mut self, relation: u32) -> Result<bool> {
        self.followed = Some(relation);
        let order = |begun| Order::Begin(relation, begun);
        tokio::select! {
            begun = begin(&self.around.orders, &self.around.journal, order) => begun.map(|_| true).map_err(gone),
            () = self.stopped.stopped() => Ok(false),
        }
    }

    /// Memory for a chunk. `None` when somebody has stopped the reading before there is some.
    pub(super) async fn memory(&self) -> Result<Option<OwnedSemaphorePermit>> {
        tokio::select! {
            memory = Arc::clone(&self.around.memory).acquire_many_owned(CHUNK_MB) => {
                memory.map(Some).map_err(|_| gone(Gone))
            }
            () = self.stopped.stopped() => Ok(None),
        }
    }

    /// Waits until the stream is not far behind the server, or somebody stops it. What it brings that a snapshot sees already
    /// is in vain, and much of that is what a table without a key has no memory for.
    pub(super) async fn catch_up(&self, client: &Client) -> Result<()> {
        let due = moment::position(client).await?;
        if due.0 < self.around.journal.position().lsn.0 + NEAR {
            return Ok(());
        }
        let (sender, mut passed) = oneshot::channel();
        let taken = Taken { relation: self.job.progress.relation, due };
        self.order(Order::Judge(Box::new(taken), sender)).await?;
        self.say(Some("The stream is behind the server, and comes first"));
        tokio::select! {
            passed = answer((&self.around, &self.job), client, &mut passed) => passed.map(drop)?,
            () = self.stopped.stopped() => {}
        }
        self.say(None);
        Ok(())
    }
}

/// Waits until the stream has passed a position of rows, or has said what becomes of them.
pub(super) async fn answer<T>(
    of: (&Surroundings, &Job),
    client: &Client,
    answer: &mut oneshot::Receiver<T>,
) -> Result<T> {
    let sent = Instant::now();
    loop {
        match timeout(NUDGE_AFTER, &mut *answer).await {
            Ok(said) => return said.map_err(|_| gone(Gone)),
            Err(_) if of.0.orders.is_closed() => return Err(gone(Gone)),
            Err(_) => {}
        }
        tokio::select! {
            biased;
            // A server that does not hear us has told the stream all the same.
            said = &mut *answer => return said.map_err(|_| gone(Gone)),
            nudged = show(of, client, sent) => nudged?,
        }
    }
}

/// Has the server show how far it has sent, for a chunk that has waited since `sent`.
async fn show((around, job): (&Surroundings, &Job), client: &Client, sent: Instant) -> Result<()> {
    let Nudged::Standby(why) = nudge(client).await? else { return Ok(()) };
    if sent.elapsed() > REPLAY_SILENT {
        say(&around.status, job, Some(why));
    }
    // It cannot be given anything to send; asked, it says how far it is.
    around.orders.send(Order::Ask).await.map_err(|_| gone(Gone))
}
