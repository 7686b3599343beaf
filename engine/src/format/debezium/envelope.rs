//! The envelope: `before`, `after`, `source`, `transaction`, `op` and the clocks, in Debezium's order.

use std::ops::Range;

use crate::event::{Body, Event, Marks, Micros, Old, Op};
use crate::format::debezium::key::{old_key_columns, sent_key_columns, write_unrendered};
use crate::format::debezium::placeholder::Placeholders;
use crate::format::debezium::records::{Header, Records, Written};
use crate::format::debezium::shape::Shape;
use crate::format::debezium::topic::write_suffix;
use crate::format::debezium::value::write_shaped;
use crate::format::json::{separate, write_int, write_member, write_name, write_string};
use crate::format::native::filled;
use crate::format::unrendered;
use crate::record::{Tuple, Value};
use crate::schema::{Column, Schema};

/// The release whose output this is; consumers see it as `source.version`.
pub const DEBEZIUM_VERSION: &str = "3.6.1.Final";

/// Debezium's own options, as far as they are known here, with its defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebeziumOptions {
    /// `topic.prefix`: the first part of every topic, and `source.name`.
    pub topic_prefix: String,
    /// What stands in `source.version`.
    pub version: String,
    /// `tombstones.on.delete`: whether a record with a null value follows every delete.
    pub tombstones_on_delete: bool,
    /// `skipped.operations`: whether truncates have no records (`t`, its default) or one a table (`none`).
    pub skip_truncates: bool,
    /// `unavailable.value.placeholder`: stands for a TOASTed value that did not change and was not sent.
    pub unavailable_value_placeholder: String,
}

impl DebeziumOptions {
    /// Debezium's defaults under this prefix.
    pub fn new(topic_prefix: impl Into<String>) -> Self {
        Self {
            topic_prefix: topic_prefix.into(),
            version: DEBEZIUM_VERSION.to_owned(),
            tombstones_on_delete: true,
            skip_truncates: true,
            unavailable_value_placeholder: "__debezium_unavailable_value".to_owned(),
        }
    }
}

/// Writes events as Debezium would. Cheap to share; everything that does not change is prepared.
#[derive(Debug)]
pub struct Debezium {
    options: DebeziumOptions,
    /// `{"version":…,"connector":…,"name":…,"ts_ms":`, the same in every record.
    source_head: Vec<u8>,
    placeholders: Placeholders,
}

/// One row event; `event.body` taken apart.
#[derive(Clone, Copy)]
struct Row<'a> {
    event: &'a Event<'a>,
    schema: &'a Schema,
    old: Option<Old<'a>>,
    /// Nanoseconds since 1970, the connector's own clock.
    now: i64,
}

impl Debezium {
    /// Prepares for these options.
    pub fn new(options: DebeziumOptions) -> Self {
        let mut source_head = b"{".to_vec();
        let members = [
            ("version", options.version.as_str()),
            ("connector", "postgresql"),
            ("name", &options.topic_prefix),
        ];
        for (name, value) in members {
            write_name(&mut source_head, name);
            write_string(&mut source_head, value);
        }
        write_name(&mut source_head, "ts_ms");
        let placeholders = Placeholders::new(&options.unavailable_value_placeholder);
        Self { options, source_head, placeholders }
    }

    /// The options that it was made with.
    pub fn options(&self) -> &DebeziumOptions {
        &self.options
    }

    /// Writes the records of one event into `out`, in place of what it held.
    ///
    /// `now` is the time of handling in nanoseconds since 1970, which stands in the envelope's `ts_ms`, `ts_us` and
    /// `ts_ns`. Custom events and gaps have no records: they are not Debezium's business. Nor have truncates, by
    /// its default.
    pub fn records(&self, event: &Event<'_>, now: i64, out: &mut Records) {
        out.clear();
        let (schema, old, new) = match event.body {
            Body::Row { schema, old, new } => (schema, old, new),
            Body::Truncate { schema, .. } => return self.truncate(out, event, schema, now),
            Body::Message { .. } | Body::Gap { .. } => return,
        };
        write_suffix(out.topic(), schema);
        let row = Row { event, schema, old, now };
        let before = old.and_then(|old| Some((old_key_columns(schema, &old)?, old.tuple())));
        let old_key = before.map(|(columns, tuple)| (columns, self.key(out, &row, columns, tuple)));
        let Some(new) = new else {
            return self.delete(out, &row, old_key.as_ref().map(|(_, key)| key), None);
        };
        let Some(columns) = sent_key_columns(schema, old, new) else {
            return self.upsert(out, &row, None, new);
        };
        let key = self.key(out, &row, columns, new);
        let Some((old_columns, old_key)) = old_key else { return self.upsert(out, &row, Some(&key), new) };
        // The same columns, so that an old row that was sent for another reason is not taken for a change.
        let compared =
            if old_columns == columns { key.clone() } else { self.key(out, &row, old_columns, new) };
        if out.bytes(&old_key) == out.bytes(&compared) {
            return self.upsert(out, &row, Some(&key), new);
        }
        self.delete(out, &row, Some(&old_key), Some((Header::NewKey, &key)));
        let value = self.value(out, &row, "c", None, Some(new));
        out.push(Some(&key), Some(value), Some((Header::OldKey, &old_key)));
    }

