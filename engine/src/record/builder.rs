//! Builds batches: the one copy between the socket and the disk happens here.

mod message;
mod part;
mod snapshot;
mod summary;
mod unfinished;

use crate::event::{Micros, Op};
use crate::lsn::Lsn;
use crate::record::layout::{
    BATCH_HEADER, BATCH_MAGIC, FLAG_MORE, KIND_CHANGE, KIND_NOTE, KIND_POSITION, KIND_SCHEMA, KIND_TRUNCATE,
    KIND_TX, LSN_MAX, RECORD_HEADER, TRUNCATE_CASCADE, TRUNCATE_RESTART, TX_BODY, TX_END_LSN, TX_FOR,
    TX_LAST, TX_LOCAL, put,
};
use crate::record::{SEALED, Tail};
use crate::schema::SchemaId;

pub(crate) use part::Note;
pub use part::Part;
use summary::Summary;
pub(crate) use unfinished::{end, know};

/// A transaction that grows past this is given batches of its own, so that readers render and send it in
/// pieces of about this size.
pub const PART_BYTES: usize = 1 << 20;

/// What is known of a transaction when it begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct TxStart<'a> {
    /// 32-bit transaction id.
    pub xid: u32,
    /// Where the commit record starts.
    pub final_lsn: Lsn,
    /// The end of the transaction before it.
    pub previous_end_lsn: Lsn,
    /// Commit time.
    pub committed: Micros,
    /// Replication origin, empty when local.
    pub origin: &'a str,
}

/// The transaction being written.
#[derive(Debug)]
struct Open {
    /// Offset of its tx record in the current batch.
    record: usize,
    /// Events of it in earlier parts and in this one.
    seq: u32,
    /// What the batch was when it began, to cut there.
    batch_events: u32,
    batch_times: (Micros, Micros),
    schemas: usize,
    xid: u32,
    final_lsn: Lsn,
    previous_end_lsn: Lsn,
    committed: Micros,
    /// Of what did not come from Postgres: the sinks that it is for, empty for everybody.
    origin: String,
    local: bool,
    /// Finished parts of it, all but the current one.
    parts: Vec<Part>,
    parts_bytes: usize,
}

/// Collects transactions into batches.
#[derive(Debug)]
pub struct Builder {
    bytes: Vec<u8>,
    events: u32,
    lsn_min: Lsn,
    lsn_max: Lsn,
    tx_end: Lsn,
    times: (Micros, Micros),
    summary: Summary,
    notes: Vec<Note>,
    done: Vec<Part>,
    open: Option<Open>,
    /// What the next buffer is likely to need.
    hint: usize,
}

