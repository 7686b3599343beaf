//! Capture: from the replication stream into the journal.
//!
//! `connect` makes the source ready and starts a stream, `session` runs it, `assembly` turns its messages into
//! transactions. A position is confirmed to the server only when the journal holds it durably.

mod adopt;
mod assembly;
mod backoff;
mod broken;
mod composite;
mod concern;
mod connect;
mod contents;
mod custom;
mod during;
mod emit;
mod explain;
mod feedback;
mod fork;
mod guard;
mod lasting;
mod nap;
mod plan;
mod pressure;
mod progress;
pub(crate) mod proof;
mod published;
mod reading;
mod refusals;
mod relations;
mod replay;
mod resume;
mod session;
mod spill;
mod starting;
mod streamed;
mod streams;
mod surrender;
mod taking;
mod unsendable;
mod waiting;
mod waiver;
mod watch;
mod wished;
mod younger;

pub(crate) use connect::now;
pub(crate) use custom::NEW_TABLE;
pub(crate) use taking::{replicates, same_server, which_server};

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use rowcast_engine::adoption::WAITING;
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::{Journal, State};
use rowcast_engine::status::{RECONNECTING, Status};
use rowcast_engine::{Error, Result, Stop};
use tokio::time::Instant;

use crate::config::{Config, Source};
use crate::conninfo::Conninfo;
use crate::snapshot::{not_all_read, show_left};
use backoff::Backoff;
use connect::Link;
use guard::{Call, Guard};
use watch::Watch;

/// The door in.
#[derive(Clone, Debug)]
pub struct Postgres {
    config: Config,
}

impl Postgres {
    /// Captures what `config` says, once it runs.
    pub fn new(config: Config) -> Self {
        Self { config }
    }
}

impl rowcast_engine::Source for Postgres {
    /// Runs until told to stop. Before the first success of an installation every error ends it; afterwards, also
    /// after a restart, it reconnects by itself for as long as the reason may pass. Where the history does not go on
    /// it waits for a person, or goes on behind a gap, as configured.
    ///
    /// # Errors
    ///
    /// `Kind::Usage` for a wrong configuration, `Kind::Refused` where the source will not do, `Kind::Journal` where
    /// the journal will not, `Kind::Transient` only before the first success of an installation. The status says `stopped` and why.
    async fn run(self, ingest: Ingest, status: Status, stop: Stop) -> Result<()> {
        let source = Source::new(&self.config)?;
        broken::count_gaps();
        // First: who reads that the source is there takes the tables of snapshots for all that are left.
        show_left(ingest.journal(), &status);
        status.source(|shown| {
            shown.state = "starting";
            shown.address = source.info.redacted();
            shown.slot.clone_from(&source.slot);
            shown.publication.clone_from(&source.publication);
        });
        let journal = ingest.journal().clone();
        let ended = Box::pin(capture(source, ingest, &status, &stop)).await;
        status.source(|shown| {
            shown.state = "stopped";
            shown.reason = match &ended {
                Err(error) => Some(with_remedy(error)),
                Ok(()) if !stop.is_stopped() => {
                    let missing = not_all_read(&journal);
                    Some(missing.map_or_else(|| ALL_READ.to_owned(), |missing| with_remedy(&missing)))
                }
                Ok(()) => None,
            };
        });
        ended
    }
}

/// Why it ends by itself.
const ALL_READ: &str = "All tables have been read, and nothing else is wanted (source.snapshot = \"only\")";

fn with_remedy(error: &Error) -> String {
    error.remedy().map_or_else(|| error.to_string(), |remedy| format!("{error}. {remedy}"))
}

