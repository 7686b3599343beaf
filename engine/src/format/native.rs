//! rowcast's own JSON: one object on one line per event.
//!
//! ```json
//! {"id":1795233906000000,"channel":"public.orders","op":"update","key":{"id":7},"before":null,
//!  "after":{"id":7,"total":"9.50"},"changed":null,"unchanged":["note"],"schema":7,
//!  "ts":"2026-11-21T04:05:06.123456Z","tx":{"id":741,"lsn":"0/16B3748","seq":0,"last":true}}
//! ```
//! `schema` is the version of the table that the row was written under ([`super::Described`]); null for a custom event.
//! A truncate has `"truncate":{"cascade":…,"restart_identity":…}` before it, a custom event `"payload":…`. A row that a
//! snapshot read has `"snapshot":{"kind":"initial","marks":["first","first_in_table"],"lsn":"0/16B3748"}` there: `kind`
//! is `initial` or `ad_hoc`, `marks` says where in the snapshot the row stands (`first`, `first_in_table`,
//! `last_in_table`, `last`), `lsn` is the position whose changes are in it; `tx` is null. So it is of a delete that stands
//! among the rows of a table without a key: one of them was gone again before all were told. A gap
//! has only `id`, `channel` (null for all), `op`, `reason`, `detail`, `from` and `to` where numbers are lost, `ts` and `tx`. A value that could not be
//! written is absent from its object and named in `"errors":[{"column":…,"reason":…}]`, the last member, which is
//! there only then.

use crate::event::{Body, Event, Old, Op, Snapshot, Tx};
use crate::format::json::{self, write_bool, write_int, write_member, write_name, write_string};
use crate::format::json_text::write_json;
use crate::format::time::write_rfc3339;
use crate::format::unrendered;
use crate::format::value::{Numbers, ValueError, write_value};
use crate::record::{Tuple, Value};
use crate::schema::{Column, Schema};

/// What a reader may choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NativeOptions {
    /// How `bigint` and `numeric` are written.
    pub numbers: Numbers,
}

/// Appends one event as a JSON object without a newline in or after it.
pub fn write_event(out: &mut Vec<u8>, event: &Event<'_>, options: &NativeOptions) {
    out.extend_from_slice(b"{\"id\":");
    write_int(out, event.id);
    write_member(out, "channel");
    match event.channel() {
        "" => write_null(out),
        channel => write_string(out, channel),
    }
    write_member(out, "op");
    write_string(out, event.op.name());
    let mut errors = Vec::new();
    match &event.body {
        Body::Row { schema, old, new } => {
            let mut row = RowWriter { schema, numbers: options.numbers, errors: &mut errors };
            row.write(out, event.op, *old, *new);
        }
        Body::Truncate { cascade, restart_identity, .. } => write_truncate(out, *cascade, *restart_identity),
        Body::Message { payload, .. } => write_payload(out, payload),
        Body::Gap { from, reason, detail, .. } => {
            write_member(out, "reason");
            write_string(out, reason);
            write_member(out, "detail");
            write_string(out, detail);
            if *from < event.id {
                write_member(out, "from");
                write_int(out, *from);
                write_member(out, "to");
                write_int(out, event.id);
            }
        }
    }
    if let Some(snapshot) = event.snapshot {
        write_snapshot(out, event, snapshot);
    }
    write_sinks(out, event.sinks);
    write_schema(out, &event.body);
    write_member(out, "ts");
    write_rfc3339(out, event.at);
    write_member(out, "tx");
    match &event.tx {
        Some(tx) => write_tx(out, event, tx),
        None => write_null(out),
    }
    write_errors(out, &errors);
    out.push(b'}');
}

fn write_null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"null");
}

fn write_schema(out: &mut Vec<u8>, body: &Body<'_>) {
    let id = match body {
        Body::Row { schema, .. } | Body::Truncate { schema, .. } => Some(schema.id),
        Body::Message { .. } => None,
        Body::Gap { .. } => return,
    };
    write_member(out, "schema");
    match id {
        Some(id) => write_int(out, id),
        None => write_null(out),
    }
}