const NO_TIMES: (Micros, Micros) = (Micros::MAX, Micros::MIN);

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// An empty builder.
    pub fn new() -> Self {
        let mut builder = Self {
            bytes: Vec::new(),
            events: 0,
            lsn_min: Lsn::ZERO,
            lsn_max: Lsn::ZERO,
            tx_end: Lsn::ZERO,
            times: NO_TIMES,
            summary: Summary::default(),
            notes: Vec::new(),
            done: Vec::new(),
            open: None,
            hint: 4096,
        };
        builder.reset();
        builder
    }

    /// Starts a transaction of Postgres.
    pub fn begin(&mut self, start: TxStart<'_>) {
        self.start(start, false);
    }

    /// Starts a group of events that did not come from Postgres.
    pub fn begin_local(&mut self, at: Micros) {
        self.start(TxStart { committed: at, ..TxStart::default() }, true);
    }

    fn start(&mut self, start: TxStart<'_>, local: bool) {
        self.abort();
        self.summary.begin();
        self.open = Some(Open {
            record: self.bytes.len(),
            seq: 0,
            batch_events: self.events,
            batch_times: self.times,
            schemas: self.summary.schemas(),
            xid: start.xid,
            final_lsn: start.final_lsn,
            previous_end_lsn: start.previous_end_lsn,
            committed: start.committed,
            origin: start.origin.to_owned(),
            local,
            parts: Vec::new(),
            parts_bytes: 0,
        });
        self.write_tx_record();
    }

    /// Names the replication origin of the open transaction; pgoutput tells it after Begin, before any change.
    pub fn origin(&mut self, name: &str) {
        if let Some(open) = &mut self.open {
            name.clone_into(&mut open.origin);
            self.bytes.truncate(open.record);
            self.write_tx_record();
        }
    }

    fn write_tx_record(&mut self) {
        let Some(open) = &self.open else { return };
        let flags = if open.local { TX_LOCAL } else { 0 } | if self.is_addressed() { TX_FOR } else { 0 };
        let (xid, seq, times) = (open.xid, open.seq, open.committed);
        let lsns = [open.final_lsn.0, 0, open.previous_end_lsn.0];
        let origin = open.origin.clone();
        let at = self.record(KIND_TX, flags, 0);
        self.bytes.extend_from_slice(&xid.to_le_bytes());
        self.bytes.extend_from_slice(&seq.to_le_bytes());
        for lsn in lsns {
            self.bytes.extend_from_slice(&lsn.to_le_bytes());
        }
        self.bytes.extend_from_slice(&times.to_le_bytes());
        debug_assert_eq!(self.bytes.len(), at + TX_BODY);
        self.bytes.extend_from_slice(origin.as_bytes());
        self.close_record(at);
        self.times = (self.times.0.min(times), self.times.1.max(times));
    }

    /// Adds a row change: `raw` is what follows the relation id in pgoutput's Insert, Update or Delete.
    pub fn change(&mut self, schema: SchemaId, op: Op, lsn: Lsn, raw: &[u8]) {
        self.split_if_full();
        let index = self.schema_index(schema, op.bit());
        let length = RECORD_HEADER + 8 + raw.len();
        // In one piece: this runs for every row, and each piece is a look at the buffer's room.
        let mut head = [0; RECORD_HEADER + 8];
        put(&mut head, 0, &u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        put(&mut head, 4, &[KIND_CHANGE, op as u8]);
        put(&mut head, 6, &index.to_le_bytes());
        put(&mut head, 8, &lsn.0.to_le_bytes());
        self.bytes.reserve(length);
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(raw);
        self.counted();
    }

    /// Adds the truncation of one table.
    pub fn truncate(&mut self, schema: SchemaId, lsn: Lsn, cascade: bool, restart_identity: bool) {
        self.split_if_full();
        let index = self.schema_index(schema, Op::Truncate.bit());
        let flags =
            if cascade { TRUNCATE_CASCADE } else { 0 } | if restart_identity { TRUNCATE_RESTART } else { 0 };
        let at = self.record(KIND_TRUNCATE, flags, index);
        self.bytes.extend_from_slice(&lsn.0.to_le_bytes());
        self.close_record(at);
        self.counted();
    }

    /// Adds a stream position, which is no event; `json` is a [`crate::journal::StreamPosition`].
    pub fn position(&mut self, lsn: Lsn, json: &[u8]) {
        self.aside(KIND_POSITION, json);
        self.lsn_max = self.lsn_max.max(lsn);
    }

    /// Adds a schema version, which is no event; `json` is a [`crate::schema::Schema`].
    pub(crate) fn schema(&mut self, json: &[u8]) {
        self.aside(KIND_SCHEMA, json);
    }

    /// Adds what the source keeps beside its events, which is no event: it replaces the note of that name, and empty
    /// `json` removes it. What was added before it becomes durable no later. What has to become durable with a
    /// transaction goes with its end: [`Builder::commit_with`].
    pub fn note(&mut self, name: &str, json: &[u8]) {
        debug_assert!(self.open.is_none(), "stands between transactions");
        let at = self.record(KIND_NOTE, 0, 0);
        self.string(name);
        self.bytes.extend_from_slice(json);
        self.close_record(at);
        self.notes.push((name.to_owned(), json.into()));
    }

    fn aside(&mut self, kind: u8, json: &[u8]) {
        debug_assert!(self.open.is_none(), "stands between transactions");
        let at = self.record(kind, 0, 0);
        self.bytes.extend_from_slice(json);
        self.close_record(at);
    }

    /// Ends the open transaction. A transaction without events leaves nothing behind but its position.
    pub fn commit(&mut self, end_lsn: Lsn) {
        self.commit_with(end_lsn, &[]);
    }

    /// Likewise, with these notes: its last batch holds them, so that no crash leaves one without the other.
    pub fn commit_with(&mut self, end_lsn: Lsn, notes: &[(String, Vec<u8>)]) {
        let Some(open) = self.open.take() else { return };
        // What is of no transaction has no place in the stream, and must not be taken for one.
        let end_lsn = if open.local { Lsn::ZERO } else { end_lsn };
        put(&mut self.bytes, open.record + TX_END_LSN, &end_lsn.0.to_le_bytes());
        if let Some(flags) = self.bytes.get_mut(open.record + 5) {
            *flags |= TX_LAST;
        }
        if open.seq == 0 {
            self.undo(&open);
        }
        if !open.local {
            if self.lsn_min == Lsn::ZERO {
                self.lsn_min = end_lsn;
            }
            self.lsn_max = self.lsn_max.max(end_lsn);
            self.tx_end = end_lsn;
        }
        for (name, json) in notes {
            self.note(name, json);
        }
        if !open.parts.is_empty() {
            for mut part in open.parts {
                // What is of no transaction leaves the position alone that one before it has left in the batch.
                if !open.local {
                    patch_end_lsn(&mut part.bytes, end_lsn);
                }
                part.tail = tail_of(&part.bytes);
                self.done.push(part);
            }
            self.finish_batch(0);
        } else if self.bytes.len() >= PART_BYTES || self.summary.is_full() {
            // None begins in a batch that is full: what stands before its first event stays with it.
            self.finish_batch(0);
        }
    }

    /// Forgets the open transaction.
    pub fn abort(&mut self) {
        if let Some(open) = self.open.take() {
            self.undo(&open);
        }
    }

    fn undo(&mut self, open: &Open) {
        self.bytes.truncate(open.record);
        self.events = open.batch_events;
        self.times = open.batch_times;
        self.summary.undo(open.schemas);
    }

    /// Whether a transaction is open.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Bytes of the open transaction held in memory.
    pub fn open_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.parts_bytes + self.bytes.len() - open.record)
    }

    /// Of those, what [`Builder::take_open_parts`] would give: all but what has come since the last cut, which is as large as a
    /// row may be.
    pub fn open_parts_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.parts_bytes)
    }

    /// Bytes of finished transactions waiting to be taken.
    pub fn ready_bytes(&self) -> usize {
        let current = self.open.as_ref().map_or(self.bytes.len(), |open| open.record) - BATCH_HEADER;
        self.done.iter().map(|part| part.bytes.len()).sum::<usize>() + current
    }

    /// Takes the batches of all finished transactions; the open one stays.
    pub fn take(&mut self) -> Vec<Part> {
        self.cut_open();
        if self.open.is_none() && self.bytes.len() > BATCH_HEADER {
            self.finish_batch(0);
        }
        std::mem::take(&mut self.done)
    }

    /// Takes the parts of the open transaction that are finished, for a file of its own.
    /// After this [`Builder::take_tail`] ends it.
    pub fn take_open_parts(&mut self) -> Vec<Part> {
        self.open.as_mut().map_or_else(Vec::new, |open| {
            open.parts_bytes = 0;
            std::mem::take(&mut open.parts)
        })
    }

    /// Ends the open transaction and gives its last part alone; what was finished before it has been taken.
    pub fn take_tail(&mut self, end_lsn: Lsn) -> Vec<Part> {
        self.cut_open();
        let done = std::mem::take(&mut self.done);
        debug_assert!(done.is_empty(), "earlier transactions are taken before a spill begins");
        self.commit(end_lsn);
        let parts = self.take();
        self.done = done;
        parts
    }

    /// Makes the open transaction start a batch of its own.
    fn cut_open(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        if open.record > BATCH_HEADER {
            let tail = self.bytes.split_off(open.record);
            let events = self.events - open.batch_events;
            let summary = self.summary.cut(open.schemas);
            self.events = open.batch_events;
            self.times = open.batch_times;
            self.finish_batch(0);
            self.bytes.extend_from_slice(&tail);
            self.events = events;
            self.times = (open.committed, open.committed);
            self.summary = summary;
            open.record = BATCH_HEADER;
            open.batch_events = 0;
            open.batch_times = NO_TIMES;
            open.schemas = 0;
        }
        self.open = Some(open);
    }

    fn counted(&mut self) {
        self.events += 1;
        if let Some(open) = &mut self.open {
            open.seq += 1;
        }
    }

    /// Before an event, never after one: the last part of a transaction holds its last event.
    fn split_if_full(&mut self) {
        let Some(open) = &self.open else { return };
        if self.bytes.len() - open.record >= PART_BYTES {
            self.split_open();
        } else if self.summary.is_full() {
            self.split_named();
        }
    }

    /// The batch names as much as one may: the open transaction gets one of its own, or another.
    #[cold]
    fn split_named(&mut self) {
        self.cut_open();
        if self.summary.is_full() {
            self.split_open();
        }
    }

    /// The open transaction has filled a batch: finish it, flagged, and go on in another.
    fn split_open(&mut self) {
        self.cut_open();
        let Some(mut open) = self.open.take() else { return };
        let before = std::mem::take(&mut self.done);
        self.finish_batch(FLAG_MORE);
        for part in std::mem::replace(&mut self.done, before) {
            open.parts_bytes += part.bytes.len();
            open.parts.push(part);
        }
        open.record = self.bytes.len();
        self.open = Some(open);
        self.write_tx_record();
    }

    fn finish_batch(&mut self, flags: u16) {
        let summary_at = self.bytes.len();
        self.write_summary();
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let times = if self.times.0 > self.times.1 { (0, 0) } else { self.times };
        put(&mut self.bytes, 0, &BATCH_MAGIC.to_le_bytes());
        put(&mut self.bytes, 8, &length.to_le_bytes());
        put(&mut self.bytes, 12, &flags.to_le_bytes());
        put(&mut self.bytes, 14, &64u16.to_le_bytes());
        put(&mut self.bytes, 24, &self.events.to_le_bytes());
        put(&mut self.bytes, 28, &u32::try_from(summary_at).unwrap_or(u32::MAX).to_le_bytes());
        put(&mut self.bytes, 32, &self.lsn_min.0.to_le_bytes());
        put(&mut self.bytes, LSN_MAX, &self.lsn_max.0.to_le_bytes());
        put(&mut self.bytes, 48, &times.0.to_le_bytes());
        put(&mut self.bytes, 56, &times.1.to_le_bytes());
        self.hint = self.bytes.len().clamp(4096, PART_BYTES + (PART_BYTES >> 3));
        let schemas = self.summary.versions();
        let bytes = std::mem::take(&mut self.bytes);
        let notes = std::mem::take(&mut self.notes);
        // A part of an open transaction is changed once more, when its end is known.
        let tail = if flags & FLAG_MORE == 0 { tail_of(&bytes) } else { None };
        let (tx_end, events) = (self.tx_end, self.events);
        self.done.push(Part { bytes, tail, events, schemas, tx_end, notes });
        self.reset();
    }

    fn reset(&mut self) {
        self.bytes = Vec::with_capacity(self.hint);
        self.bytes.resize(BATCH_HEADER, 0);
        self.events = 0;
        self.lsn_min = Lsn::ZERO;
        self.lsn_max = Lsn::ZERO;
        self.tx_end = Lsn::ZERO;
        self.times = NO_TIMES;
        self.summary.clear();
    }

    fn record(&mut self, kind: u8, flags: u8, schema: u16) -> usize {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0, 0, 0, kind, flags]);
        self.bytes.extend_from_slice(&schema.to_le_bytes());
        at
    }

    fn close_record(&mut self, at: usize) {
        let length = u32::try_from(self.bytes.len() - at).unwrap_or(u32::MAX);
        put(&mut self.bytes, at, &length.to_le_bytes());
    }

    /// A length-prefixed string; names longer than 64 KiB are refused at the door, here they are cut.
    fn string(&mut self, text: &str) {
        let mut end = text.len().min(usize::from(u16::MAX));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.bytes.extend_from_slice(&u16::try_from(end).unwrap_or(u16::MAX).to_le_bytes());
        self.bytes.extend_from_slice(text.as_bytes().get(..end).unwrap_or_default());
    }
}

fn tail_of(bytes: &[u8]) -> Option<Tail> {
    Tail::of(bytes.get(SEALED..)?)
}

/// A part of a transaction starts with its tx record, whose end was not known when it was written.
fn patch_end_lsn(bytes: &mut [u8], end_lsn: Lsn) {
    put(bytes, BATCH_HEADER + TX_END_LSN, &end_lsn.0.to_le_bytes());
    put(bytes, 32, &end_lsn.0.to_le_bytes());
    put(bytes, LSN_MAX, &end_lsn.0.to_le_bytes());
}
