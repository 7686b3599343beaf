//! Looks after the slot, whatever capture does meanwhile: whether it is there, and how much of its log the server keeps
//! for it. Before that fills the server's disk, people are told, and then the slot is given up.

use std::fmt;
use std::time::{Duration, Instant};

use rowcast_engine::adoption::WAITING;
use rowcast_engine::journal::{Journal, State};
use rowcast_engine::status::Status;
use rowcast_engine::{Error, Lsn, Result};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_postgres::Client;

use super::concern::concern;
use super::connect::Link;
use super::pressure::{Pressure, Seen};
use super::reading::Reading;
use super::waiver::Waiver;
use super::younger::Younger;
use crate::config::Source;
use crate::conninfo::Conninfo;
use crate::setup::server::Server;
use crate::setup::slot::{self, Observed};
use crate::wire::answering_client;

/// Between two looks: a server that writes 200 MB a second writes a GB meanwhile.
const EVERY: Duration = Duration::from_secs(5);

/// How soon a connection is missed that the server has ended: then it is looked at once why.
const MISSED_AFTER: Duration = Duration::from_millis(250);

/// Between two looks whether the stream still moves at a server that is stopping.
const STOPPING_EVERY: Duration = Duration::from_secs(1);

/// A look takes moments; longer means a lost connection.
const ROUND_TIMEOUT: Duration = Duration::from_secs(30);

/// Looks that fail in a row before what was seen last is told no more: others act on those figures, as rowcast does on its
/// budget.
const FAILED_LOOKS: u32 = 2;

/// What capture has to leave its stream for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// The slot keeps too much of the server's log, and capture does not go on.
    OverBudget,
    /// A publication that the stream shows is gone; the server need not say so.
    Unpublished,
    /// There is one more that it can show.
    Published,
    /// A snapshot is wanted, which cannot be made beside transactions that are sent before they commit;
    Whole,
    /// or none is wanted any more.
    Early,
    /// The server is stopping, which it does not before all it has sent is confirmed, and that does not go on: the
    /// journal has no room, or sinks lack something. It comes again.
    Stopping,
}

impl Call {
    /// Whether nothing is wrong: it begins anew by rowcast's own wish.
    pub(super) fn is_planned(self) -> bool {
        matches!(self, Self::Published | Self::Whole | Self::Early)
    }

    /// As the end of a stream.
    pub(super) fn error(self) -> Error {
        Error::transient("The stream was left").because(self)
    }

    /// The call that an error is, if it is one.
    pub(super) fn of(error: &Error) -> Option<Self> {
        std::error::Error::source(error)?.downcast_ref().copied()
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OverBudget => "the slot keeps too much of the server's log",
            Self::Unpublished => "a publication is gone",
            Self::Published => "it begins anew with a publication that has been made meanwhile",
            Self::Whole => {
                "a snapshot is wanted: it begins anew, with large transactions sent when they commit"
            }
            Self::Early => {
                "no snapshot is wanted any more: it begins anew, with large transactions sent before they commit"
            }
            Self::Stopping => {
                "the server is stopping, and waits for what cannot be confirmed yet; that comes again"
            }
        })
    }
}

impl std::error::Error for Call {}