fn write_tx(out: &mut Vec<u8>, event: &Event<'_>, tx: &Tx<'_>) {
    out.extend_from_slice(b"{\"id\":");
    write_int(out, tx.xid);
    write_member(out, "lsn");
    json::write_lsn(out, tx.end_lsn);
    write_member(out, "seq");
    write_int(out, event.seq);
    write_member(out, "last");
    write_bool(out, event.last);
    out.push(b'}');
}

fn write_snapshot(out: &mut Vec<u8>, event: &Event<'_>, snapshot: Snapshot) {
    write_member(out, "snapshot");
    out.extend_from_slice(b"{\"kind\":");
    write_string(out, snapshot.marks.kind());
    write_member(out, "marks");
    out.push(b'[');
    for place in snapshot.marks.places() {
        json::separate(out);
        write_string(out, place);
    }
    out.push(b']');
    write_member(out, "lsn");
    json::write_lsn(out, event.lsn);
    out.push(b'}');
}

/// Whom an event is for, where it is not for everybody: for who looks into a journal.
fn write_sinks(out: &mut Vec<u8>, sinks: &str) {
    if sinks.is_empty() {
        return;
    }
    write_member(out, "sinks");
    out.push(b'[');
    for sink in sinks.split(' ') {
        json::separate(out);
        write_string(out, sink);
    }
    out.push(b']');
}

/// The members of an event that is not about a row, so that all events but gaps have the same shape.
const NO_ROW: &[u8] = br#","key":null,"before":null,"after":null,"changed":null,"unchanged":[]"#;

fn write_truncate(out: &mut Vec<u8>, cascade: bool, restart_identity: bool) {
    out.extend_from_slice(NO_ROW);
    write_member(out, "truncate");
    out.extend_from_slice(b"{\"cascade\":");
    write_bool(out, cascade);
    write_member(out, "restart_identity");
    write_bool(out, restart_identity);
    out.push(b'}');
}

/// A payload that is no JSON, which `pg_logical_emit_message` does not check, becomes a string.
fn write_payload(out: &mut Vec<u8>, payload: &str) {
    out.extend_from_slice(NO_ROW);
    write_member(out, "payload");
    let start = out.len();
    if write_json(out, payload.as_bytes()).is_err() {
        out.truncate(start);
        write_string(out, payload);
    }
}

fn write_errors(out: &mut Vec<u8>, errors: &[(&str, ValueError)]) {
    if errors.is_empty() {
        return;
    }
    write_member(out, "errors");
    out.push(b'[');
    for (column, error) in errors {
        json::separate(out);
        out.extend_from_slice(b"{\"column\":");
        write_string(out, column);
        write_member(out, "reason");
        write_string(out, error.reason());
        out.push(b'}');
    }
    out.push(b']');
}

/// Writes `key`, `before`, `after`, `changed` and `unchanged`.
struct RowWriter<'a, 'e> {
    schema: &'a Schema,
    numbers: Numbers,
    /// Columns that could not be written, each once.
    errors: &'e mut Vec<(&'a str, ValueError)>,
}

