//! The newest batches, in memory.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use crate::record::Batch;

/// What a batch takes in memory beside its bytes: itself, its tables' names, and what keeps count of both.
const BESIDE: usize = size_of::<Batch>() + 128;

fn weight(batch: &Batch) -> usize {
    batch.byte_len() + BESIDE
}

#[derive(Debug)]
struct Inner {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    /// Everything above this number is here.
    floor: u64,
}

/// A ring of the newest batches, bounded in bytes. A live reader goes from batch to batch by [`Batch::next`] and
/// does not come here; a reader that comes from elsewhere looks its place up once, under a lock that the writer
/// holds only to push and pop.
#[derive(Debug)]
pub(crate) struct Cache {
    inner: RwLock<Inner>,
    bytes_max: usize,
}

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { inner: RwLock::new(Inner { batches: VecDeque::new(), bytes: 0, floor: u64::MAX }), bytes_max }
    }

    /// Adds the newest batch and lets the oldest go; the newest one always stays.
    pub(crate) fn push(&self, batch: &Arc<Batch>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = inner.batches.back() {
            last.link(batch);
        }
        inner.bytes += weight(batch);
        inner.batches.push_back(Arc::clone(batch));
        while inner.bytes > self.bytes_max && inner.batches.len() > 1 {
            if let Some(oldest) = inner.batches.pop_front() {
                inner.bytes -= weight(&oldest);
                inner.floor = oldest.last();
            }
        }
    }

    /// Empties it: what comes next is the successor of event `newest`.
    pub(crate) fn clear(&self, newest: u64) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.batches.clear();
        inner.bytes = 0;
        inner.floor = newest;
    }

    /// The batch that holds the first event above `after`, if all above that is here.
    pub(crate) fn after(&self, after: u64) -> Option<Arc<Batch>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        if after < inner.floor {
            return None;
        }
        let at = inner.batches.partition_point(|batch| batch.last() <= after);
        inner.batches.get(at).map(Arc::clone)
    }
}
