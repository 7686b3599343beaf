//! A history that does not go on waits for a person; the doors go on serving.

use std::convert::Infallible;
use std::time::Duration;

use rowcast_engine::adoption::{Asked, WAITING};
use rowcast_engine::status::Status;
use rowcast_engine::{Error, Kind, Result};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::backoff::Backoff;
use super::broken::{Break, REASONS, Reason};
use super::connect::Link;
use super::guard::Call;
use super::session::Session;
use super::{note_lost, show_lost, with_remedy};
use crate::config::{OnGap, Source};
use crate::setup::members;
use crate::setup::server::Server;
use crate::setup::slot;
use crate::wire::{DbError, NotLetIn, answering_client};

/// How often it is looked whether the source is the right one again: the address may have led to the wrong server.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Longer means locks or a lost connection.
const RELIEF_TIMEOUT: Duration = Duration::from_secs(60);

/// Why it waits where a login is refused, beside the reasons of breaks.
const LOGIN: &str = "login_refused";

impl Link {
    /// Waits until it is time to connect again, after an error: for a moment, or for a person.
    ///
    /// # Errors
    ///
    /// The error itself when connecting again is of no use. `known`: there is something to serve meanwhile.
    pub(super) async fn after(&mut self, error: Error, known: bool, backoff: &mut Backoff) -> Result<()> {
        // What ends a stream ends capture as ever, although a break is remembered: else the error would be met again without
        // end, and a person be told of the break alone.
        let compared = self.reading.end_comparing();
        let resumes = error.kind() == Kind::Transient && (compared || self.reading.resumes());
        self.reading.end_connecting(resumes);
        if let Some(call) = Call::of(&error) {
            self.answer(call).await;
            return Ok(());
        }
        let asked = self.asked.take();
        // Only what keeps a stream from beginning may be the wrong server's.
        let waits = is_waiting(&self.status) && !compared;
        let may_pass = error.kind() == Kind::Transient || asked.is_some() || waits;
        if let Some(asked) = asked {
            // Whatever became of it, the next word is another one.
            self.source.adopt = false;
            asked.answer(Err(told(&error)));
        }
        let known = self.established || known;
        if let Some(broken) = Break::of(&error) {
            self.remember(broken).await?;
            if !self.goes_on_by_itself(broken) {
                if !known {
                    return Err(error);
                }
                let is_ours = !broken.foreign && broken.reason != Reason::AnotherCluster.name();
                self.wait(&error, is_ours).await;
                return Ok(());
            }
        } else if known && is_login_refused(&error) {
            self.wait_to_be_let_in(&error).await;
            return Ok(());
        } else if !(known && may_pass) {
            return Err(error);
        }
        note_lost(&self.status, &error);
        let status = self.status.clone();
        tokio::select! {
            () = sleep(backoff.next()) => {}
            // While it waits for a person, be the server away or not.
            asked = status.asked_to_adopt() => self.let_go_on(asked),
        }
        Ok(())
    }

    /// Whether the policy lets it pass: then the next connection records the gap.
    fn goes_on_by_itself(&self, broken: &Break) -> bool {
        // One of another installation that came to an error was not let pass.
        self.source.on_gap != OnGap::Stop && !broken.foreign
    }

    /// Says why capture waits.
    pub(super) fn say_waiting(&mut self, error: &Error) {
        let reason = with_remedy(error);
        self.status.source(|source| {
            source.state = WAITING;
            source.reason = Some(reason);
        });
        let reason = Break::of(error).map(|broken| broken.reason.clone());
        // The positions in the words may change each time.
        if self.waits_for != reason {
            tracing::error!(reason, hint = error.remedy(), "Capture waits, the doors go on serving: {error}");
            show_broken(reason.as_deref());
            self.waits_for = reason;
        }
    }

    /// Says why capture waits, and waits until somebody lets it go on or it is time to look again. Where the
    /// publications are ours (`is_ours`), no writer fails because of them meanwhile.
    async fn wait(&mut self, error: &Error, is_ours: bool) {
        self.say_waiting(error);
        let source = self.source.clone();
        let meanwhile = async {
            if is_ours && source.manage {
                relieve(&source).await;
            }
            sleep(LOOK_AGAIN).await;
        };
        tokio::select! {
            asked = self.status.asked_to_adopt() => self.let_go_on(asked),
            () = meanwhile => {}
        }
    }

