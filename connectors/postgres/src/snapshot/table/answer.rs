//! Waiting for what the stream says of rows.

use std::time::{Duration, Instant};

use rowcast_engine::Result;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::{Reading, gone};
use crate::snapshot::moment;
use crate::snapshot::order::{Gone, Order, Taken};
use crate::snapshot::server::{Nudged, nudge};

/// An idle server does not send what would show that the stream has passed a chunk's position: after this it is given
/// something to send.
const NUDGE_AFTER: Duration = Duration::from_millis(200);

/// Bytes of the server's log that are soon taken in.
const NEAR: u64 = 1 << 20;

/// For how long what a standby has not replayed yet is not worth a word.
const REPLAY_SILENT: Duration = Duration::from_secs(10);

impl Reading {
    /// Waits until the stream has passed the rows' position.
    pub(super) async fn answer<T>(&self, client: &Client, mut answer: oneshot::Receiver<T>) -> Result<T> {
        let sent = Instant::now();
        loop {
            match timeout(NUDGE_AFTER, &mut answer).await {
                Ok(written) => return written.map_err(|_| gone(Gone)),
                Err(_) if self.around.orders.is_closed() => return Err(gone(Gone)),
                Err(_) => {}
            }
            tokio::select! {
                biased;
                // A server that does not hear us has told the stream all the same.
                written = &mut answer => return written.map_err(|_| gone(Gone)),
                nudged = self.nudge(client, sent) => nudged?,
            }
        }
    }

    /// Waits until the stream is not far behind the server, or somebody stops it. What it brings that a snapshot sees already
    /// is in vain, and much of that is what a table without a key has no memory for.
    pub(super) async fn catch_up(&self, client: &Client) -> Result<()> {
        let due = moment::position(client).await?;
        if due.0 < self.around.journal.position().lsn.0 + NEAR {
            return Ok(());
        }
        let (sender, passed) = oneshot::channel();
        let taken = Taken { relation: self.job.progress.relation, due };
        self.order(Order::Judge(Box::new(taken), sender)).await?;
        self.say(Some("The stream is behind the server, and comes first"));
        tokio::select! {
            passed = self.answer(client, passed) => passed.map(drop)?,
            () = self.stopped.stopped() => {}
        }
        self.say(None);
        Ok(())
    }

    /// Has the server show how far it has sent, for a chunk that has waited since `sent`.
    async fn nudge(&self, client: &Client, sent: Instant) -> Result<()> {
        let Nudged::Standby(why) = nudge(client).await? else { return Ok(()) };
        if sent.elapsed() > REPLAY_SILENT {
            self.say(Some(why));
        }
        // It cannot be given anything to send; asked, it says how far it is.
        self.order(Order::Ask).await
    }
}
