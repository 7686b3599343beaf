//! The thread that writes: whatever has arrived is one write and one sync.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use metrics::{counter, histogram};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::error::{Error, Result};
use crate::event::Micros;
use crate::journal::compressor::Compressor;
use crate::journal::disk::DiskFile;
use crate::journal::rolling::is_full;
use crate::journal::segment::Segment;
use crate::journal::{Shared, Spill, State, Sync, retention};
use crate::lsn::Lsn;
use crate::record::{Batch, Builder, Header, Part, seal};
use crate::schema::SchemaId;

/// One round takes no more than this before it syncs, so that the first of a crowd does not wait for all.
const ROUND_BYTES: usize = 8 << 20;
/// The free space is looked at before each so many bytes, and once a second.
const ROOM_CHECK_BYTES: u64 = 1 << 20;
/// How long to wait before trying again on a full disk.
const FULL_RETRY: Duration = Duration::from_millis(500);
/// A segment that has events is closed after this time even when it is small, so that retention can remove it.
const SEGMENT_AGE: Duration = Duration::from_secs(60 * 60);

/// Batches to append.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) parts: Vec<Part>,
    /// The position of the stream after them.
    pub(crate) lsn: Option<Lsn>,
    /// Told the number of the first event once it is durable.
    pub(crate) reply: Option<oneshot::Sender<Result<u64>>>,
    /// Given back when it is written.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
pub(crate) enum Command {
    Append(Append),
    /// A huge transaction has committed.
    Adopt(Box<Spill>, TxEnd, Option<OwnedSemaphorePermit>),
    /// Time to look at ages and intervals.
    Tick,
    Close(oneshot::Sender<()>),
}

/// The end of a spilled transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TxEnd {
    pub(crate) end_lsn: Lsn,
    pub(crate) committed: Micros,
}

pub(crate) fn now() -> Micros {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Micros::try_from(since.as_micros()).unwrap_or(Micros::MAX)
}

/// The segment being written.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Where the next batch goes; readers see less until it is synced.
    pub(crate) written: u64,
    pub(crate) schemas: Vec<SchemaId>,
    pub(crate) opened: Instant,
}

/// What has been written and is not shown yet.
#[derive(Debug, Default)]
struct Round {
    batches: Vec<(Bytes, Header)>,
    bytes: usize,
    replies: Vec<(oneshot::Sender<Result<u64>>, u64)>,
    lsn: Option<Lsn>,
    /// End of its last transaction.
    tx_end: Lsn,
    permits: Vec<OwnedSemaphorePermit>,
    arrived: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) active: Active,
    /// Number of the next event.
    pub(crate) next: u64,
    /// Bytes since the free space was looked at.
    pub(crate) unchecked: u64,
    /// Shown but not synced yet (`Sync::Interval`).
    pub(crate) unsynced: Option<(Instant, Option<Lsn>)>,
    /// Where closed segments are compressed.
    pub(crate) compressor: Option<Compressor>,
}