/// Ends with its owner.
#[derive(Debug)]
pub(super) struct Guard {
    task: JoinHandle<()>,
    /// One call is enough: whoever takes it looks for himself.
    calls: Receiver<Call>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Guard {
    /// Starts looking.
    pub(super) fn start(link: &Link) -> Self {
        let (sender, calls) = channel(1);
        let look = Look {
            source: link.source.clone(),
            status: link.status.clone(),
            journal: link.ingest.journal().clone(),
            reading: link.reading.clone(),
            here: None,
            calls: sender,
            pressure: Pressure::new(Instant::now()),
            waiver: Waiver::new(link.ingest.clone(), link.status.clone(), link.source.wal_budget),
            younger: Younger::default(),
            concern: None,
            seen_at: None,
            failed: 0,
            stopping_at: None,
        };
        Self { task: tokio::spawn(look.forever()), calls }
    }

    /// One that only hands on what is called.
    #[cfg(test)]
    pub(super) fn of(calls: Receiver<Call>) -> Self {
        Self { task: tokio::spawn(async {}), calls }
    }

    /// Waits until capture has to leave its stream. Cancel safe.
    pub(super) async fn calls(&mut self) -> Call {
        match self.calls.recv().await {
            Some(call) => call,
            None => std::future::pending().await,
        }
    }
}

struct Look {
    source: Source,
    status: Status,
    journal: Journal,
    reading: Reading,
    /// The server that is looked at; `None` before capture has found one.
    here: Option<Conninfo>,
    calls: Sender<Call>,
    pressure: Pressure,
    waiver: Waiver,
    younger: Younger,
    /// What was said last, without its figures.
    concern: Option<&'static str>,
    /// When the slot was looked at last, and the looks since then that came to nothing.
    seen_at: Option<Instant>,
    failed: u32,
    /// What had been received and confirmed when the server was last seen to be stopping.
    stopping_at: Option<(Lsn, Lsn)>,
}

impl Look {
    async fn forever(mut self) {
        let mut rounds = interval(EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut client = None;
        loop {
            tokio::select! {
                _ = rounds.tick() => {}
                () = is_missed(client.as_ref()) => {}
                () = sleep(STOPPING_EVERY), if self.stopping_at.is_some() => {}
            }
            let done = timeout(ROUND_TIMEOUT, self.round(&mut client)).await;
            let stops = matches!(&done, Ok(Err(error)) if slot::sqlstate(error) == Some(slot::STOPPING));
            self.stopping_at = self.make_way(stops);
            if matches!(done, Ok(Ok(()))) {
                continue;
            }
            let why = match done {
                Ok(Err(error)) => error.to_string(),
                _ => format!("the server has not answered for {} s", ROUND_TIMEOUT.as_secs()),
            };
            tracing::debug!("Cannot look after the replication slot: {why}");
            self.has_failed(&why);
            // What could not be seen did not stand still.
            client = None;
            self.pressure.look_away(Instant::now());
        }
    }

    async fn round(&mut self, client: &mut Option<Client>) -> Result<()> {
        // The server of the stream and no other, which may have a slot of the same name: a copy, or an old one.
        let here = self.reading.here();
        if self.here != here {
            (self.here, *client) = (here, None);
            self.pressure.look_away(Instant::now());
        }
        if client.as_ref().is_none_or(Client::is_closed) {
            let info = self.here.as_ref().unwrap_or(&self.source.info);
            *client = Some(answering_client(info).await?);
        }
        let Some(client) = client else { return Ok(()) };
        // A standby that is promoted keeps its connections.
        let server = &Server::read(client).await?;
        let observed = slot::observe(client, &self.source).await?;
        self.seen_at = Some(Instant::now());
        self.show(&observed, server);
        slot::show_decoding(client, &self.source.slot).await?;
        if let Some(wait) = observed.commits_wait {
            self.tell_of_commits(wait);
        }
        let mut more = false;
        // Else it may be another server than the stream's.
        if self.streams() {
            let position = self.journal.position().lsn;
            more = self.younger.look(client, &self.reading, &observed.publications, position).await?;
        }
        let waits = if self.streams() { self.younger.waits.clone() } else { None };
        self.status.source(|source| source.unread = waits);
        self.has_seen();
        // Also while the catalog cannot be read it is told what is confirmed.
        if self.waiver.look(&observed, matches!(self.state(), "streaming" | "paused")) {
            self.pressure = Pressure::new(Instant::now());
        }
        self.tell(&observed, more);
        self.warn_of(&observed);
        Ok(())
    }

    /// A look has come to its end.
    fn has_seen(&mut self) {
        if self.failed >= FAILED_LOOKS {
            tracing::info!("The replication slot is looked after again");
            self.concern = None;
        }
        self.failed = 0;
    }

    /// A look has come to nothing. What was seen last would say of an alert on the server's disk that all is well.
    fn has_failed(&mut self, why: &str) {
        self.failed += 1;
        if self.failed < FAILED_LOOKS {
            return;
        }
        show_state("");
        let budget =
            if self.source.wal_budget.is_some() { ", and source.wal_budget is of no effect" } else { "" };
        let since = match self.seen_at {
            Some(at) => format!("was last seen {} s ago", at.elapsed().as_secs()),
            None => "has not been seen since rowcast was started".to_owned(),
        };
        let text = format!(
            "The replication slot {} {since}: what the server keeps for it is not known{budget}. {why}",
            self.source.slot
        );
        if self.failed == FAILED_LOOKS {
            tracing::warn!("{text}");
        }
        self.concern = None;
        self.status.source(|source| {
            (source.slot_state, source.wal_status, source.concern) = ("", None, Some(text));
            // A process of that number may be another one by now.
            source.unread = None;
            (source.wal_retained_bytes, source.wal_safe_bytes, source.slot_inactive_seconds) =
                (None, None, None);
        });
    }

    /// Brings board and gauges up to date.
    fn show(&self, observed: &Observed, server: &Server) {
        let state = slot::state(observed.slot.as_ref(), server, self.reading.pid());
        show_state(state);
        let safe = observed.slot.as_ref().and_then(|slot| slot.safe_wal_size);
        self.status.source(|source| {
            source.slot_state = state;
            source.wal_status = observed.slot.as_ref().and_then(|slot| slot.wal_status.clone());
            source.wal_retained_bytes = observed.retained();
            source.wal_safe_bytes = safe.map(|left| left.try_into().unwrap_or(0));
            source.slot_inactive_seconds = observed.inactive;
        });
    }

    /// Has what commits wait for confirmed at once, in place of once a second.
    fn tell_of_commits(&self, wait: bool) {
        if self.reading.note_commits_wait(wait) {
            if wait {
                tracing::info!(
                    "Commits wait for rowcast (synchronous_standby_names): each is confirmed at once"
                );
            } else {
                tracing::info!("Commits do not wait for rowcast any more");
            }
        }
        self.status.source(|source| source.commits_wait = wait);
    }

    fn state(&self) -> &'static str {
        let mut state = "";
        self.status.source(|source| state = source.state);
        state
    }

