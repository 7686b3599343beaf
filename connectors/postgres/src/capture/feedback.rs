//! What the server is told, and when: received, durable. It goes on whatever else waits.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rowcast_engine::abort::{self, Point};
use rowcast_engine::ingest::Ingest;
use rowcast_engine::{Error, Lsn, Result};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::wire::CopyStream;

/// A durable position is told at most so late. Each telling makes the server write the slot, so not for each
/// transaction, unless commits wait for it.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);

/// A status at least this often, whatever the server allows, so that its view of us is fresh.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// The share of wal_sender_timeout after which a status is sent, in percent: the server reckons from the last one.
const TIMEOUT_SHARE: u32 = 60;

/// After so many times its wal_sender_timeout of silence a server is gone. Who is told in time sends no keepalives of
/// its own accord, so it is asked for one after a quarter of that, and after a half somebody should know.
const SILENT_TIMEOUTS: u32 = 2;

/// The most, and the same for a server without wal_sender_timeout: a way to it that swallows everything is to be noticed.
/// But while it decodes a large transaction of which nothing is published it is silent for half of its wal_sender_timeout,
/// whatever it is asked meanwhile: whoever left it before would have it begin again and again.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// After how much silence a server with this wal_sender_timeout, which may be none, is gone.
pub(super) fn gone_after(sender_timeout: Duration) -> Duration {
    let most = SILENCE_MAX.max(sender_timeout / 2 + SILENCE_MAX / 2);
    if sender_timeout.is_zero() { SILENCE_MAX } else { (sender_timeout * SILENT_TIMEOUTS).min(most) }
}

/// A status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    write: Lsn,
    flush: Lsn,
    /// The server is to answer.
    probe: bool,
}

/// The clock of one connection.
#[derive(Debug)]
pub(super) struct Feedback {
    durable: watch::Receiver<Lsn>,
    /// The highest position seen in the stream.
    pub(super) received: Lsn,
    /// The highest that the server was told to be durable.
    pub(super) confirmed: Lsn,
    /// Nothing beyond is told as long as it is not sure that the server's history is the journal's: a slot does not
    /// send again what was confirmed.
    held: Option<Lsn>,
    /// Something that becomes durable later is on its way to the journal.
    outstanding: Lsn,
    sent: Instant,
    heard: Instant,
    status_every: Duration,
    /// Longer silence is the end of the connection.
    pub(super) silence: Duration,
    /// The server wants a status now.
    asked: bool,
    /// The server waits until this is durable; it may be shutting down.
    awaited: Option<Lsn>,
    /// It was asked for a sign of life.
    probed: bool,
    /// Somebody waits to hear how far it has sent.
    curious: bool,
    /// Commits on the server wait for what is told.
    hasty: Arc<AtomicBool>,
}

impl Feedback {
    /// For a server whose slot has confirmed `confirmed`, and a journal that stands at `position`; how far what it
    /// holds may be told is watched. Nothing more is told before [`Self::release`], if the journal is ahead.
    pub(super) fn new(
        durable: watch::Receiver<Lsn>,
        confirmed: Lsn,
        position: Lsn,
        sender_timeout: Duration,
    ) -> Self {
        let share = sender_timeout * TIMEOUT_SHARE / 100;
        let forever = sender_timeout.is_zero();
        let held = (confirmed < position).then_some(confirmed);
        let now = Instant::now();
        Self {
            // The server says how far its log goes, to those who have not read so far.
            received: held.unwrap_or(position),
            durable,
            confirmed,
            held,
            outstanding: Lsn::ZERO,
            sent: now,
            heard: now,
            status_every: if forever { STATUS_EVERY } else { share.min(STATUS_EVERY) },
            silence: gone_after(sender_timeout),
            // The first status follows the start at once.
            asked: true,
            awaited: None,
            probed: false,
            curious: false,
            hasty: Arc::default(),
        }
    }

    /// What is durable is told at once as long as this is set.
    pub(super) fn hastened_by(self, hasty: Arc<AtomicBool>) -> Self {
        Self { hasty, ..self }
    }

    /// Whether commits on the server wait for what is told.
    pub(super) fn is_hasty(&self) -> bool {
        self.hasty.load(Ordering::Relaxed)
    }

    /// Something came.
    pub(super) fn heard(&mut self) {
        self.heard = Instant::now();
        self.probed = false;
    }

    pub(super) fn last_heard(&self) -> Instant {
        self.heard
    }

    /// Silence beyond this is not normal: the server was asked, and had as long again to answer.
    pub(super) fn unusual(&self) -> Duration {
        self.silence / 2
    }

