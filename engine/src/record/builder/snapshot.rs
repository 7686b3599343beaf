//! Rows as a snapshot read them. They stand between the transactions of Postgres and belong to none.

use crate::event::{Marks, Micros, Op};
use crate::lsn::Lsn;
use crate::record::layout::{KIND_CHANGE, OPS_FOR, SNAPSHOT_TAG};
use crate::record::{Builder, Tuple, TxStart};
use crate::schema::SchemaId;

impl Builder {
    /// Starts a group of rows that a snapshot read, shown whole or not at all; [`Builder::read`] adds them and
    /// [`Builder::commit`] ends it, whatever LSN it is given. `at` is the time of the snapshot, `lsn` the position whose
    /// changes it has, `xid` its xmin. To the stream the group is nothing: no transaction, no position.
    pub fn begin_snapshot(&mut self, at: Micros, lsn: Lsn, xid: u32) {
        self.begin_snapshot_for(&[], at, lsn, xid);
    }

    /// Likewise, for these sinks alone: nobody else is shown the rows. With none, for everybody.
    pub fn begin_snapshot_for(&mut self, sinks: &[String], at: Micros, lsn: Lsn, xid: u32) {
        let origin = &sinks.join(" ");
        self.start(TxStart { xid, final_lsn: lsn, committed: at, origin, ..TxStart::default() }, true);
    }

    /// Starts a group of events that did not come from Postgres, for these sinks alone: nobody else is shown them. With
    /// none, for everybody.
    pub fn begin_local_for(&mut self, sinks: &[String], at: Micros) {
        let origin = &sinks.join(" ");
        self.start(TxStart { committed: at, origin, ..TxStart::default() }, true);
    }

