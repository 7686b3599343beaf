//! What stands at a batch's end: whose events it holds, and of which ops.

use std::collections::BTreeMap;

use crate::record::Builder;
use crate::schema::SchemaId;

/// A batch that names so many tables and channels ends. Its summary counts them in 16 bits, and every reader compares
/// all of them with what it asks for.
pub(super) const NAMES_MAX: usize = 4096;

/// What the current batch names.
#[derive(Debug, Default)]
pub(super) struct Summary {
    schemas: Vec<(SchemaId, u8)>,
    channels: BTreeMap<String, Named>,
    /// The newest transaction: another number than those before it in the batch.
    turn: u32,
}

/// A channel.
#[derive(Clone, Copy, Debug)]
struct Named {
    ops: u8,
    /// The transactions that named it first and last.
    turns: (u32, u32),
}

impl Summary {
    pub(super) fn begin(&mut self) {
        self.turn = self.turn.wrapping_add(1);
    }

    /// How many tables there are.
    pub(super) fn schemas(&self) -> usize {
        self.schemas.len()
    }

    pub(super) fn versions(&self) -> Vec<SchemaId> {
        self.schemas.iter().map(|(id, _)| *id).collect()
    }

    pub(super) fn is_full(&self) -> bool {
        self.schemas.len() + self.channels.len() >= NAMES_MAX
    }

    /// Forgets what the newest transaction alone has named; there were so many tables before it.
    pub(super) fn undo(&mut self, schemas: usize) {
        self.schemas.truncate(schemas);
        let turn = self.turn;
        self.channels.retain(|_, named| named.turns.0 != turn);
    }

    /// Likewise, and gives what the newest transaction needs in a batch of its own. Rows name their table by its place:
    /// all tables stay in theirs.
    pub(super) fn cut(&mut self, schemas: usize) -> Self {
        let turn = self.turn;
        let of_it = self.channels.iter().filter(|(_, named)| named.turns.1 == turn);
        let alone = |named: &Named| Named { turns: (turn, turn), ..*named };
        let channels = of_it.map(|(name, named)| (name.clone(), alone(named))).collect();
        let tail = Self { schemas: self.schemas.clone(), channels, turn };
        self.undo(schemas);
        tail
    }

    pub(super) fn clear(&mut self) {
        self.schemas.clear();
        self.channels.clear();
    }
}

impl Builder {
    pub(super) fn write_summary(&mut self) {
        let Summary { schemas, channels, turn } = std::mem::take(&mut self.summary);
        debug_assert!(schemas.len() + channels.len() <= NAMES_MAX, "a batch ends before it names more");
        self.count(schemas.len());
        for (id, ops) in &schemas {
            self.bytes.extend_from_slice(&id.to_le_bytes());
            self.bytes.push(*ops);
        }
        self.count(channels.len());
        for (name, named) in &channels {
            self.string(name);
            self.bytes.push(named.ops);
        }
        self.summary = Summary { schemas, channels, turn };
    }

    fn count(&mut self, count: usize) {
        self.bytes.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
    }

    /// `bit` is that of the op, or the one in its place.
    pub(super) fn schema_index(&mut self, schema: SchemaId, bit: u8) -> u16 {
        // Newest first: rows of one table come in runs.
        if let Some(index) = self.summary.schemas.iter().rposition(|(id, _)| *id == schema) {
            if let Some((_, ops)) = self.summary.schemas.get_mut(index) {
                *ops |= bit;
            }
            return u16::try_from(index).unwrap_or(u16::MAX);
        }
        self.summary.schemas.push((schema, bit));
        u16::try_from(self.summary.schemas.len() - 1).unwrap_or(u16::MAX)
    }