    /// Says that the server lets us in no more, and waits until it is time to look again. A password that is changed has
    /// two places, the server and a file here, and there is a time between the two.
    async fn wait_to_be_let_in(&mut self, error: &Error) {
        show_lost(&self.status, error);
        if self.waits_for.as_deref() != Some(LOGIN) {
            tracing::error!(
                hint = error.remedy(),
                "Capture waits to be let in again, the doors go on serving: {error}"
            );
            self.waits_for = Some(LOGIN.to_owned());
        }
        let status = self.status.clone();
        tokio::select! {
            asked = status.asked_to_adopt() => self.let_go_on(asked),
            () = sleep(LOOK_AGAIN) => {}
        }
    }

    /// A person has said so.
    fn let_go_on(&mut self, asked: Asked) {
        self.asked = Some(asked);
        self.source.adopt = true;
    }

    /// A break that is remembered, and that a stream does not refute by having begun: what it repeats has to be compared
    /// first, unless that is done.
    pub(super) fn doubtful(&self, is_compared: bool) -> Option<Break> {
        self.ingest.journal().position().broken().filter(|_| !is_compared).map(Break::again)
    }

    /// The stream has begun: ends the waiting, or gives what tells when what it repeats shows that it is over.
    pub(super) fn doubt(&mut self, session: &mut Session) -> Option<oneshot::Receiver<()>> {
        self.reading.end_connecting(false);
        let Some(broken) = self.doubtful(session.is_compared()) else {
            self.end_waiting();
            return None;
        };
        if !is_waiting(&self.status) {
            self.say_waiting(&broken.error());
        }
        self.reading.begin_comparing();
        Some(session.doubt())
    }

    /// Ends the waiting when it is told to be over.
    pub(super) async fn end_waiting_for(&mut self, compared: Option<oneshot::Receiver<()>>) -> Infallible {
        if let Some(compared) = compared
            && compared.await.is_ok()
        {
            self.end_waiting();
        }
        std::future::pending().await
    }

    /// The stream is over. With an error in the same breath nobody may have been told yet that what it repeated was enough.
    pub(super) fn note_end(&mut self, session: &Session) {
        if self.reading.is_comparing() && session.is_compared() {
            self.end_waiting();
        }
    }

    /// The stream runs: whoever asked meanwhile is told that there is nothing to adopt.
    pub(super) fn end_waiting(&mut self) {
        self.reading.end_comparing();
        self.waits_for = None;
        show_broken(None);
        let asked = self.status.end_waiting("streaming");
        for asked in asked.into_iter().chain(self.asked.take()) {
            asked.answer(Ok(None));
        }
    }
}

/// Has no table's UPDATE and DELETE fail because it has lost its key while capture waits.
async fn relieve(source: &Source) {
    let relief = async {
        let mut client = answering_client(&source.info).await?;
        let server = Server::read(&client).await?;
        if server.standby { Ok(()) } else { members::relieve(&mut client, source, &server).await }
    };
    match timeout(RELIEF_TIMEOUT, relief).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(
            "Cannot look whether tables have lost their key while capture waits; it is tried again: {error}"
        ),
        Err(_) => tracing::warn!(
            "Looking whether tables have lost their key while capture waits took too long; it is tried again"
        ),
    }
}

/// 1 for the reason for which the history does not go on.
fn show_broken(reason: Option<&str>) {
    for known in REASONS {
        let yes = reason == Some(known.name());
        metrics::gauge!("rowcast_source_broken", "reason" => known.name()).set(if yes { 1.0 } else { 0.0 });
    }
}

/// Whether it is the login itself that comes to nothing: the server refuses the password, the role, the address, the database, or what
/// the login takes on either end is not as it should be, such as a password file, a key, a certificate.
fn is_login_refused(error: &Error) -> bool {
    let refuses = |error: &DbError| match error.code.as_str() {
        "28P01" | "28000" => true,
        // A right taken away, a database that admits nobody, that is away or has another name: as in a maintenance. Of a
        // statement the same is no FATAL.
        "42501" | "55000" | "3D000" => error.severity == "FATAL",
        _ => false,
    };
    slot::db_error(error).is_some_and(refuses) || NotLetIn::is_behind(error)
}

/// Whether the board says so.
pub(super) fn is_waiting(status: &Status) -> bool {
    let mut waiting = false;
    status.source(|source| waiting = source.state == WAITING);
    waiting
}

/// An error for two: the person who asked, and the log.
pub(super) fn told(error: &Error) -> Error {
    let copy = Error::new(error.kind(), error.to_string());
    match error.remedy() {
        Some(remedy) => copy.hint(remedy),
        None => copy,
    }
}
