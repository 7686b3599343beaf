//! A transaction that arrives before it commits is written before its place, its time and its end are known.

use crate::lsn::Lsn;
use crate::record::layout::{
    BATCH_HEADER, FLAG_MORE, KIND_TX, TX_COMMITTED, TX_FINAL_LSN, TX_LAST, TX_PREVIOUS_END, get_u16, put,
};
use crate::record::{Builder, Part, TxStart};

impl Builder {
    /// Events of the open transaction so far, those included that have been taken.
    pub fn open_events(&self) -> u32 {
        self.open.as_ref().map_or(0, |open| open.seq)
    }

    /// Takes all events of the open transaction, which must be alone here, for a file of its own. When it ends before
    /// another event comes, its last part has been taken already.
    pub fn take_open(&mut self) -> Vec<Part> {
        if self.events > 0 {
            self.split_open();
        }
        self.take_open_parts()
    }

    /// Ends the open transaction, which must be alone here, and gives what of it has not been taken: nothing when its
    /// last event has been taken already.
    pub fn finish_open(&mut self, end_lsn: Lsn) -> Vec<Part> {
        if self.events == 0 {
            self.abort();
            return Vec::new();
        }
        let mut parts = self.take_open_parts();
        parts.extend(self.take_tail(end_lsn));
        parts
    }

    /// Says of the open transaction, which must be alone here, what was not known when it began, but for its origin.
    pub fn know(&mut self, start: &TxStart<'_>) {
        let Some(open) = &mut self.open else { return };
        open.final_lsn = start.final_lsn;
        open.previous_end_lsn = start.previous_end_lsn;
        open.committed = start.committed;
        for part in &mut open.parts {
            know(&mut part.bytes, start);
        }
        put_start(&mut self.bytes, open.record, start);
        self.times = (start.committed, start.committed);
    }
}

/// The same for a batch of it, which begins with its record.
pub(crate) fn know(bytes: &mut [u8], start: &TxStart<'_>) {
    put_start(bytes, BATCH_HEADER, start);
    put(bytes, 48, &start.committed.to_le_bytes());
    put(bytes, 56, &start.committed.to_le_bytes());
}

fn put_start(bytes: &mut [u8], record: usize, start: &TxStart<'_>) {
    debug_assert_eq!(bytes.get(record + 4), Some(&KIND_TX));
    put(bytes, record + TX_FINAL_LSN, &start.final_lsn.0.to_le_bytes());
    put(bytes, record + TX_PREVIOUS_END, &start.previous_end_lsn.0.to_le_bytes());
    put(bytes, record + TX_COMMITTED, &start.committed.to_le_bytes());
}

/// Makes a batch the last of its transaction.
pub(crate) fn end(bytes: &mut [u8], end_lsn: Lsn) {
    let flags = get_u16(bytes, 12).unwrap_or(0) & !FLAG_MORE;
    put(bytes, 12, &flags.to_le_bytes());
    if let Some(flags) = bytes.get_mut(BATCH_HEADER + 5) {
        *flags |= TX_LAST;
    }
    super::patch_end_lsn(bytes, end_lsn);
}
