//! What the journal knows of transactions that were streamed before a snapshot began, or since its newest chunk.

use rowcast_engine::event::{Body, Event, Old, Op};
use rowcast_engine::journal::{Journal, Read};
use rowcast_engine::record::{Batch, Value};
use rowcast_engine::schema::SchemaId;
use rowcast_engine::{Error, Lsn, Result, Stop};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::job::{Job, Since};
use super::rows::{key_behind, key_bytes};
use super::told::{Shape, Told, rows_of};
use super::tracker::{Again, Flaw, WHOLE_NOTED_MAX};
use super::visible::{Commit, Visible};

/// How far back a transaction may have been streamed that is still invisible to others, in bytes of the server's log: its
/// commit waits for a standby all the while.
const BACK: u64 = 4 << 30;

/// So many of those are looked at together: 2 MB. Few of them are kept.
const PAGE: usize = 100_000;

/// Where no transaction older than the newest completed one is in progress, and no commit waits for a standby, only one that
/// came since can be invisible: it was streamed no further back than this.
const NEAR: u64 = 64 << 20;

/// The transactions that have been streamed and are not seen by a snapshot. Those beyond its `xmax` count too: that
/// stands behind the newest transaction that is completed, and one that waits for a standby is not. Reads the disk.
///
/// `waits`: commits may wait for a standby, and while no later one has been given an id a snapshot names none of them.
///
/// Where commits may wait and retention has removed what may be one of them, all that have not ended are taken for it.
///
/// None at a standby: each chunk is compared with the position up to which was streamed.
pub(super) async fn streamed(journal: &Journal, visible: Visible, waits: bool) -> Result<Vec<Commit>> {
    if visible.replayed().is_some() {
        return Ok(Vec::new());
    }
    let journal = journal.clone();
    let look = move || -> Result<Vec<Commit>> {
        let back = if waits || visible.running().next().is_some() { BACK } else { NEAR };
        let position = journal.position().lsn;
        let cut = Lsn(position.0.saturating_sub(back));
        let mut unseen = unseen_above(&journal, cut, (&visible, position), PAGE)?;
        if waits && !journal.holds_all_above(cut) {
            unseen.extend(visible.running().map(|xid| Commit { xid, at: position }));
        }
        Ok(unseen)
    };
    on_its_own(look).await
}

/// To the newest: those that came last are the least likely to be seen.
fn unseen_above(
    journal: &Journal,
    mut from: Lsn,
    (visible, at): (&Visible, Lsn),
    page: usize,
) -> Result<Vec<Commit>> {
    let mut unseen = Vec::new();
    loop {
        let stored = journal.transactions_above(from, page)?;
        // A primary's snapshots go by the id alone.
        let commits = stored.iter().map(|stored| Commit { xid: stored.xid, at });
        unseen.extend(commits.filter(|commit| !visible.sees(*commit)));
        match stored.last() {
            Some(last) if stored.len() >= page => from = last.end_lsn,
            _ => return Ok(unseen),
        }
    }
}

const REMOVED: &str = "the journal does not hold all events since";
const MANY_MOVED: &str = "more rows got other keys since than can be kept";

/// Keys to be read again, of what came up to a position.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub(super) keys: Again,
    pub(super) up_to: Lsn,
}

/// The keys that rows of a table were moved to since `lsn` by events that lack values: they have to be read again. Reads the
/// disk.
///
/// Or why it is not known what those are.
pub(super) async fn moved(journal: &Journal, channel: &str, lsn: Lsn) -> Result<Result<Moved, &'static str>> {
    let (journal, channel) = (journal.clone(), channel.to_owned());
    on_its_own(move || {
        if !journal.holds_all_above(lsn) {
            return Ok(Err(REMOVED));
        }
        // Before anything is read: what comes meanwhile is read, too, and next time again.
        let up_to = journal.position().lsn;
        let mut after = journal.seek_lsn(lsn)?;
        let mut keys = Again::default();
        loop {
            let batches = match journal.read(after)? {
                Read::AtHead => return Ok(Ok(Moved { keys, up_to })),
                Read::Gone(_) => return Ok(Err(REMOVED)),
                Read::Batches(batches) => batches,
            };
            for batch in batches {
                after = after.max(batch.last());
                for event in batch.events_where(|of, op| of == channel && op == Op::Update) {
                    let Body::Row { schema, old: Some(Old::Key(old)), new: Some(new) } = event.body else {
                        continue;
                    };
                    let lacks = new.values().any(|value| value == Value::Unchanged);
                    let key = key_behind(new, Some(old), &schema.key);
                    if lacks
                        && key != key_bytes(old, &schema.key)
                        && let Some(key) = key
                    {
                        keys.insert(key);
                    }
                }
            }
            if keys.is_too_much() {
                return Ok(Err(MANY_MOVED));
            }
        }
    })
    .await
}

