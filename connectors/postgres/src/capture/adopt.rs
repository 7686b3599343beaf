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
use crate::config::OnGap;
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
        let mut again = String::new();
        let (lsn, slot_birth) = match sound {
            Some(slot) => {
                let confirmed = slot.confirmed_flush_lsn.unwrap_or_default();
                let birth = situation.owner.as_ref().and_then(|owner| owner.slot_birth);
                let fork = self.fork(client, situation, confirmed).await?;
                again = fork.detail();
                (fork.at, birth.unwrap_or(confirmed))
            }
            None => {
                self.room_first(&broken).await?;
                self.recreate(client, connection, situation).await?
            }
        };
        let stored = &situation.stored;
        let detail = match stored.slot.as_str() {
            "" => format!("{broken}. The journal goes on from {lsn}{again}"),
            _ => format!("{broken}. The journal stood at {}, it goes on from {lsn}{again}", stored.lsn),
        };
        let position = self.position(&situation.system, lsn, slot_birth);
        let position = StreamPosition { unclaimed: self.source.manage, ..position };
        let mut notes = if self.source.reads_after_gap() { self.wanted()? } else { Vec::new() };
        notes.push(self.publications(client, &[]).await?);
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
    pub(super) async fn make_sure_of_slot(&self, client: &Client, broken: &Break) -> Result<()> {
        let name = &self.source.slot;
        if broken.foreign && !self.source.manage {
            let what = format!(
                "The replication slot {name} is marked as another installation's, and source.manage is false"
            );
            let sql = format!("DELETE FROM rowcast.installation WHERE slot = {};", literal(name));
            return Err(Error::refused(what).hint(sql));
        }
        let deadline = Instant::now() + FIRST_PATIENCE;
        while slot::read(client, name).await?.is_some_and(|slot| slot.active) {
            if Instant::now() >= deadline {
                let holder = slot::holder(client, name).await?;
                let holder = holder.unwrap_or_else(|| "another session".to_owned());
                let what = format!("The replication slot {name} is being read by {holder}");
                return Err(Error::refused(what).hint("Stop that reader, then adopt the slot"));
            }
            sleep(SLOT_RETRY).await;
        }
        Ok(())
    }
}
