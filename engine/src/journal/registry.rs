//! The schema versions that the journal knows.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::{Error, Result};
use crate::schema::{Schema, SchemaId};

#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) schema: Arc<Schema>,
    /// As it is stored.
    pub(crate) json: Arc<[u8]>,
}

/// Versions by number. One is added for each change of a table, so it stays small; it is looked at when a batch
/// is loaded, never per event.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    versions: RwLock<HashMap<SchemaId, Version>>,
    /// What came from disk already: every segment brings its versions again.
    loaded: RwLock<HashMap<Box<[u8]>, SchemaId>>,
    /// The highest number given so far. Events show it to readers, so none is given to another version later: it is
    /// stored with each position, since retention takes the versions away with the rows that used them.
    highest: AtomicU32,
}

impl Registry {
    pub(crate) fn get(&self, id: SchemaId) -> Option<Arc<Schema>> {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        versions.get(&id).map(|version| Arc::clone(&version.schema))
    }

    pub(crate) fn json(&self, id: SchemaId) -> Option<Arc<[u8]>> {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        versions.get(&id).map(|version| Arc::clone(&version.json))
    }

    /// The number of a version: the one it has if it is known, else the next. One that could not be read back is refused:
    /// after a restart all its rows would be unreadable.
    pub(crate) fn register(&self, mut schema: Schema) -> Result<Arc<Schema>> {
        let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        let known = versions.values().find(|version| {
            schema.id = version.schema.id;
            *version.schema == schema
        });
        if let Some(version) = known {
            return Ok(Arc::clone(&version.schema));
        }
        // Under the lock of the versions.
        schema.id = self.highest.fetch_add(1, Ordering::AcqRel) + 1;
        let json = serde_json::to_vec(&schema)
            .map_err(|error| Error::failed("Cannot write a schema version as JSON").because(error))?;
        serde_json::from_slice::<Schema>(&json).map_err(|error| too_deep(&schema, error))?;
        let schema = Arc::new(schema);
        versions.insert(schema.id, Version { schema: Arc::clone(&schema), json: json.into() });
        Ok(schema)
    }

    /// Takes up a version from disk; `None` when it cannot be read.
    pub(crate) fn load(&self, json: &[u8]) -> Option<SchemaId> {
        if let Some(id) = self.loaded.read().unwrap_or_else(PoisonError::into_inner).get(json) {
            return Some(*id);
        }
        let schema: Schema = serde_json::from_slice(json).ok()?;
        let id = schema.id;
        self.note_given(id);
        self.loaded.write().unwrap_or_else(PoisonError::into_inner).insert(json.into(), id);
        let version = Version { schema: Arc::new(schema), json: json.into() };
        self.versions.write().unwrap_or_else(PoisonError::into_inner).entry(id).or_insert(version);
        Some(id)
    }

    /// The highest number given so far.
    pub(crate) fn highest(&self) -> SchemaId {
        self.highest.load(Ordering::Acquire)
    }

    /// Numbers up to here have been given.
    pub(crate) fn note_given(&self, id: SchemaId) {
        self.highest.fetch_max(id, Ordering::AcqRel);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Schema>> {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        versions.values().map(|version| Arc::clone(&version.schema)).collect()
    }
}

fn too_deep(schema: &Schema, error: serde_json::Error) -> Error {
    Error::failed(format!("The types of {} are too much to be stored with its rows", schema.channel))
        .because(error)
        .hint("Row types, arrays or domains are nested too deep in one of its columns: nest them less deep, or leave the table out of what is captured.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_comes_with_every_segment_is_read_once() {
        let registry = Registry::default();
        let json = br#"{"id":3,"relation":1,"database":"d","schema":"s","table":"t","channel":"s.t",
            "identity":"default","inserts_only":false,"columns":[],"primary_key":[],"key":[],"unique_key":[]}"#;
        assert_eq!(registry.load(json), Some(3));
        let first = registry.get(3).unwrap();
        assert_eq!(registry.load(json), Some(3));
        assert!(Arc::ptr_eq(&first, &registry.get(3).unwrap()));
        assert_eq!(registry.load(b"{}"), None);
        assert_eq!(registry.load(b"{}"), None, "what cannot be read is not taken for known");
    }
}
