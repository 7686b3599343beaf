//! A numbered batch as it stands on disk and in the cache, and its events, looked at in place.

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;

use crate::event::{Body, Event, Marks, Micros, Old, Op, Snapshot, Tx};
use crate::lsn::Lsn;
use crate::record::layout::{
    BATCH_HEADER, BATCH_MAGIC, CHANGE_ROW, FLAG_EARLY, FLAG_MORE, GAP_NUMBERS, KIND_CHANGE, KIND_GAP,
    KIND_MESSAGE, KIND_NOTE, KIND_POSITION, KIND_SCHEMA, KIND_TRUNCATE, KIND_TX, LSN_MAX, NUMBERS_END,
    RECORD_HEADER, SNAPSHOT_HEAD, SNAPSHOT_TAG, TRUNCATE_CASCADE, TRUNCATE_RESTART, TX_END_LSN, TX_FOR,
    TX_LAST, TX_LOCAL, TX_ORIGIN, get_i64, get_u16, get_u32, get_u64,
};
use crate::record::{Tail, Tuple};
use crate::schema::{Identity, Schema, SchemaId};

/// The fixed part of a batch; see `layout` for the places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// CRC32C of all that follows it.
    pub crc: u32,
    /// Length of the batch in bytes, header included.
    pub length: u32,
    /// The transaction goes on in the next batch.
    pub more: bool,
    /// What stands before it in the file was not synced yet when it was written.
    pub early: bool,
    /// Number of the first event, relative to the segment's base.
    pub first: u64,
    /// Events.
    pub events: u32,
    /// Where records end and the summary begins.
    pub summary: u32,
    /// End LSN of the first transaction; zero when there is none.
    pub lsn_min: Lsn,
    /// End LSN of the last transaction or position; zero when there is none.
    pub lsn_max: Lsn,
    /// Lowest commit time; zero when there is no transaction.
    pub time_min: Micros,
    /// Highest commit time; zero when there is no transaction.
    pub time_max: Micros,
}

impl Header {
    /// Reads a header; `None` when the bytes are none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let length = get_u32(bytes, 8)?;
        let summary = get_u32(bytes, 28)?;
        let sound = get_u32(bytes, 0)? == BATCH_MAGIC
            && usize::from(get_u16(bytes, 14)?) == BATCH_HEADER
            && u32::try_from(BATCH_HEADER).is_ok_and(|header| summary >= header)
            && summary <= length
            && get_u64(bytes, 16)? < NUMBERS_END;
        sound.then_some(())?;
        Some(Self {
            crc: get_u32(bytes, 4)?,
            length,
            more: get_u16(bytes, 12)? & FLAG_MORE != 0,
            early: get_u16(bytes, 12)? & FLAG_EARLY != 0,
            first: get_u64(bytes, 16)?,
            events: get_u32(bytes, 24)?,
            summary,
            lsn_min: Lsn(get_u64(bytes, 32)?),
            lsn_max: Lsn(get_u64(bytes, LSN_MAX)?),
            time_min: get_i64(bytes, 48)?,
            time_max: get_i64(bytes, 56)?,
        })
    }
}

/// Numbers a finished part: fills first event and checksum.
pub(crate) fn seal(bytes: &mut [u8], first: u64) {
    seal_with(bytes, first, None);
}

/// The bytes that [`seal`] changes end here.
pub(crate) const SEALED: usize = 24;

/// The same where all from [`SEALED`] on has been summed up.
pub(crate) fn seal_with(bytes: &mut [u8], first: u64, tail: Option<Tail>) {
    use crate::record::layout::put;
    put(bytes, 16, &first.to_le_bytes());
    let crc = match tail {
        Some(tail) => bytes.get(8..SEALED).map_or(0, |head| tail.after(head)),
        None => bytes.get(8..).map_or(0, crc32c::crc32c),
    };
    put(bytes, 4, &crc.to_le_bytes());
    debug_assert!(intact(bytes), "changed after its end was summed up");
}

/// Notes in a finished part whether it is written before what stands before it is synced.
pub(crate) fn mark_early(bytes: &mut [u8], early: bool) {
    let flags = get_u16(bytes, 12).unwrap_or(0) & !FLAG_EARLY | if early { FLAG_EARLY } else { 0 };
    crate::record::layout::put(bytes, 12, &flags.to_le_bytes());
}