    /// Whether the open group is for some sinks alone.
    pub(super) fn is_addressed(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.local && !open.origin.is_empty())
    }

    /// Adds a row that the snapshot read, as it was at `lsn`; `tuple` is pgoutput's TupleData, all columns filled.
    pub fn read(&mut self, schema: SchemaId, lsn: Lsn, marks: Marks, tuple: &[u8]) {
        debug_assert!(self.open.as_ref().is_some_and(|open| open.local), "a snapshot is of no transaction");
        debug_assert!(Tuple::split(tuple).is_some_and(|(_, rest)| rest.is_empty()), "one tuple");
        self.split_if_full();
        let ops = if self.is_addressed() { OPS_FOR } else { Op::Read.bit() };
        let index = self.schema_index(schema, ops);
        let at = self.record(KIND_CHANGE, Op::Read as u8, index);
        self.bytes.extend_from_slice(&lsn.0.to_le_bytes());
        self.bytes.extend_from_slice(&[SNAPSHOT_TAG, marks.bits(), b'N']);
        self.bytes.extend_from_slice(tuple);
        self.close_record(at);
        self.counted();
    }

    /// Adds that a row like this one, which the snapshot has read, is gone again at `lsn`: a delete with all of the row.
    pub fn read_gone(&mut self, schema: SchemaId, lsn: Lsn, tuple: &[u8]) {
        debug_assert!(self.open.as_ref().is_some_and(|open| open.local), "a snapshot is of no transaction");
        self.split_if_full();
        let ops = if self.is_addressed() { OPS_FOR } else { Op::Delete.bit() };
        let index = self.schema_index(schema, ops);
        let at = self.record(KIND_CHANGE, Op::Delete as u8, index);
        self.bytes.extend_from_slice(&lsn.0.to_le_bytes());
        self.bytes.push(b'O');
        self.bytes.extend_from_slice(tuple);
        self.close_record(at);
        self.counted();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::event::{Body, Event, Marks, Op, Snapshot};
    use crate::format::sample::Cell::Text;
    use crate::format::sample::{base, schema, tuple_data};
    use crate::lsn::Lsn;
    use crate::record::builder::PART_BYTES;
    use crate::record::{Batch, Builder, Part, TxStart, Value};

    const AT: i64 = 1_795_233_906_123_456;
    const END: Marks = Marks::LAST;

    fn batches(parts: Vec<Part>) -> Vec<Batch> {
        let table = Arc::new(schema(&[("v", base("text"), -1)], &[]));
        let batch = |bytes: Vec<u8>| Batch::new(bytes.into(), 1000, None, |_| Some(Arc::clone(&table)));
        parts.into_iter().map(|part| batch(part.bytes).expect("a batch")).collect()
    }

    fn transaction(builder: &mut Builder, end: u64) {
        builder.begin(TxStart { xid: 7, final_lsn: Lsn(end - 8), committed: AT, ..TxStart::default() });
        builder.change(1, Op::Insert, Lsn(end - 8), &[b"N".as_slice(), &tuple_data(&[Text("x")])].concat());
        builder.commit(Lsn(end));
    }

    fn text<'a>(event: &Event<'a>) -> &'a [u8] {
        let Body::Row { old: None, new: Some(tuple), .. } = event.body else { panic!("{event:?}") };
        let Some(Value::Text(text)) = tuple.values().next() else { panic!("{tuple:?}") };
        text
    }

    #[test]
    fn a_row_comes_back_with_its_marks_and_of_no_transaction() {
        let mut builder = Builder::new();
        transaction(&mut builder, 100);
        builder.begin_snapshot(AT + 1, Lsn(90), 741);
        builder.read(1, Lsn(90), Marks::FIRST | Marks::FIRST_IN_TABLE, &tuple_data(&[Text("a")]));
        builder.read(1, Lsn(95), Marks::AD_HOC | END, &tuple_data(&[Text("b")]));
        // Whatever it is told, here and below: a stream that went on from this would miss changes.
        builder.commit(Lsn(1 << 40));
        transaction(&mut builder, 200);
        let parts = builder.take();
        assert_eq!(parts[0].tx_end, Lsn(200));
        let batches = batches(parts);
        let [batch] = batches.as_slice() else { panic!("{} batches", batches.len()) };
        let ends: Vec<_> = batch.transactions().map(|(end, ..)| end.0).collect();
        assert_eq!((ends, batch.header().lsn_max), (vec![100, 200], Lsn(200)));
        let events: Vec<_> = batch.events().collect();
        let seen: Vec<_> =
            events.iter().map(|e| (e.op, e.seq, e.last, e.lsn.0, e.at, e.tx.is_some())).collect();
        let reads = [(Op::Read, 0, false, 90, AT + 1, false), (Op::Read, 1, true, 95, AT + 1, false)];
        assert_eq!(seen[1..3], reads);
        assert_eq!((text(&events[1]), text(&events[2])), (b"a".as_slice(), b"b".as_slice()));
        let marks: Vec<_> = events.iter().map(|event| event.snapshot).collect();
        let read = |marks| Some(Snapshot { marks, xid: 741 });
        let first = read(Marks::FIRST | Marks::FIRST_IN_TABLE);
        assert_eq!(marks, [None, first, read(Marks::AD_HOC | END), None]);
        assert_eq!(events[3].tx.map(|tx| (tx.xid, tx.end_lsn)), Some((7, Lsn(200))));
    }

    #[test]
    fn a_group_of_several_parts_is_of_no_transaction_either() {
        let mut builder = Builder::new();
        transaction(&mut builder, 100);
        builder.begin_snapshot_for(&["a".to_owned(), "b".to_owned()], AT, Lsn(90), 741);
        let long = "x".repeat(PART_BYTES / 3);
        (0..7).for_each(|_| builder.read(1, Lsn(90), Marks::NONE, &tuple_data(&[Text(&long)])));
        builder.commit(Lsn(90));
        let batches = batches(builder.take());
        let more: Vec<_> = batches.iter().map(|batch| batch.header().more).collect();
        assert_eq!(more, [false, true, true, false]);
        for batch in &batches[1..] {
            assert_eq!((batch.header().lsn_min, batch.header().lsn_max), (Lsn::ZERO, Lsn::ZERO));
            assert_eq!(batch.transactions().count(), 0);
        }
        let events: Vec<_> = batches[1..].iter().flat_map(Batch::all_events).collect();
        assert!(events.iter().zip(0..).all(|(event, seq)| (event.seq, event.last) == (seq, seq == 6)));
        assert!(events.iter().all(|event| event.sinks == "a b" && event.is_for("b") && !event.is_for("c")));
        for batch in &batches[1..] {
            assert!(batch.is_addressed() && batch.events().next().is_none());
            assert_eq!(batch.events_for("a").count(), batch.header().events as usize);
        }
        assert!(
            events.iter().all(|event| event.tx.is_none() && event.snapshot.is_some_and(|s| s.xid == 741))
        );
    }
}
