//! The newest batches, in memory.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use crate::record::Batch;

#[derive(Debug)]
struct Inner {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
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
        Self { inner: RwLock::new(Inner { batches: VecDeque::new(), bytes: 0 }), bytes_max }
    }

    /// Adds the newest batch and lets the oldest go; the newest one always stays.
    pub(crate) fn push(&self, batch: &Arc<Batch>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = inner.batches.back() {
            last.link(batch);
        }
        inner.bytes += batch.byte_len();
        inner.batches.push_back(Arc::clone(batch));
        while inner.bytes > self.bytes_max && inner.batches.len() > 1 {
            if let Some(oldest) = inner.batches.pop_front() {
                inner.bytes -= oldest.byte_len();
            }
        }
    }

    /// Empties it: what comes next is not the successor of what was in it.
    pub(crate) fn clear(&self) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.batches.clear();
        inner.bytes = 0;
    }

    /// The batch that holds the first event above `after`, if it and its predecessor's end are known here.
    pub(crate) fn after(&self, after: u64) -> Option<Arc<Batch>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        if inner.batches.front()?.first() > after + 1 {
            return None;
        }
        let at = inner.batches.partition_point(|batch| batch.last() <= after);
        inner.batches.get(at).map(Arc::clone)
    }
}