    pub(super) fn note_channel(&mut self, channel: &str, bit: u8) {
        let turn = self.summary.turn;
        match self.summary.channels.get_mut(channel) {
            Some(named) => (named.ops, named.turns.1) = (named.ops | bit, turn),
            None => {
                let named = Named { ops: bit, turns: (turn, turn) };
                self.summary.channels.insert(channel.to_owned(), named);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Op;
    use crate::feed::{Filter, Pattern};
    use crate::lsn::Lsn;
    use crate::record::{Batch, Part, TxStart};

    /// More than 16 bits count, in two transactions.
    const CHANNELS: usize = 40_000;

    fn begin(builder: &mut Builder, end: u64) {
        builder.begin(TxStart { xid: 7, final_lsn: Lsn(end - 8), ..TxStart::default() });
    }

    fn transaction(builder: &mut Builder, end: u64, channels: impl Iterator<Item = usize>) {
        begin(builder, end);
        channels.for_each(|channel| builder.message(&format!("c.{channel}"), Lsn(end - 8), b"1"));
        builder.commit(Lsn(end));
    }

    fn batches(parts: Vec<Part>) -> Vec<Batch> {
        let batch = |part: Part| Batch::new(part.bytes.into(), 1, None, |_| None).expect("a batch");
        parts.into_iter().map(batch).collect()
    }

    fn names(batch: &Batch) -> Vec<&str> {
        batch.shares().iter().map(|share| share.channel()).collect()
    }

    #[test]
    fn every_channel_is_named_where_its_events_are() {
        let mut builder = Builder::new();
        transaction(&mut builder, 100, 0..CHANNELS);
        transaction(&mut builder, 200, CHANNELS..2 * CHANNELS);
        let batches = batches(builder.take());
        let mut seen = 0;
        for batch in &batches {
            let mut events: Vec<_> = batch.events().map(|event| event.channel()).collect();
            seen += events.len();
            events.sort_unstable();
            assert_eq!(names(batch), events);
            assert!(events.len() <= NAMES_MAX);
        }
        assert_eq!(seen, 2 * CHANNELS);
        let ends: Vec<_> = batches.iter().flat_map(Batch::transactions).map(|(end, ..)| end.0).collect();
        assert_eq!(ends, [100, 200]);
        let last = format!("c.{}", 2 * CHANNELS - 1);
        let filter = Filter::new(vec![Pattern::Exact(last)], &[Op::Message]);
        let matching: Vec<_> = batches.iter().map(|batch| filter.matches_batch(batch)).collect();
        assert_eq!(matching.iter().rposition(|matches| *matches), Some(batches.len() - 1));
        assert_eq!(matching.iter().filter(|matches| **matches).count(), 1);
    }

    #[test]
    fn small_transactions_stay_whole_and_what_stands_before_one_stays_with_it() {
        let mut builder = Builder::new();
        for channel in 0..2 * NAMES_MAX {
            builder.message_alone(0, (&format!("c.{channel}"), b"1"), (Lsn(9), b"{}"));
        }
        let positions = |batch: &Batch| batch.events().all(|event| event.seq == 0 && event.last);
        let batches = batches(builder.take());
        assert!(batches.iter().all(|batch| positions(batch) && !batch.header().more));
        assert_eq!(batches.iter().map(|batch| names(batch).len()).collect::<Vec<_>>(), [NAMES_MAX; 2]);
    }

    #[test]
    fn a_transaction_that_is_cut_off_takes_its_own_channels_along() {
        let mut builder = Builder::new();
        transaction(&mut builder, 100, 0..NAMES_MAX - 2);
        begin(&mut builder, 200);
        for channel in ["c.0", "x.0", "x.1", "x.2"] {
            builder.message(channel, Lsn(192), b"1");
        }
        let earlier = batches(builder.take());
        assert_eq!(earlier.iter().map(|batch| names(batch).len()).collect::<Vec<_>>(), [NAMES_MAX - 2]);
        builder.commit(Lsn(200));
        let tail = batches(builder.take());
        assert_eq!(tail.iter().map(names).collect::<Vec<_>>(), [["c.0", "x.0", "x.1", "x.2"]]);
    }

    #[test]
    fn what_was_named_by_one_that_is_given_up_is_forgotten_and_nothing_else() {
        let mut builder = Builder::new();
        transaction(&mut builder, 100, 0..2);
        begin(&mut builder, 200);
        ["c.1", "x.0"].iter().for_each(|channel| builder.message(channel, Lsn(192), b"1"));
        builder.abort();
        transaction(&mut builder, 300, 1..3);
        let batches = batches(builder.take());
        assert_eq!(batches.iter().map(names).collect::<Vec<_>>(), [["c.0", "c.1", "c.2"]]);
    }

    /// A batch without events whose summary says that it names so many channels, and names others.
    fn saying(count: u16, named: usize) -> Option<Batch> {
        let mut bytes = Part::reaching(Lsn(9)).pop().unwrap().bytes;
        bytes.truncate(crate::record::layout::BATCH_HEADER + 2);
        bytes.extend_from_slice(&count.to_le_bytes());
        for channel in 0..named {
            let name = format!("c.{channel}");
            bytes.extend_from_slice(&u16::try_from(name.len()).unwrap().to_le_bytes());
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(Op::Message.bit());
        }
        let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        crate::record::layout::put(&mut bytes, 8, &length);
        Batch::new(bytes.into(), 1, None, |_| None)
    }

    #[test]
    fn a_summary_that_does_not_say_what_it_names_is_none_but_for_a_count_that_ended() {
        assert_eq!(saying(2, 2).unwrap().shares().len(), 2);
        assert!(saying(2, 3).is_none() && saying(3, 2).is_none() && saying(u16::MAX, 2).is_none());
        // As batches were written that name more than can be counted.
        let all = saying(u16::MAX, 70_000).unwrap();
        assert_eq!(all.shares().last().unwrap().channel(), "c.69999");
    }

    #[test]
    fn tables_and_gaps_count_too() {
        let mut builder = Builder::new();
        begin(&mut builder, 100);
        let names = u32::try_from(NAMES_MAX).unwrap();
        (0..names).for_each(|id| builder.truncate(id, Lsn(92), false, false));
        (0..2 * names).for_each(|id| builder.gap(&format!("public.t{id}"), "new_table", "words"));
        builder.commit(Lsn(100));
        let parts = builder.take();
        let seen: Vec<_> = parts.iter().map(|part| (part.schemas.len(), part.events)).collect();
        assert_eq!(seen, [(NAMES_MAX, names), (0, names), (0, names)]);
    }
}
