//! What is wrong with segments while the journal is open, as readers and the writer's looks have met it. Status tells it for
//! as long as it lasts: a file may be put back, and a disk be read again.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::journal::Shared;
use crate::journal::segment::Segment;

/// An error of the disk may have been met once: it is told for so long after somebody has met it.
const MET: Duration = Duration::from_secs(60);

/// What is wrong with one segment.
#[derive(Debug)]
pub(crate) struct Damage {
    what: String,
    /// Where reading stopped; `None`: the file itself was removed, cut or replaced.
    at: Option<u64>,
    /// When somebody has met it; what is wrong with the bytes themselves stays.
    met: Option<Instant>,
}

impl Damage {
    fn lasts(&self) -> bool {
        self.met.is_none_or(|met| met.elapsed() < MET)
    }
}

/// Whether what was met may be gone when it is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passes {
    Maybe,
    No,
}

impl Shared {
    fn damaged(&self) -> MutexGuard<'_, BTreeMap<u64, Damage>> {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers damage for status, and tells it once.
    pub(super) fn note_damage(&self, segment: &Segment, at: Option<u64>, passes: Passes, error: &Error) {
        let mut damaged = self.damaged();
        let before = damaged.get(&segment.header.base);
        // What has become of a file explains what readers miss of it.
        if before.is_some_and(|known| known.at.is_none() && at.is_some()) {
            return;
        }
        if before.is_none() {
            tracing::error!(%error, hint = error.remedy(), "The journal is damaged; what is sound is served");
        }
        let met = (passes == Passes::Maybe).then(Instant::now);
        damaged.insert(segment.header.base, Damage { what: error.to_string(), at, met });
    }

    /// A segment was read between two offsets.
    pub(super) fn note_read(&self, segment: &Segment, from: u64, to: u64) {
        self.forget(segment, |at| at.is_some_and(|at| (from..to).contains(&at)));
    }

    /// Nothing has become of a segment's file, or not any more.
    pub(super) fn note_there(&self, segment: &Segment) {
        self.forget(segment, |at| at.is_none());
    }

    fn forget(&self, segment: &Segment, is_over: impl Fn(Option<u64>) -> bool) {
        let mut damaged = self.damaged();
        if damaged.get(&segment.header.base).is_some_and(|known| is_over(known.at)) {
            damaged.remove(&segment.header.base);
            tracing::info!(path = %segment.path.display(), "What was damaged there can be read again");
        }
    }

    /// The oldest segment whose file is not what it was.
    pub(super) fn harmed(&self) -> Option<u64> {
        self.damaged().iter().find(|(_, known)| known.at.is_none()).map(|(base, _)| *base)
    }

    /// The oldest damage that is known and that retention has not taken.
    pub(super) fn damage(&self) -> Option<String> {
        let segments = self.segments.load();
        let mut damaged = self.damaged();
        damaged.retain(|base, known| {
            known.lasts() && segments.iter().any(|segment| segment.header.base == *base)
        });
        damaged.values().next().map(|known| known.what.clone())
    }
}
