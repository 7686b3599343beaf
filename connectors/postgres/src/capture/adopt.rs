//! Going on behind a gap, where the history does not go on.
//!
//! The order makes a crash at any moment harmless: a slot that was made anew is seen as such until the journal says
//! that it goes on there; from then on the slot is marked as ours, however often that takes. So there is one gap, or
//! the break is still there.

use rowcast_engine::adoption::Adopted;
use rowcast_engine::journal::StreamPosition;
use rowcast_engine::{Error, Lsn, Result};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::broken::Break;
use super::connect::{FIRST_PATIENCE, Link, SLOT_RETRY, Situation, now};
use super::published::{self, Publications};
use super::starting::patience;
use crate::config::OnGap;
use crate::setup::server::Server;
use crate::setup::slot::{self, Slot};
use crate::tables::literal;
use crate::wire::Connection;

impl Link {
    /// Whether a person, or the policy, lets this pass.
    pub(super) fn may_adopt(&self, broken: &Break, slot: Option<&Slot>) -> bool {
        let contested = broken.foreign && slot.is_some_and(|slot| slot.active);
        self.source.adopt || (self.source.on_gap != OnGap::Stop && !contested)
    }

    /// Begins a new history in the journal with a gap. Gives where, and the slot's birth.
    pub(super) async fn adopt(
        &mut self,
        client: &Client,
        connection: &mut Connection,
        situation: &Situation,
        broken: Break,
    ) -> Result<(Lsn, Lsn)> {
        tracing::warn!(reason = broken.reason, "Goes on behind a gap: {broken}");
        let sound = situation.slot.as_ref().filter(|slot| slot.lost().is_none() && !broken.renew);
        let (mut again, mut lacks) = (String::new(), false);
        let (lsn, slot_birth) = match sound {
            Some(slot) => {
                let confirmed = slot.confirmed_flush_lsn.unwrap_or_default();
                let birth = situation.owner.as_ref().and_then(|owner| owner.slot_birth);
                let fork = self.fork(client, situation, confirmed).await?;
                (again, lacks) = (fork.detail(), fork.lacks);
                (fork.at, birth.unwrap_or(confirmed))
            }
            None => {
                self.room_first(&broken).await?;
                self.recreate(client, connection, situation).await?
            }
        };
        let stored = &situation.stored;
        // A new slot is younger than any of them.
        let (reads, unread) = match sound {
            Some(_) => self.shown_by(client, situation, lsn).await?,
            None => (slot::observe(client, &self.source).await?.publications, String::new()),
        };
        let detail = match stored.slot.as_str() {
            "" => format!("{broken}. The journal goes on from {lsn}{again}{unread}"),
            _ => {
                format!("{broken}. The journal stood at {}, it goes on from {lsn}{again}{unread}", stored.lsn)
            }
        };
        let position = self.position(&situation.system, lsn, slot_birth);
        // What the server repeats of below, and the journal lacks, is a part of the gap. What the journal holds must come as
        // before; where not even that does, nothing of below is asked for.
        let asked_since = if lacks { lsn } else { position.asked_since };
        let position =
            StreamPosition { unclaimed: self.source.manage, captured_since: lsn, asked_since, ..position };
        let mut notes = if self.source.reads_after_gap() { self.wanted()? } else { Vec::new() };
        notes.push(published::note(&reads)?);
        let notes: Vec<_> = notes.iter().map(|(name, json)| (*name, json.as_slice())).collect();
        let gap = self.ingest.begin_history(position, (&broken.reason, &detail), now(), &notes).await?;
        metrics::counter!("rowcast_source_gaps_total", "reason" => broken.reason.clone()).increment(1);
        tracing::warn!(gap, reason = broken.reason, "Recorded a gap in the history: {detail}");
        let adopted = Adopted { gap, reason: broken.reason, detail };
        self.status.note_adopted(adopted.clone());
        self.given_up = None;
        // One word is for one gap.
        self.source.adopt = false;
        if let Some(asked) = self.asked.take() {
            asked.answer(Ok(Some(adopted)));
        }
        self.claim(client, slot_birth).await.map(|birth| (lsn, birth))
    }

    /// What a slot that is there is read with from `lsn` on, and the words for what it is not read with yet: a publication
    /// that may be younger than it.
    async fn shown_by(
        &self,
        client: &Client,
        situation: &Situation,
        lsn: Lsn,
    ) -> Result<(Publications, String)> {
        for publication in &situation.shown {
            self.reading.note_readable(publication, lsn);
        }
        let reads = self.publications(client, &[], lsn).await?;
        let unread = situation.published.iter().filter(|there| !reads.contains(there));
        let words = |(name, _): &(String, u32)| {
            format!(
                ". The publication {name} is not read yet, since it may be younger than the slot: what is written to its \
                 tables until then is in no event"
            )
        };
        let words = unread.map(words).collect();
        Ok((reads, words))
    }

    /// Waits until the journal takes something: a slot that is made while it is full only has the server keep its log.
    async fn room_first(&self, broken: &Break) -> Result<()> {
        self.remember(broken).await?;
        let stored = self.ingest.journal().position();
        if stored.slot.is_empty() {
            return Ok(());
        }
        self.ingest.identify(stored, &[]).await
    }

    /// Nobody else may be reading it, and it must be possible to mark it as ours.
    pub(super) async fn make_sure_of_slot(
        &self,
        client: &Client,
        server: &Server,
        broken: &Break,
    ) -> Result<()> {
        let name = &self.source.slot;
        if broken.foreign && !self.source.manage {
            let what = format!(
                "The replication slot {name} is marked as another installation's, and source.manage is false"
            );
            let sql = format!("DELETE FROM rowcast.installation WHERE slot = {};", literal(name));
            return Err(Error::refused(what).hint(sql));
        }
        // A person waits for an answer; else it may be our own that the server has not missed yet.
        let asked = self.source.adopt || !self.is_known();
        let patience = if asked { FIRST_PATIENCE } else { patience(server.sender_timeout) };
        let deadline = Instant::now() + patience;
        while slot::read(client, name).await?.is_some_and(|slot| slot.active) {
            if Instant::now() >= deadline {
                let holder = slot::holder(client, name).await?;
                let holder = holder.unwrap_or_else(|| "another session".to_owned());
                let what = format!("The replication slot {name} is being read by {holder}");
                return Err(if asked {
                    Error::refused(what).hint("Stop that reader, then adopt the slot")
                } else {
                    Error::transient(what).hint("Stop that reader (select pg_terminate_backend(PID))")
                });
            }
            if !asked {
                self.say_in_use(client, patience).await;
            }
            sleep(SLOT_RETRY).await;
        }
        Ok(())
    }
}