/// Whether the checksum of a whole batch is right.
pub(crate) fn intact(bytes: &[u8]) -> bool {
    get_u32(bytes, 4).is_some_and(|crc| bytes.get(8..).is_some_and(|rest| crc32c::crc32c(rest) == crc))
}

/// What a segment of a single huge transaction knows of it, since its first batches were written before its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpilledTx {
    /// End LSN of the transaction.
    pub end_lsn: Lsn,
}

/// A channel's share in a batch.
#[derive(Clone, Debug)]
pub struct Share {
    /// The table's schema version; `None` for a custom channel.
    pub schema: Option<Arc<Schema>>,
    /// The custom channel's name; empty where `schema` is given.
    pub name: Box<str>,
    /// Bit n is set when there is an event of `Op` n that is for everybody, bit 0 when there is one for some sinks alone.
    pub ops: u8,
}

impl Share {
    /// The channel.
    pub fn channel(&self) -> &str {
        self.schema.as_ref().map_or(&self.name, |schema| &schema.channel)
    }
}

/// A numbered batch.
#[derive(Debug)]
pub struct Batch {
    bytes: Bytes,
    header: Header,
    base: u64,
    shares: Vec<Share>,
    schemas: usize,
    spilled: Option<SpilledTx>,
    next: OnceLock<Weak<Batch>>,
}

impl Batch {
    /// Takes a whole batch. `schema` resolves versions; all that the batch names must be known to it.
    /// `None` when the bytes are no batch, or name a version that is unknown.
    pub fn new(
        bytes: Bytes,
        base: u64,
        spilled: Option<SpilledTx>,
        schema: impl Fn(SchemaId) -> Option<Arc<Schema>>,
    ) -> Option<Self> {
        let header = Header::parse(&bytes)?;
        let summary = bytes.get(header.summary as usize..header.length as usize)?;
        let mut shares = Vec::new();
        let count = get_u16(summary, 0)?;
        let mut rest = summary.get(2..)?;
        for _ in 0..count {
            let id = get_u32(rest, 0)?;
            shares.push(Share { schema: Some(schema(id)?), name: Box::default(), ops: *rest.get(4)? });
            rest = rest.get(5..)?;
        }
        let schemas = shares.len();
        let count = usize::from(get_u16(rest, 0)?);
        rest = rest.get(2..)?;
        while !rest.is_empty() {
            let (name, after) = string(rest)?;
            shares.push(Share { schema: None, name: name.into(), ops: *after.first()? });
            rest = after.get(1..)?;
        }
        // Earlier versions of rowcast named all channels, however many, behind a count that goes no further.
        let named = shares.len() - schemas;
        (named == count || (count == COUNT_MAX && named > count)).then_some(())?;
        Some(Self { bytes, header, base, shares, schemas, spilled, next: OnceLock::new() })
    }

    /// Number of its first event.
    pub fn first(&self) -> u64 {
        self.base + self.header.first
    }

    /// Number of its last event; one below the first for a batch without events.
    pub fn last(&self) -> u64 {
        (self.first() + u64::from(self.header.events)).saturating_sub(1)
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its size in bytes.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The channels that have events in it.
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// The batch that was published after this one, while it is in the cache.
    pub fn next(&self) -> Option<Arc<Self>> {
        self.next.get()?.upgrade()
    }

    pub(crate) fn link(&self, next: &Arc<Self>) {
        // Set once, by the writer, when it publishes the next one.
        let _ = self.next.set(Arc::downgrade(next));
    }

    /// All events, in order, those for some sinks alone included: for who looks after the journal, not for readers.
    pub fn all_events(&self) -> Events<'_> {
        Events {
            batch: self,
            records: Records::new(&self.bytes, &self.header),
            id: self.first(),
            tx: None,
            xid: 0,
            at: 0,
            local: true,
            sinks: "",
            seq: 0,
            ending: false,
        }
    }

    /// End LSN, xid and commit time of every transaction that ends here.
    pub fn transactions(&self) -> impl Iterator<Item = (Lsn, u32, Micros)> + '_ {
        let end = self.spilled.map(|tx| tx.end_lsn);
        Records::new(&self.bytes, &self.header).filter_map(move |record| {
            if record.kind != KIND_TX || record.flags & TX_LOCAL != 0 || record.flags & TX_LAST == 0 {
                return None;
            }
            let stored = Lsn(get_u64(record.bytes, 24)?);
            let end_lsn = if stored == Lsn::ZERO { end? } else { stored };
            Some((end_lsn, get_u32(record.bytes, 8)?, get_i64(record.bytes, 40)?))
        })
    }

    fn schema(&self, index: u16) -> Option<&Schema> {
        self.shares.get(usize::from(index)).filter(|_| usize::from(index) < self.schemas)?.schema.as_deref()
    }
}

