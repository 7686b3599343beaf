//! The feed: one path for live and replay.
//!
//! The hub carries no events, only how far things are visible. Every reader reads the journal from its own
//! position, by the same call whether it is live or a day behind, so there is no join between replay and live, no
//! queue per reader, and a slow reader costs nothing but its place.

mod back;
mod filter;
mod from;
mod kept;
mod records;
mod subscription;
mod view;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

pub use filter::{Filter, Pattern};
pub use from::From;
use kept::Kept;
use records::Records;
pub use subscription::{Events, Next, Subscription};
use tokio::sync::Semaphore;
pub use view::{Appearance, Frame, Framing, Rendered, View, ViewKey};

use crate::error::{Error, Result};
use crate::event::Micros;
use crate::journal::{Gone, Journal, Read};
use crate::record::Batch;
use crate::stop::Stop;

/// Views that nobody has any more leave with the next event. Where none comes, clients that come and go would make ever more:
/// then they leave when there are so many, or twice as many as were in use when they left last.
const VIEWS_KEPT: usize = 64;

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
    views: Arc<Mutex<Views>>,
    kept: Arc<Kept>,
    records: Arc<Records>,
    ahead: Arc<Semaphore>,
    back: Arc<Semaphore>,
}

/// Views by what they show.
#[derive(Debug, Default)]
struct Views {
    all: HashMap<ViewKey, Weak<View>>,
    /// With so many it is looked who is gone.
    sweep_at: usize,
}

impl Views {
    fn insert(&mut self, key: ViewKey, view: &Arc<View>) {
        if self.all.len() >= self.sweep_at.max(VIEWS_KEPT) {
            self.all.retain(|_, view| view.strong_count() > 0);
            self.sweep_at = self.all.len() * 2;
        }
        self.all.insert(key, Arc::downgrade(view));
    }
}

impl Feed {
    /// The feed of a journal. Its hub runs until `stop`.
    pub fn new(journal: Journal, stop: Stop) -> Self {
        let (views, kept, records) = (Arc::default(), Arc::default(), Arc::default());
        let ahead = Arc::new(Semaphore::new(READ_AHEAD));
        let back = Arc::new(Semaphore::new(back::LOOKS));
        let feed = Self { journal, views, kept, records, ahead, back };
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
        views.all.values().filter(|view| view.strong_count() > 0).count()
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
        views.all.retain(|_, view| match view.upgrade() {
            Some(view) => {
                see(&view);
                true
            }
            None => false,
        });
    }

    fn view(&self, key: ViewKey) -> Arc<View> {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = views.all.get(&key).and_then(Weak::upgrade) {
            return view;
        }
        // Under the lock that the hub takes for each batch: nothing can pass between the two.
        let (kept, records) = (Arc::clone(&self.kept), Arc::clone(&self.records));
        let view = Arc::new(View::new(key.clone(), self.journal.newest(), kept, records));
        views.insert(key, &view);
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
            From::Time(time) => return blocking(move || since(&journal, time)).await,
            From::Last(count) => back::look(&self.back, journal, count, filter.clone()).await?,
        };
        Ok(Start { position, gap: None })
    }

    fn after(&self, id: u64) -> Result<Start> {
        let lost = self.journal.held_after(id).map(|gone| (gone, "retention"));
        let lost = lost.or_else(|| self.journal.never_given(id).map(|gone| (gone, "source_lost")));
        Ok(Start { position: lost.map_or(id, |(gone, _)| gone.to), gap: lost })
    }
}

/// Blocks on the disk.
fn since(journal: &Journal, time: Micros) -> Result<Start> {
    let position = journal.seek_time(time)?;
    // Retention may have gone on meanwhile.
    let gone = journal.held_since(time, position);
    Ok(Start {
        position: gone.map_or_else(|| within(journal, position, time), |gone| gone.to.max(position)),
        gap: gone.map(|gone| (gone, "retention")),
    })
}

/// Of the batch behind a position, in which transactions may lie that were committed together, from where those are that were
/// at `time` or later. What cannot be read is met by whoever reads on.
fn within(journal: &Journal, position: u64, time: Micros) -> u64 {
    let Ok(Read::Batches(batches)) = journal.read(position) else { return position };
    let mut events = batches.first().into_iter().flat_map(|batch| batch.all_events());
    let first = events.find(|event| event.id > position && event.at >= time);
    first.map_or(position, |event| event.id - 1)
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::failed("A read of the journal was broken off").because(error))?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As when many ask for something of their own and nothing happens in the database.
    #[test]
    fn views_of_who_has_gone_do_not_stay() {
        let (mut views, kept) = (Views::default(), Arc::<Kept>::default());
        let key = |number: u32| ViewKey {
            filter: Filter::new(vec![Pattern::parse(&format!("a.{number}")).unwrap()], &[]),
            framing: Framing::Sse,
            options: crate::format::NativeOptions::default(),
        };
        let mut used = Vec::new();
        for number in 0..10_000 {
            let view = Arc::new(View::new(key(number), 0, Arc::clone(&kept), Arc::default()));
            views.insert(key(number), &view);
            if number % 50 == 0 {
                used.push(view);
            }
            assert!(
                views.all.len() <= VIEWS_KEPT.max(2 * (used.len() + 1)),
                "{} of {}",
                views.all.len(),
                used.len()
            );
        }
        assert!(used.iter().all(|view| views.all.get(view.key()).is_some_and(|of| of.strong_count() == 1)));
    }
}
