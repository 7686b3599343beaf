//! Whether the journal's history goes on in the server's slot, or how it may go on.

use rowcast_engine::Result;
use rowcast_engine::journal::{Broken, StreamPosition};

use super::broken::{Break, Reason};
use super::connect::{Link, Situation};
use super::resume::{self, Facts, Verdict};
use super::waiting::told;

/// How the history goes on.
pub(super) enum Plan {
    As(Verdict),
    Behind(Break),
}

impl Link {
    /// Whether the journal's history goes on in the slot, or whether it may go on behind a gap.
    pub(super) fn plan(&self, situation: &Situation) -> Result<Plan> {
        let facts = Facts {
            system: &situation.system,
            switched: situation.switched,
            slot_name: &self.source.slot,
            slot: situation.slot.as_ref(),
            unfit: situation.unfit.as_ref(),
            owner: situation.owner.as_ref(),
            installation: self.ingest.journal().installation(),
            newest: self.ingest.journal().last_tx_end(),
        };
        let judged =
            resume::judge(&situation.stored, &facts).map_err(|broken| self.as_given_up(situation, broken));
        let broken = match (judged, self.noticed(situation)) {
            (Err(broken), _) | (Ok(_), Some(broken)) => broken,
            (Ok(verdict), None) => match self.unpublished(situation)? {
                Some(broken) => broken,
                None => return Ok(Plan::As(verdict)),
            },
        };
        let broken = self.also_unpublished(situation, broken)?;
        if self.may_adopt(&broken, situation.slot.as_ref()) {
            if let Some(unfit) = &situation.unfit {
                // Somebody else's is not ours to drop.
                return Err(told(unfit));
            }
            return Ok(Plan::Behind(broken));
        }
        Err(broken.error())
    }

    /// A break that was noticed before, where comparing with the journal would not show it again, or need not.
    fn noticed(&self, situation: &Situation) -> Option<Break> {
        let broken = situation.stored.broken()?;
        let confirmed = situation.slot.as_ref()?.confirmed_flush_lsn?;
        let blind = !self.ingest.journal().holds_all_above(confirmed);
        let broken = Break::again(broken);
        (blind || broken.renew || self.may_adopt(&broken, None)).then_some(broken)
    }

    /// A break of which the slot is sound, beside a publication that it may not show wherever it reads: then it has to be made
    /// anew all the same, since what it leaves out would be in no gap.
    fn also_unpublished(&self, situation: &Situation, broken: Break) -> Result<Break> {
        let is_sound = situation.slot.as_ref().is_some_and(|slot| slot.lost().is_none());
        if broken.renew || !is_sound || situation.stored.slot.is_empty() {
            return Ok(broken);
        }
        let all = &self.source.publication;
        let replaced = self.replaced(situation)?;
        let also = if !situation.published.iter().any(|(name, _)| name == all) {
            replaced.or_else(|| Some(Break::another_publication(all)))
        } else if self.source.manage && situation.published != situation.shown {
            let before = situation.stored.broken().map(Break::again);
            // A slot that is not the one of the note was made behind the publication, perhaps: the server says if it was not.
            let is_another =
                [Reason::AnotherCluster, Reason::SlotRecreated].iter().any(|it| it.name() == broken.reason);
            replaced.filter(|_| !is_another).or(before.filter(|before| before.renew))
        } else {
            // Where a person makes the slot, it may be the right one; the server says if it is not.
            None
        };
        Ok(also.map_or(broken.clone(), |also| Break {
            detail: together(&broken.detail, &also.detail),
            renew: true,
            ..broken
        }))
    }

    /// A slot that is gone because it was given up.
    fn as_given_up(&self, situation: &Situation, broken: Break) -> Break {
        match &self.given_up {
            Some(detail) if situation.slot.is_none() && !situation.stored.slot.is_empty() => {
                Break { detail: detail.clone(), lasting: true, ..broken }
            }
            _ => broken,
        }
    }

    /// Remembers a break that the server may not show for long. One for which the slot has to be made anew is remembered
    /// beside one for which it need not be: else going on would meet it again each time.
    pub(super) async fn remember(&self, broken: &Break) -> Result<()> {
        self.ingest.settled().await?;
        let stored = self.ingest.journal().position();
        if stored.slot.is_empty() || !broken.lasting {
            return Ok(());
        }
        let mut detail = broken.detail.clone();
        if let Some(before) = stored.broken() {
            if Break::again(before).renew || broken.reason != Reason::SourceLost.name() {
                return Ok(());
            }
            detail = together(&before.detail, &detail);
        }
        let broken = Some(Broken { reason: broken.reason.clone(), detail, at: stored.lsn });
        self.ingest.identify(StreamPosition { broken, ..stored }, &[]).await
    }
}

/// The words of two breaks; one that stands in the other already is not said twice.
fn together(one: &str, other: &str) -> String {
    if one.contains(other) {
        return one.to_owned();
    }
    if other.contains(one) {
        return other.to_owned();
    }
    format!("{one}. {other}")
}