/// One record, with its header still in front.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) schema: u16,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// The channel that a message or a gap names, and what stands behind it.
    pub(crate) fn channel(&self) -> Option<(&'a str, &'a [u8])> {
        let short = self.kind == KIND_GAP && self.flags & GAP_NUMBERS == 0;
        string(self.bytes.get(if short { 8 } else { 16 }..)?)
    }
}

/// The records of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    pub(crate) fn new(bytes: &'a [u8], header: &Header) -> Self {
        Self { rest: bytes.get(BATCH_HEADER..header.summary as usize).unwrap_or_default() }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let length = get_u32(self.rest, 0)? as usize;
        let kind = *self.rest.get(4)?;
        let flags = *self.rest.get(5)?;
        let schema = get_u16(self.rest, 6)?;
        if length < RECORD_HEADER {
            return None;
        }
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(Record { kind, flags, schema, bytes })
    }
}

/// A record that is no event and stands between transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aside<'a> {
    /// The JSON of a position.
    Position(&'a [u8]),
    /// The JSON of a schema version.
    Schema(&'a [u8]),
    /// Name and JSON of a note; empty JSON where it is gone.
    Note(&'a str, &'a [u8]),
}

/// The records of a batch that are no events.
pub(crate) fn asides<'a>(bytes: &'a [u8], header: &Header) -> impl Iterator<Item = Aside<'a>> {
    Records::new(bytes, header).filter_map(|record| {
        let body = record.bytes.get(RECORD_HEADER..)?;
        match record.kind {
            KIND_POSITION => Some(Aside::Position(body)),
            KIND_SCHEMA => Some(Aside::Schema(body)),
            KIND_NOTE => string(body).map(|(name, json)| Aside::Note(name, json)),
            _ => None,
        }
    })
}

/// Whether a record of this kind is no event and stands between transactions.
pub(super) fn is_aside(kind: u8) -> bool {
    matches!(kind, KIND_POSITION | KIND_SCHEMA | KIND_NOTE)
}

/// Where the last transaction ends that does so in a batch; zero when none of Postgres does, or when its file says it.
pub(crate) fn last_end(bytes: &[u8], header: &Header) -> Lsn {
    let ends = Records::new(bytes, header).filter_map(|record| {
        let ended = record.kind == KIND_TX && record.flags & (TX_LOCAL | TX_LAST) == TX_LAST;
        get_u64(record.bytes, TX_END_LSN).filter(|_| ended)
    });
    Lsn(ends.last().unwrap_or(0))
}

/// Iterates over the events of a batch.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    batch: &'a Batch,
    pub(super) records: Records<'a>,
    id: u64,
    tx: Option<Tx<'a>>,
    xid: u32,
    at: Micros,
    local: bool,
    /// Whom they are for; empty for everybody.
    pub(super) sinks: &'a str,
    seq: u32,
    /// The transaction ends in this batch: its last event is the one before the next tx record or the end.
    ending: bool,
}

impl<'a> Iterator for Events<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        loop {
            let record = self.records.next()?;
            match record.kind {
                KIND_TX => self.enter(&record)?,
                kind if is_aside(kind) => {}
                _ => return self.event(&record),
            }
        }
    }
}

impl<'a> Events<'a> {
    /// Passes over an event that was not looked at.
    pub(super) fn pass_over(&mut self) {
        self.id += 1;
        self.seq = self.seq.wrapping_add(1);
    }

    pub(super) fn enter(&mut self, record: &Record<'a>) -> Option<()> {
        let bytes = record.bytes;
        self.at = get_i64(bytes, 40)?;
        self.xid = get_u32(bytes, 8)?;
        self.seq = get_u32(bytes, 12)?;
        self.local = record.flags & TX_LOCAL != 0;
        self.ending = record.flags & TX_LAST != 0;
        let stored = Lsn(get_u64(bytes, 24)?);
        let end_lsn =
            if stored == Lsn::ZERO { self.batch.spilled.unwrap_or_default().end_lsn } else { stored };
        let origin = std::str::from_utf8(bytes.get(TX_ORIGIN..)?).ok()?;
        self.sinks = if record.flags & TX_FOR != 0 { origin } else { "" };
        self.tx = (!self.local).then_some(Tx {
            xid: self.xid,
            final_lsn: Lsn(get_u64(bytes, 16)?),
            end_lsn,
            previous_end_lsn: Lsn(get_u64(bytes, 32)?),
            committed: self.at,
            origin,
        });
        Some(())
    }

