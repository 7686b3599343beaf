//! What the stream reads through, shared with those who look after it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::published::{self, Publications};
use crate::conninfo::Conninfo;

/// Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    through: Arc<Mutex<Through>>,
    /// Apart, for whoever looks at it all the time.
    commits_wait: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Through {
    /// The one server, of those that the source names, that the newest connection leads to.
    here: Option<Conninfo>,
    /// With their OIDs: one that was made anew lacks what came between.
    publications: Publications,
    /// The server's process.
    pid: Option<i32>,
}

impl Reading {
    fn lock(&self) -> MutexGuard<'_, Through> {
        self.through.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server has been found.
    pub(super) fn found(&self, here: &Conninfo) {
        self.lock().here = Some(here.clone());
    }

    /// The server that was found last: whoever looks after the slot looks at no other.
    pub(super) fn here(&self) -> Option<Conninfo> {
        self.lock().here.clone()
    }

    /// A stream has begun.
    pub(super) fn note(&self, publications: Publications, pid: Option<i32>) {
        let mut through = self.lock();
        (through.publications, through.pid) = (publications, pid);
    }

    /// The stream is over: it lacks no publication.
    pub(super) fn leave(&self) {
        self.lock().publications.clear();
    }

    /// The server's process of the newest stream, be it over or not.
    pub(super) fn pid(&self) -> Option<i32> {
        self.lock().pid
    }

    /// Whether commits on the server wait until what they wrote is confirmed. Gives whether that is new.
    pub(super) fn note_commits_wait(&self, wait: bool) -> bool {
        self.commits_wait.swap(wait, Ordering::Relaxed) != wait
    }

    /// As it was last seen.
    pub(super) fn commits_wait(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.commits_wait)
    }

    /// A publication of the stream that is not among those that exist.
    pub(super) fn missing(&self, existing: &[(String, u32)]) -> Option<String> {
        published::missing(&self.lock().publications, existing).map(str::to_owned)
    }
}
