//! Giving up the slot, loudly: a gap in the history does less harm than a server whose disk is full.

use futures_util::FutureExt;
use rowcast_engine::adoption::WAITING;
use rowcast_engine::units::show_size;
use rowcast_engine::{Error, Kind, Result, Stop};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::concern::rounded;
use super::connect::{FIRST_PATIENCE, Link, SLOT_RETRY};
use super::guard::{Call, Guard};
use super::waiting::told;
use super::{note_lost, note_planned, with_remedy};
use crate::setup::installation::{self, ADOPT};
use crate::setup::server::Server;
use crate::setup::slot;
use crate::wire::{answering_client, sql_error};

impl Link {
    /// The guard has called. What cannot be done now it calls for again.
    pub(super) async fn answer(&mut self, call: Call) {
        if call.is_planned() {
            note_planned(&self.status, call);
            return;
        }
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
    /// keeping the server's log, so somebody must look after it: what is kept is shown, and with a budget given up in time.
    ///
    /// # Errors
    ///
    /// The one with which it ended, when told to stop; at once where nothing is served, or somebody waits for the end.
    pub(super) async fn end(&mut self, error: Error, guard: &mut Option<Guard>, stop: &Stop) -> Result<()> {
        if !self.is_known() {
            return Err(error);
        }
        let stays = self.established || !matches!(error.kind(), Kind::Usage | Kind::Journal);
        let error = then_restart(error);
        let Some(guard) = guard.as_mut().filter(|_| stays && !self.source.brief) else {
            return Err(error);
        };
        tracing::error!(hint = error.remedy(), "Capture has ended, the doors go on serving: {error}");
        self.status.source(|source| {
            source.state = "stopped";
            source.reason = Some(with_remedy(&error));
        });
        // Who asked while it waited; from here on nobody can.
        if let Some(asked) = self.status.asked_to_adopt().now_or_never() {
            asked.answer(Err(told(&error)));
        }
        loop {
            tokio::select! {
                // What else was called in the stream's last moments has no stream to be told of: it would read as if
                // capture were to connect again.
                call = guard.calls() => if call == Call::OverBudget { self.answer(call).await },
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use rowcast_engine::ingest::Ingest;
    use rowcast_engine::journal::disk::RealDisk;
    use rowcast_engine::journal::{self, Options};
    use rowcast_engine::status::Status;
    use rowcast_engine::stop;
    use tokio::sync::mpsc::channel;

    use super::*;
    use crate::capture::backoff::Backoff;
    use crate::config::{Config, Source};

    /// One whose stream has run.
    fn link(directory: &Path) -> Link {
        let journal = journal::open(Options::new(directory), Arc::new(RealDisk)).unwrap();
        let config = Config { url: "postgres://me@h/db".to_owned(), ..Config::default() };
        let source = Source::new(&config).unwrap();
        let mut link = Link::new(source, Ingest::new(journal), Status::default());
        link.established = true;
        link
    }

    fn board(link: &Link) -> (&'static str, Option<String>, u64) {
        let mut board = ("", None, 0);
        link.status.source(|source| board = (source.state, source.reason.clone(), source.reconnects));
        board
    }

    #[tokio::test]
    async fn what_was_called_in_the_last_moments_brings_no_stream_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut link = link(directory.path());
        for call in [Call::Published, Call::Unpublished, Call::Stopping] {
            let ((sender, calls), (stopper, stop)) = (channel(1), stop());
            sender.try_send(call).unwrap();
            let mut guard = Some(Guard::of(calls));
            let end = link.end(Error::refused("It is over"), &mut guard, &stop);
            let taken = async {
                assert!(sender.reserve().await.is_ok());
                stopper.stop();
            };
            let (ended, ()) = tokio::join!(end, taken);
            assert!(ended.unwrap_err().to_string().contains("It is over"));
            let (state, reason, reconnects) = board(&link);
            assert_eq!((state, reconnects), ("stopped", 0), "{call}");
            assert!(reason.unwrap().contains("It is over"));
        }
        link.ingest.journal().close().await;
    }

    /// A comparison goes on over the next connection, until one comes to nothing for good; an adoption has its one.
    #[tokio::test]
    async fn what_is_under_way_is_known_as_such() {
        let directory = tempfile::tempdir().unwrap();
        let (mut link, mut backoff) = (link(directory.path()), Backoff::new());
        link.status.source(|source| source.state = WAITING);
        let lost = || Error::transient("The connection broke");
        link.reading.begin_adopting();
        assert!(link.reading.is_at_work());
        link.after(lost(), true, &mut backoff).await.unwrap();
        assert!(!link.reading.is_at_work());
        link.reading.begin_comparing();
        for _ in 0..2 {
            link.after(lost(), true, &mut backoff).await.unwrap();
            assert!(link.reading.is_at_work() && !link.reading.is_comparing());
        }
        link.after(Error::refused("It cannot begin"), true, &mut backoff).await.unwrap();
        assert!(!link.reading.is_at_work());
        link.ingest.journal().close().await;
    }

    /// A break is remembered, and what the stream repeats is being compared, when the server refuses to go on.
    #[tokio::test]
    async fn what_ends_a_comparison_for_good_ends_capture() {
        let directory = tempfile::tempdir().unwrap();
        let (mut link, mut backoff) = (link(directory.path()), Backoff::new());
        link.status.source(|source| source.state = WAITING);
        // Without a stream it may be the wrong server's, and it is tried again.
        assert!(link.after(Error::refused("It cannot begin"), true, &mut backoff).await.is_ok());
        assert_eq!(board(&link).0, WAITING);
        let ((_sender, calls), (stopper, stop)) = (channel(1), stop());
        let (mut guard, status) = (Some(Guard::of(calls)), link.status.clone());
        link.reading.begin_comparing();
        let end = async {
            let error =
                link.after(Error::refused("It cannot be sent"), true, &mut backoff).await.unwrap_err();
            link.end(error, &mut guard, &stop).await
        };
        // Whoever has asked to let the break pass hears of it.
        let asked = async {
            let answer = status.adopt().await;
            stopper.stop();
            answer
        };
        let (asked, ended) = tokio::join!(asked, end);
        for error in [asked.unwrap_err(), ended.unwrap_err()] {
            assert!(error.to_string().contains("It cannot be sent"), "{error}");
        }
        let (state, reason, _) = board(&link);
        assert!(state == "stopped" && reason.unwrap().contains("It cannot be sent"));
        assert!(!link.reading.is_comparing());
        link.ingest.journal().close().await;
    }
}
