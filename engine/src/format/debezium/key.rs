//! Which columns make a record's key.

use crate::event::Old;
use crate::format::json::write_string;
use crate::format::native::filled;
use crate::record::{Tuple, Value};
use crate::schema::{Identity, Schema};

/// The key of a row as it is now: the primary key, else the first unique index; `None` where there is neither.
pub(super) fn key_columns(schema: &Schema) -> Option<&[u16]> {
    [&schema.primary_key, &schema.unique_key].into_iter().find(|key| !key.is_empty()).map(Vec::as_slice)
}

/// The key of a row as it is now, of what was sent of it. Under an identity by another index Postgres leaves out a long
/// value that did not change: then the identity's columns, as where the row is deleted, lest all such rows have one key.
pub(super) fn sent_key_columns<'a>(
    schema: &'a Schema,
    old: Option<Old<'_>>,
    new: Tuple<'_>,
) -> Option<&'a [u16]> {
    let key = key_columns(schema)?;
    if schema.identity != Identity::Index || schema.key.is_empty() {
        return Some(key);
    }
    let is_sent = |index: &u16| {
        let index = usize::from(*index);
        let before = old.and_then(|old| old.tuple().values().nth(index));
        let value = schema.columns.get(index).zip(new.values().nth(index));
        value.is_none_or(|(column, value)| filled(column, value, before, old) != Value::Unchanged)
    };
    Some(if key.iter().all(is_sent) { key } else { &schema.key })
}

/// Puts the bytes of a value that cannot be written, as Postgres shows bytes, in the place of the null at the end: that
/// would be the same for all.
#[cold]
pub(super) fn write_unrendered(out: &mut Vec<u8>, text: &[u8]) {
    out.truncate(out.len() - b"null".len());
    let mut bytes = "\\x".to_owned();
    for byte in text {
        bytes.extend(
            [byte >> 4, byte & 15].map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or('0')),
        );
    }
    write_string(out, &bytes);
}

/// The key of a row as it was: the same columns, or those of the replica identity where the old row does not hold
/// them (an identity by an index other than the primary key).
pub(super) fn old_key_columns<'a>(schema: &'a Schema, old: &Old<'_>) -> Option<&'a [u16]> {
    let key = key_columns(schema)?;
    let identity =
        |index: &u16| schema.columns.get(usize::from(*index)).is_some_and(|column| column.identity);
    let held = matches!(old, Old::Full(_)) || key.iter().all(identity);
    let columns = if held { key } else { &schema.key };
    // An old row without what identifies it.
    (!columns.is_empty()).then_some(columns)
}
