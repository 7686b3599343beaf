//! The feed: one path for live and replay.
//!
//! The hub carries no events, only how far things are visible. Every reader reads the journal from its own
//! position, by the same call whether it is live or a day behind, so there is no join between replay and live, no
//! queue per reader, and a slow reader costs nothing but its place.

mod filter;
mod from;
mod kept;
mod subscription;
mod view;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

pub use filter::{Filter, Pattern};
pub use from::From;
use kept::Kept;
pub use subscription::{Events, Next, Subscription};
use tokio::sync::Semaphore;
pub use view::{Appearance, Frame, Framing, Rendered, View, ViewKey};

use crate::error::{Error, Result};
use crate::journal::{Gone, Journal, Read};
use crate::record::Batch;
use crate::stop::Stop;

/// `last:N` looks back over no more events than this for the N that match.
const LAST_SCAN_EVENTS: u64 = 1_000_000;

/// So many readers at a time have about a megabyte each that was read ahead from files; it stays for as long as their
/// clients do not read. Others read a little at a time.
const READ_AHEAD: usize = 64;

/// Where a reader starts, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The position: what comes after it is read.
    pub position: u64,
    /// What was asked for and is not held.
    pub gap: Option<(Gone, &'static str)>,
}

/// A handle on the feed. Clones are the same feed.
#[derive(Clone, Debug)]
pub struct Feed {
    journal: Journal,
    views: Arc<Mutex<HashMap<ViewKey, Weak<View>>>>,
    kept: Arc<Kept>,
    ahead: Arc<Semaphore>,
}

impl Feed {
    /// The feed of a journal. Its hub runs until `stop`.
    pub fn new(journal: Journal, stop: Stop) -> Self {
        let (views, kept, ahead) = (Arc::default(), Arc::default(), Arc::new(Semaphore::new(READ_AHEAD)));
        let feed = Self { journal, views, kept, ahead };
        let hub = feed.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = hub.run() => {}
                () = stop.stopped() => {}
            }
        });
        feed
    }

    /// The journal under it.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Views in use.
    pub fn views(&self) -> usize {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.values().filter(|view| view.strong_count() > 0).count()
    }

    /// Looks at each new batch once for every view.
    async fn run(self) {
        let mut head = self.journal.head();
        let mut seen = *head.borrow_and_update();
        while head.changed().await.is_ok() {
            let newest = *head.borrow_and_update();
            // What lies above the head is not shown yet: a reader who were told of it would not find it, and nobody would
            // tell him again.
            let shown = |batch: Option<Arc<Batch>>, seen| {
                batch.filter(|batch| batch.last() > seen && batch.last() <= newest)
            };
            let mut batch = shown(self.journal.cached(seen), seen);
            while let Some(current) = batch {
                self.for_each_view(|view| view.evaluate(&current));
                seen = current.last();
                batch = shown(current.next().or_else(|| self.journal.cached(seen)), seen);
            }
            if seen < newest {
                self.for_each_view(|view| view.assume(newest));
                seen = newest;
            }
        }
    }

    fn for_each_view(&self, mut see: impl FnMut(&View)) {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.retain(|_, view| match view.upgrade() {
            Some(view) => {
                see(&view);
                true
            }
            None => false,
        });
    }

    fn view(&self, key: ViewKey) -> Arc<View> {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = views.get(&key).and_then(Weak::upgrade) {
            return view;
        }
        // Under the lock that the hub takes for each batch: nothing can pass between the two.
        let view = Arc::new(View::new(key.clone(), self.journal.newest(), Arc::clone(&self.kept)));
        views.insert(key, Arc::downgrade(&view));
        view
    }

    /// Opens a subscription at a position given by [`Feed::start`].
    pub fn subscribe(&self, key: ViewKey, position: u64) -> Subscription {
        Subscription::new(self.journal.clone(), self.view(key), position, Arc::clone(&self.ahead))
    }

    /// Turns what a client asks for into a position, and says what of it is not held.
    pub async fn start(&self, from: From, filter: &Filter) -> Result<Start> {
        let (newest, journal) = (self.journal.newest(), self.journal.clone());
        let position = match from {
            From::Latest => newest,
            From::Earliest => self.journal.seek_earliest(),
            From::After(id) if id > newest => {
                let gap = Gone { from: newest + 1, to: id };
                return Ok(Start { position: newest, gap: Some((gap, "ahead")) });
            }
            From::After(id) => return self.after(id),
            From::Time(time) => blocking(move || journal.seek_time(time)).await?,
            From::Last(count) => {
                let filter = filter.clone();
                blocking(move || seek_last(&journal, count, &filter)).await?
            }
        };
        Ok(Start { position, gap: None })
    }

    fn after(&self, id: u64) -> Result<Start> {
        let lost = self.journal.held_after(id).map(|gone| (gone, "retention"));
        let lost = lost.or_else(|| self.journal.never_given(id).map(|gone| (gone, "source_lost")));
        Ok(Start { position: lost.map_or(id, |(gone, _)| gone.to), gap: lost })
    }
}

/// Looks back in growing steps for the newest `count` events that pass the filter.
fn seek_last(journal: &Journal, count: u64, filter: &Filter) -> Result<u64> {
    let newest = journal.newest();
    if count == 0 {
        return Ok(newest);
    }
    let mut window = count.clamp(64, LAST_SCAN_EVENTS);
    loop {
        let start = journal.seek_last(window);
        let mut found = std::collections::VecDeque::new();
        let mut position = start;
        while position < newest {
            match journal.read(position)? {
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
        if found.len() as u64 == count || start <= journal.seek_earliest() || window >= LAST_SCAN_EVENTS {
            return Ok(found.front().map_or(newest, |id| id - 1));
        }
        window = window.saturating_mul(8).min(LAST_SCAN_EVENTS);
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::failed("A read of the journal was broken off").because(error))?
}
