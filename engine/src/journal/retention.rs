//! What may go: whole segments, the oldest first.

use std::io;
use std::sync::{Arc, PoisonError};

use metrics::{counter, gauge};

use crate::abort::{self, Point};
use crate::event::Micros;
use crate::journal::Shared;
use crate::journal::segment::Segment;

/// Removes segments that are too old or too many. The one being written always stays.
pub(crate) fn apply(shared: &Shared, now: Micros) {
    let segments = shared.segments.load_full();
    let mut size: u64 = segments.iter().map(|segment| segment.stored()).sum();
    let max_size = max_size(shared);
    let age_max = Micros::try_from(shared.options.retention.as_micros()).unwrap_or(Micros::MAX);
    let held_above = shared
        .holds
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .values()
        .min()
        .copied()
        .unwrap_or(u64::MAX);
    for segment in segments.iter().take(segments.len().saturating_sub(1)) {
        let old = segment.closed() > 0 && now.saturating_sub(segment.closed()) > age_max;
        // Age waits for a push door that is behind; size does not, and the door is told of the gap.
        let reason = if old && segment.last() <= held_above {
            "age"
        } else if size > max_size {
            "size"
        } else {
            break;
        };
        let stored = segment.stored();
        if let Err(error) = remove(shared, segment, reason) {
            // It stays in the list, and those after it stay: the history must have no hole.
            tracing::error!(%error, path = %segment.path.display(), "Cannot remove an old segment");
            break;
        }
        size = size.saturating_sub(stored);
    }
    gauge!("rowcast_journal_size_bytes").set(size as f64);
}

fn remove(shared: &Shared, segment: &Arc<Segment>, reason: &'static str) -> io::Result<()> {
    // The one removed before this one must not come back alone after a power cut.
    shared.disk.sync_dir(&shared.options.dir)?;
    // First out of the list, then off the disk: a reader that finds no file knows why.
    shared.segments.rcu(|segments| segments.iter().skip(1).cloned().collect::<Vec<_>>());
    let names = shared.names.lock().unwrap_or_else(PoisonError::into_inner);
    let removed = shared.disk.remove(&segment.path);
    drop(names);
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            shared
                .segments
                .rcu(|segments| std::iter::once(segment).chain(segments.iter()).cloned().collect::<Vec<_>>());
            return Err(error);
        }
        _ => {}
    }
    abort::point(Point::RetentionRemoved);
    // The index of a segment that is gone is removed at the next opening if it cannot be now.
    let _ = shared.disk.remove(&segment.path.with_extension("idx"));
    tracing::info!(
        reason,
        first = segment.header.base,
        last = segment.last(),
        "Removed a segment of the journal"
    );
    counter!("rowcast_journal_segments_removed_total", "reason" => reason).increment(1);
    Ok(())
}

fn max_size(shared: &Shared) -> u64 {
    shared
        .options
        .max_size
        .unwrap_or_else(|| shared.disk.space(&shared.options.dir).map_or(u64::MAX, |(_, all)| all / 2))
}

/// Why capture has to pause before it writes `coming` bytes, if it has to.
pub(crate) fn short_of_room(shared: &Shared, coming: u64) -> Option<String> {
    let (free, all) = shared.disk.space(&shared.options.dir).ok()?;
    let floor = shared.options.min_free.min(all / 10);
    (free.saturating_sub(coming) < floor)
        .then(|| format!("only {} MB of the file system are free", free >> 20))
}