    /// When a silent server is asked for a sign of life.
    fn probe_after(&self) -> Duration {
        self.silence / 4
    }

    /// A message that ends at `lsn` came; zero where a message is not the last of its group.
    pub(super) fn data(&mut self, lsn: Lsn) {
        self.received = self.received.max(lsn);
    }

    /// A keepalive came. Gives whether the server waits for `end` to be durable.
    pub(super) fn keepalive(&mut self, end: Lsn, reply: bool) -> bool {
        self.received = self.received.max(end);
        self.asked |= reply;
        let waits = reply && end > self.durable();
        if waits {
            self.awaited = Some(end);
        }
        waits
    }

    /// Asks the server how far it has sent, with the next status, which is due at once.
    pub(super) fn ask(&mut self) {
        self.curious = true;
    }

    /// The journal was given everything up to here.
    pub(super) fn submitted(&mut self, lsn: Lsn) {
        self.outstanding = self.outstanding.max(lsn);
    }

    pub(super) fn durable(&self) -> Lsn {
        *self.durable.borrow()
    }

    /// Has the journal sync what the server, or commits there, wait for.
    pub(super) fn hasten(&self, ingest: &Ingest) {
        if (self.awaited.is_some() || self.is_hasty()) && self.durable() < self.outstanding {
            ingest.hasten();
        }
    }

    /// What may be told to be durable.
    pub(super) fn told(&self) -> Lsn {
        let durable = self.durable();
        self.held.map_or(durable, |held| held.min(durable))
    }

    /// The server's history is the journal's, if `sure`.
    pub(super) fn release(&mut self, sure: bool) {
        if sure && self.held.take().is_some() {
            self.asked = true;
        }
    }

    /// Sends a status if one is due.
    ///
    /// # Errors
    ///
    /// `Kind::Transient` when the connection is broken, or the server has been silent for too long.
    pub(super) async fn keep_up(&mut self, stream: &mut CopyStream) -> Result<()> {
        let Some(Told { write, flush, probe }) = self.due(Instant::now())? else { return Ok(()) };
        abort::point(Point::SourceConfirming);
        stream.send_status(write, flush, flush, probe).await?;
        abort::point(Point::SourceConfirmed);
        self.confirmed = flush;
        Ok(())
    }

    /// What is to be told now, if anything; it counts as told.
    fn due(&mut self, now: Instant) -> Result<Option<Told>> {
        let silent = now - self.heard;
        if silent >= self.silence {
            return Err(Error::transient(format!("Nothing came from the server for {} s", silent.as_secs())));
        }
        let probe = self.curious || (!self.probed && silent >= self.probe_after());
        let flush = self.told();
        let reached = self.awaited.is_some_and(|awaited| flush >= awaited);
        if !(self.asked || probe || reached || now >= self.status_due(flush)) {
            return Ok(None);
        }
        // Cleared before the waiting begins: a dropped call must not ask again for ever.
        (self.asked, self.curious) = (false, false);
        self.probed |= probe;
        if reached {
            self.awaited = None;
        }
        self.sent = now;
        Ok(Some(Told { write: self.received.max(flush), flush, probe }))
    }

    /// When [`Self::keep_up`] has something to do, if nothing comes before.
    fn wakes_at(&self) -> Instant {
        let silence = if self.probed { self.silence } else { self.probe_after() };
        self.status_due(self.told()).min(self.heard + silence)
    }

    fn status_due(&self, told: Lsn) -> Instant {
        if told <= self.confirmed {
            return self.sent + self.status_every;
        }
        if self.is_hasty() { self.sent } else { self.sent + CONFIRM_EVERY }
    }

    /// Waits until [`Self::keep_up`] or somebody else, at `until`, has something to do. Cancel safe.
    pub(super) async fn wake(&mut self, until: Option<Instant>) {
        let durable = self.durable();
        let wakes_at = self.wakes_at();
        let due = until.map_or(wakes_at, |until| until.min(wakes_at));
        let waits_for_disk = self.outstanding > durable;
        tokio::select! {
            () = sleep_until(due) => {}
            // An error means that the journal is gone; the next hand-over says so.
            Ok(()) = self.durable.changed(), if waits_for_disk => {}
        }
    }
}

/// Waits for something while the server is told that we are alive. Nothing is read meanwhile.
pub(super) async fn meanwhile<T>(
    stream: &mut CopyStream,
    feedback: &mut Feedback,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => {
                feedback.heard();
                return result;
            }
            () = feedback.wake(None) => {
                feedback.heard();
                feedback.keep_up(stream).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests;
