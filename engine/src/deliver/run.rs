//! One run of a delivery: coalesce up to the head, send, commit, remember, until something fails.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::abort::{self, Point};
use crate::cursor::{Cursor, Place};
use crate::deliver::{RETRY_MAX, RETRY_MIN, jittered, sentence};
use crate::error::{Error, Kind, Result};
use crate::feed::blocking;
use crate::journal::{Gone, Journal, Read};
use crate::record::Batch;
use crate::sink::{Missing, OnGap, Reason, Sink, SinkError};
use crate::status::Status;
use crate::stop::Stop;

/// Sent between two commits at most. Larger costs more repeating after a failure, smaller costs throughput.
const ROUND_BYTES: usize = 16 << 20;
/// And a round lasts no longer than this: what a killed process sent without a commit is sent again.
const ROUND_TIME: Duration = Duration::from_secs(1);

/// For so long the storing of a position is not worth a word.
const STORE_SILENT: Duration = Duration::from_secs(5);

/// A sink and how far it is.
pub(super) struct Target<S> {
    pub(super) sink: S,
    pub(super) name: String,
    pub(super) journal: Journal,
    pub(super) cursor: Cursor,
    pub(super) status: Status,
    pub(super) on_gap: OnGap,
    pub(super) place: Place,
    /// A person lets it go on behind the gap that lies ahead.
    pub(super) pass: bool,
    /// A person has moved it: what the target says of its position does not count until it has committed again.
    pub(super) moved: bool,
    /// Something was delivered since the last failure.
    pub(super) progress: bool,
    /// A position that is being stored, on a thread that may wait for the disk.
    pub(super) storing: Option<JoinHandle<Result<()>>>,
}

/// Why a run has ended.
pub(super) enum Halt {
    /// May pass.
    Retry(Error),
    /// Needs a person.
    Stop(Error),
    /// Needs a person: a break in the history, told to the target.
    Told { id: u64, error: Error },
    /// Needs a person: what comes next is not held any more.
    Lost(Gone),
}

impl From<SinkError> for Halt {
    fn from(error: SinkError) -> Self {
        match error {
            SinkError::Retry(error) => Self::Retry(error),
            SinkError::Stop(error) => Self::Stop(error),
            SinkError::Gap { id, error } => Self::Told { id, error },
        }
    }
}

impl Halt {
    /// What comes next cannot be read.
    fn reading(error: Error) -> Self {
        // Too many files are open, by others.
        if error.kind() == Kind::Transient { Self::Retry(error) } else { Self::Stop(error) }
    }
}

/// What a person is told of events that are gone.
pub(super) fn lost(name: &str, gone: Gone) -> Error {
    let what =
        format!("Retention has removed the events {} to {} before the sink had them", gone.from, gone.to);
    Error::failed(what).hint(format!(
        "Load anew what reads the target; `rowcast sink resume {name}` then goes on behind the gap. More room before \
         this happens: journal.max_size"
    ))
}

impl<S: Sink> Target<S> {
    /// Delivers until it is enough; then everything sent has been committed.
    pub(super) async fn run(&mut self, enough: &Stop) -> Result<(), Halt> {
        // Before the target is asked, which may be away: the gap is there all the same.
        self.stop_at_gap()?;
        let target = self.sink.resume().await?;
        // The target's answer beats the cursor.
        if let Some(id) = target.filter(|_| !self.moved) {
            self.place.id = id;
        }
        self.tell_skipped().await?;
        self.shown(0);
        let mut head = self.journal.head();
        let mut ahead = Ahead::default();
        while !enough.is_stopped() {
            head.mark_unchanged();
            let before = self.place.id;
            let (position, events) = self.round(&mut ahead, enough).await?;
            if position > self.place.id {
                abort::point(Point::SinkSent);
                self.sink.commit().await?;
                abort::point(Point::SinkCommitted);
                self.reached(position).await;
                self.shown(events);
                continue;
            }
            // A gap was crossed, which took the round's time: what lies behind it is there already.
            if self.place.id > before {
                continue;
            }
            tokio::select! {
                changed = head.changed() => if changed.is_err() {
                    enough.stopped().await;
                },
                () = enough.stopped() => {}
            }
        }
        Ok(())
    }