impl<'a> RowWriter<'a, '_> {
    fn write(&mut self, out: &mut Vec<u8>, op: Op, old: Option<Old<'a>>, new: Option<Tuple<'a>>) {
        write_member(out, "key");
        match new.or(old.map(|old| old.tuple())) {
            Some(tuple) if !self.schema.key.is_empty() => self.key(out, tuple, old),
            _ => write_null(out),
        }
        write_member(out, "before");
        match old {
            Some(old) if self.is_told(old) => self.before(out, old),
            _ => write_null(out),
        }
        write_member(out, "after");
        let mut complete = true;
        match new {
            Some(new) => complete = self.after(out, new, old),
            None => write_null(out),
        }
        write_member(out, "changed");
        match (op, old, new) {
            (Op::Update, Some(Old::Full(old)), Some(new)) => self.changed(out, old, new),
            _ => write_null(out),
        }
        write_member(out, "unchanged");
        out.push(b'[');
        if let Some(new) = new.filter(|_| !complete) {
            self.unchanged(out, new, old);
        }
        out.push(b']');
    }

    fn key(&mut self, out: &mut Vec<u8>, tuple: Tuple<'a>, old: Option<Old<'a>>) {
        out.push(b'{');
        for index in &self.schema.key {
            let index = usize::from(*index);
            let Some(column) = self.schema.columns.get(index) else { continue };
            let value = tuple.values().nth(index).unwrap_or(Value::Null);
            let before = old.and_then(|old| old.tuple().values().nth(index));
            self.member(out, column, filled(column, value, before, old));
        }
        out.push(b'}');
    }

    /// Of the identity nothing is told where a part of it is not published.
    fn is_told(&self, old: Old<'a>) -> bool {
        matches!(old, Old::Full(_)) || self.schema.columns.iter().any(|column| column.identity)
    }

    fn before(&mut self, out: &mut Vec<u8>, old: Old<'a>) {
        let all = matches!(old, Old::Full(_));
        out.push(b'{');
        for (column, value) in self.schema.columns.iter().zip(old.tuple().values()) {
            if all || column.identity {
                self.member(out, column, value);
            }
        }
        out.push(b'}');
    }

    /// Writes the new row and tells whether all of it was known.
    fn after(&mut self, out: &mut Vec<u8>, new: Tuple<'a>, old: Option<Old<'a>>) -> bool {
        let mut complete = true;
        out.push(b'{');
        for (column, value) in self.filled_values(new, old) {
            complete &= value != Value::Unchanged;
            self.member(out, column, value);
        }
        out.push(b'}');
        complete
    }

    /// Names the columns whose new value Postgres did not send and the old row does not hold.
    fn unchanged(&self, out: &mut Vec<u8>, new: Tuple<'a>, old: Option<Old<'a>>) {
        for (column, value) in self.filled_values(new, old) {
            if value == Value::Unchanged {
                json::separate(out);
                write_string(out, &column.name);
            }
        }
    }

    /// Names the columns whose text differs.
    fn changed(&self, out: &mut Vec<u8>, old: Tuple<'a>, new: Tuple<'a>) {
        out.push(b'[');
        for ((column, old), new) in self.schema.columns.iter().zip(old.values()).zip(new.values()) {
            if new != Value::Unchanged && new != old {
                json::separate(out);
                write_string(out, &column.name);
            }
        }
        out.push(b']');
    }

    /// The new row, with values that were not sent taken from the old one where it holds them.
    fn filled_values(
        &self,
        new: Tuple<'a>,
        old: Option<Old<'a>>,
    ) -> impl Iterator<Item = (&'a Column, Value<'a>)> + use<'a> {
        let mut before = old.map(|old| old.tuple().values());
        self.schema.columns.iter().zip(new.values()).map(move |(column, value)| {
            let before = before.as_mut().and_then(Iterator::next);
            (column, filled(column, value, before, old))
        })
    }

    /// Writes a member of a row; one that is unknown or cannot be written is left out.
    fn member(&mut self, out: &mut Vec<u8>, column: &'a Column, value: Value<'_>) {
        let start = out.len();
        match value {
            Value::Unchanged => {}
            Value::Null => {
                write_name(out, &column.name);
                write_null(out);
            }
            Value::Text(text) => {
                write_name(out, &column.name);
                if let Err(error) = write_value(out, &column.ty, text, self.numbers) {
                    out.truncate(start);
                    unrendered::note(self.schema, &column.name, "native", error);
                    if !self.errors.iter().any(|(name, _)| *name == column.name) {
                        self.errors.push((&column.name, error));
                    }
                }
            }
        }
    }
}

/// The value, or for one that was not sent the old one: all of a full old row, of a key only what it holds.
pub(super) fn filled<'a>(
    column: &Column,
    value: Value<'a>,
    before: Option<Value<'a>>,
    old: Option<Old<'_>>,
) -> Value<'a> {
    match (value, before, old) {
        (Value::Unchanged, Some(before), Some(Old::Full(_))) => before,
        (Value::Unchanged, Some(before @ Value::Text(_)), Some(Old::Key(_))) if column.identity => before,
        _ => value,
    }
}

#[cfg(test)]
mod tests;
