//! Copies a transaction that was written before it was known whole: without what was rolled back of it, with the
//! schema versions that it has in the end.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::event::Op;
use crate::lsn::Lsn;
use crate::record::batch::{Record, Records, string};
use crate::record::layout::{
    KIND_CHANGE, KIND_GAP, KIND_MESSAGE, KIND_TRUNCATE, KIND_TX, TRUNCATE_CASCADE, TRUNCATE_RESTART, get_u16,
    get_u32, get_u64,
};
use crate::record::{Builder, Header, Part};
use crate::schema::SchemaId;

/// What becomes of a transaction's events.
#[derive(Clone, Debug, Default)]
pub struct Recast {
    /// The events that are left out, by their index in the transaction: in order, apart from each other.
    pub dead: Vec<Range<u32>>,
    /// Schema versions that become others, or none: then the events of that table are left out.
    pub schemas: HashMap<SchemaId, Option<SchemaId>>,
}

/// An event that stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live<'a> {
    /// A row change, with what follows the relation id in pgoutput's message.
    Change {
        /// The table.
        schema: SchemaId,
        /// Insert, update or delete.
        op: Op,
        /// Its own position.
        lsn: Lsn,
        /// The tuples, each behind its tag.
        raw: &'a [u8],
    },
    /// A table was emptied.
    Truncate {
        /// The table.
        schema: SchemaId,
        /// Its own position.
        lsn: Lsn,
        /// `CASCADE` was said.
        cascade: bool,
        /// `RESTART IDENTITY` was said.
        restart_identity: bool,
    },
    /// A custom event.
    Message {
        /// Its channel.
        channel: &'a str,
        /// Its own position.
        lsn: Lsn,
        /// JSON text.
        payload: &'a [u8],
    },
    /// A break in the history of a channel.
    Gap {
        /// The channel.
        channel: &'a str,
        /// For programs.
        reason: &'a str,
        /// For people.
        detail: &'a str,
    },
}

impl Recast {
    /// Whether everything stays as it is.
    pub fn changes_nothing(&self) -> bool {
        self.dead.is_empty() && self.schemas.iter().all(|(from, to)| *to == Some(*from))
    }

    /// The events of a part that stay, in order.
    ///
    /// # Errors
    ///
    /// When the bytes are no part of a transaction.
    pub fn live<'a>(&self, part: &'a Part, take: impl FnMut(Live<'a>)) -> Result<()> {
        self.live_in(&part.bytes, take)
    }

    /// Adds those of a part to the open transaction of a builder.
    ///
    /// # Errors
    ///
    /// When the bytes are no part of a transaction.
    pub fn copy(&self, part: &Part, into: &mut Builder) -> Result<()> {
        self.copy_batch(&part.bytes, into)
    }

    pub(crate) fn copy_batch(&self, batch: &[u8], into: &mut Builder) -> Result<()> {
        self.live_in(batch, |live| match live {
            Live::Change { schema, op, lsn, raw } => into.change(schema, op, lsn, raw),
            Live::Truncate { schema, lsn, cascade, restart_identity } => {
                into.truncate(schema, lsn, cascade, restart_identity);
            }
            Live::Message { channel, lsn, payload } => into.message(channel, lsn, payload),
            Live::Gap { channel, reason, detail } => into.gap(channel, reason, detail),
        })
    }

    fn live_in<'a>(&self, batch: &'a [u8], mut take: impl FnMut(Live<'a>)) -> Result<()> {
        let broken = || Error::failed("A part of an open transaction cannot be read back");
        let header = Header::parse(batch).ok_or_else(broken)?;
        let schemas = schemas(batch, &header).ok_or_else(broken)?;
        let (mut seq, mut found) = (0_u32, 0);
        for record in Records::new(batch, &header) {
            if record.kind == KIND_TX {
                seq = get_u32(record.bytes, 12).ok_or_else(broken)?;
                continue;
            }
            if !matches!(record.kind, KIND_CHANGE | KIND_TRUNCATE | KIND_MESSAGE | KIND_GAP) {
                // A schema version: what is copied to brings its own.
                continue;
            }
            found += 1;
            let dead = self.is_dead(seq);
            seq = seq.wrapping_add(1);
            if !dead && let Some(live) = self.event(&record, &schemas).ok_or_else(broken)? {
                take(live);
            }
        }
        // Records end where one cannot be read.
        if found == header.events { Ok(()) } else { Err(broken()) }
    }

    fn is_dead(&self, seq: u32) -> bool {
        let after = self.dead.partition_point(|range| range.end <= seq);
        self.dead.get(after).is_some_and(|range| range.contains(&seq))
    }