    /// Sends what there is, not much at a time. Gives the position after it, and how many events that were.
    async fn round(&mut self, ahead: &mut Ahead, enough: &Stop) -> Result<(u64, u64), Halt> {
        let started = Instant::now();
        let (mut position, mut events, mut bytes) = (self.place.id, 0, 0);
        while bytes < ROUND_BYTES && started.elapsed() < ROUND_TIME && !enough.is_stopped() {
            let read = match ahead.next(&self.journal, position).await {
                // What was sent before it is committed; the next round meets it again.
                Err(_) if position > self.place.id => break,
                read => read.map_err(Halt::reading)?,
            };
            match read {
                Some(Read::Batches(batches)) => {
                    for batch in batches {
                        let waiting = batch.header().time_min;
                        self.status.door(&self.name, |door| _ = door.behind_since.get_or_insert(waiting));
                        self.sink.send(&batch, position).await?;
                        bytes += batch.byte_len();
                        events += self.count(&batch, position);
                        position = batch.last();
                    }
                }
                // What was sent before the gap is committed before it.
                Some(Read::Gone(_)) if position > self.place.id => break,
                Some(Read::Gone(gone)) => {
                    self.cross(gone).await?;
                    position = self.place.id;
                }
                Some(Read::AtHead) | None => break,
            }
        }
        Ok((position, events))
    }

    /// How many events of a batch behind a position are for the sink.
    fn count(&self, batch: &Batch, after: u64) -> u64 {
        if batch.is_addressed() {
            return batch.events_for(&self.name).filter(|event| event.id > after).count() as u64;
        }
        batch.last() - after.max(batch.first() - 1)
    }

    /// Whether what comes next is gone, and that needs a person.
    pub(super) fn stop_at_gap(&self) -> Result<(), Halt> {
        let stops = self.on_gap == OnGap::Stop && !self.pass;
        let gone = self.journal.held_after(self.place.id).filter(|_| stops);
        gone.map_or(Ok(()), |gone| Err(Halt::Lost(gone)))
    }

    /// Goes on behind events that are gone, or does not.
    async fn cross(&mut self, gone: Gone) -> Result<(), Halt> {
        self.stop_at_gap()?;
        tracing::error!(sink = %self.name, from = gone.from, to = gone.to, "The sink goes on behind a gap");
        counter!("rowcast_sink_gaps_total", "sink" => self.name.clone()).increment(1);
        self.sink.gap(Missing { gone, reason: Reason::Retention }).await?;
        self.sink.commit().await?;
        self.reached(gone.to).await;
        self.pass = false;
        self.shown(0);
        Ok(())
    }

    async fn tell_skipped(&mut self) -> Result<(), Halt> {
        let Some(from) = self.place.skipped_from else { return Ok(()) };
        let gone = Gone { from, to: self.place.id };
        self.sink.gap(Missing { gone, reason: Reason::Skipped }).await?;
        self.sink.commit().await?;
        self.reached(self.place.id).await;
        Ok(())
    }

    /// Stores that the target has everything up to `id`, and knows what it does not get. Where that cannot be, on a
    /// full disk, it is tried until it can: starting over would send the same events again and again for as long as
    /// that lasts.
    async fn reached(&mut self, id: u64) {
        let place = Place { id, skipped_from: None, ..self.place };
        // Known before it is stored: whoever breaks this off while the disk stands still must not decide by what was before.
        self.place = place;
        (self.moved, self.progress) = (false, true);
        self.stored(move |cursor| cursor.save(place)).await;
    }

    /// Stores where it begins, before anything is sent: a sink that has been sent something and has no place begins
    /// anew after a power cut, behind what it has not been sent.
    pub(super) async fn begin(&mut self) {
        let place = self.place;
        self.stored(move |cursor| cursor.begin(place)).await;
        self.say("starting", None);
    }

