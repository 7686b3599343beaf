//! What belongs to a position in the stream: whose it is.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::lsn::Lsn;

/// How far the source has been taken into the journal, and of which source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
}
