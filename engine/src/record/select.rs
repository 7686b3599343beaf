//! The events of a batch that somebody wants, at no cost for the others but to step over them.

use crate::event::{Event, Op};
use crate::record::Batch;
use crate::record::batch::{Events, Record, is_aside};
use crate::record::layout::{KIND_CHANGE, KIND_GAP, KIND_MESSAGE, KIND_TRUNCATE, KIND_TX};

impl Batch {
    /// The events for everybody whose channel and op are wanted, in order, numbered as in [`Batch::events`]. Tables are
    /// asked for once a batch and the rows of the others are passed over unread, whatever stands in them.
    pub fn events_where<W: Fn(&str, Op) -> bool>(&self, wanted: W) -> EventsWhere<'_, W> {
        let ops_of = |channel: &str, has: u8| {
            let ops = Op::ALL.into_iter().filter(|op| has & op.bit() != 0 && wanted(channel, *op));
            ops.fold(0, |mask, op| mask | op.bit())
        };
        let tables = self.shares().iter().take_while(|share| share.schema.is_some());
        let tables = tables.map(|share| ops_of(share.channel(), share.ops)).collect();
        EventsWhere { events: self.all_events(), tables, wanted }
    }
}

/// Iterates over the wanted events of a batch.
#[derive(Clone, Debug)]
pub struct EventsWhere<'a, W> {
    events: Events<'a>,
    /// The ops that are wanted of each table, by its place in the summary.
    tables: Vec<u8>,
    wanted: W,
}

impl<'a, W: Fn(&str, Op) -> bool> Iterator for EventsWhere<'a, W> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        loop {
            let record = self.events.records.next()?;
            match record.kind {
                KIND_TX => self.events.enter(&record)?,
                kind if is_aside(kind) => {}
                _ if self.events.sinks.is_empty() && self.wants(&record)? => {
                    return self.events.event(&record);
                }
                _ => self.events.pass_over(),
            }
        }
    }
}