    pub(super) fn event(&mut self, record: &Record<'a>) -> Option<Event<'a>> {
        let bytes = record.bytes;
        let mut snapshot = None;
        let (op, lsn, body) = match record.kind {
            KIND_CHANGE => {
                snapshot = self.snapshot(record);
                let (op, body) = self.row(record, snapshot.map_or(0, |_| SNAPSHOT_HEAD))?;
                (op, Lsn(get_u64(bytes, 8)?), body)
            }
            KIND_TRUNCATE => (Op::Truncate, Lsn(get_u64(bytes, 8)?), self.truncate(record)?),
            KIND_MESSAGE => {
                let (channel, payload) = record.channel()?;
                let payload = std::str::from_utf8(payload).ok()?;
                (Op::Message, Lsn(get_u64(bytes, 8)?), Body::Message { channel, payload })
            }
            KIND_GAP => {
                let from = if record.flags & GAP_NUMBERS != 0 { get_u64(bytes, 8)? } else { self.id };
                let (channel, rest) = record.channel()?;
                let (reason, detail) = string(rest)?;
                let detail = std::str::from_utf8(detail).ok()?;
                (Op::Gap, Lsn::ZERO, Body::Gap { channel, from, reason, detail })
            }
            _ => return None,
        };
        let (id, seq) = (self.id, self.seq);
        self.id += 1;
        // Where it begins is a field of the file.
        self.seq = self.seq.wrapping_add(1);
        let last = self.ending && self.ends_here();
        Some(Event { id, op, at: self.at, lsn, tx: self.tx, seq, last, snapshot, sinks: self.sinks, body })
    }

    /// Whether no further event of this transaction follows.
    fn ends_here(&self) -> bool {
        get_u32(self.records.rest, 0).is_none()
            || self.records.rest.get(4).is_none_or(|kind| *kind == KIND_TX || is_aside(*kind))
    }

    /// The snapshot that read the row; it stands before the tuple.
    fn snapshot(&self, record: &Record<'_>) -> Option<Snapshot> {
        if record.flags != Op::Read as u8 {
            return None;
        }
        let head = record.bytes.get(CHANGE_ROW..CHANGE_ROW + SNAPSHOT_HEAD)?;
        let [SNAPSHOT_TAG, marks] = *head else { return None };
        Some(Snapshot { marks: Marks::of_bits(marks), xid: self.xid })
    }

    /// A row change whose tuples begin so many bytes after the place where they usually do.
    fn row(&self, record: &Record<'a>, head: usize) -> Option<(Op, Body<'a>)> {
        let schema = self.batch.schema(record.schema)?;
        let op = Op::of_row(record.flags)?;
        let mut rest = record.bytes.get(CHANGE_ROW + head..)?;
        let mut old = None;
        let mut new = None;
        while let Some((tag, after)) = rest.split_first() {
            let (tuple, after) = Tuple::split(after)?;
            match tag {
                b'O' if self.is_whole(schema) => old = Some(Old::Full(tuple)),
                b'K' | b'O' => old = Some(Old::Key(tuple)),
                b'N' => new = Some(tuple),
                _ => return None,
            }
            rest = after;
        }
        Some((op, Body::Row { schema, old, new }))
    }

    /// Whether an old row that the server calls whole is so. What it says of a partition's is the identity of the root,
    /// whatever has been logged: where that is not all of it, the version has another identity than FULL.
    fn is_whole(&self, schema: &Schema) -> bool {
        self.local || schema.identity == Identity::Full
    }

    fn truncate(&self, record: &Record<'a>) -> Option<Body<'a>> {
        Some(Body::Truncate {
            schema: self.batch.schema(record.schema)?,
            cascade: record.flags & TRUNCATE_CASCADE != 0,
            restart_identity: record.flags & TRUNCATE_RESTART != 0,
        })
    }
}

/// The most channels that a summary can say it names.
const COUNT_MAX: usize = u16::MAX as usize;

pub(super) fn string(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let length = usize::from(get_u16(bytes, 0)?);
    let (text, rest) = bytes.get(2..)?.split_at_checked(length)?;
    Some((std::str::from_utf8(text).ok()?, rest))
}
