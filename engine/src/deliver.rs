//! The loop of every push door: deliver, start over after a failure, stop where a person is needed, and obey.
//!
//! A sink is delivering or parked. It parks when a person pauses it, when the target refuses for good, and at a gap;
//! `rowcast sink resume` sends it on. Paused it stays over restarts. At a gap it stops again after a restart, because
//! its position stays before it.

mod run;

use std::time::Duration;

use metrics::counter;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cursor::{Place, Started};
use crate::deliver::run::{Halt, Target, lost};
use crate::error::{Error, Result};
use crate::journal::{Gone, Journal};
use crate::sink::{OnGap, Sink, Start};
use crate::sinks::{Obeyed, Order, Seat, Wish};
use crate::status::Status;
use crate::stop::{Stop, stop};

/// The pause after the first failure, doubled by each further one.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest pause: a target that is back is found within this time.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// For the round under way when an order comes; what it had sent is sent again otherwise. A person is waiting, and the
/// program that asks gives up after 10 s.
const LAST_ROUND: Duration = Duration::from_secs(5);

/// What the loop needs to know beside the sink.
#[derive(Debug)]
pub struct Delivery {
    /// The journal to read.
    pub journal: Journal,
    /// Where the sink's position is kept, and where orders come in.
    pub seat: Seat,
    /// The board.
    pub status: Status,
    /// The stop signal.
    pub stop: Stop,
    /// Where a sink begins that has no position yet.
    pub start: Start,
    /// What it does when retention has taken events that it never got.
    pub on_gap: OnGap,
}

/// Delivers until told to stop. Where the sink cannot go on without a person, it waits for one, with the reason on the
/// board and its position where it is.
///
/// # Errors
/// When the stored position cannot be read.
pub async fn deliver<S: Sink>(sink: S, delivery: Delivery) -> Result<()> {
    let Delivery { journal, seat, status, stop, start, on_gap } = delivery;
    let Seat { cursor, orders } = seat;
    let name = sink.name().to_owned();
    // From zero on: who is told of an increase misses the first of a series that begins with it.
    for total in [
        "rowcast_sink_hold_lost_total",
        "rowcast_sink_lost_events_total",
        "rowcast_sink_gaps_total",
        "rowcast_sink_retries_total",
    ] {
        counter!(total, "sink" => name.clone()).increment(0);
    }
    let stored = cursor.load().inspect_err(|error| {
        // What it holds stays held, but nobody works on it.
        journal.hold_idle(&name);
        status.door(&name, |door| (door.state, door.reason) = ("stopped", Some(sentence(error))));
    })?;
    let place = stored.unwrap_or_else(|| {
        let started = status.moment_of(&name, &journal).begin(start, &journal);
        Place { id: started.id, started: Some(started), ..Place::default() }
    });
    let mut target = Target {
        sink,
        name,
        journal,
        cursor,
        status,
        on_gap,
        place,
        pass: false,
        moved: false,
        progress: false,
        storing: None,
    };
    // From here on retention knows where the sink is.
    target.journal.hold_above(&target.name, place.id);
    target.journal.hold_kept_in(&target.name, target.cursor.dir());
    if stored.is_none() {
        // And from here on a restart starts at the same place.
        tokio::select! {
            () = stop.stopped() => {
                target.finish().await;
                return Ok(());
            }
            () = target.begin() => tell_beginning(&target.name, place.started),
        }
    }
    // Behind the storing: what is read for it now is not read again after a crash.
    target.status.sink_began(&target.name, place.started);
    let parked = place.paused.then(|| Parked::paused(&target.name));
    let mut delivering = Delivering { target, orders, stop, parked: None, lost_to: 0, pause: RETRY_MIN };
    delivering.target.status.door(&delivering.target.name, |door| {
        (door.position, door.started) = (Some(place.id), place.started)
    });
    if let Some(parked) = parked {
        delivering.park(parked);
    }
    delivering.live().await;
    delivering.target.finish().await;
    Ok(())
}

fn tell_beginning(name: &str, started: Option<Started>) {
    let Some(Started { how, id, .. }) = started else { return };
    let what = match how {
        Start::Snapshot => "with the rows of all captured tables, and the changes from here on",
        Start::Earliest => "at the oldest event held",
        Start::Latest => "at what comes next",
    };
    tracing::info!(sink = %name, position = id, start = how.name(), "The sink {name} has no position: it begins {what}");
}

