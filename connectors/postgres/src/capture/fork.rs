//! Up to where the server's history is the journal's: what both have is not stored a second time. The slot is read once
//! more, without moving it, no further than the journal stands, and compared as it comes.

use std::collections::VecDeque;
use std::time::Duration;

use rowcast_engine::journal::{Journal, StoredTransaction};
use rowcast_engine::units::show_size;
use rowcast_engine::{Error, Lsn, Result};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::broken::Break;
use super::connect::{Link, Situation};
use super::explain::explain;
use super::feedback::{Feedback, meanwhile};
use super::replay::page_above;
use super::starting::Sent;
use crate::pgoutput::{Message, decode};
use crate::setup::server::Server;
use crate::setup::slot;
use crate::wire::{CopyFrame, CopyStream};

/// So much of the stream is read for it, in bytes: a few minutes. Beyond, what both have comes again.
const COMPARED: u64 = 4 << 30;

/// The server is asked how far it is so often, and told that we are there.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Where the histories part, as far as they were compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fork {
    /// The new history begins here.
    pub(super) at: Lsn,
    /// There was too much to be compared: what both have beyond it is stored again.
    pub(super) broken_off: bool,
    /// Below, the server lacks something that the journal holds.
    pub(super) lacks: bool,
}

impl Fork {
    /// For the gap's words, where not everything could be compared.
    pub(super) fn detail(self) -> String {
        if !self.broken_off {
            return String::new();
        }
        format!(
            ". More than {} would have had to be compared: what the journal and the server both have beyond {} comes \
             again, under new numbers",
            show_size(COMPARED),
            self.at
        )
    }
}

impl Link {
    /// Compares what the slot, which nobody reads, would send from `confirmed` on.
    pub(super) async fn fork(&self, client: &Client, situation: &Situation, confirmed: Lsn) -> Result<Fork> {
        let stored = &situation.stored;
        let end = stored.lsn.min(situation.system.end);
        if stored.system != situation.system.id || stored.slot.is_empty() || confirmed >= end {
            return Ok(Fork { at: confirmed, broken_off: false, lacks: false });
        }
        let reads = self.readable(situation.published.clone(), confirmed)?;
        let names: Vec<String> = reads.into_iter().map(|(name, _)| name).collect();
        // Of below, it would tell what it was asked for in another way.
        let from = situation.start(stored.asked_since);
        let command = super::starting::start_command(&self.source, from, &names, Sent::Whole);
        let connection = self.replication(client).await?;
        let stream = self.start(client, connection, &situation.server, &command).await?;
        // It is told that we are there, and nothing else.
        let (_, told) = watch::channel(confirmed);
        let feedback = Feedback::new(told, confirmed, end, situation.server.sender_timeout);
        // What is not asked for does not come, and the new history does not begin there.
        let begin = if from <= end { confirmed.max(from) } else { confirmed };
        let comparison = Comparison::new(self.ingest.journal(), begin, COMPARED);
        let mut reading = Reading { stream, feedback, end, comparison };
        let done = reading.run().await;
        let Reading { stream, comparison, .. } = reading;
        // In order, so that the slot is free again.
        stream.finish().await;
        let done = done.map_err(|error| self.explain_with_slot(error, &situation.server));
        done.map(|broken_off| Fork { at: comparison.shared, broken_off, lacks: comparison.lacks })
    }

    /// Likewise, where it is left to a person to make the slot anew.
    fn explain_with_slot(&self, error: Error, server: &Server) -> Error {
        let error = explain(error);
        match Break::of(&error).filter(|broken| broken.renew && !self.source.manage) {
            Some(broken) => {
                let name = &self.source.slot;
                let remedy =
                    format!("{} {}", slot::drop_sql(name), slot::create_remedy(&self.source, server));
                Break { remedy: Some(remedy), ..broken.clone() }.error()
            }
            None => error,
        }
    }
}

/// The stream that is compared.
struct Reading {
    stream: CopyStream,
    /// What the slot has confirmed it goes on having.
    feedback: Feedback,
    end: Lsn,
    comparison: Comparison,
}