/// The event behind which that comes which is behind the transactions that end up to `lsn`; `None` when the journal does not
/// hold all of it any more.
pub(super) async fn event_behind(journal: &Journal, lsn: Lsn) -> Result<Option<u64>> {
    let journal = journal.clone();
    on_its_own(move || {
        if !journal.holds_all_above(lsn) {
            return Ok(None);
        }
        let mut after = journal.seek_lsn(lsn)?;
        loop {
            let batches = match journal.read(after)? {
                Read::AtHead => return Ok(Some(after)),
                Read::Gone(_) => return Ok(None),
                Read::Batches(batches) => batches,
            };
            for batch in batches {
                let is_behind = |event: &Event<'_>| event.tx.is_some_and(|tx| tx.end_lsn > lsn);
                if let Some(event) = batch.all_events().find(is_behind) {
                    return Ok(Some(event.id - 1));
                }
                after = after.max(batch.last());
            }
        }
    })
    .await
}

/// Why nobody knows what a consumer has of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    Flawed(Flaw),
    /// Retention has removed events, or damage has.
    Removed,
    /// The history was broken.
    Broken,
    /// It began at several places, or at one that is not known.
    NoPlace,
}

/// What is looked up of a table without a key may be much to keep: one at a time, also of those whose reader has gone
/// meanwhile.
static LOOKING: Semaphore = Semaphore::const_new(1);

/// The leave to look up what has been [`told`] of a table.
pub(super) async fn may_look() -> Result<SemaphorePermit<'static>> {
    LOOKING.acquire().await.map_err(|_| Error::failed("Nothing can be looked up in the journal any more"))
}

