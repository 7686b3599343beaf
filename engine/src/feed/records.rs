//! What readers are told of schema versions. All views tell the same, and there can be as many views as clients.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::format::Described;
use crate::schema::{Schema, SchemaId};

/// By the version's number: of those that were told, which stay in memory themselves.
#[derive(Debug, Default)]
pub(crate) struct Records(Mutex<HashMap<SchemaId, Bytes>>);

impl Records {
    /// What is told before the first event of a version: an object on one line.
    pub(super) fn of(&self, schema: &Schema) -> Bytes {
        #[derive(serde::Serialize)]
        struct Record<'a> {
            #[serde(rename = "type")]
            kind: &'static str,
            #[serde(flatten)]
            described: Described<'a>,
        }
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || {
            let record = Record { kind: "schema", described: Described::of(schema) };
            // Plain structures of numbers and strings: they always serialize.
            serde_json::to_vec(&record).unwrap_or_default().into()
        };
        records.entry(schema.id).or_insert_with(made).clone()
    }
}