struct Delivering<S> {
    target: Target<S>,
    orders: mpsc::Receiver<Order>,
    stop: Stop,
    parked: Option<Parked>,
    /// The end of what the sink is known to have lost.
    lost_to: u64,
    pause: Duration,
}

/// Why a sink delivers nothing.
struct Parked {
    why: Why,
    reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// A person wants it so.
    Paused,
    /// The target refuses.
    Refused,
    /// What comes next is not held any more.
    Lost,
    /// What comes next is a break in the history, of which the target has been told.
    Told(u64),
}

/// What to do next.
enum Turn {
    End,
    Again,
    Obey(Order),
}

impl Parked {
    fn paused(name: &str) -> Self {
        let reason = format!("It was paused by hand. `rowcast sink resume {name}` goes on");
        Self { why: Why::Paused, reason }
    }

    fn lost(name: &str, gone: Gone) -> Self {
        Self { why: Why::Lost, reason: sentence(&lost(name, gone)) }
    }
}

impl<S: Sink> Delivering<S> {
    async fn live(&mut self) {
        loop {
            let turn = if self.parked.is_some() { self.wait().await } else { self.work().await };
            match turn {
                Turn::End => return,
                Turn::Again => {}
                Turn::Obey(order) => self.obey(order).await,
            }
        }
    }

    /// Delivers until something else is to be done.
    async fn work(&mut self) -> Turn {
        let (enough, told) = stop();
        let (journal, name) = (self.target.journal.clone(), self.target.name.clone());
        let stops = self.target.on_gap == OnGap::Stop;
        let ended = {
            let mut run = std::pin::pin!(self.target.run(&told));
            tokio::select! {
                () = self.stop.stopped() => return Turn::End,
                Some(order) = self.orders.recv() => {
                    enough.stop();
                    tokio::select! {
                        // What has failed fails again when the sink goes on.
                        _ = timeout(LAST_ROUND, run) => {}
                        () = self.stop.stopped() => {}
                    }
                    return Turn::Obey(order);
                }
                gone = journal.hold_lost(&name, 0), if stops => Err(Halt::Lost(gone)),
                ended = &mut run => ended,
            }
        };
        match ended {
            Ok(()) => Turn::Again,
            Err(halt) => self.halted(halt).await,
        }
    }

    async fn halted(&mut self, halt: Halt) -> Turn {
        let name = self.target.name.clone();
        match halt {
            Halt::Retry(error) => return self.wait_to_retry(&error).await,
            // It has come by it meanwhile.
            Halt::Lost(gone) if gone.to <= self.target.place.id => {
                self.target.remember(Some(gone.to)).await;
            }
            Halt::Lost(gone) => {
                self.lost_to = gone.to;
                self.park(Parked::lost(&name, gone));
            }
            Halt::Told { id, error } => {
                self.target.place.id = self.target.place.id.max(id - 1);
                self.target.remember(None).await;
                self.park(Parked { why: Why::Told(id), reason: sentence(&error) });
            }
            Halt::Stop(error) => {
                let reason = sentence(&error);
                let reason =
                    format!("{}. `rowcast sink resume {name}` tries again", reason.trim_end_matches('.'));
                self.park(Parked { why: Why::Refused, reason });
            }
        }
        Turn::Again
    }

    async fn wait_to_retry(&mut self, error: &Error) -> Turn {
        let target = &mut self.target;
        counter!("rowcast_sink_retries_total", "sink" => target.name.clone()).increment(1);
        tracing::warn!(sink = %target.name, %error, hint = error.remedy(), "Delivery failed, trying again");
        target.say("retrying", Some(sentence(error)));
        let progress = std::mem::take(&mut target.progress);
        self.pause = if progress { RETRY_MIN } else { (self.pause * 2).min(RETRY_MAX) };
        tokio::select! {
            () = self.stop.stopped() => Turn::End,
            Some(order) = self.orders.recv() => Turn::Obey(order),
            () = tokio::time::sleep(jittered(self.pause)) => Turn::Again,
        }
    }

    /// Delivers nothing from now on.
    fn park(&mut self, parked: Parked) {
        // Who let it go on behind a gap did not mean the one that it meets next.
        self.target.pass = false;
        let target = &self.target;
        let name = &target.name;
        target.journal.hold_idle(name);
        let state = if parked.why == Why::Paused { "paused" } else { "stopped" };
        if parked.why == Why::Paused {
            tracing::warn!(sink = %name, position = target.place.id, "The sink {name} is paused: {}", parked.reason);
        } else {
            tracing::error!(sink = %name, position = target.place.id, "The sink {name} has stopped: {}", parked.reason);
        }
        target.say(state, Some(parked.reason.clone()));
        self.parked = Some(parked);
    }

