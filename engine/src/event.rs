//! What every door sees: one stored event, looked at in place in its batch.

mod snapshot;

pub use snapshot::{Marks, Snapshot};

use crate::lsn::Lsn;
use crate::record::Tuple;
use crate::schema::Schema;

/// Microseconds since 1970-01-01 UTC.
pub type Micros = i64;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Op {
    /// A row was inserted.
    Insert = 1,
    /// A row was updated.
    Update = 2,
    /// A row was deleted.
    Delete = 3,
    /// A table was emptied.
    Truncate = 4,
    /// A row as a snapshot read it.
    Read = 5,
    /// A custom event.
    Message = 6,
    /// The history is broken here; see [`Body::Gap`].
    Gap = 7,
}

impl Op {
    /// The name that clients see and filter by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
            Self::Read => "read",
            Self::Message => "message",
            Self::Gap => "gap",
        }
    }

    /// The op of a client's word; gaps cannot be asked for, they are always told.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ROWS_AND_MESSAGES.into_iter().find(|op| op.name() == name)
    }

    /// The bits of all ops.
    pub(crate) const ANY: u8 = !1;

    /// Every op.
    pub(crate) const ALL: [Self; 7] =
        [Self::Insert, Self::Update, Self::Delete, Self::Truncate, Self::Read, Self::Message, Self::Gap];

    /// Its place in a mask of ops.
    pub(crate) fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The op of a row change's record; `None` for what is no row change.
    pub(crate) fn of_row(flags: u8) -> Option<Self> {
        [Self::Insert, Self::Update, Self::Delete, Self::Read].into_iter().find(|op| *op as u8 == flags)
    }

    /// All that a client may filter by.
    pub const ROWS_AND_MESSAGES: [Self; 6] =
        [Self::Insert, Self::Update, Self::Delete, Self::Truncate, Self::Read, Self::Message];
}

/// One event. Lives as long as the batch that holds it.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The event's number.
    pub id: u64,
    /// What happened.
    pub op: Op,
    /// Commit time; time of arrival for what did not come from Postgres.
    pub at: Micros,
    /// The change's own position in the log (several changes can share one); zero outside Postgres.
    pub lsn: Lsn,
    /// The transaction, unless the event did not come from Postgres.
    pub tx: Option<Tx<'a>>,
    /// Index in the transaction, from 0.
    pub seq: u32,
    /// The last event of its transaction.
    pub last: bool,
    /// The snapshot that read the row; only where `op` is [`Op::Read`], and then `tx` is none.
    pub snapshot: Option<Snapshot>,
    /// The names of the sinks that it is for alone, with spaces between; empty for everybody.
    pub sinks: &'a str,
    /// What it happened to.
    pub body: Body<'a>,
}

/// The transaction of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tx<'a> {
    /// The 32-bit transaction id.
    pub xid: u32,
    /// Where the commit record starts.
    pub final_lsn: Lsn,
    /// Where the commit record ends: with `seq`, the identity of a change.
    pub end_lsn: Lsn,
    /// The end of the transaction that came before it in the stream; zero for the first one ever.
    pub previous_end_lsn: Lsn,
    /// The commit time.
    pub committed: Micros,
    /// The replication origin, empty for what was written locally.
    pub origin: &'a str,
}

/// What an event is about.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// Insert, update, delete, read.
    Row {
        /// The table as it was.
        schema: &'a Schema,
        /// The old row as far as Postgres sent it.
        old: Option<Old<'a>>,
        /// The new row; none for a delete.
        new: Option<Tuple<'a>>,
    },
    /// Truncate of one table.
    Truncate {
        /// The table as it was.
        schema: &'a Schema,
        /// `CASCADE` was said.
        cascade: bool,
        /// `RESTART IDENTITY` was said.
        restart_identity: bool,
    },
    /// A custom event.
    Message {
        /// Its channel.
        channel: &'a str,
        /// JSON text.
        payload: &'a str,
    },
    /// What lies between the event before and this one is lost.
    Gap {
        /// The channel that lost it; empty for all.
        channel: &'a str,
        /// First of the numbers that are lost, up to the event's own; that one where none are.
        from: u64,
        /// `source_lost`, or another reason in one word.
        reason: &'a str,
        /// A sentence for people.
        detail: &'a str,
    },
}

/// The old row.
#[derive(Clone, Copy, Debug)]
pub enum Old<'a> {
    /// Only the replica identity's columns are filled (tag `K`); the others read as null.
    Key(Tuple<'a>),
    /// All columns (tag `O`, REPLICA IDENTITY FULL).
    Full(Tuple<'a>),
}

impl<'a> Old<'a> {
    /// The tuple, however complete.
    pub fn tuple(&self) -> Tuple<'a> {
        match self {
            Self::Key(tuple) | Self::Full(tuple) => *tuple,
        }
    }
}

/// Whether what is for these sinks, or for everybody if there are none, is for that one.
pub(crate) fn are_for(sinks: &str, sink: &str) -> bool {
    sinks.is_empty() || sinks.split(' ').any(|name| name == sink)
}

impl<'a> Event<'a> {
    /// Whether a sink is to have it.
    pub fn is_for(&self, sink: &str) -> bool {
        are_for(self.sinks, sink)
    }

    /// The channel it belongs to; empty for a gap of all channels.
    pub fn channel(&self) -> &'a str {
        match self.body {
            Body::Row { schema, .. } | Body::Truncate { schema, .. } => &schema.channel,
            Body::Message { channel, .. } | Body::Gap { channel, .. } => channel,
        }
    }
}
