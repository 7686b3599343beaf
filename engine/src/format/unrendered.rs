//! Values that could not be written: the event goes out without them, and somebody has to be told.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use metrics::counter;

use crate::format::value::ValueError;
use crate::schema::{Schema, SchemaId};

/// Columns that have been logged are remembered, so that a million broken values are one line. Beyond so many, which
/// no sound database reaches, new ones are counted only.
const LOGGED_MAX: usize = 1_000;

static LOGGED: Mutex<BTreeSet<(SchemaId, String)>> = Mutex::new(BTreeSet::new());

/// Counts a value that could not be written, each time that it could not, and logs its column once. Never the value.
#[cold]
pub(super) fn note(schema: &Schema, column: &str, format: &'static str, error: ValueError) {
    counter!("rowcast_unrendered_values_total", "format" => format, "reason" => error.reason()).increment(1);
    if first_of(schema.id, column) {
        tracing::warn!(
            channel = schema.channel,
            column,
            schema = schema.id,
            reason = error.reason(),
            "A value cannot be shown, its event goes out without it: {error}"
        );
    }
}

fn first_of(schema: SchemaId, column: &str) -> bool {
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    logged.len() < LOGGED_MAX && logged.insert((schema, column.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_logged_once_for_each_version() {
        // Of a version that no other test has.
        assert!(first_of(SchemaId::MAX, "a"));
        assert!(!first_of(SchemaId::MAX, "a"));
        assert!(first_of(SchemaId::MAX, "b"));
        assert!(first_of(SchemaId::MAX - 1, "a"));
    }
}