impl Reading {
    /// Reads up to the end, or until it is enough: then it is true.
    async fn run(&mut self) -> Result<bool> {
        let mut ask_at = Instant::now();
        loop {
            if self.drain().await? {
                return Ok(false);
            }
            if self.comparison.left == 0 {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= ask_at {
                self.feedback.ask();
                ask_at = now + ASK_EVERY;
            }
            let Self { stream, feedback, comparison, .. } = self;
            feedback.keep_up(stream).await?;
            tokio::select! {
                count = stream.fill() => {
                    let count = u64::try_from(count?).unwrap_or(u64::MAX);
                    comparison.left = comparison.left.saturating_sub(count);
                    feedback.heard();
                }
                () = feedback.wake(Some(ask_at)) => {}
            }
        }
    }

    /// Takes all that has been read. Gives whether the end is reached.
    async fn drain(&mut self) -> Result<bool> {
        let Self { stream, feedback, comparison, .. } = self;
        while let Some(frame) = stream.next()? {
            let step = match frame {
                CopyFrame::Data { body, .. } => match body.first() {
                    Some(b'B' | b'C') => comparison.take(body),
                    _ => continue,
                },
                CopyFrame::Keepalive { end, .. } if end >= self.end => return Ok(true),
                CopyFrame::Keepalive { reply, .. } => {
                    // How far it has come is not to be told.
                    feedback.keepalive(Lsn::ZERO, reply);
                    continue;
                }
            };
            let Some(end) = step else { continue };
            // It may read the journal for as long as that takes.
            meanwhile(stream, feedback, comparison.compare(end)).await?;
            if end >= self.end {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The journal's side of it.
struct Comparison {
    journal: Journal,
    page: VecDeque<StoredTransaction>,
    /// The page ends here, and there are more.
    more: Option<Lsn>,
    /// What was begun: its id and commit time.
    begun: Option<(u32, i64)>,
    /// Both have what ends here.
    shared: Lsn,
    /// Of what the journal holds, something was passed over that the server does not have: beyond what both have,
    passed_over: bool,
    /// and below it.
    lacks: bool,
    /// Bytes that may still be read.
    left: u64,
}

impl Comparison {
    fn new(journal: &Journal, begin: Lsn, left: u64) -> Self {
        let (page, more, begun) = (VecDeque::new(), Some(begin), None);
        let (passed_over, lacks) = (false, false);
        Self { journal: journal.clone(), page, more, begun, shared: begin, passed_over, lacks, left }
    }

    async fn next_page(&mut self) -> Result<()> {
        let Some(above) = self.more.take() else { return Ok(()) };
        let (found, more) = page_above(&self.journal, above).await?;
        self.more = more;
        self.page.extend(found);
        Ok(())
    }

    /// A Begin or a Commit came; gives where a transaction ends.
    fn take(&mut self, body: &[u8]) -> Option<Lsn> {
        match decode(body) {
            Ok(Message::Begin { committed, xid, .. }) => {
                self.begun = Some((xid, committed));
                None
            }
            Ok(Message::Commit { end_lsn, .. }) => Some(end_lsn),
            _ => None,
        }
    }

    /// Whether the journal has what was begun and ends at `end`: then the histories are one up to there.
    async fn compare(&mut self, end: Lsn) -> Result<()> {
        loop {
            while self.page.front().is_some_and(|stored| stored.end_lsn < end) {
                self.page.pop_front();
                self.passed_over = true;
            }
            if !self.page.is_empty() || self.more.is_none() {
                break;
            }
            self.next_page().await?;
        }
        let begun = self.begun.take();
        let stored = self.page.pop_front_if(|stored| stored.end_lsn == end);
        let Some(stored) = stored else { return Ok(()) };
        if begun == Some((stored.xid, stored.committed)) {
            self.shared = self.shared.max(end);
            self.lacks |= self.passed_over;
        } else {
            self.passed_over = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rowcast_engine::journal::disk::RealDisk;
    use rowcast_engine::journal::{self, Options};

    use super::*;

    /// Compares transactions of the server, by end and id, with those that the journal holds.
    async fn compared(stored: &[(u64, u32)], server: &[(u64, u32)]) -> (u64, bool) {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal::open(Options::new(directory.path()), Arc::new(RealDisk)).unwrap();
        let mut comparison = Comparison::new(&journal, Lsn(5), COMPARED);
        comparison.more = None;
        let stored = stored.iter().map(|&(end, xid)| (Lsn(end), xid));
        comparison.page =
            stored.map(|(end_lsn, xid)| StoredTransaction { end_lsn, xid, committed: 1 }).collect();
        for &(end, xid) in server {
            comparison.begun = Some((xid, 1));
            comparison.compare(Lsn(end)).await.unwrap();
        }
        let Comparison { shared, lacks, .. } = comparison;
        journal.close().await;
        (shared.0, lacks)
    }

    #[tokio::test]
    async fn what_the_server_lacks_below_the_fork_is_seen() {
        let stored = [(10, 1), (20, 2), (30, 3)];
        for (server, found) in [
            (&[(10, 1), (20, 2), (30, 3)][..], (30, false)),
            // More of its own, below and beyond.
            (&[(10, 1), (15, 9), (20, 2), (40, 4)], (20, false)),
            (&[(40, 4)], (5, false)),
            (&[(10, 1), (20, 8), (40, 4)], (10, false)),
            (&[(10, 1), (30, 3)], (30, true)),
            (&[(10, 1), (20, 8), (30, 3)], (30, true)),
        ] {
            assert_eq!(compared(&stored, server).await, found, "{server:?}");
        }
    }
}
