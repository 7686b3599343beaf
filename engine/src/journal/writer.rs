//! The thread that writes: whatever has arrived is one write and one sync.

mod round;

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use metrics::{counter, histogram};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use crate::abort::{self, Point};
use crate::error::{Error, Result};
use crate::event::Micros;
use crate::journal::compressor::Compressor;
use crate::journal::disk::DiskFile;
use crate::journal::history::NewHistory;
use crate::journal::rolling::{RowsEnd, is_full};
use crate::journal::room::{Claim, FULL_RETRY};
use crate::journal::segment::Segment;
use crate::journal::writer::round::Round;
use crate::journal::{Shared, Spill, StreamPosition, Sync, retention};
use crate::lsn::Lsn;
use crate::record::{Batch, Header, Part, fitted};
use crate::schema::SchemaId;

/// One round takes no more than this before it syncs, so that the first of a crowd does not wait for all.
const ROUND_BYTES: usize = 8 << 20;
/// The free space is looked at before each so many bytes, and once a second.
const ROOM_CHECK_BYTES: u64 = 1 << 20;
/// Why there is no room, when the disk says so itself.
pub(super) const DISK_FULL: &str = "the disk is full";
/// Events that are shown and not synced yet (`Sync::Interval`): an opening leaves out so many numbers, a second's.
pub(super) const UNSYNCED_MAX: u64 = 1 << 20;
/// A segment that has events is closed after this time even when it is small, so that retention can remove it.
const SEGMENT_AGE: Duration = Duration::from_secs(60 * 60);

/// Batches to append.
#[derive(Debug, Default)]
pub(crate) struct Append {
    pub(crate) parts: Vec<Part>,
    /// The position of the stream after them.
    pub(crate) lsn: Option<Lsn>,
    /// Whose stream it is from here on; a position in the batches says it, too.
    pub(crate) identity: Option<Box<StreamPosition>>,
    /// Told the number of the first event once it is durable.
    pub(crate) reply: Option<oneshot::Sender<Result<u64>>>,
    /// Given back when it is written.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    /// The one who asked goes away when there is no room, as long as nobody has taken this.
    pub(crate) claim: Option<Claim>,
}

#[derive(Debug)]
pub(crate) enum Command {
    Append(Append),
    /// A huge transaction has committed.
    Adopt(Box<Spill>, TxEnd, Option<OwnedSemaphorePermit>),
    /// Rows that a snapshot read stand in a file of their own.
    AdoptRows(Box<Spill>, RowsEnd, OwnedSemaphorePermit),
    /// The source's history does not go on: another one begins.
    History(Box<NewHistory>),
    /// Time to look at ages and room.
    Tick,
    /// The interval may be over (`Sync::Interval`).
    Sync,
    /// Somebody waits for what has been shown to be durable (`Sync::Interval`).
    SyncNow,
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
    /// All before this is synced.
    pub(crate) synced: u64,
    /// The file was made this long with zeros; less than what is written where it was not.
    pub(crate) zeroed: u64,
    pub(crate) schemas: Vec<SchemaId>,
    pub(crate) opened: Instant,
}

impl Active {
    /// A file of which so much is written, and durable.
    pub(crate) fn new(segment: Arc<Segment>, file: Arc<dyn DiskFile>, written: u64) -> Self {
        let (schemas, opened) = (Vec::new(), Instant::now());
        Self { segment, file, written, synced: written, zeroed: 0, schemas, opened }
    }
}