    /// `None` when it cannot be read; nothing when its table is left out.
    fn event<'a>(&self, record: &Record<'a>, schemas: &[SchemaId]) -> Option<Option<Live<'a>>> {
        let bytes = record.bytes;
        let table = || {
            let id = *schemas.get(usize::from(record.schema))?;
            Some(self.schemas.get(&id).copied().unwrap_or(Some(id)))
        };
        match record.kind {
            KIND_CHANGE => {
                let (op, lsn, raw) = (Op::of_row(record.flags)?, Lsn(get_u64(bytes, 8)?), bytes.get(16..)?);
                Some(table()?.map(|schema| Live::Change { schema, op, lsn, raw }))
            }
            KIND_TRUNCATE => {
                let lsn = Lsn(get_u64(bytes, 8)?);
                let cascade = record.flags & TRUNCATE_CASCADE != 0;
                let restart_identity = record.flags & TRUNCATE_RESTART != 0;
                Some(table()?.map(|schema| Live::Truncate { schema, lsn, cascade, restart_identity }))
            }
            KIND_MESSAGE => {
                let (channel, payload) = record.channel()?;
                Some(Some(Live::Message { channel, lsn: Lsn(get_u64(bytes, 8)?), payload }))
            }
            _ => {
                let (channel, rest) = record.channel()?;
                let (reason, detail) = string(rest)?;
                Some(Some(Live::Gap { channel, reason, detail: std::str::from_utf8(detail).ok()? }))
            }
        }
    }
}

/// The schema versions that a batch names.
fn schemas(batch: &[u8], header: &Header) -> Option<Vec<SchemaId>> {
    let summary = batch.get(header.summary as usize..)?;
    (0..usize::from(get_u16(summary, 0)?)).map(|at| get_u32(summary, 2 + at * 5)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TxStart;

    const ROW: &[u8] = b"N\0\x01t\0\0\0\x01a";

    /// Events 0 to 8: rows of tables 1 and 2 in turns, a message, a truncate, a gap.
    fn open() -> Builder {
        let mut builder = Builder::new();
        builder.begin(TxStart { xid: 7, ..TxStart::default() });
        for at in 0..6 {
            builder.change(1 + at % 2, Op::Insert, Lsn(u64::from(at)), ROW);
        }
        builder.message("a.b", Lsn(6), b"{}");
        builder.truncate(2, Lsn(7), true, false);
        builder.gap("public.t", "new_table", "words");
        builder
    }

    fn lives(recast: &Recast, part: &Part) -> Vec<String> {
        let mut lives = Vec::new();
        recast
            .live(part, |live| {
                lives.push(match live {
                    Live::Change { schema, lsn, raw, .. } => format!("{schema}@{} {}", lsn.0, raw == ROW),
                    other => format!("{other:?}").split_once(' ').map(|(kind, _)| kind.to_owned()).unwrap(),
                });
            })
            .unwrap();
        lives
    }

    #[test]
    fn everything_stays_when_nothing_was_rolled_back() {
        let part = open().take_open().pop().unwrap();
        let recast = Recast { schemas: HashMap::from([(1, Some(1))]), ..Recast::default() };
        assert!(recast.changes_nothing());
        let rows = ["1@0 true", "2@1 true", "1@2 true", "2@3 true", "1@4 true", "2@5 true"];
        assert_eq!(lives(&recast, &part), [&rows[..], &["Message", "Truncate", "Gap"]].concat());
    }

    #[test]
    fn what_was_rolled_back_and_tables_that_nobody_wants_are_left_out() {
        let part = open().take_open().pop().unwrap();
        let recast = Recast { dead: vec![1..3, 6..7], schemas: HashMap::from([(2, None), (1, Some(9))]) };
        assert!(!recast.changes_nothing());
        assert_eq!(lives(&recast, &part), ["9@0 true", "9@4 true", "Gap"]);
        let mut into = Builder::new();
        into.begin(TxStart { xid: 7, final_lsn: Lsn(90), committed: 5, ..TxStart::default() });
        recast.copy(&part, &mut into).unwrap();
        into.commit(Lsn(100));
        let parts = into.take();
        assert_eq!((parts.len(), parts[0].events, &parts[0].schemas), (1, 3, &vec![9]));
    }

    #[test]
    fn a_damaged_part_is_an_error() {
        let mut part = open().take_open().pop().unwrap();
        part.bytes[70] = 0;
        let at = crate::record::layout::BATCH_HEADER;
        part.bytes[at..at + 4].fill(0);
        assert!(Recast::default().live(&part, |_| {}).is_err());
    }
}
