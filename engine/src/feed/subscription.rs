//! A reader's place in the feed.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use tokio::sync::watch;

use crate::error::Result;
use crate::feed::{Frame, Rendered, View, blocking};
use crate::journal::{Gone, Journal, Read};
use crate::record::Batch;

/// What comes next for a reader.
#[derive(Debug)]
pub enum Next {
    /// Events.
    Events(Events),
    /// Retention has overtaken the reader: these numbers are gone, reading goes on after them.
    Gap(Gone),
}

/// Events of one batch that come after the reader's position.
#[derive(Clone, Debug)]
pub struct Events {
    rendered: Arc<Rendered>,
    from: usize,
}

impl Events {
    /// All frames in one piece.
    pub fn bytes(&self) -> Bytes {
        let start = self.frames().first().map_or(self.rendered.bytes.len(), |frame| frame.start as usize);
        self.rendered.bytes.slice(start..)
    }

    /// Where each event stands.
    pub fn frames(&self) -> &[Frame] {
        self.rendered.frames.get(self.from..).unwrap_or_default()
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
    /// Read from disk and not looked at yet: about a megabyte.
    pending: VecDeque<Arc<Batch>>,
    /// The batch looked at last, to go on from without a look-up.
    behind: Weak<Batch>,
}

impl Subscription {
    pub(crate) fn new(journal: Journal, view: Arc<View>, position: u64) -> Self {
        let matched = view.matched();
        Self { journal, view, matched, position, pending: VecDeque::new(), behind: Weak::new() }
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
            while let Some((batch, live)) = self.at_hand() {
                if let Some(events) = self.look_at(&batch, live) {
                    return Ok(Some(Next::Events(events)));
                }
            }
            // In this order: what is evaluated has had its matches told before.
            let evaluated = self.view.evaluated();
            if *self.matched.borrow_and_update() <= self.position {
                self.position = self.position.max(evaluated);
                return Ok(None);
            }
            let (journal, position) = (self.journal.clone(), self.position);
            match blocking(move || journal.read(position)).await? {
                Read::Batches(batches) => self.pending.extend(batches),
                Read::AtHead => return Ok(None),
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
        let next = self.behind.upgrade().and_then(|behind| behind.next());
        let batch = next.filter(|next| next.last() > self.position && next.first() <= self.position + 1);
        let newest = self.journal.newest();
        let batch = batch.or_else(|| self.journal.cached(self.position))?;
        (batch.last() <= newest).then_some((batch, true))
    }

    fn look_at(&mut self, batch: &Arc<Batch>, live: bool) -> Option<Events> {
        let after = self.position;
        let matches = self.view.key().filter.matches_batch(batch);
        let rendered = matches.then(|| self.view.render(batch, live));
        self.position = batch.last().max(after);
        self.behind = Arc::downgrade(batch);
        let rendered = rendered?;
        let from = rendered.frames.partition_point(|frame| frame.id <= after);
        (from < rendered.frames.len()).then_some(Events { rendered, from })
    }
}
