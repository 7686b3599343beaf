//! Where things stand in a batch, and the explicit little-endian reads and writes.
//!
//! ```text
//! batch    0 u32 magic "RCB1"        4 u32 CRC32C of the bytes from 8 on
//!          8 u32 length of the batch 12 u16 flags: 1 more follows, 2 before a sync
//!                                                          14 u16 length of this header
//!         16 u64 first event, relative to its segment's base
//!         24 u32 events             28 u32 offset of the summary
//!         32 u64 end LSN of the first transaction (0: none)
//!         40 u64 end LSN of the last transaction or position (0: none)
//!         48 i64 lowest commit time 56 i64 highest commit time, microseconds since 1970
//!         64 records ..., then the summary
//!
//! summary    u16 schema versions, each: u32 id, u8 ops (bit n = op n; bit 0 = events for some sinks alone, of any op)
//!            u16 custom channels, each: u16 length, name, u8 ops
//!
//! record   0 u32 length, this included  4 u8 kind  5 u8 flags  6 u16 schema (index in the summary)
//!   1 tx       8 u32 xid 12 u32 index of the first event 16 u64 final LSN 24 u64 end LSN (0: the segment's)
//!             32 u64 end LSN of the transaction before 40 i64 commit time 48 origin; flags 1 last, 2 not Postgres
//!             (rows that a snapshot read are not of a transaction: flag 2, the snapshot's xmin as xid, its LSN as final;
//!             flag 4, from version 2 on: for some sinks alone, whose names with spaces between stand for the origin)
//!   2 change   8 u64 own LSN 16 pgoutput's bytes after the relation id; flags: the op
//!             (read by a snapshot: 16 'S' 17 u8 marks 18 'N', TupleData; bit 0 first, 1 last, 2 first in its table,
//!             3 last in its table, 4 ad hoc; one that is gone again before all are told: an ordinary delete)
//!   3 truncate 8 u64 own LSN; flags 1 cascade, 2 restart identity
//!   4 message  8 u64 own LSN 16 u16 length, channel, payload
//!   5 gap      8 u16 length, channel, u16 length, reason, detail; flags 1: before them, u64 first number lost
//!   6 position 8 a JSON object, see `StreamPosition`
//!   7 schema   8 a JSON object, see `Schema`
//!   8 note     8 u16 length, name, a JSON value (nothing: the note is gone); what a source keeps beside its events
//! ```

pub(crate) const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"RCB1");
pub(crate) const BATCH_HEADER: usize = 64;
/// The checksum is of all that comes behind it.
pub(crate) const CHECKSUM_END: usize = 8;
/// Where its highest position stands.
pub(crate) const LSN_MAX: usize = 40;
pub(crate) const RECORD_HEADER: usize = 8;
/// Numbers stay below this: JavaScript keeps no more bits. What says otherwise is no batch and no segment.
pub(crate) const NUMBERS_END: u64 = 1 << 53;

/// The transaction goes on in the next batch; nothing of it may be shown yet.
pub(crate) const FLAG_MORE: u16 = 1;
/// What stands before it in the file was not synced when it was written: a power cut may have left it alone.
pub(crate) const FLAG_EARLY: u16 = 2;

pub(crate) const KIND_TX: u8 = 1;
pub(crate) const KIND_CHANGE: u8 = 2;
pub(crate) const KIND_TRUNCATE: u8 = 3;
pub(crate) const KIND_MESSAGE: u8 = 4;
pub(crate) const KIND_GAP: u8 = 5;
pub(crate) const KIND_POSITION: u8 = 6;
pub(crate) const KIND_SCHEMA: u8 = 7;
pub(crate) const KIND_NOTE: u8 = 8;

pub(crate) const CHANGE_ROW: usize = 16;
pub(crate) const SNAPSHOT_TAG: u8 = b'S';
/// The tag and the marks.
pub(crate) const SNAPSHOT_HEAD: usize = 2;

pub(crate) const TX_LAST: u8 = 1;
pub(crate) const TX_LOCAL: u8 = 2;
pub(crate) const TX_FOR: u8 = 4;
pub(crate) const TX_BODY: usize = 48;
pub(crate) const TX_FINAL_LSN: usize = 16;
pub(crate) const TX_END_LSN: usize = 24;
pub(crate) const TX_PREVIOUS_END: usize = 32;
pub(crate) const TX_COMMITTED: usize = 40;
pub(crate) const TX_ORIGIN: usize = TX_BODY;

pub(crate) const TRUNCATE_CASCADE: u8 = 1;
pub(crate) const TRUNCATE_RESTART: u8 = 2;

pub(crate) const GAP_NUMBERS: u8 = 1;

/// In the summary in place of the ops of events that are for some sinks alone: who looks for ops does not find them.
pub(crate) const OPS_FOR: u8 = 1;

pub(crate) fn get_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn get_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn get_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn get_i64(bytes: &[u8], at: usize) -> Option<i64> {
    get_u64(bytes, at).map(u64::cast_signed)
}

/// Overwrites bytes that were reserved before; a place outside is a bug of the caller and changes nothing.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}
