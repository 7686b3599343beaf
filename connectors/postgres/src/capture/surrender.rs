//! Giving up the slot, loudly: a gap in the history does less harm than a server whose disk is full.

use rowcast_engine::adoption::WAITING;
use rowcast_engine::units::show_size;
use rowcast_engine::{Error, Kind, Result, Stop};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::connect::{FIRST_PATIENCE, Link, SLOT_RETRY};
use super::guard::{Call, Guard, rounded};
use super::{note_lost, with_remedy};
use crate::setup::installation::{self, ADOPT};
use crate::setup::server::Server;
use crate::setup::slot;
use crate::wire::{answering_client, sql_error};

impl Link {
    /// The guard has called. What cannot be done now it calls for again.
    pub(super) async fn answer(&mut self, call: Call) {
        if call == Call::Stopping {
            note_lost(&self.status, &call.error());
            return;
        }
        if call == Call::Unpublished {
            // The next connection sees it, and says so. Until it streams, nothing is missed any more: that it makes the
            // slot anew must not be broken off by the same call again.
            self.reading.leave();
            note_lost(&self.status, &call.error());
            return;
        }
        if let Err(error) = self.give_up().await {
            tracing::error!(hint = error.remedy(), "Cannot give up the replication slot: {error}");
        }
    }

    /// Drops the slot, if it is ours and still keeps more of the server's log than it may. The stream has been left.
    async fn give_up(&mut self) -> Result<()> {
        // Where the stream was, which is where the guard has looked.
        let client = answering_client(&self.here).await?;
        let Some(kept) = self.kept_for_us(&client).await? else { return Ok(()) };
        self.free_slot(&client).await?;
        slot::drop(&client, &self.source.slot).await?;
        metrics::counter!("rowcast_source_slots_given_up_total").increment(1);
        let mut why = None;
        self.status.source(|source| why = source.reason.clone());
        let full = self.ingest.journal().state().borrow().clone();
        if let rowcast_engine::journal::State::Full(detail) = full {
            why = Some(detail);
        }
        let detail = format!(
            "rowcast has given up the replication slot {}, since the server kept {} of its log for it, more than \
             source.wal_budget ({}), and capture could not go on in time: {}",
            self.source.slot,
            rounded(kept),
            show_size(self.source.wal_budget.unwrap_or_default()),
            why.as_deref().unwrap_or("it stood still, or was slower than what is written")
        );
        tracing::error!("{detail}. Changes from here on are lost to the journal; {ADOPT}");
        self.status.source(|source| {
            if source.state != "stopped" {
                source.state = WAITING;
            }
            source.reason = Some(format!("{detail}. {ADOPT}"));
        });
        self.given_up = Some(detail);
        Ok(())
    }

    /// Bytes that are kept for the slot, if they are too many, and the slot is this installation's.
    async fn kept_for_us(&self, client: &Client) -> Result<Option<u64>> {
        let (observed, server) = (slot::observe(client, &self.source).await?, Server::read(client).await?);
        // One that has only the name of ours is somebody else's, whatever the table of owners says.
        let fits = observed.slot.as_ref().is_some_and(|slot| slot.fit(&self.source, &server).is_ok());
        let kept =
            observed.retained().filter(|kept| self.source.wal_budget.is_some_and(|budget| *kept > budget));
        let owner = installation::read(client, &self.source.slot).await?;
        let ours = owner.is_some_and(|owner| owner.installation == self.ingest.journal().installation());
        Ok(kept.filter(|_| ours && fits))
    }

    /// Waits until the server has noticed that our stream is over; where it writes into a full socket it has to be
    /// told. Somebody else's stream is left alone.
    async fn free_slot(&self, client: &Client) -> Result<()> {
        let name = &self.source.slot;
        let deadline = Instant::now() + FIRST_PATIENCE;
        while let Some(pid) = slot::read(client, name).await?.and_then(|slot| slot.active_pid) {
            if Instant::now() >= deadline {
                let holder =
                    slot::holder(client, name).await?.unwrap_or_else(|| "another session".to_owned());
                let what = format!("The replication slot {name} is being read by {holder}");
                return Err(Error::refused(what).hint("Stop that reader (select pg_terminate_backend(PID))"));
            }
            if self.reading.pid() == Some(pid) {
                let failed = |error| sql_error("Cannot end the stream", error);
                client.execute("select pg_terminate_backend($1)", &[&pid]).await.map_err(failed)?;
            }
            sleep(SLOT_RETRY).await;
        }
        Ok(())
    }

    /// Capture has ended for good, and the doors go on serving where there is something to serve. The slot goes on
    /// keeping the server's log, so somebody must look after it.
    ///
    /// # Errors
    ///
    /// The one with which it ended, when told to stop; at once where nobody has asked for a budget.
    pub(super) async fn end(&mut self, error: Error, guard: &mut Option<Guard>, stop: &Stop) -> Result<()> {
        if !self.is_known() {
            return Err(error);
        }
        let stays = self.established || !matches!(error.kind(), Kind::Usage | Kind::Journal);
        let error = then_restart(error);
        let Some(guard) = guard.as_mut().filter(|_| stays && self.source.wal_budget.is_some()) else {
            return Err(error);
        };
        tracing::error!(hint = error.remedy(), "Capture has ended, the doors go on serving: {error}");
        self.status.source(|source| {
            source.state = "stopped";
            source.reason = Some(with_remedy(&error));
        });
        loop {
            tokio::select! {
                call = guard.calls() => self.answer(call).await,
                () = stop.stopped() => return Err(error),
            }
        }
    }
}

/// Nothing but a new start begins again what has ended for good.
fn then_restart(error: Error) -> Error {
    let hint = match error.remedy() {
        Some(remedy) if remedy.to_lowercase().contains("restart rowcast") => return error,
        Some(remedy) => format!("{}. Then restart rowcast", remedy.trim_end_matches('.')),
        None => "Mend that, then restart rowcast".to_owned(),
    };
    error.hint(hint)
}
