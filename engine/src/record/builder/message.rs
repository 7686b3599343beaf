//! Events that are no rows: custom ones, and gaps.

use super::Builder;
use crate::event::{Micros, Op};
use crate::lsn::Lsn;
use crate::record::layout::{GAP_NUMBERS, KIND_GAP, KIND_MESSAGE, OPS_FOR};

impl Builder {
    /// Adds a custom event; `payload` is JSON text.
    pub fn message(&mut self, channel: &str, lsn: Lsn, payload: &[u8]) {
        self.split_if_full();
        self.note_channel(channel, Op::Message.bit());
        let at = self.record(KIND_MESSAGE, 0, 0);
        self.bytes.extend_from_slice(&lsn.0.to_le_bytes());
        self.string(channel);
        self.bytes.extend_from_slice(payload);
        self.close_record(at);
        self.counted();
    }

    /// Adds a custom event that is of no transaction, and the stream's position `json` with it: it stands before the
    /// event, whose end may end the batch, so that no crash leaves the event alone, which would come again then.
    pub fn message_alone(
        &mut self,
        at: Micros,
        (channel, payload): (&str, &[u8]),
        (lsn, json): (Lsn, &[u8]),
    ) {
        self.position(lsn, json);
        self.begin_local(at);
        self.message(channel, lsn, payload);
        self.commit(Lsn::ZERO);
    }

    /// Adds a break in the history of `channel` (empty: of all).
    pub fn gap(&mut self, channel: &str, reason: &str, detail: &str) {
        self.gap_record(channel, None, reason, detail);
    }

    /// Adds a break in the history of all channels that took the numbers from `from` to this event's own.
    pub(crate) fn lost(&mut self, from: u64, reason: &str, detail: &str) {
        self.gap_record("", Some(from), reason, detail);
    }

    fn gap_record(&mut self, channel: &str, from: Option<u64>, reason: &str, detail: &str) {
        self.split_if_full();
        let ops = if self.is_addressed() { OPS_FOR } else { Op::Gap.bit() };
        self.note_channel(channel, ops);
        let at = self.record(KIND_GAP, if from.is_some() { GAP_NUMBERS } else { 0 }, 0);
        if let Some(from) = from {
            self.bytes.extend_from_slice(&from.to_le_bytes());
        }
        self.string(channel);
        self.string(reason);
        self.bytes.extend_from_slice(detail.as_bytes());
        self.close_record(at);
        self.counted();
    }
}