impl<W: Fn(&str, Op) -> bool> EventsWhere<'_, W> {
    /// `None` ends the iteration: the record is none that this version knows.
    fn wants(&self, record: &Record<'_>) -> Option<bool> {
        match record.kind {
            KIND_CHANGE => Some(self.wants_of_table(record, Op::of_row(record.flags)?)),
            KIND_TRUNCATE => Some(self.wants_of_table(record, Op::Truncate)),
            KIND_MESSAGE => Some((self.wanted)(record.channel()?.0, Op::Message)),
            KIND_GAP => Some((self.wanted)(record.channel()?.0, Op::Gap)),
            _ => None,
        }
    }

    fn wants_of_table(&self, record: &Record<'_>, op: Op) -> bool {
        // A table that the summary lacks is left to the decoder, which ends the iteration.
        self.tables.get(usize::from(record.schema)).is_none_or(|ops| ops & op.bit() != 0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use crate::Lsn;
    use crate::event::{Event, Marks, Op};
    use crate::record::layout::{BATCH_HEADER, KIND_CHANGE, RECORD_HEADER, get_u16, get_u32};
    use crate::record::{Batch, Builder, Header, TxStart};
    use crate::schema::{Column, Identity, Schema, Type};

    fn table(id: u32) -> Arc<Schema> {
        let column = Column {
            name: "id".to_owned(),
            ty: Type::base(23, "int4"),
            typmod: -1,
            identity: true,
            not_null: true,
        };
        Arc::new(Schema {
            id,
            relation: id,
            database: "db".to_owned(),
            schema: "public".to_owned(),
            table: format!("t{id}"),
            channel: format!("public.t{id}"),
            identity: Identity::Default,
            inserts_only: false,
            columns: vec![column],
            primary_key: vec![0],
            key: vec![0],
            unique_key: Vec::new(),
        })
    }

    /// A row that a snapshot read; and one for a sink alone.
    const READ: u8 = 6;
    const READ_FOR: u8 = 7;

    fn batch(bytes: Vec<u8>) -> Batch {
        Batch::new(bytes.into(), 1000, None, |id| Some(table(id))).expect("a batch")
    }

    /// Transactions of (table or channel, what) each; where the first is a row that a snapshot read, all are.
    fn build(transactions: &[Vec<(u32, u8)>]) -> Vec<u8> {
        let mut builder = Builder::new();
        for (at, events) in transactions.iter().enumerate() {
            let lsn = Lsn(100 * (at as u64 + 1));
            if let Some((_, of @ (READ | READ_FOR))) = events.first() {
                let sinks = if *of == READ { Vec::new() } else { vec!["a".to_owned()] };
                builder.begin_snapshot_for(&sinks, 6, lsn, 9);
                events.iter().for_each(|(of, _)| builder.read(*of, lsn, Marks::FIRST, b"\0\x01t\0\0\0\x01a"));
                builder.commit(lsn);
                continue;
            }
            builder.begin(TxStart { xid: 7, final_lsn: lsn, committed: 5, ..TxStart::default() });
            for (of, what) in events {
                match what {
                    0 => builder.change(*of, Op::Insert, lsn, b"N\0\x01t\0\0\0\x01a"),
                    1 => builder.change(*of, Op::Delete, lsn, b"K\0\x01t\0\0\0\x01a"),
                    2 => builder.truncate(*of, lsn, false, true),
                    3 => builder.message(&format!("custom.{of}"), lsn, b"{}"),
                    4 => builder.gap(&format!("public.t{of}"), "source_lost", "gone"),
                    _ => builder.lost(900, "journal_damaged", "gone"),
                }
            }
            builder.commit(Lsn(lsn.0 + 8));
        }
        builder.take().pop().map(|part| part.bytes).unwrap_or_default()
    }

    /// All that can be told of an event.
    fn told(events: impl Iterator<Item = impl std::borrow::Borrow<Event<'static>>>) -> Vec<String> {
        events.map(|event| format!("{:?}", event.borrow())).collect()
    }

    proptest! {
        #[test]
        fn gives_what_filtering_all_events_gives(
            transactions in prop::collection::vec(prop::collection::vec((0..6u32, 0..=READ_FOR), 1..9), 1..9),
            channels in prop::collection::vec(0..6u32, 0..4),
            ops in 0..=u8::MAX,
        ) {
            let batch: &'static Batch = Box::leak(Box::new(batch(build(&transactions))));
            let wanted = |channel: &str, op: Op| {
                let named = |of: &u32| ["public.t", "custom."].iter().any(|kind| channel == format!("{kind}{of}"));
                ops & op.bit() != 0 && (channel.is_empty() || channels.iter().any(named))
            };
            let filtered = batch.events().filter(|event| wanted(event.channel(), event.op));
            prop_assert_eq!(told(batch.events_where(wanted)), told(filtered));
            prop_assert_eq!(told(batch.events_where(|_, _| true)), told(batch.events()));
            prop_assert_eq!(batch.events_where(|_, _| false).count(), 0);
        }
    }

    #[test]
    fn rows_of_other_tables_are_not_looked_into() {
        let mixed: Vec<_> = (0..20).map(|at| vec![(at % 3, 0), (1, 0), ((at + 1) % 3, 1)]).collect();
        let whole = build(&mixed);
        let header = Header::parse(&whole).expect("a header");
        let index_of_1 = (0..3).find(|at| get_u32(&whole, header.summary as usize + 2 + at * 5) == Some(1));
        let mut garbled = whole.clone();
        let (mut at, mut spoiled) = (BATCH_HEADER, 0);
        while at < header.summary as usize {
            let length = get_u32(&whole, at).expect("a length") as usize;
            let other = get_u16(&whole, at + 6).map(usize::from) != index_of_1;
            if whole[at + 4] == KIND_CHANGE && other {
                // All but the record's own header: neither position nor tuples are left.
                garbled[at + RECORD_HEADER..at + length].fill(0xee);
                spoiled += 1;
            }
            at += length;
        }
        let (whole, garbled) = (batch(whole), batch(garbled));
        assert!(spoiled > 10 && garbled.events().count() < whole.events().count(), "the others are spoiled");
        let seen = |batch: &Batch| -> Vec<_> {
            let wanted = batch.events_where(|channel, _| channel == "public.t1");
            wanted.map(|event| (event.id, event.seq, event.last, event.lsn, event.op)).collect()
        };
        let all = whole.events().filter(|event| event.channel() == "public.t1");
        let all: Vec<_> = all.map(|event| (event.id, event.seq, event.last, event.lsn, event.op)).collect();
        assert!(all.len() > 20);
        assert_eq!(seen(&whole), all);
        assert_eq!(seen(&garbled), all);
    }
}