/// What a consumer has of a table without a key who began with an empty one where the job was wanted, and followed its events
/// up to those of the transaction that ends at `until`. Reads the disk.
/// It ends when nobody waits for it any more.
pub(super) async fn told(
    journal: &Journal,
    job: &Job,
    until: Lsn,
    (stopped, permit): (&Stop, SemaphorePermit<'static>),
) -> Result<Result<Told, Unknown>> {
    let (journal, job, stopped) = (journal.clone(), job.clone(), stopped.clone());
    on_its_own(move || {
        let _permit = permit;
        let (channel, sinks, told) = (job.channel(), job.sinks, Told::default());
        let mut following = Following { channel, sinks, until, told, version: None };
        let Since::Event(first) = job.since else { return Ok(Err(Unknown::NoPlace)) };
        let mut after = first;
        loop {
            if stopped.is_stopped() {
                return Err(Error::transient("Nobody waits for what the journal has of a table any more"));
            }
            let batches = match journal.read(after)? {
                Read::AtHead => return Ok(Ok(following.told)),
                Read::Gone(_) => return Ok(Err(Unknown::Removed)),
                Read::Batches(batches) => batches,
            };
            for batch in batches {
                after = after.max(batch.last());
                match following.take(&batch, first) {
                    Ok(true) => {}
                    Ok(false) => return Ok(Ok(following.told)),
                    Err(unknown) => return Ok(Err(unknown)),
                }
            }
        }
    })
    .await
}

/// A consumer.
struct Following {
    channel: String,
    sinks: Vec<String>,
    /// Behind this the stream itself tells what comes.
    until: Lsn,
    told: Told,
    /// Of the newest event's table.
    version: Option<SchemaId>,
}

impl Following {
    /// Takes in what came behind an event. False when all has come.
    fn take(&mut self, batch: &Batch, first: u64) -> Result<bool, Unknown> {
        for event in batch.all_events() {
            if event.tx.is_some_and(|tx| tx.end_lsn > self.until) {
                return Ok(false);
            }
            if event.id <= first {
                continue;
            }
            if matches!(event.body, Body::Gap { channel: "", .. }) {
                return Err(Unknown::Broken);
            }
            let is_for_him = event.sinks.is_empty() || self.sinks.iter().any(|sink| event.is_for(sink));
            if is_for_him && event.channel() == self.channel {
                self.follow(&event)?;
            }
        }
        // What comes in one transaction may be much.
        if self.told.byte_len() > WHOLE_NOTED_MAX {
            return Err(Unknown::Flawed(Flaw::TooMuch));
        }
        Ok(true)
    }

    fn follow(&mut self, event: &Event<'_>) -> Result<(), Unknown> {
        let Body::Row { schema, old, new } = event.body else {
            if event.op == Op::Truncate {
                self.told.clear();
                self.version = None;
            }
            return Ok(());
        };
        let old = match old {
            None => None,
            Some(Old::Full(old)) => Some(old),
            Some(Old::Key(_)) => return Err(Unknown::Flawed(Flaw::Unsaid)),
        };
        let rows = rows_of(event.op, old, new).ok_or(Unknown::Flawed(Flaw::Unsaid))?;
        let tuples = [old, new];
        if self.version != Some(schema.id) {
            let shape = Shape::of(schema);
            let is_like = |told: &Shape| told.is_like(&shape);
            if !self.told.is_empty() && !self.told.shape.as_ref().is_some_and(is_like) {
                return Err(Unknown::Flawed(Flaw::Shapes));
            }
            (self.version, self.told.shape) = (Some(schema.id), Some(shape));
        }
        let Told { shape, unlisted, .. } = &mut self.told;
        if !shape.as_ref().is_none_or(|shape| unlisted.take_in(shape, tuples.into_iter().flatten())) {
            return Err(Unknown::Flawed(Flaw::Shapes));
        }
        let (old, new) = rows;
        old.iter().for_each(|row| self.told.remove(row));
        new.iter().for_each(|row| self.told.add(row));
        Ok(())
    }
}

async fn on_its_own<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::failed("Reading the journal was broken off").because(error))?
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use rowcast_engine::ingest::Ingest;
    use rowcast_engine::journal::disk::RealDisk;
    use rowcast_engine::journal::{self, Options, StreamPosition};
    use rowcast_engine::record::{Builder, TxStart};

    use super::*;

    /// The way into a journal that has ten transactions, of ids from 1 on, which end at 1100, 1200 and so on.
    pub(crate) async fn with_ten(options: Options) -> Ingest {
        let journal = journal::open(options, Arc::new(RealDisk)).unwrap();
        let ingest = Ingest::new(journal.clone());
        let start = StreamPosition { slot: "s".into(), system: 7, timeline: 1, ..journal.position() };
        ingest.identify(start, &[]).await.unwrap();
        for xid in 1..=10 {
            let end = Lsn(1000 + 100 * u64::from(xid));
            let mut builder = Builder::new();
            let previous_end_lsn = journal.last_tx_end();
            builder.begin(TxStart { xid, final_lsn: Lsn(end.0 - 8), previous_end_lsn, ..TxStart::default() });
            builder.gap("public.t", "test", "");
            builder.commit(end);
            ingest.room().await.unwrap().append(&journal, builder.take(), end);
            journal.durable().wait_for(|durable| *durable >= end).await.unwrap();
        }
        ingest
    }

    /// However many came before it, the newest is found that a snapshot may not see.
    #[tokio::test]
    async fn what_may_be_unseen_is_looked_for_up_to_the_newest() {
        let directory = tempfile::tempdir().unwrap();
        let journal = with_ten(Options::new(directory.path())).await.journal().clone();
        let visible: Visible = "3:9:3".parse().unwrap();
        for page in [1, 2, 3, 5, 10, 100] {
            let unseen = unseen_above(&journal, Lsn(1150), (&visible, Lsn(2000)), page).unwrap();
            let ids: Vec<u32> = unseen.iter().map(|commit| commit.xid).collect();
            assert_eq!(ids, [3, 9, 10], "{page} at a time");
        }
        journal.close().await;
    }
}
