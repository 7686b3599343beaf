//! What a builder gives.

use std::sync::Arc;

use super::Builder;
use crate::lsn::Lsn;
use crate::record::Tail;
use crate::record::layout::{LSN_MAX, get_u64};
use crate::schema::SchemaId;

/// A finished batch that has no number yet.
#[derive(Debug)]
pub struct Part {
    pub(crate) bytes: Vec<u8>,
    /// The checksum of all but the beginning; the bytes must not change after it.
    pub(crate) tail: Option<Tail>,
    /// Events in it.
    pub events: u32,
    /// Schema versions that its events use.
    pub schemas: Vec<SchemaId>,
    /// End LSN of the last transaction that ends in it; zero when none of Postgres does.
    pub tx_end: Lsn,
    /// What it says of the source's notes.
    pub(crate) notes: Vec<Note>,
}

impl Part {
    /// The highest position that it holds, as whoever opens the journal reads it.
    pub(crate) fn lsn(&self) -> Lsn {
        Lsn(get_u64(&self.bytes, LSN_MAX).unwrap_or(0))
    }

    /// Holds a position and nothing else.
    pub(crate) fn reaching(lsn: Lsn) -> Vec<Self> {
        let mut builder = Builder::new();
        builder.lsn_max = lsn;
        builder.finish_batch(0);
        builder.done
    }
}

/// Name and JSON of a note; empty JSON where the note is gone.
pub(crate) type Note = (String, Arc<[u8]>);
