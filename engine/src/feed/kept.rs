//! The newest renderings of all views, for readers that are about to ask: all live readers of a view want the same one
//! at the same moment. Bounded over all views together, since there can be as many views as clients.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::feed::view::Rendered;

/// Memory for them: as much as the journal has for the newest batches. Beyond it the oldest is rendered again by whoever
/// still wants it.
const KEPT_BYTES: usize = 32 << 20;

/// What one takes beside its bytes, about.
const OVERHEAD: usize = 256;

/// Rendered once, by whoever comes first.
pub(super) type Cell = Arc<OnceLock<Arc<Rendered>>>;

#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<Renderings>);

#[derive(Debug, Default)]
struct Renderings {
    cells: VecDeque<(Cell, usize)>,
    bytes: usize,
}

impl Kept {
    /// Keeps one, and lets go of the oldest for it.
    pub(super) fn keep(&self, cell: Cell) {
        let bytes = OVERHEAD + cell.get().map_or(0, |rendered| rendered.byte_len());
        let mut gone = Vec::new();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.cells.push_back((cell, bytes));
        kept.bytes += bytes;
        while kept.bytes > KEPT_BYTES
            && let Some((oldest, bytes)) = kept.cells.pop_front()
        {
            kept.bytes -= bytes;
            gone.push(oldest);
        }
        // Given back without the lock.
        drop(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(bytes: usize) -> Cell {
        let rendered = Rendered { bytes: vec![0; bytes].into(), ..Rendered::default() };
        Arc::new(OnceLock::from(Arc::new(rendered)))
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let kept = Kept::default();
        let first = Arc::downgrade(&{
            let first = cell(1000);
            kept.keep(Arc::clone(&first));
            first
        });
        assert!(first.upgrade().is_some());
        for _ in 0..100 {
            kept.keep(cell(1 << 20));
        }
        assert!(first.upgrade().is_none());
        let renderings = kept.0.lock().unwrap();
        assert_eq!(renderings.cells.len(), 31, "of a megabyte and a little each");
        assert_eq!(renderings.bytes, 31 * (OVERHEAD + (1 << 20)));
        drop(renderings);
        // One that is larger than all is for those alone who have it.
        let large = cell(KEPT_BYTES);
        kept.keep(Arc::clone(&large));
        assert_eq!((Arc::strong_count(&large), kept.0.lock().unwrap().bytes), (1, 0));
        for _ in 0..2 * KEPT_BYTES / OVERHEAD {
            kept.keep(cell(0));
        }
        assert!(kept.0.lock().unwrap().cells.len() <= KEPT_BYTES / OVERHEAD);
    }
}
