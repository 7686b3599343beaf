//! What the stream reads through, shared with those who look after it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading(Arc<Mutex<Through>>);

#[derive(Debug, Default)]
struct Through {
    /// With their OIDs: one that was made anew lacks what came between.
    publications: Vec<(String, u32)>,
    /// The server's process.
    pid: Option<i32>,
}

impl Reading {
    fn lock(&self) -> MutexGuard<'_, Through> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream has begun.
    pub(super) fn note(&self, publications: Vec<(String, u32)>, pid: Option<i32>) {
        *self.lock() = Through { publications, pid };
    }

    /// The server's process of the newest stream, be it over or not.
    pub(super) fn pid(&self) -> Option<i32> {
        self.lock().pid
    }

    /// A publication of the stream that is not among those that exist.
    pub(super) fn missing(&self, existing: &[(String, u32)]) -> Option<String> {
        let through = self.lock();
        let missing = through.publications.iter().find(|publication| !existing.contains(publication));
        missing.map(|(name, _)| name.clone())
    }
}