    fn truncate(&self, out: &mut Records, event: &Event<'_>, schema: &Schema, now: i64) {
        if self.options.skip_truncates {
            return;
        }
        write_suffix(out.topic(), schema);
        let row = Row { event, schema, old: None, now };
        let value = self.value(out, &row, "t", None, None);
        out.push(None, Some(value), None);
    }

    /// A record for a row that is there: insert, update or snapshot.
    fn upsert(&self, out: &mut Records, row: &Row<'_>, key: Option<&Range<usize>>, new: Tuple<'_>) {
        let op = match row.event.op {
            Op::Read => "r",
            Op::Update => "u",
            _ => "c",
        };
        let value = self.value(out, row, op, row.old, Some(new));
        out.push(key, Some(value), None);
    }

    /// A record for a row that is gone, and its tombstone.
    fn delete(
        &self,
        out: &mut Records,
        row: &Row<'_>,
        key: Option<&Range<usize>>,
        header: Option<(Header, &Range<usize>)>,
    ) {
        let value = self.value(out, row, "d", row.old, None);
        out.push(key, Some(value), header);
        if self.options.tombstones_on_delete {
            out.push(key, None, header);
        }
    }

    fn key(&self, out: &mut Records, row: &Row<'_>, columns: &[u16], tuple: Tuple<'_>) -> Range<usize> {
        out.append(|out| {
            let mut writer = RowWriter::new(self, row.schema);
            writer.key(out, row, columns, tuple);
            writer.unrendered
        })
    }

    fn value(
        &self,
        out: &mut Records,
        row: &Row<'_>,
        op: &str,
        before: Option<Old<'_>>,
        after: Option<Tuple<'_>>,
    ) -> Written {
        let mut writer = RowWriter::new(self, row.schema);
        let value = out.append(|out| {
            out.extend_from_slice(b"{\"before\":");
            writer.row(out, row.schema, before.map(|old| old.tuple()), None);
            write_member(out, "after");
            writer.row(out, row.schema, after, row.old);
            write_member(out, "source");
            self.source(out, row);
            out.extend_from_slice(b",\"transaction\":null");
            write_member(out, "op");
            write_string(out, op);
            write_member(out, "ts_ms");
            write_int(out, row.now.div_euclid(1_000_000));
            write_member(out, "ts_us");
            write_int(out, row.now.div_euclid(1000));
            write_member(out, "ts_ns");
            write_int(out, row.now);
            out.push(b'}');
            writer.unrendered
        });
        let unchanged = (!writer.unchanged.is_empty()).then(|| {
            out.append(|out| {
                writer.unchanged(out);
                0
            })
        });
        Written { value, unchanged }
    }

    fn source(&self, out: &mut Vec<u8>, row: &Row<'_>) {
        let event = row.event;
        let committed: Micros = event.tx.map_or(event.at, |tx| tx.committed);
        out.extend_from_slice(&self.source_head);
        write_int(out, committed.div_euclid(1000));
        write_member(out, "snapshot");
        write_string(out, snapshot(event));
        write_member(out, "db");
        write_string(out, &row.schema.database);
        write_sequence(out, event);
        write_member(out, "ts_us");
        write_int(out, committed);
        write_member(out, "ts_ns");
        write_int(out, i128::from(committed) * 1000);
        write_member(out, "schema");
        write_string(out, &row.schema.schema);
        write_member(out, "table");
        write_string(out, &row.schema.table);
        write_member(out, "txId");
        match event.tx.map(|tx| tx.xid).or(event.snapshot.map(|snapshot| snapshot.xid)) {
            Some(xid) => write_int(out, xid),
            None => out.extend_from_slice(b"null"),
        }
        write_member(out, "lsn");
        write_int(out, event.lsn.0);
        out.extend_from_slice(b",\"xmin\":null");
        write_member(out, "origin");
        match event.tx.map(|tx| tx.origin).filter(|origin| !origin.is_empty()) {
            Some(origin) => write_string(out, origin),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"origin_lsn\":null}");
    }
}

