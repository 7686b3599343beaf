//! Which columns make a record's key.

use crate::event::Old;
use crate::schema::Schema;

/// The key of a row as it is now: the primary key, else the first unique index; `None` where there is neither.
pub(super) fn key_columns(schema: &Schema) -> Option<&[u16]> {
    [&schema.primary_key, &schema.unique_key].into_iter().find(|key| !key.is_empty()).map(Vec::as_slice)
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
