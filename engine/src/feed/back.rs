//! `last:N`: looks back for the newest events that pass a filter.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;

use super::{Filter, blocking};
use crate::error::Result;
use crate::journal::{Journal, Read};

/// So many look back at a time: each reads up to a million events, and whoever asked may be gone long before. Others wait
/// for them, and not the readers of files, who have the same threads.
pub(super) const LOOKS: usize = 4;

/// `last:N` looks back over no more events than this for the N that match.
const SCANNED_MAX: u64 = 1_000_000;

/// The position behind which the newest `count` events are that pass the filter.
pub(super) async fn look(
    turns: &Arc<Semaphore>,
    journal: Journal,
    count: u64,
    filter: Filter,
) -> Result<u64> {
    let turn = Arc::clone(turns).acquire_owned().await;
    let wanted = Wanted::default();
    let _asker = wanted.until_dropped();
    let sought = blocking(move || {
        // Kept for as long as it takes, whether somebody waits for it or not.
        let _turn = turn;
        seek(&journal, count, &filter, &wanted)
    });
    sought.await
}

/// Whether somebody waits for what is looked for.
#[derive(Clone, Debug, Default)]
struct Wanted(Arc<AtomicBool>);

impl Wanted {
    fn is_wanted(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }

    fn until_dropped(&self) -> Asker {
        Asker(self.clone())
    }
}

/// The one who waits.
struct Asker(Wanted);

impl Drop for Asker {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Looks back in growing steps for the newest `count` events that pass the filter.
fn seek(journal: &Journal, count: u64, filter: &Filter, wanted: &Wanted) -> Result<u64> {
    let newest = journal.newest();
    if count == 0 {
        return Ok(newest);
    }
    let mut window = count.clamp(64, SCANNED_MAX);
    loop {
        let start = journal.seek_last(window);
        let mut found = VecDeque::new();
        let mut position = start;
        let mut unreadable = None;
        while position < newest && wanted.is_wanted() {
            let read = match journal.read(position) {
                Err(error) => {
                    // What is asked for may lie behind what cannot be read: nothing before that counts, then.
                    let Some(behind) = journal.segment_behind(position) else { return Err(error) };
                    unreadable = Some(error);
                    found.clear();
                    position = behind;
                    continue;
                }
                Ok(read) => read,
            };
            match read {
                Read::Batches(batches) => {
                    for batch in &batches {
                        let matching = batch.events_where(|channel, op| filter.wants(channel, op));
                        matching.filter(|event| event.id > start).for_each(|event| {
                            found.push_back(event.id);
                            if found.len() as u64 > count {
                                found.pop_front();
                            }
                        });
                        position = batch.last();
                    }
                }
                Read::Gone(gone) => position = gone.to,
                Read::AtHead => break,
            }
        }
        // Looking further back meets it again.
        if let Some(error) = unreadable.filter(|_| wanted.is_wanted() && (found.len() as u64) < count) {
            return Err(error);
        }
        if !wanted.is_wanted()
            || found.len() as u64 == count
            || start <= journal.seek_earliest()
            || window >= SCANNED_MAX
        {
            return Ok(found.front().map_or(newest, |id| id - 1));
        }
        window = window.saturating_mul(8).min(SCANNED_MAX);
    }
}