/// The word for the row's place in a snapshot. A row can stand at several; Debezium tells one of them.
fn snapshot(event: &Event<'_>) -> &'static str {
    let Some(snapshot) = event.snapshot else {
        return if event.op == Op::Read { "true" } else { "false" };
    };
    let words = [
        (Marks::AD_HOC, "incremental"),
        (Marks::LAST, "last"),
        (Marks::FIRST, "first"),
        (Marks::LAST_IN_TABLE, "last_in_data_collection"),
        (Marks::FIRST_IN_TABLE, "first_in_data_collection"),
        (Marks::NONE, "true"),
    ];
    words.into_iter().find(|(mark, _)| snapshot.marks.has(*mark)).map_or("true", |(_, word)| word)
}

/// Appends `sequence`: a JSON array as a string, of the last commit before this transaction and the own position.
fn write_sequence(out: &mut Vec<u8>, event: &Event<'_>) {
    out.extend_from_slice(b",\"sequence\":\"[");
    match event.tx.map(|tx| tx.previous_end_lsn.0).filter(|lsn| *lsn != 0) {
        Some(lsn) => {
            out.extend_from_slice(b"\\\"");
            write_int(out, lsn);
            out.extend_from_slice(b"\\\"");
        }
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\\\"");
    write_int(out, event.lsn.0);
    out.extend_from_slice(b"\\\"]\"");
}

/// Writes rows and keys, counting what did not fit its type.
struct RowWriter<'d> {
    debezium: &'d Debezium,
    schema: &'d Schema,
    unrendered: usize,
    /// Columns that are null for want of a placeholder.
    unchanged: Vec<usize>,
}

impl<'d> RowWriter<'d> {
    fn new(debezium: &'d Debezium, schema: &'d Schema) -> Self {
        Self { debezium, schema, unrendered: 0, unchanged: Vec::new() }
    }

    /// Appends a key; what rows leave out, or write alike for different values, stands here as its text, lest keys collide.
    fn key(&mut self, out: &mut Vec<u8>, row: &Row<'_>, columns: &[u16], tuple: Tuple<'_>) {
        out.push(b'{');
        for index in columns {
            let index = usize::from(*index);
            let Some(column) = row.schema.columns.get(index) else { continue };
            let before = row.old.and_then(|old| old.tuple().values().nth(index));
            let value = tuple.values().nth(index).unwrap_or(Value::Null);
            let value = filled(column, value, before, row.old);
            let mut shape = Shape::of_key(&column.ty, column.typmod);
            if let Value::Text(text) = value {
                shape = shape.for_key(text);
            }
            let unrendered = self.unrendered;
            self.member(out, column, &shape, value);
            if let Value::Text(text) = value
                && self.unrendered > unrendered
            {
                write_unrendered(out, text);
            }
        }
        out.push(b'}');
    }

    /// Appends a row or null; what was not sent is taken from `old` where that holds it.
    fn row(&mut self, out: &mut Vec<u8>, schema: &Schema, tuple: Option<Tuple<'_>>, old: Option<Old<'_>>) {
        let Some(tuple) = tuple else { return out.extend_from_slice(b"null") };
        let mut before = old.map(|old| old.tuple().values());
        out.push(b'{');
        for (index, (column, value)) in schema.columns.iter().zip(tuple.values()).enumerate() {
            let before = before.as_mut().and_then(Iterator::next);
            if let Some(shape) = Shape::of(&column.ty, column.typmod) {
                let value = filled(column, value, before, old);
                if value == Value::Unchanged && self.debezium.placeholders.find(&shape).is_none() {
                    self.unchanged.push(index);
                }
                self.member(out, column, &shape, value);
            }
        }
        out.push(b'}');
    }

    /// Appends the names of the columns that are null for want of a placeholder.
    fn unchanged(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for column in self.unchanged.iter().filter_map(|index| self.schema.columns.get(*index)) {
            separate(out);
            write_string(out, &column.name);
        }
        out.push(b']');
    }

    fn member(&mut self, out: &mut Vec<u8>, column: &Column, shape: &Shape<'_>, value: Value<'_>) {
        write_name(out, &column.name);
        let start = out.len();
        match value {
            Value::Null => out.extend_from_slice(b"null"),
            Value::Unchanged => out.extend_from_slice(self.debezium.placeholders.of(shape)),
            Value::Text(text) => {
                if let Err(error) = write_shaped(out, shape, text) {
                    out.truncate(start);
                    unrendered::note(self.schema, &column.name, "debezium", error);
                    out.extend_from_slice(b"null");
                    self.unrendered += 1;
                }
            }
        }
    }
}