    /// Stores a place where a disk that stands still holds up nobody else. One after the other: what a round that was
    /// broken off has left behind must not replace what comes after it.
    async fn store(&mut self, store: impl FnOnce(&Cursor) -> Result<()> + Send + 'static) -> Result<()> {
        self.finish().await;
        let cursor = self.cursor.clone();
        self.storing = Some(tokio::task::spawn_blocking(move || store(&cursor)));
        self.stored_one().await.unwrap_or(Ok(()))
    }

    /// Waits until nothing is being stored any more.
    pub(super) async fn finish(&mut self) {
        // Whoever wanted it has gone.
        let _ = self.stored_one().await;
    }

    /// What has become of the position that is being stored, if one is. A disk that does not answer is told.
    async fn stored_one(&mut self) -> Option<Result<()>> {
        let broken_off =
            |error| Err(Error::transient("The storing of the sink's position was broken off").because(error));
        loop {
            let storing = self.storing.as_mut()?;
            if let Ok(stored) = timeout(STORE_SILENT, storing).await {
                self.storing = None;
                return Some(stored.unwrap_or_else(broken_off));
            }
            self.say(
                "retrying",
                Some("Its position is being stored, and the disk does not answer".to_owned()),
            );
        }
    }

    async fn stored(&mut self, store: impl Fn(&Cursor) -> Result<()> + Copy + Send + 'static) {
        let mut pause = RETRY_MIN;
        while let Err(error) = self.store(store).await {
            tracing::warn!(sink = %self.name, %error, "Delivery waits until its position can be stored");
            self.say("retrying", Some(sentence(&error)));
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Stores the place, which is found again if it cannot be stored. Only if it can does retention take what lies up to
    /// there: after a restart the sink would lack it. `gone`: up to here nothing is held in any case.
    pub(super) async fn remember(&mut self, gone: Option<u64>) {
        let place = self.place;
        let stored = self.store(move |cursor| cursor.save(place)).await;
        if let Err(error) = &stored {
            tracing::warn!(sink = %self.name, %error, "The sink's position is not stored yet");
        }
        if let Some(id) = stored.map_or(gone, |()| Some(place.id)) {
            self.journal.hold_above(&self.name, id);
        }
    }

    /// Stores what a person has decided, and then follows it.
    pub(super) async fn decide(&mut self, place: Place) -> Result<()> {
        self.store(move |cursor| cursor.decide(place)).await?;
        self.place = place;
        Ok(())
    }

    /// Says on the board how the sink is.
    pub(super) fn say(&self, state: &'static str, reason: Option<String>) {
        self.status.door(&self.name, |door| {
            door.state = state;
            door.reason = reason;
            door.position = Some(self.place.id);
        });
    }

    fn shown(&self, events: u64) {
        let position = self.place.id;
        self.say("running", None);
        self.status.door(&self.name, |door| {
            door.delivered += events;
            if position >= self.journal.newest() {
                door.behind_since = None;
            }
        });
        self.journal.hold_above(&self.name, position);
        counter!("rowcast_sink_events_total", "sink" => self.name.clone()).increment(events);
        gauge!("rowcast_sink_position_id", "sink" => self.name.clone()).set(position as f64);
    }
}

/// Reads on, with what one read brought kept for the next rounds.
#[derive(Default)]
struct Ahead(VecDeque<Arc<Batch>>);

impl Ahead {
    async fn next(&mut self, journal: &Journal, position: u64) -> Result<Option<Read>> {
        while let Some(batch) = self.0.pop_front() {
            if batch.last() > position {
                return Ok(Some(Read::Batches(vec![batch])));
            }
        }
        if let Some(batch) = journal.cached(position).filter(|batch| batch.last() <= journal.newest()) {
            return Ok(Some(Read::Batches(vec![batch])));
        }
        let journal = journal.clone();
        match blocking(move || journal.read(position)).await? {
            Read::Batches(batches) => {
                self.0.extend(batches);
                Ok(self.0.pop_front().map(|batch| Read::Batches(vec![batch])))
            }
            other => Ok(Some(other)),
        }
    }
}
