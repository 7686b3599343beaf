//! What the source may be told to be done: what the journal has, or what every push door has, too.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::journal::Journal;
use crate::lsn::Lsn;

/// When a change counts as done, so that the source may forget it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Confirm {
    /// When the journal has synced it.
    #[default]
    Journal,
    /// When every push door has it as well: for those who do not trust one disk.
    Sinks,
}

impl Confirm {
    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Sinks => "sinks",
        }
    }
}

/// Watches up to where the source may be told, which is `confirmed` already: for `sinks` that is what all of them and
/// the journal have; while they are `waived`, what the journal has. Ends with its receiver.
pub(crate) fn watched(
    journal: Journal,
    sinks: Arc<[String]>,
    waived: Arc<watch::Sender<bool>>,
    confirmed: Lsn,
) -> watch::Receiver<Lsn> {
    let (sender, receiver) = watch::channel(confirmed);
    tokio::spawn(async move {
        let (mut durable, mut moves) = (journal.durable(), journal.shared.holds.moves());
        // Its sender stays, whoever else has one.
        let mut news = waived.subscribe();
        loop {
            durable.mark_unchanged();
            moves.mark_unchanged();
            let reached = if *news.borrow_and_update() {
                *durable.borrow()
            } else {
                reached(&journal, &sinks).unwrap_or_default()
            };
            sender.send_if_modified(|told| {
                let moved = reached > *told;
                // A door that is moved back does not take back what was told.
                *told = reached.max(*told);
                moved
            });
            let changed = tokio::select! {
                changed = durable.changed() => changed,
                changed = moves.changed() => changed,
                changed = news.changed() => changed,
                () = sender.closed() => return,
            };
            if changed.is_err() {
                return;
            }
        }
    });
    receiver
}

/// The position of the source up to which these push doors have everything; `None` while that is not known.
pub(crate) fn reached(journal: &Journal, sinks: &[String]) -> Option<Lsn> {
    let number = journal.shared.holds.reached_by(sinks)?;
    let lsn = journal.shared.marks.reached(number)?;
    // What is marked is durable: this holds when another history has just begun, too.
    Some(lsn.min(*journal.shared.durable.borrow()))
}

impl Journal {
    /// Those of the push doors that lack something that the journal has.
    pub fn lacking(&self, sinks: &[String]) -> Vec<String> {
        let newest = self.newest();
        let lacks = |sink: &&String| {
            self.shared.holds.reached_by(std::slice::from_ref(sink)).is_none_or(|number| number < newest)
        };
        sinks.iter().filter(lacks).cloned().collect()
    }
}
