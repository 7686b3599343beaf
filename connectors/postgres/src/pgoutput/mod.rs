//! pgoutput, protocols 1 and 2: what a logical replication stream says, looked at in place. No input or output here.
//!
//! Nothing is copied: messages borrow from the frame that holds them. Row changes are checked for their shape
//! (lengths, kinds, column counts) and otherwise left as they are, since that is how the journal stores them.
//! Anything unknown is an error, never skipped: a message that is not understood could be somebody's data.
//! Source: <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>.

mod cursor;
mod decode;
#[cfg(test)]
mod tests;

pub use cursor::Malformed;
pub use decode::{decode, decode_within};

use rowcast_engine::Lsn;
use rowcast_engine::event::{Micros, Op};
use rowcast_engine::schema::Identity;

/// One message of the output plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// `B`: a transaction starts; it has committed already.
    Begin {
        /// Where its commit record starts.
        final_lsn: Lsn,
        /// Its commit time.
        committed: Micros,
        /// Its 32-bit id.
        xid: u32,
    },
    /// `C`: the transaction is whole.
    Commit {
        /// Where the commit record starts.
        commit_lsn: Lsn,
        /// Where the commit record ends: what is confirmed.
        end_lsn: Lsn,
        /// Its commit time.
        committed: Micros,
    },
    /// `O`: the transaction was replicated from elsewhere.
    Origin {
        /// Name of the replication origin, in the database's encoding where the server does not recode.
        name: &'a [u8],
    },
    /// `R`: a table as it is from here on.
    Relation(Relation<'a>),
    /// `Y`: a type that is not built in; the catalog tells more.
    Type,
    /// `I`, `U`, `D`.
    Change(Change<'a>),
    /// `T`: tables were emptied.
    Truncate {
        /// The tables.
        relations: RelationIds<'a>,
        /// `CASCADE` was said.
        cascade: bool,
        /// `RESTART IDENTITY` was said.
        restart_identity: bool,
    },
    /// `M`: a logical decoding message.
    Logical {
        /// Whether it belongs to the transaction around it.
        transactional: bool,
        /// Where it stands in the log.
        lsn: Lsn,
        /// Whose message it is. Whoever sends one may write any bytes where the server does not recode.
        prefix: &'a [u8],
        /// What it says.
        content: &'a [u8],
    },
    /// `S`: what follows belongs to a transaction that has not committed, up to `E`.
    StreamStart {
        /// The transaction's 32-bit id.
        xid: u32,
        /// Nothing of it was sent before.
        first: bool,
    },
    /// `E`: the end of what `S` began.
    StreamStop,
    /// `c`: a transaction that was sent before it committed is whole.
    StreamCommit {
        /// The transaction's 32-bit id.
        xid: u32,
        /// Where its commit record starts.
        commit_lsn: Lsn,
        /// Where the commit record ends: what is confirmed.
        end_lsn: Lsn,
        /// Its commit time.
        committed: Micros,
    },
    /// `A`: a transaction that was sent before it ended was rolled back, or a subtransaction of it.
    StreamAbort {
        /// The transaction's 32-bit id.
        xid: u32,
        /// The subtransaction's; the transaction's own where all of it was rolled back.
        subxid: u32,
    },
}

/// A message between `S` and `E`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Within<'a> {
    /// The subtransaction, or the transaction itself. Of a logical message always the latter; zero where a message
    /// belongs to none.
    pub xid: u32,
    /// The message.
    pub message: Message<'a>,
}

/// A row change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// Insert, update or delete.
    pub op: Op,
    /// The table's OID.
    pub relation: u32,
    /// All that follows the OID: the tuples, each behind its tag.
    pub raw: &'a [u8],
    /// Columns of the widest tuple.
    pub columns: u16,
}

/// A table as the stream describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    /// The table's OID.
    pub id: u32,
    /// Its schema; `pg_catalog` where the stream says nothing.
    pub schema: &'a str,
    /// Its name.
    pub table: &'a str,
    /// Its replica identity.
    pub identity: Identity,
    columns: u16,
    body: &'a [u8],
}

/// A column as the stream describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// Part of the replica identity; every column under REPLICA IDENTITY FULL.
    pub identity: bool,
    /// Byte for byte as Postgres has it.
    pub name: &'a str,
    /// OID of its type.
    pub type_oid: u32,
    /// `atttypmod`.
    pub typmod: i32,
}

impl<'a> Relation<'a> {
    /// How many columns a tuple of it has.
    pub fn width(&self) -> u16 {
        self.columns
    }

    /// The columns, in the order of the tuples' values.
    pub fn columns(&self) -> impl Iterator<Item = RelationColumn<'a>> + use<'a> {
        decode::columns(self.body)
    }
}

/// The tables of a Truncate message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationIds<'a>(&'a [u8]);

impl<'a> RelationIds<'a> {
    /// Their OIDs.
    pub fn iter(&self) -> impl Iterator<Item = u32> + use<'a> {
        let (ids, _) = self.0.as_chunks::<4>();
        ids.iter().map(|id| u32::from_be_bytes(*id))
    }
}
