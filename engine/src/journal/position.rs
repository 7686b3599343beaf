//! What belongs to a position in the stream: whose it is.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::lsn::Lsn;

/// How far the source has been taken into the journal, and of which source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamPosition {
    /// All that committed below this is in the journal.
    pub lsn: Lsn,
    /// `IDENTIFY_SYSTEM`'s system identifier: which cluster.
    pub system: u64,
    /// Its timeline.
    pub timeline: u32,
    /// The replication slot.
    pub slot: String,
    /// The position at which the slot was created: a slot made anew has another one.
    pub slot_birth: Lsn,
    /// The installation that owns the journal.
    pub installation: Uuid,
    /// The slot is not marked as this installation's in the source yet.
    pub unclaimed: bool,
    /// The server leaves out what came to it from elsewhere.
    pub local_only: bool,
    /// Up to here the server was asked for other transactions than it is now: what it would repeat of that is not
    /// what the journal holds.
    pub asked_since: Lsn,
    /// A print of which tables are captured.
    pub captures: u64,
    /// Up to here they may have been others: what the server repeats of that need not be in the journal.
    pub captured_since: Lsn,
    /// What was seen of the source says that its history is not this one.
    pub broken: Option<Broken>,
}

/// Why a history does not go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// For programs: what readers are told as the gap's reason.
    pub reason: String,
    /// For people.
    pub detail: String,
    /// Where the journal stood when it was noticed. Once it stands beyond, the history went on after all.
    pub at: Lsn,
}

impl StreamPosition {
    /// The break that was noticed and is not mended.
    pub fn broken(&self) -> Option<&Broken> {
        self.broken.as_ref().filter(|broken| broken.at == self.lsn)
    }
}
