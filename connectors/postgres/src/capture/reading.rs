//! What the stream reads through, shared with those who look after it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rowcast_engine::Lsn;

use super::published::{self, Publications};
use crate::config::Source;
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
    /// Those that a stream can read which begins here, or later: what it did not begin with is not older than that.
    readable: BTreeMap<(String, u32), Lsn>,
    /// The server's process.
    pid: Option<i32>,
    /// What the server repeats is being compared with the journal, which remembers a break.
    compares: bool,
    /// A person, or the policy, has let a break pass, and the slot is being read for it, or made anew.
    adopts: bool,
    /// The comparison's connection broke, and the next one is to go on with it.
    resumes: bool,
}

impl Reading {
    fn lock(&self) -> MutexGuard<'_, Through> {
        self.through.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server has been found.
    pub(super) fn found(&self, here: &Conninfo) {
        let mut through = self.lock();
        if through.here.as_ref().is_none_or(|before| before.hosts != here.hosts) {
            through.readable.clear();
        }
        through.here = Some(here.clone());
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

    /// Publications that exist beside a stream that does not read them.
    pub(super) fn unread(&self, existing: &[(String, u32)]) -> Publications {
        let through = self.lock();
        if through.publications.is_empty() {
            return Vec::new();
        }
        existing.iter().filter(|there| !through.publications.contains(there)).cloned().collect()
    }

    /// Where a stream can begin with a publication.
    pub(super) fn note_readable(&self, publication: &(String, u32), from: Lsn) {
        self.lock().readable.entry(publication.clone()).or_insert(from);
    }

    /// Whether one that begins at `position` can read it.
    pub(super) fn is_readable(&self, publication: &(String, u32), position: Lsn) -> bool {
        self.lock().readable.get(publication).is_some_and(|from| position >= *from)
    }

    /// The source as far as the stream reads it.
    pub(super) fn shown(&self, source: &Source) -> Source {
        let through = self.lock();
        if through.publications.is_empty() { source.clone() } else { source.reading(&through.publications) }
    }

    /// What is repeated is being compared, since a break is remembered.
    pub(super) fn begin_comparing(&self) {
        self.lock().compares = true;
    }

    /// That is over. Gives whether it was so.
    pub(super) fn end_comparing(&self) -> bool {
        std::mem::take(&mut self.lock().compares)
    }

    /// Whether it is so.
    pub(super) fn is_comparing(&self) -> bool {
        self.lock().compares
    }

    /// Going on behind a gap has begun.
    pub(super) fn begin_adopting(&self) {
        self.lock().adopts = true;
    }

    /// A connection is there, or has come to nothing; `resumes`: the next one goes on with what was being compared.
    pub(super) fn end_connecting(&self, resumes: bool) {
        let mut through = self.lock();
        (through.adopts, through.resumes) = (false, resumes);
    }

    /// Whether a comparison goes on over the next connection.
    pub(super) fn resumes(&self) -> bool {
        self.lock().resumes
    }

    /// Whether something is being done about what capture waits for.
    pub(super) fn is_at_work(&self) -> bool {
        let through = self.lock();
        through.compares || through.adopts || through.resumes
    }

    /// A publication of the stream that is not among those that exist.
    pub(super) fn missing(&self, existing: &[(String, u32)]) -> Option<String> {
        published::missing(&self.lock().publications, existing).map(str::to_owned)
    }
}
