//! Rows as a snapshot read them. They stand between the transactions of Postgres and belong to none.

use crate::event::{Marks, Micros, Op};
use crate::lsn::Lsn;
use crate::record::layout::{KIND_CHANGE, SNAPSHOT_TAG};
use crate::record::{Builder, Tuple, TxStart};
use crate::schema::SchemaId;

impl Builder {
    /// Starts a group of rows that a snapshot read, shown whole or not at all; [`Builder::read`] adds them and
    /// [`Builder::commit`] ends it, whatever LSN it is given. `at` is the time of the snapshot, `lsn` the position whose
    /// changes it has, `xid` its xmin. To the stream the group is nothing: no transaction, no position.
    pub fn begin_snapshot(&mut self, at: Micros, lsn: Lsn, xid: u32) {
        self.start(TxStart { xid, final_lsn: lsn, committed: at, ..TxStart::default() }, true);
    }

    /// Adds a row that the snapshot read, as it was at `lsn`; `tuple` is pgoutput's TupleData, all columns filled.
    pub fn read(&mut self, schema: SchemaId, lsn: Lsn, marks: Marks, tuple: &[u8]) {
        debug_assert!(self.open.as_ref().is_some_and(|open| open.local), "a snapshot is of no transaction");
        debug_assert!(Tuple::split(tuple).is_some_and(|(_, rest)| rest.is_empty()), "one tuple");
        self.split_if_full();
        let index = self.schema_index(schema, Op::Read);
        let at = self.record(KIND_CHANGE, Op::Read as u8, index);
        self.bytes.extend_from_slice(&lsn.0.to_le_bytes());
        self.bytes.extend_from_slice(&[SNAPSHOT_TAG, marks.bits(), b'N']);
        self.bytes.extend_from_slice(tuple);
        self.close_record(at);
        self.counted();
    }
}