impl Writer {
    /// Runs until told to close or until a write fails for good.
    pub(crate) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(first) = commands.blocking_recv() {
            match self.round(first, &mut commands) {
                Ok(None) => {}
                Ok(Some(closed)) => {
                    match self.sync_now() {
                        // Only of what is durable: the next opening believes it.
                        Ok(()) => {
                            self.active.segment.close(now());
                            self.store_sidecar();
                        }
                        Err(error) => self.fail(&error),
                    }
                    // It renames files: the directory is ours as long as it may.
                    self.compressor = None;
                    *self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    // Nobody may be waiting any more.
                    let _ = closed.send(());
                    return;
                }
                Err(error) => {
                    self.fail(&error);
                    return;
                }
            }
        }
    }

    /// After a failed write or sync nothing more is taken: what the kernel holds is not known.
    fn fail(&self, error: &Error) {
        tracing::error!(%error, "The journal takes no more events until rowcast is started again");
        self.shared.state.send_replace(State::Failed(error.to_string()));
    }

    fn round(
        &mut self,
        first: Command,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Result<Option<oneshot::Sender<()>>> {
        let mut round = Round::default();
        let mut next = Some(first);
        let mut closing = None;
        while let Some(command) = next.take() {
            match command {
                Command::Append(append) => {
                    self.write(append, &mut round)?;
                    if round.bytes < ROUND_BYTES {
                        next = commands.try_recv().ok();
                    }
                }
                Command::Adopt(spill, end, permit) => {
                    self.publish(std::mem::take(&mut round))?;
                    self.adopt(*spill, end)?;
                    drop(permit);
                }
                Command::Tick => {
                    // A tick may start a new segment: what the round wrote belongs to this one.
                    self.publish(std::mem::take(&mut round))?;
                    self.tick()?;
                }
                Command::Close(done) => closing = Some(done),
            }
        }
        self.publish(round)?;
        Ok(closing)
    }

    fn write(&mut self, append: Append, round: &mut Round) -> Result<()> {
        round.arrived.get_or_insert_with(Instant::now);
        if self.active.written >= self.shared.options.segment_bytes {
            self.publish(std::mem::take(round))?;
            self.roll()?;
        }
        self.unchecked += append.parts.iter().map(|part| part.bytes.len() as u64).sum::<u64>();
        if self.unchecked >= ROOM_CHECK_BYTES {
            self.wait_while_short()?;
        }
        let first = self.next;
        // Before all parts: between two of them they would end a transaction that a crash has cut.
        let schemas: Vec<_> = append.parts.iter().flat_map(|part| &part.schemas).copied().collect();
        self.write_schemas(&schemas, round)?;
        for part in append.parts {
            round.tx_end = round.tx_end.max(part.tx_end);
            self.write_batch(part.bytes, round)?;
        }
        round.lsn = append.lsn.or(round.lsn);
        round.replies.extend(append.reply.map(|reply| (reply, first)));
        round.permits.extend(append.permit);
        Ok(())
    }

    /// A segment holds every schema version that its batches name, before the first batch that does.
    fn write_schemas(&mut self, ids: &[SchemaId], round: &mut Round) -> Result<()> {
        let mut builder = Builder::new();
        for id in ids {
            if !self.active.schemas.contains(id) {
                if let Some(json) = self.shared.registry.json(*id) {
                    builder.schema(&json);
                }
                self.active.schemas.push(*id);
            }
        }
        // With the others of the round: what is shown of a segment grows in the order of the file.
        builder.take().into_iter().try_for_each(|part| self.write_batch(part.bytes, round))
    }

    /// Writes a batch without events where no round is under way.
    pub(crate) fn write_quiet(&mut self, bytes: Vec<u8>) -> Result<()> {
        let mut round = Round::default();
        self.write_batch(bytes, &mut round)?;
        for (_, header) in &round.batches {
            self.active.segment.grow(header);
        }
        Ok(())
    }

    fn write_batch(&mut self, mut bytes: Vec<u8>, round: &mut Round) -> Result<()> {
        seal(&mut bytes, self.next - self.active.segment.header.base);
        let Some(header) = Header::parse(&bytes) else {
            return Err(Error::failed("Built a batch that cannot be read back"));
        };
        self.put(&bytes, self.active.written)?;
        self.active.written += bytes.len() as u64;
        self.next += u64::from(header.events);
        round.bytes += bytes.len();
        round.batches.push((bytes.into(), header));
        Ok(())
    }

    /// Writes, waiting for room as long as it takes.
    fn put(&self, bytes: &[u8], offset: u64) -> Result<()> {
        loop {
            match self.active.file.write_at(bytes, offset) {
                Ok(()) => {
                    self.roomy();
                    return Ok(());
                }
                Err(error) if is_full(&error) => self.wait_for_room("the disk is full")?,
                Err(error) => return Err(self.broken("write to", error)),
            }
        }
    }

    fn broken(&self, doing: &str, error: io::Error) -> Error {
        Error::journal(format!("Cannot {doing} {}", self.active.segment.path.display())).because(error)
    }

    fn roomy(&self) {
        if matches!(*self.shared.state.borrow(), State::Full(_)) {
            tracing::info!("There is room again: capture goes on");
            self.shared.state.send_replace(State::Open);
        }
    }

    pub(super) fn wait_for_room(&self, what: &str) -> Result<()> {
        if !matches!(*self.shared.state.borrow(), State::Full(_)) {
            let dir = self.shared.options.dir.display();
            tracing::error!(%dir, "Capture pauses: {what}; make room, readers are served meanwhile");
            self.shared.state.send_replace(State::Full(format!("{what} ({dir})")));
        }
        retention::apply(&self.shared, now());
        if self.shared.closing.load(Ordering::Acquire) {
            return Err(Error::journal("Stopped while waiting for room on the disk"));
        }
        // The writer has a thread of its own and nothing else to do.
        std::thread::sleep(FULL_RETRY);
        Ok(())
    }

    /// Syncs and shows what the round wrote.
    fn publish(&mut self, round: Round) -> Result<()> {
        if round.batches.is_empty() && round.lsn.is_none() && round.replies.is_empty() {
            return Ok(());
        }
        if self.shared.options.sync == Sync::Always {
            self.sync_file()?;
        }
        for (bytes, header) in round.batches {
            counter!("rowcast_journal_bytes_total").increment(bytes.len() as u64);
            counter!("rowcast_events_total").increment(u64::from(header.events));
            self.show(bytes, &header)?;
        }
        self.shared.note_tx_end(round.tx_end);
        let newest = self.active.segment.last();
        self.shared.head.send_if_modified(|head| std::mem::replace(head, newest) != newest);
        match self.shared.options.sync {
            Sync::Always => self.confirm(round.lsn),
            Sync::Interval(_) => {
                let (_, lsn) = self.unsynced.get_or_insert((Instant::now(), None));
                *lsn = round.lsn.or(*lsn);
            }
        }
        for (reply, id) in round.replies {
            // The one who asked may be gone.
            let _ = reply.send(Ok(id));
        }
        if let Some(arrived) = round.arrived {
            histogram!("rowcast_journal_commit_seconds").record(arrived.elapsed());
        }
        Ok(())
    }

    fn show(&self, bytes: Bytes, header: &Header) -> Result<()> {
        self.active.segment.grow(header);
        if header.events == 0 {
            return Ok(());
        }
        let base = self.active.segment.header.base;
        let batch = Batch::new(bytes, base, None, |id| self.shared.registry.get(id))
            .ok_or_else(|| Error::failed("Built a batch that cannot be read back"))?;
        self.shared.cache.push(&Arc::new(batch));
        Ok(())
    }

    pub(super) fn confirm(&self, lsn: Option<Lsn>) {
        if let Some(lsn) = lsn {
            self.shared.durable.send_if_modified(|durable| {
                let moved = lsn > *durable;
                *durable = lsn.max(*durable);
                moved
            });
        }
    }

    pub(crate) fn sync_file(&self) -> Result<()> {
        let started = Instant::now();
        self.active.file.sync().map_err(|error| self.broken("sync", error))?;
        histogram!("rowcast_journal_sync_seconds").record(started.elapsed());
        Ok(())
    }

    /// Syncs what `Sync::Interval` has left, and confirms it.
    pub(crate) fn sync_now(&mut self) -> Result<()> {
        if let Some((_, lsn)) = self.unsynced.take() {
            self.sync_file()?;
            self.confirm(lsn);
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<()> {
        if let (Sync::Interval(interval), Some((since, _))) = (self.shared.options.sync, &self.unsynced)
            && since.elapsed() >= interval
        {
            self.sync_now()?;
        }
        let age = SEGMENT_AGE.min(self.shared.options.retention / 2);
        if self.active.segment.events() > 0 && self.active.opened.elapsed() >= age {
            self.roll()?;
        }
        retention::apply(&self.shared, now());
        self.wait_while_short()?;
        self.roomy();
        Ok(())
    }

    /// Waits while what is about to be written would take the last room of others on the file system.
    fn wait_while_short(&mut self) -> Result<()> {
        while let Some(reason) = retention::short_of_room(&self.shared, self.unchecked) {
            self.wait_for_room(&reason)?;
        }
        self.unchecked = 0;
        Ok(())
    }
}
