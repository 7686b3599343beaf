//! A reader's place in the feed.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::error::Result;
use crate::feed::{Frame, Rendered, View, blocking};
use crate::journal::{Gone, Journal, Read};
use crate::record::Batch;
use crate::schema::SchemaId;

/// What comes next for a reader.
#[derive(Debug)]
pub enum Next {
    /// Events.
    Events(Events),
    /// A table as it was when the rows were written that come next: before the first of a version that has not been
    /// told. It has no number of its own.
    Schema(Bytes),
    /// Retention has overtaken the reader: these numbers are gone, reading goes on after them.
    Gap(Gone),
}

/// Events of one batch that come after the reader's position.
#[derive(Clone, Debug)]
pub struct Events {
    rendered: Arc<Rendered>,
    from: usize,
    to: usize,
}

impl Events {
    /// All frames in one piece.
    pub fn bytes(&self) -> Bytes {
        let frames = self.frames();
        let start = frames.first().map_or(self.rendered.bytes.len(), |frame| frame.start as usize);
        let end = frames.last().map_or(start, |frame| frame.end as usize);
        self.rendered.bytes.slice(start..end)
    }

    /// Where each event stands.
    pub fn frames(&self) -> &[Frame] {
        self.rendered.frames.get(self.from..self.to).unwrap_or_default()
    }

    /// The bytes of one of the frames.
    pub fn frame(&self, frame: &Frame) -> Bytes {
        self.rendered.bytes.slice(frame.start as usize..frame.end as usize)
    }
}

/// Reads one view from a position on.
#[derive(Debug)]
pub struct Subscription {
    journal: Journal,
    view: Arc<View>,
    matched: watch::Receiver<u64>,
    position: u64,
    /// Read from disk and not looked at yet: about a megabyte with the right to it, else a little.
    pending: VecDeque<Arc<Batch>>,
    ahead: Arc<Semaphore>,
    right: Option<OwnedSemaphorePermit>,
    /// The batch looked at last, to go on from without a look-up.
    behind: Weak<Batch>,
    /// Events that wait until a schema version has been told, and how far they lead.
    rest: Option<(Events, u64)>,
    /// Schema versions that have been told: of each table that was met, a few.
    told: HashSet<SchemaId>,
}

impl Subscription {
    pub(crate) fn new(journal: Journal, view: Arc<View>, position: u64, ahead: Arc<Semaphore>) -> Self {
        let matched = view.matched();
        Self {
            journal,
            view,
            matched,
            position,
            pending: VecDeque::new(),
            ahead,
            right: None,
            behind: Weak::new(),
            rest: None,
            told: HashSet::new(),
        }
    }

    /// All up to this number has been given out or filtered away.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Waits for what comes next. Cancel safe: nothing is passed over when the future is dropped.
    pub async fn next(&mut self) -> Result<Next> {
        loop {
            if let Some(next) = self.try_next().await? {
                return Ok(next);
            }
            if self.matched.changed().await.is_err() {
                // The view lives as long as we do.
                std::future::pending::<()>().await;
            }
        }
    }

    /// What comes next without waiting for new commits; `None` at the end of what there is. Then
    /// [`Subscription::position`] has passed all that does not match.
    pub async fn try_next(&mut self) -> Result<Option<Next>> {
        loop {
            if let Some((events, position)) = self.rest.take() {
                return Ok(Some(self.give(events, position)));
            }
            while let Some((batch, live)) = self.at_hand() {
                if let Some((events, position)) = self.look_at(&batch, live) {
                    return Ok(Some(self.give(events, position)));
                }
            }
            // In this order: what is evaluated has had its matches told before.
            let evaluated = self.view.evaluated();
            if *self.matched.borrow_and_update() <= self.position {
                self.position = self.position.max(evaluated);
                return Ok(None);
            }
            let (journal, position) = (self.journal.clone(), self.position);
            // Whoever comes here has looked at all that was read before, and given the right back.
            self.right = Arc::clone(&self.ahead).try_acquire_owned().ok();
            let ahead = self.right.is_some();
            let read = move || if ahead { journal.read(position) } else { journal.read_little(position) };
            match blocking(read).await? {
                Read::Batches(batches) => self.pending.extend(batches),
                Read::AtHead => {
                    self.right = None;
                    return Ok(None);
                }
                Read::Gone(gone) => {
                    self.position = gone.to;
                    return Ok(Some(Next::Gap(gone)));
                }
            }
        }
    }

    /// The next batch if no disk is needed for it.
    fn at_hand(&mut self) -> Option<(Arc<Batch>, bool)> {
        if let Some(batch) = self.pending.pop_front() {
            return Some((batch, false));
        }
        self.right = None;
        let next = self.behind.upgrade().and_then(|behind| behind.next());
        let batch = next.filter(|next| next.last() > self.position && next.first() <= self.position + 1);
        let newest = self.journal.newest();
        let batch = batch.or_else(|| self.journal.cached(self.position))?;
        (batch.last() <= newest).then_some((batch, true))
    }

    /// What of a batch comes next, and the position after it; without any, that is passed at once.
    fn look_at(&mut self, batch: &Arc<Batch>, live: bool) -> Option<(Events, u64)> {
        let after = self.position;
        let matches = self.view.key().filter.matches_batch(batch);
        let rendered = matches.then(|| self.view.render(batch, live));
        let position = batch.last().max(after);
        self.behind = Arc::downgrade(batch);
        let events = rendered.and_then(|rendered| {
            let from = rendered.frames.partition_point(|frame| frame.id <= after);
            let to = rendered.frames.len();
            (from < to).then_some((Events { rendered, from, to }, position))
        });
        if events.is_none() {
            self.position = position;
        }
        events
    }

    /// Gives out events up to the first one whose schema version has not been told, or tells that.
    fn give(&mut self, mut events: Events, position: u64) -> Next {
        let new = events.rendered.versions.iter().find(|version| !self.told.contains(&version.schema.id));
        let Some(new) = new else {
            self.position = position;
            return Next::Events(events);
        };
        if new.at > events.from {
            let rest = Events { from: new.at, ..events.clone() };
            events.to = new.at;
            self.position = events.frames().last().map_or(self.position, |frame| frame.id);
            self.rest = Some((rest, position));
            return Next::Events(events);
        }
        self.told.insert(new.schema.id);
        let record = self.view.record(&new.schema);
        self.rest = Some((events, position));
        Next::Schema(record)
    }
}