    fn streams(&self) -> bool {
        self.state() == "streaming"
    }

    /// Tells capture what it cannot see while it streams, or waits. `more`: it can read one publication more.
    fn tell(&mut self, observed: &Observed, more: bool) {
        let (mut received, mut state, mut repeats) = (Lsn::ZERO, "", false);
        self.status.source(|source| {
            (received, state, repeats) = (source.received_lsn, source.state, source.repeated > 0);
        });
        let confirmed = observed.slot.as_ref().and_then(|slot| slot.confirmed_flush_lsn);
        let seen = Seen {
            streams: state == "streaming",
            stuck: (matches!(state, WAITING | "stopped") && !self.reading.is_at_work())
                || matches!(&*self.journal.state().borrow(), State::Full(_) | State::Failed(_)),
            at: (confirmed.unwrap_or_default(), received),
            kept: observed.retained(),
            behind: observed.behind(),
            repeats,
        };
        let call = if self.pressure.note(&seen, self.source.wal_budget, Instant::now()) {
            Call::OverBudget
        } else if state == "streaming" && self.reading.missing(&observed.publications).is_some() {
            Call::Unpublished
        } else if state == "streaming" && more {
            Call::Published
        } else {
            return;
        };
        // A call that has not been taken says the same.
        let _ = self.calls.try_send(call);
    }

    /// Has capture leave its stream where the server `stops` and waits for what may take for ever: at once where the journal
    /// has no room; where sinks have to have it first, when nothing has moved from one look to the next. What only takes its
    /// time is waited for, however long that seems to stand still: after a fail-over without the slot there is no other time.
    /// Gives where it stands.
    fn make_way(&self, stops: bool) -> Option<(Lsn, Lsn)> {
        let (mut at, mut streams, mut for_sinks) = ((Lsn::ZERO, Lsn::ZERO), false, false);
        self.status.source(|source| {
            for_sinks = !source.required.is_empty();
            at = (source.received_lsn, source.confirmed_lsn);
            streams = source.state == "streaming";
        });
        if !stops || !streams {
            return None;
        }
        let full = matches!(&*self.journal.state().borrow(), State::Full(_));
        if full || (for_sinks && self.stopping_at == Some(at)) {
            let _ = self.calls.try_send(Call::Stopping);
        }
        Some(at)
    }

    /// Says what will come to harm if nothing is done: once in the log, and on the board for as long as it is so.
    fn warn_of(&mut self, observed: &Observed) {
        let concern = concern(observed, &self.source);
        let (kind, text) = concern.unzip();
        match &text {
            Some(text) if kind != self.concern => tracing::warn!("{text}"),
            None if self.concern.is_some() => {
                tracing::info!("The server keeps less of its log for the slot again")
            }
            _ => {}
        }
        self.concern = kind;
        self.status.source(|source| source.concern = text);
    }
}

/// Waits until the server has ended a connection, if there is one. Cancel safe.
async fn is_missed(client: Option<&Client>) {
    let Some(client) = client else { return std::future::pending().await };
    while !client.is_closed() {
        sleep(MISSED_AFTER).await;
    }
}

/// 1 for how the slot is; for none where that is not seen.
fn show_state(state: &str) {
    for known in slot::STATES {
        let yes = if known == state { 1.0 } else { 0.0 };
        metrics::gauge!("rowcast_source_slot_state", "state" => known).set(yes);
    }
}
