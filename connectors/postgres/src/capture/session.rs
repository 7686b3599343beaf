//! One replication connection: reads, hands over, confirms. One task owns it, and nothing that it waits for keeps
//! it from telling the server that it is alive.

mod describing;
mod filed;
mod streamed;

use std::time::Duration;

use metrics::Counter;
use rowcast_engine::abort::{self, Point};
use rowcast_engine::event::Micros;
use rowcast_engine::ingest::{Ingest, Room};
use rowcast_engine::status::Status;
use rowcast_engine::{Lsn, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::assembly::{Assembly, Step};
use super::emit::Emitter;
use super::feedback::{Feedback, meanwhile};
use super::guard::Call;
use super::nap::{self, Naps, Pace};
use super::spill::Large;
use super::starting::{Sent, wants_snapshots};
use crate::catalog::Catalog;
use crate::snapshot::Snapshots;
use crate::snapshot::order::Order;
use crate::tables::Tables;
use crate::wire::{CopyFrame, CopyStream};

/// Finished transactions that may wait for the disk before reading stops, in bytes. One group of this size is
/// being written, one waits, one is being filled.
const MAX_READY: usize = 4 << 20;

/// An idle position costs a write and a sync.
const ADVANCE_EVERY: Duration = Duration::from_secs(10);

/// When the journal had no room for one, the next try.
const ADVANCE_RETRY: Duration = Duration::from_millis(100);

/// How often the status board is brought up to date.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// Between two tries to read the catalog; capture pauses meanwhile.
const CATALOG_RETRY: Duration = Duration::from_secs(2);

/// How long the end waits for the disk to take what has arrived.
const LAST_SYNC: Duration = Duration::from_secs(2);

/// A running stream.
pub(super) struct Session {
    pub(super) stream: CopyStream,
    pub(super) assembly: Assembly,
    pub(super) feedback: Feedback,
    pub(super) catalog: Catalog,
    /// A transaction that nobody sees yet was waited for in vain.
    impatient: bool,
    pub(super) tables: Tables,
    pub(super) ingest: Ingest,
    pub(super) status: Status,
    large: Large,
    emitter: Emitter,
    sent: Sent,
    /// When it is looked next whether snapshots are still wanted, where they have transactions sent whole.
    look_at: Instant,
    /// They read as long as this is there.
    _snapshots: Snapshots,
    /// A message that has to be taken again.
    held: Option<(Lsn, i64, Vec<u8>)>,
    /// The journal was given everything up to here.
    submitted: Lsn,
    /// When an idle position is stored next.
    advance_at: Instant,
    /// And not before then, where commits wait for it: the journal had no room.
    retry_at: Instant,
    /// The server waits for our position.
    urgent: bool,
    shown: Instant,
    /// The board is not up to date.
    stale: bool,
    /// A break is remembered, and what is repeated does not show yet that the history goes on: who hears when it does. The
    /// board is left alone until then.
    doubt: Option<oneshot::Sender<()>>,
    started_at: Lsn,
    bytes: Counter,
    naps: Naps,
    pace: Pace,
}

impl Session {
    /// A stream that has just been started where the journal stands at `position`.
    pub(super) fn new(
        stream: CopyStream,
        assembly: Assembly,
        feedback: Feedback,
        catalog: Catalog,
        (tables, ingest, status): (Tables, Ingest, Status),
        (snapshots, orders, sent): (Snapshots, mpsc::Receiver<Order>, Sent),
        position: Lsn,
    ) -> Self {
        let now = Instant::now();
        Self {
            stream,
            assembly,
            feedback,
            catalog,
            impatient: false,
            tables,
            emitter: Emitter::new(orders, sent == Sent::Early, (ingest.journal().clone(), status.clone())),
            sent,
            look_at: now,
            ingest,
            status,
            large: Large::None,
            _snapshots: snapshots,
            held: None,
            submitted: position,
            advance_at: now + ADVANCE_EVERY,
            retry_at: now,
            urgent: false,
            shown: now,
            stale: true,
            doubt: None,
            started_at: position,
            bytes: metrics::counter!("rowcast_source_bytes_total"),
            naps: Naps::new(),
            pace: Pace::new(now),
        }
    }

    /// Has the board left alone until what is repeated shows that the history goes on; gives what tells when it does.
    pub(super) fn doubt(&mut self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.doubt = Some(sender);
        receiver
    }

    /// Whether what is repeated shows the history to go on.
    pub(super) fn is_compared(&self) -> bool {
        self.assembly.replay.is_done()
    }

    fn note_compared(&mut self) {
        let Some(doubt) = self.doubt.take_if(|_| self.assembly.replay.is_done()) else { return };
        tracing::info!("The history goes on after all: streaming changes");
        self.stale = true;
        // Nobody listens any more when it ends.
        let _ = doubt.send(());
    }

    /// Whether anything became durable since the start.
    pub(super) fn has_progressed(&self) -> bool {
        self.ingest.journal().position().lsn > self.started_at
    }

    /// Runs until the connection, the journal or the stream's contents end it; or until all has been read, where nothing
    /// else is wanted.
    pub(super) async fn run(&mut self) -> Result<()> {
        // What was said of the connection before.
        self.status.source(|source| source.stuck = None);
        self.show();
        // Bytes may have come while it was being begun: the last ones for long, where a way is cut off.
        self.stale = true;
        loop {
            match self.drain()? {
                None => {}
                Some(Step::Describe(table)) => {
                    self.describe(table).await?;
                    continue;
                }
                Some(Step::NextPage) => {
                    let journal = self.ingest.journal().clone();
                    let page = self.assembly.replay.next_page(&journal);
                    meanwhile(&mut self.stream, &mut self.feedback, page).await?;
                    continue;
                }
                Some(Step::Spilled { end, committed }) => {
                    Box::pin(self.finish_large(end, committed)).await?;
                    continue;
                }
                Some(Step::Filed) => {
                    Box::pin(self.finish_filed()).await?;
                    continue;
                }
                Some(Step::Ask(table)) => {
                    self.describe_early(table).await?;
                    continue;
                }
                Some(Step::Streamed(commit)) => {
                    Box::pin(self.finish_streamed(commit)).await?;
                    continue;
                }
                Some(Step::Next) => continue,
            }
            self.emit()?;
            if self.has_file_due() {
                Box::pin(self.finish_filed()).await?;
                continue;
            }
            self.feedback.release(self.assembly.replay.is_done());
            self.note_compared();
            self.hand_over()?;
            self.feedback.keep_up(&mut self.stream).await?;
            self.show_now_and_then();
            if self.emitter.done {
                return Ok(());
            }
            if let Some(call) = self.sent_otherwise()? {
                return Err(call.error());
            }
            self.wait().await?;
        }
    }

    /// Whether large transactions have to be sent otherwise than they are over this connection.
    fn sent_otherwise(&mut self) -> Result<Option<Call>> {
        if self.emitter.unfit {
            return Ok(Some(Call::Whole));
        }
        let now = Instant::now();
        if self.sent != Sent::WholeForSnapshots || now < self.look_at || !self.assembly.is_idle() {
            return Ok(None);
        }
        self.look_at = now + SHOW_EVERY;
        let wanted = wants_snapshots(self.ingest.journal())?;
        Ok((!wanted).then_some(Call::Early))
    }

    /// Takes all that has been read. Gives what has to happen before the rest can be taken.
    fn drain(&mut self) -> Result<Option<Step>> {
        if let Some((lsn, sent, body)) = self.held.take() {
            let step = self.assembly.take(lsn, sent, &body)?;
            if matches!(step, Step::Describe(_) | Step::NextPage) {
                self.held = Some((lsn, sent, body));
            }
            return Ok(Some(step));
        }
        while let Some(frame) = self.stream.next()? {
            match frame {
                CopyFrame::Data { start, sent, body, .. } => {
                    self.feedback.data(start);
                    match self.assembly.take(start, sent, body)? {
                        Step::Next => {}
                        step @ (Step::Describe(_) | Step::NextPage) => {
                            self.held = Some((start, sent, body.to_vec()));
                            return Ok(Some(step));
                        }
                        step @ (Step::Spilled { .. } | Step::Ask(_) | Step::Streamed(_) | Step::Filed) => {
                            return Ok(Some(step));
                        }
                    }
                }
                CopyFrame::Keepalive { end, reply, .. } => {
                    self.assembly.keepalive(end)?;
                    self.urgent |= self.feedback.keepalive(end, reply);
                }
            }
            if self.assembly.passed >= self.emitter.due {
                self.emit()?;
                if self.has_file_due() {
                    return Ok(Some(Step::Filed));
                }
            }
        }
        Ok(None)
    }

    /// Writes the chunks of snapshots whose position the stream has passed, if it is between transactions.
    fn emit(&mut self) -> Result<()> {
        let Self { assembly, emitter, .. } = self;
        if assembly.passed < emitter.due || !assembly.is_between() {
            return Ok(());
        }
        let reached = (assembly.passed, assembly.end_of_newest());
        emitter.emit(reached, &mut assembly.snapshots, &mut assembly.builder)
    }

    /// Gives to the journal what is finished, if it has room, or the idle position, if that is due.
    fn hand_over(&mut self) -> Result<()> {
        if self.assembly.builder.ready_bytes() > 0
            && let Some(room) = self.ingest.try_room()
        {
            self.append(room);
        }
        self.assembly.spilling = self.large.relieve(self.ingest.journal(), &mut self.assembly.builder)?;
        self.assembly.streams.relieve(self.ingest.journal())?;
        self.advance()?;
        self.feedback.hasten(&self.ingest);
        Ok(())
    }

    /// Stores the position of an idle stream when that is due, so that the server need not keep its log.
    fn advance(&mut self) -> Result<()> {
        if !self.has_moved() {
            self.urgent &= !self.assembly.is_idle();
            return Ok(());
        }
        let now = Instant::now();
        if !self.urgent && now < self.advance_due() {
            return Ok(());
        }
        let Some(room) = self.ingest.try_room() else {
            (self.retry_at, self.advance_at) = (now + ADVANCE_RETRY, now + ADVANCE_RETRY);
            return Ok(());
        };
        room.advance(self.ingest.journal(), self.assembly.passed)?;
        self.note_submitted(self.assembly.passed);
        self.advance_at = now + ADVANCE_EVERY;
        self.urgent = false;
        Ok(())
    }

    fn advance_due(&self) -> Instant {
        if self.feedback.is_hasty() { self.retry_at } else { self.advance_at }
    }

    /// Whether the stream is idle, at a position that the journal does not know.
    fn has_moved(&self) -> bool {
        self.assembly.is_idle() && self.assembly.passed > self.submitted
    }

    fn append(&mut self, room: Room) {
        let parts = self.assembly.builder.take();
        let position = self.assembly.finished.max(self.submitted);
        room.append(self.ingest.journal(), parts, position);
        abort::point(Point::SourceSubmitted);
        self.note_submitted(position);
    }

    fn note_submitted(&mut self, position: Lsn) {
        self.submitted = self.submitted.max(position);
        self.feedback.submitted(position);
        self.stale = true;
    }

    /// Waits for whatever comes first: bytes, room in the journal, a write, a time.
    async fn wait(&mut self) -> Result<()> {
        let ready = self.assembly.builder.ready_bytes();
        let may_read =
            ready < MAX_READY && Large::has_room(&self.assembly.builder) && self.assembly.streams.has_room();
        let nap = self.nap();
        let until = self.next_duty();
        if !may_read {
            // What the server sends meanwhile is not heard; that is not its silence.
            self.feedback.heard();
            self.stale = true;
        }
        let Self { stream, feedback, ingest, large, emitter, assembly, naps, .. } = self;
        let Assembly { streams, snapshots, .. } = assembly;
        tokio::select! {
            biased;
            written = large.written(), if large.is_writing() => written?,
            written = streams.written(), if streams.is_writing() => written?,
            // Before the socket, which may always have something.
            order = emitter.order() => {
                if matches!(order, Order::Write(..) | Order::Judge(..) | Order::Ask) {
                    feedback.ask();
                }
                emitter.take(order, snapshots);
            }
            room = ingest.room(), if ready > 0 => self.append(room?),
            count = fill(stream, nap, naps), if may_read => {
                let count = count?;
                self.feedback.heard();
                self.bytes.increment(count as u64);
                self.stale = true;
            }
            () = feedback.wake(until) => {}
        }
        Ok(())
    }

    /// How late to read, if at all.
    fn nap(&mut self) -> Option<Duration> {
        let dense = self.pace.is_dense(self.assembly.ended, Instant::now());
        let behind = self.assembly.is_behind();
        // The kernel is not asked where the answer changes nothing.
        let waiting = (behind && self.stream.is_tcp()).then(|| self.stream.waiting());
        // Of a backlog, what is worth a read is read at once.
        if behind { nap::wanted(behind, waiting) } else { dense.then_some(nap::GATHER) }
    }

    /// When something other than feedback is due.
    fn next_duty(&self) -> Option<Instant> {
        let advance = self.has_moved().then(|| self.advance_due());
        let show = self.stale.then(|| self.shown + SHOW_EVERY);
        let held_back = self.sent == Sent::WholeForSnapshots && self.assembly.is_idle();
        let look = held_back.then_some(self.look_at);
        [advance, show, look].into_iter().flatten().min()
    }

    /// A large transaction has committed: the rest of it is written, and its file becomes a part of the journal.
    async fn finish_large(&mut self, end: Lsn, committed: Micros) -> Result<()> {
        let mut parts = self.assembly.builder.take_open_parts();
        parts.extend(self.assembly.builder.take_tail(end));
        self.assembly.note_late()?;
        self.hand_over_ready().await?;
        let Self { stream, feedback, large, ingest, .. } = self;
        let file = meanwhile(stream, feedback, async {
            let spill = large.finish(parts).await?;
            Ok((spill, ingest.room().await?))
        });
        let (spill, room) = file.await?;
        room.adopt(self.ingest.journal(), spill, end, committed);
        self.assembly.spilling = false;
        self.assembly.finished = end;
        self.note_submitted(end);
        Ok(())
    }

    fn say(&self, state: &'static str, reason: Option<String>) {
        if self.doubt.is_some() {
            return;
        }
        self.status.source(|source| {
            source.state = state;
            source.reason = reason;
        });
    }

    fn show_now_and_then(&mut self) {
        if self.stale && self.shown.elapsed() >= SHOW_EVERY {
            self.show();
        }
    }

    /// Brings the status board up to date.
    fn show(&mut self) {
        (self.shown, self.stale) = (Instant::now(), false);
        let Self { feedback, assembly, .. } = &*self;
        self.status.source(|source| {
            source.repeated = assembly.replay.repeated();
            source.lag_seconds = assembly.lag().as_secs_f64();
            if self.doubt.is_none() {
                source.state = "streaming";
                source.reason = None;
            }
            source.server_lsn = source.server_lsn.max(feedback.received);
            source.received_lsn = feedback.received;
            source.confirmed_lsn = feedback.confirmed;
            source.heard = Some(feedback.last_heard().into_std());
            source.silence_max = Some(feedback.unusual() + SHOW_EVERY);
        });
    }

    /// Ends in order: what has arrived whole is stored and confirmed, as far as that takes no longer than moments.
    pub(super) async fn finish(mut self) {
        let stored = timeout(LAST_SYNC, async {
            if self.assembly.builder.ready_bytes() > 0 {
                let room = self.ingest.room().await?;
                self.append(room);
            }
            self.ingest.settled().await
        });
        if !matches!(stored.await, Ok(Ok(()))) {
            tracing::debug!("The newest changes were not stored before the end; they come again");
        }
        let durable = self.feedback.told();
        let told =
            self.stream.send_status(self.feedback.received.max(durable), durable, durable, false).await;
        if told.is_ok() {
            self.status.source(|source| source.confirmed_lsn = durable);
        }
        self.stream.finish().await;
    }
}

/// Reads once, late if so told. Cancel safe.
async fn fill(stream: &mut CopyStream, nap: Option<Duration>, naps: &Naps) -> Result<usize> {
    if let Some(nap) = nap {
        naps.take(nap);
    }
    stream.fill().await
}