#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) active: Active,
    /// Number of the next event.
    pub(crate) next: u64,
    /// Bytes since the free space was looked at.
    pub(crate) unchecked: u64,
    /// All events below this number are synced.
    pub(crate) synced_next: u64,
    /// Shown but not synced yet (`Sync::Interval`): when it has to be, and the stream's position behind it.
    pub(crate) unsynced: Option<(Instant, Option<Lsn>)>,
    /// Where that moment is told to whoever wakes the writer (`Sync::Interval`).
    pub(crate) owed: Option<watch::Sender<Instant>>,
    /// So many there have been.
    pub(crate) ticks: usize,
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
                    match self.end_segment() {
                        // Only of what is durable: the next opening believes it.
                        Ok(()) => self.store_sidecar(),
                        Err(error) => self.fail(&error),
                    }
                    // It renames files: the directory is ours as long as it may.
                    self.compressor = None;
                    self.unlock();
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
        self.shared.say_failed(error);
    }

    /// Never part of another function: `benches/instructions.rs` counts what it takes.
    #[inline(never)]
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
                    self.take(append, &mut round)?;
                    if round.bytes < ROUND_BYTES {
                        next = commands.try_recv().ok();
                    }
                }
                Command::Adopt(spill, end, permit) => {
                    self.publish(std::mem::take(&mut round))?;
                    self.wait_while_short(&mut round, 0)?;
                    self.adopt(*spill, end, (end.end_lsn, Vec::new()))?;
                    drop(permit);
                }
                Command::AdoptRows(spill, rows, permit) => {
                    self.publish(std::mem::take(&mut round))?;
                    self.wait_while_short(&mut round, 0)?;
                    self.adopt_rows(*spill, rows)?;
                    drop(permit);
                }
                Command::History(new) => {
                    self.publish(std::mem::take(&mut round))?;
                    self.begin_history(*new)?;
                }
                Command::Tick => {
                    // A tick may start a new segment: what the round wrote belongs to this one.
                    self.publish(std::mem::take(&mut round))?;
                    self.tick()?;
                    self.remove_while_idle(commands);
                }
                Command::Sync => {
                    self.publish(std::mem::take(&mut round))?;
                    self.sync_due()?;
                }
                Command::SyncNow => {
                    self.publish(std::mem::take(&mut round))?;
                    self.sync_now()?;
                }
                Command::Close(done) => closing = Some(done),
            }
        }
        self.publish(round)?;
        Ok(closing)
    }

    fn unlock(&self) {
        drop(self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Takes an append into the round, once there is room for it.
    fn take(&mut self, append: Append, round: &mut Round) -> Result<()> {
        // What it waits for counts.
        let arrived = round.is_empty().then(Instant::now);
        if self.active.written + round.bytes as u64 >= self.shared.options.segment_bytes {
            self.publish(std::mem::take(round))?;
            self.roll()?;
            self.wait_while_short(round, 0)?;
        }
        let bytes = append.parts.iter().map(|part| part.bytes.len()).sum();
        self.unchecked += bytes as u64;
        if self.unchecked >= ROOM_CHECK_BYTES {
            self.wait_while_short(round, bytes)?;
        }
        if append.claim.as_ref().is_some_and(|claim| !claim.take()) {
            return Ok(());
        }
        abort::point(Point::AppendBegun);
        round.push(append, bytes, arrived);
        Ok(())
    }

    /// Writes a batch without events where no round is under way.
    pub(crate) fn write_quiet(&mut self, mut bytes: Vec<u8>) -> Result<()> {
        let header = self.seal(&mut bytes, None, (self.active.written, self.next))?;
        self.look_whole()?;
        while let Err(error) = self.active.file.write_at(&bytes, self.active.written) {
            if !is_full(&error) {
                return Err(self.broken("write to", error));
            }
            self.sync_now()?;
            self.wait_for_room(DISK_FULL)?;
        }
        self.shared.say_roomy();
        self.active.written += bytes.len() as u64;
        self.active.segment.grow(&header);
        Ok(())
    }

    pub(super) fn broken(&self, doing: &str, error: io::Error) -> Error {
        let full = is_full(&error);
        let error =
            Error::journal(format!("Cannot {doing} {}", self.active.segment.path.display())).because(error);
        if full { error.hint("Make room on the file system of the data directory.") } else { error }
    }

    /// Looks at the file each time, also where it stops: who makes room may remove the newest one, and a stop would say
    /// nothing of that.
    pub(super) fn wait_for_room(&self, what: &str) -> Result<()> {
        let waited = self.shared.wait_for_room(what);
        self.look_at_file()?;
        waited
    }

    pub(super) fn waits_out(&self, error: &io::Error, what: &str) -> Result<bool> {
        let waited = self.shared.waits_out(error, what);
        self.look_at_file()?;
        waited
    }

    /// Writes, syncs and shows the round.
    fn publish(&mut self, mut round: Round) -> Result<()> {
        if round.is_empty() {
            return Ok(());
        }
        let headers = self.write_round(&mut round)?;
        if round.is_empty() {
            return Ok(());
        }
        let later = self.may_sync_later(&round);
        if later.is_none() {
            abort::point(Point::SyncBegun);
            self.sync_file()?;
            abort::point(Point::SyncDone);
        }
        let (lsn, identity) = (round.lsn(), round.take_identity());
        self.show_round(&mut round, headers)?;
        self.leave_unsynced(lsn, later);
        // Not before: a segment that begins meanwhile would say it without its position.
        if let Some(identity) = identity {
            self.shared.identify(*identity);
        }
        abort::point(Point::ShowDurable);
        if let Some(arrived) = round.answer() {
            histogram!("rowcast_journal_commit_seconds").record(arrived.elapsed());
        }
        Ok(())
    }

    /// How much later a round may be synced than it is shown: not at all where somebody was promised that it is durable
    /// (capture waits for no answer), where it gives a schema version its number, which must not be given twice, and where
    /// more numbers would be shown than an opening leaves out.
    fn may_sync_later(&self, round: &Round) -> Option<Duration> {
        let Sync::Interval(interval) = self.shared.options.sync else { return None };
        let many = self.next - self.synced_next > UNSYNCED_MAX;
        (!round.is_awaited() && !round.describes && !many).then_some(interval)
    }

    /// Confirms what is shown, or notes when it has to be synced for that.
    fn leave_unsynced(&mut self, lsn: Option<Lsn>, later: Option<Duration>) {
        let before = self.unsynced.take();
        let lsn = lsn.or(before.and_then(|(_, lsn)| lsn));
        let Some(interval) = later else { return self.confirm(lsn) };
        let at = before.map_or_else(|| Instant::now() + interval, |(at, _)| at);
        self.unsynced = Some((at, lsn));
        if let (None, Some(owed)) = (before, &self.owed) {
            owed.send_replace(at);
        }
    }

    fn show_round(&mut self, round: &mut Round, headers: Vec<Header>) -> Result<()> {
        let (mut tx_end, mut notes) = (Lsn::ZERO, Vec::new());
        for (part, header) in round.take_parts().zip(headers) {
            tx_end = tx_end.max(part.tx_end);
            notes.extend(part.notes);
            counter!("rowcast_journal_bytes_total").increment(part.bytes.len() as u64);
            counter!("rowcast_events_total").increment(u64::from(header.events));
            self.show(fitted(part.bytes), &header)?;
            abort::point(Point::ShowBatch);
        }
        self.shared.note_tx_end(tx_end);
        let newest = self.active.segment.last();
        self.shared.head.send_if_modified(|head| std::mem::replace(head, newest) != newest);
        // Behind the head: whoever learns of a note finds the events that came with it.
        self.shared.note(notes);
        abort::point(Point::ShowHead);
        Ok(())
    }

    /// Makes a batch visible in memory.
    pub(super) fn show(&self, bytes: Bytes, header: &Header) -> Result<()> {
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
            self.shared.marks.note(*self.shared.head.borrow(), lsn);
            self.shared.durable.send_if_modified(|durable| {
                let moved = lsn > *durable;
                *durable = lsn.max(*durable);
                moved
            });
        }
    }

    pub(crate) fn sync_file(&mut self) -> Result<()> {
        let started = Instant::now();
        self.active.file.sync().map_err(|error| self.broken("sync", error))?;
        self.active.synced = self.active.written;
        self.synced_next = self.next;
        histogram!("rowcast_journal_sync_seconds").record(started.elapsed());
        Ok(())
    }

    /// Syncs what `Sync::Interval` has left, and confirms it.
    pub(crate) fn sync_now(&mut self) -> Result<()> {
        if let Some((_, lsn)) = self.unsynced.take() {
            // Postgres keeps what is not confirmed.
            self.look_whole()?;
            self.sync_file()?;
            self.confirm(lsn);
        }
        Ok(())
    }

    fn sync_due(&mut self) -> Result<()> {
        let due = self.unsynced.is_some_and(|(at, _)| at <= Instant::now());
        if due { self.sync_now() } else { Ok(()) }
    }

    fn tick(&mut self) -> Result<()> {
        self.look_at_file()?;
        self.sync_due()?;
        let age = SEGMENT_AGE.min(self.shared.options.retention / 2);
        if self.active.segment.events() > 0 && self.active.opened.elapsed() >= age {
            self.roll()?;
        }
        self.look_at_another();
        self.wait_while_short(&mut Round::default(), 0)?;
        self.shared.say_roomy();
        Ok(())
    }

    /// Goes on with what retention had no time for, until something is to be written.
    fn remove_while_idle(&self, commands: &mpsc::Receiver<Command>) {
        while commands.is_empty() && retention::apply(&self.shared).more {}
    }

    /// Waits while what is about to be written, the round and so many bytes more, would take the last room of others
    /// on the file system, and while a door that is moving keeps the journal above its size. The round is written and
    /// shown before.
    fn wait_while_short(&mut self, round: &mut Round, more: usize) -> Result<()> {
        while let Some(reason) = retention::short_of_room(&self.shared, (round.bytes + more) as u64) {
            self.settle(round)?;
            self.wait_for_room(&reason)?;
        }
        while let Some((reason, hint)) = self.kept_large() {
            self.settle(round)?;
            self.shared.say_paused("max_size", &reason, hint);
            self.shared.disk.pause(FULL_RETRY);
            self.look_at_file()?;
        }
        self.unchecked = 0;
        Ok(())
    }

    /// Why the journal stays above its size, where that has to be waited for: not when it is to be closed. What was
    /// taken is written all the same, which is little.
    fn kept_large(&self) -> Option<(String, &'static str)> {
        let kept = retention::apply(&self.shared).kept;
        kept.filter(|_| !self.shared.closing.load(Ordering::Acquire))
    }

    /// Nobody has to wait for what was there before.
    fn settle(&mut self, round: &mut Round) -> Result<()> {
        self.publish(std::mem::take(round))?;
        self.sync_now()
    }
}