async fn capture(source: Source, ingest: Ingest, status: &Status, stop: &Stop) -> Result<()> {
    let mut link = Link::new(source, ingest, status.clone());
    // A journal that has streamed before is worth serving while the source is away.
    let known = link.is_known();
    let mut backoff = Backoff::new();
    let mut watch: Option<(Conninfo, Watch)> = None;
    let mut guard = known.then(|| Guard::start(&link));
    let journal = link.ingest.journal().clone();
    loop {
        let connected = tokio::select! {
            biased;
            never = note_full(status, &journal, known) => match never {},
            connected = link.connect() => connected,
            call = called(&mut guard) => Err(call.error()),
            () = stop.stopped() => return Ok(()),
        };
        let ended = match connected {
            Ok(mut session) => {
                link.established = true;
                let compared = link.doubt(&mut session);
                // It looks at the server that the stream comes from.
                if watch.as_ref().is_none_or(|(at, _)| at.hosts != link.here.hosts) {
                    watch = Some((link.here.clone(), link.watch()));
                }
                guard.get_or_insert_with(|| Guard::start(&link));
                let started = Instant::now();
                let ended: Result<()> = tokio::select! {
                    ended = unbroken(session.run()) => match ended {
                        // All that was wanted has been read.
                        Ok(()) => {
                            session.finish().await;
                            return Ok(());
                        }
                        Err(error) => Err(session.explain(error)),
                    },
                    never = link.end_waiting_for(compared) => match never {},
                    call = called(&mut guard) => Err(call.error()),
                    () = stop.stopped() => {
                        session.finish().await;
                        return Ok(());
                    }
                };
                link.note_end(&session);
                link.whole |= session.assembly.streams.given_up();
                backoff.note_connection(session.has_progressed(), started.elapsed());
                if session.has_progressed() {
                    link.repeats.forget();
                }
                ended
            }
            Err(error) => Err(error),
        };
        let Err(error) = ended else { continue };
        let mut error = link.repeats.weigh(error);
        loop {
            error = tokio::select! {
                ready = link.after(error, known, &mut backoff) => match ready {
                    Ok(()) => break,
                    Err(error) => return link.end(error, &mut guard, stop).await,
                },
                call = called(&mut guard) => call.error(),
                () = stop.stopped() => return Ok(()),
            };
        }
    }
}

/// A fault of ours ends capture, which is told, and nothing else: the guard of the slot lives on this thread, too. It is
/// not tried again, since what is in memory behind it may be anything.
async fn unbroken(run: impl Future<Output = Result<()>>) -> Result<()> {
    let fault = |_| {
        Err(Error::refused("Reading the stream has ended by a fault of rowcast's own")
            .hint("Please report it, with what the program has printed. Restart rowcast"))
    };
    AssertUnwindSafe(run).catch_unwind().await.unwrap_or_else(fault)
}

/// Waits for the guard, where there is one.
async fn called(guard: &mut Option<Guard>) -> Call {
    match guard {
        Some(guard) => guard.calls().await,
        None => std::future::pending().await,
    }
}

/// A journal that is full lets capture begin only when there is room: what it holds is served meanwhile.
async fn note_full(status: &Status, journal: &Journal, known: bool) -> Infallible {
    if !known {
        return std::future::pending().await;
    }
    let mut state = journal.state();
    loop {
        if let State::Full(detail) = &*state.borrow_and_update() {
            status.source(|shown| {
                if shown.state == "starting" {
                    shown.state = "paused";
                    shown.reason = Some(detail.clone());
                }
            });
        }
        if state.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

fn note_lost(status: &Status, error: &Error) {
    tracing::warn!("Capture is interrupted and connects again: {error}");
    show_lost(status, error);
}

fn show_lost(status: &Status, error: &Error) {
    metrics::counter!("rowcast_source_reconnects_total").increment(1);
    status.source(|shown| {
        // Somebody who waits for a person is not told something else by a server that is away.
        if shown.state != WAITING {
            shown.state = RECONNECTING;
            shown.reason = Some(with_remedy(error));
        }
        shown.reconnects += 1;
    });
}

/// The stream begins anew, and nothing is wrong.
fn note_planned(status: &Status, call: Call) {
    let left = call.error();
    tracing::info!("{left}");
    show_lost(status, &left);
}

#[cfg(test)]
mod tests {
    use rowcast_engine::Kind;

    use super::*;

    #[tokio::test]
    async fn a_fault_of_ours_ends_capture_and_says_so() {
        let run = async { if std::hint::black_box(true) { panic!("a fault") } else { Ok(()) } };
        let error = unbroken(run).await.unwrap_err();
        assert!(error.kind() == Kind::Refused && error.to_string().contains("fault of rowcast's own"));
        assert!(unbroken(async { Ok(()) }).await.is_ok());
    }
}