    /// Waits for a person; says what the journal takes meanwhile.
    async fn wait(&mut self) -> Turn {
        self.target.sink.rest().await;
        let (journal, name) = (self.target.journal.clone(), self.target.name.clone());
        let gone = tokio::select! {
            () = self.stop.stopped() => return Turn::End,
            Some(order) = self.orders.recv() => return Turn::Obey(order),
            gone = journal.hold_lost(&name, self.lost_to) => gone,
        };
        self.lost_to = gone.to;
        if let Some(parked) = &self.parked {
            let lost = lost(&name, gone);
            let (state, reason) = match parked.why {
                Why::Lost => ("stopped", sentence(&lost)),
                Why::Paused => ("paused", format!("{}. Meanwhile: {lost}", parked.reason)),
                Why::Refused | Why::Told(_) => ("stopped", format!("{}. Meanwhile: {lost}", parked.reason)),
            };
            self.target.say(state, Some(reason));
        }
        Turn::Again
    }

    async fn obey(&mut self, order: Order) {
        let before = self.target.place.id;
        let done = match order.wish {
            Wish::Pause => self.pause().await,
            Wish::Resume => self.resume().await,
            Wish::Move(to) => self.move_to(to).await,
        };
        if self.parked.is_some() {
            self.target.sink.rest().await;
        }
        let position = self.target.place.id;
        // Whoever asked may have gone.
        let _ = order.reply.send(done.map(|()| Obeyed { before, position }));
    }

    async fn pause(&mut self) -> Result<()> {
        if self.parked.as_ref().is_some_and(|parked| parked.why == Why::Paused) {
            return Ok(());
        }
        self.target.decide(Place { paused: true, ..self.target.place }).await?;
        self.park(Parked::paused(&self.target.name));
        Ok(())
    }

    async fn resume(&mut self) -> Result<()> {
        let why = self.parked.as_ref().map(|parked| parked.why);
        let place = self.target.place;
        match why {
            None => return Ok(()),
            Some(Why::Paused) => self.target.decide(Place { paused: false, ..place }).await?,
            Some(Why::Told(id)) => self.target.decide(Place { id, ..place }).await?,
            Some(Why::Lost) => self.target.pass = true,
            Some(Why::Refused) => {}
        }
        self.go_on();
        Ok(())
    }

    async fn move_to(&mut self, to: u64) -> Result<()> {
        let place = self.target.place;
        let first = place.skipped_from.unwrap_or(place.id + 1);
        self.target.decide(Place { id: to, skipped_from: (to >= first).then_some(first), ..place }).await?;
        (self.target.pass, self.target.moved) = (false, true);
        tracing::warn!(sink = %self.target.name, from = place.id, to, "The sink was moved by hand");
        if place.paused {
            self.target.journal.hold_anew(&self.target.name, to);
            self.lost_to = 0;
            self.park(Parked::paused(&self.target.name));
        } else {
            self.go_on();
        }
        Ok(())
    }

    /// Delivers again, or parks before a gap of which nobody has been told.
    fn go_on(&mut self) {
        self.target.journal.hold_anew(&self.target.name, self.target.place.id);
        (self.parked, self.lost_to, self.pause) = (None, 0, RETRY_MIN);
        if let Err(Halt::Lost(gone)) = self.target.stop_at_gap() {
            self.park(Parked::lost(&self.target.name, gone));
        } else {
            tracing::info!(sink = %self.target.name, position = self.target.place.id, "The sink goes on");
            self.target.say("starting", None);
        }
    }
}

/// Between half the pause and all of it, so that many sinks do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    pause / 2 + (pause / 2).mul_f64(f64::from(nanos % 1000) / 1000.0)
}

fn sentence(error: &Error) -> String {
    error.remedy().map_or_else(|| error.to_string(), |hint| format!("{error}. {hint}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn pauses_are_spread() {
        let pause = Duration::from_secs(2);
        let pauses: BTreeSet<_> = (0..1000).map(|_| jittered(pause)).collect();
        assert!(pauses.iter().all(|drawn| (pause / 2..=pause).contains(drawn)), "{pauses:?}");
        assert!(pauses.len() > 20, "many come back at once: {pauses:?}");
    }
}
