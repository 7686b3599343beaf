//! The session that reads a table, and what another one sees of it when nothing comes.
//!
//! A read may take any time, so it has no limit. But a proxy, or a firewall that has forgotten a connection, can take all
//! that is said and let nothing through: keepalives are answered by whoever stands next to us. So when it has been quiet
//! for a while the server is asked, over another session, what becomes of the first.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rowcast_engine::{Error, Result};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

use super::Reading;
use super::board::say;
use crate::catalog::Statements;
use crate::conninfo::Conninfo;
use crate::setup::slot;
use crate::snapshot::job::Job;
use crate::snapshot::task::Surroundings;
use crate::wire::{Observed, answering_client, observed_client, sql_error};

/// So long nothing may come of a question before it is asked why, and between two looks: what is on its way arrives within
/// that.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How often the silence is measured.
const TICK: Duration = Duration::from_secs(1);

/// A server that looks for rows so long is worth a line in the log.
const SLOW: Duration = Duration::from_secs(60);

/// One session of a reader.
#[derive(Debug)]
struct Session {
    backend: i32,
    /// When the server began it, since numbers are given again. Not everybody is told: who is not looks after nothing.
    begun: Option<String>,
    observed: Observed,
    statements: Arc<Statements>,
}

/// The session that reads at the moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Attended(Arc<Mutex<Option<Arc<Session>>>>);

impl Attended {
    fn get(&self) -> Option<Arc<Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, session: Option<Session>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = session.map(Arc::new);
    }

    fn is(&self, session: &Arc<Session>) -> bool {
        self.get().is_some_and(|now| Arc::ptr_eq(&now, session))
    }

    /// Logs in; from here on this is the session.
    pub(super) async fn open(&self, info: &Conninfo) -> Result<Client> {
        self.set(None);
        let (client, observed) = observed_client(info).await?;
        let asked = timeout(info.answer_limit(), identity(&client)).await;
        let late =
            |_| Error::transient("The server does not say which of its processes reads a table's rows");
        let (backend, begun) = asked.map_err(late)??;
        self.set(Some(Session { backend, begun, observed, statements: Arc::default() }));
        Ok(client)
    }

    /// What it has had the server parse.
    pub(super) fn statements(&self) -> Arc<Statements> {
        self.get().map(|session| Arc::clone(&session.statements)).unwrap_or_default()
    }
}

impl Reading {
    /// Another session, in place of one that is still to send what nobody reads.
    pub(super) async fn take_another(&mut self, client: &mut Client) -> Result<()> {
        let before = self.session.get();
        let here = before.as_ref().map_or(&self.around.source.info, |session| &session.observed.here);
        *client = self.session.open(here).await?;
        if let Some(before) = before
            && let Err(error) = before.end(client).await
        {
            // Its socket is closed all the same.
            tracing::debug!("A session that nobody needs any more stays: {error}");
        }
        Ok(())
    }
}

/// Number and beginning. A role that sessions change to (`ALTER ROLE … SET role`), or from whom the view was taken, is not
/// told when its own session began.
async fn identity(client: &Client) -> Result<(i32, Option<String>)> {
    let failed = |error| sql_error("Cannot ask for the session's number", error);
    let backend = client.query_one("select pg_backend_pid()", &[]).await.map_err(failed)?.get(0);
    let sql = "select backend_start::text from pg_stat_activity where pid = pg_backend_pid()";
    let begun = match client.query_opt(sql, &[]).await {
        Ok(row) => row.and_then(|row| row.get(0)),
        Err(error) if error.code().is_some() => {
            tracing::debug!("Nothing is known of the session that reads rows: {error}");
            None
        }
        Err(error) => return Err(failed(error)),
    };
    Ok((backend, begun))
}

/// What the server's process does that is to send rows.
#[derive(Debug, PartialEq, Eq)]
enum Doing {
    /// It is at it; what it waits for, if anything.
    Reads(String),
    /// It waits for us, although we wait for it: something has been lost on the way.
    Waits(&'static str),
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reads(at) if at.is_empty() => f.write_str("looks for it"),
            Self::Reads(at) => write!(f, "looks for it ({at})"),
            Self::Waits(what) => f.write_str(what),
        }
    }
}

/// Judges what `pg_stat_activity` says of a process that is to send rows: its state, and kind and name of what it waits for.
/// Without a row there is none. A state may be hidden (`track_activities`); what it waits for is not.
fn judge(found: Option<(&str, &str, &str)>) -> Doing {
    match found {
        None => Doing::Waits("has ended"),
        Some((state, ..)) if state.starts_with("idle") => Doing::Waits("waits for a question"),
        Some((.., "ClientWrite")) => Doing::Waits("has rows that nobody takes"),
        Some((.., "ClientRead")) => Doing::Waits("waits for the rest of a question"),
        Some((_, "", _)) => Doing::Reads(String::new()),
        Some((_, kind, event)) => Doing::Reads(format!("{kind} {event}")),
    }
}

impl Session {
    /// Ends it, with all that it holds. Its own role may.
    async fn end(&self, other: &Client) -> Result<()> {
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity where pid = $1 and backend_start::text = $2";
        let Some(begun) = &self.begun else { return Ok(()) };
        let ended = other.execute(sql, &[&self.backend, begun]).await;
        ended.map(drop).map_err(|error| sql_error("Cannot end a read that nobody needs any more", error))
    }

    async fn look(&self, begun: &str) -> Result<(Client, Doing)> {
        let client = answering_client(&self.observed.here).await?;
        let sql = "select coalesce(state, ''), coalesce(wait_event_type, ''), coalesce(wait_event, '')
                   from pg_stat_activity where pid = $1 and backend_start::text = $2";
        let found = client.query_opt(sql, &[&self.backend, &begun]).await;
        let found = found.map_err(|error| sql_error("Cannot look after a read", error))?;
        let doing = judge(found.as_ref().map(|row| (row.get(0), row.get(1), row.get(2))));
        Ok((client, doing))
    }
}

/// Looks after the session for as long as it is well.
pub(super) struct Attendant {
    around: Surroundings,
    job: Job,
    session: Attended,
    /// A silence in which the process was seen to wait for us.
    lost: Option<Instant>,
    /// A silence in which the process could not be seen.
    unseen: Option<Instant>,
    /// When it was seen last.
    seen: Option<Instant>,
    /// What we have put on the board.
    told: Option<String>,
    /// A silence that the log has.
    logged: Option<Instant>,
}

impl Attendant {
    pub(super) fn of(reading: &Reading) -> Self {
        let (around, job, session) = (reading.around.clone(), reading.job.clone(), reading.session.clone());
        Self { around, job, session, lost: None, unseen: None, seen: None, told: None, logged: None }
    }

    /// Ends with an error when nothing is to be expected any more.
    pub(super) async fn attend(mut self) -> Error {
        loop {
            sleep(TICK).await;
            let session = self.session.get();
            let quiet = session.and_then(|session| Some((session.observed.quiet.since()?, session)));
            match quiet.filter(|(since, _)| since.elapsed() >= LOOK_EVERY) {
                Some((since, session)) => {
                    if let Some(error) = self.look(&session, since).await {
                        return error;
                    }
                    sleep(LOOK_EVERY - TICK).await;
                }
                None => self.unsay(),
            }
        }
    }

    async fn look(&mut self, session: &Arc<Session>, since: Instant) -> Option<Error> {
        let seconds = since.elapsed().as_secs();
        let Some(begun) = &session.begun else {
            self.say(format!(
                "Nothing has come of a read for {seconds} s, and this role is not told what becomes of its session"
            ));
            return None;
        };
        let looked = session.look(begun).await;
        // Something may have come meanwhile, or another session.
        if session.observed.quiet.since() != Some(since) || !self.session.is(session) {
            return None;
        }
        let (client, doing) = match looked {
            Ok(looked) => looked,
            Err(error) => return self.unseen(session, since, &error),
        };
        (self.seen, self.unseen) = (Some(Instant::now()), None);
        let (seconds, pid) = (since.elapsed().as_secs(), session.backend);
        if doing.is_lost() && self.lost == Some(since) {
            return Some(self.give_up(session, &client, &doing).await);
        }
        self.lost = doing.is_lost().then_some(since);
        if since.elapsed() >= SLOW && self.logged != Some(since) {
            self.logged = Some(since);
            let table = self.job.channel();
            tracing::info!(table, pid, seconds, "The next rows of a snapshot take long: the server {doing}");
        }
        self.say(format!("The server's process {pid} {doing}, and nothing has come for {seconds} s"));
        None
    }

    /// Nobody knows how the read is. It is left alone as long as the server lives and only we may not see it.
    fn unseen(&mut self, session: &Session, since: Instant, error: &Error) -> Option<Error> {
        let seen = self.seen.map_or(since, |seen| seen.max(since));
        // One that waits for its answer takes as long as the limit itself.
        let again = self.unseen.replace(since) == Some(since);
        let long = seen.elapsed() > session.observed.here.answer_limit();
        if slot::sqlstate(error).is_none() && again && long {
            return Some(Error::transient(format!(
                "Nothing comes of a read of {}, and the server cannot be asked why: {error}",
                self.job.channel()
            )));
        }
        let seconds = since.elapsed().as_secs();
        self.say(format!("Nothing has come of a read for {seconds} s, and it cannot be asked why: {error}"));
        None
    }

    async fn give_up(&self, session: &Session, client: &Client, doing: &Doing) -> Error {
        metrics::counter!("rowcast_snapshot_stalls_total").increment(1);
        // It holds the table's lock, and what vacuum would remove.
        if let Err(error) = session.end(client).await {
            tracing::debug!("A session that is given up stays: {error}");
        }
        let channel = self.job.channel();
        Error::transient(format!("Rows of {channel} do not arrive: the server's process {doing}, and nothing comes")).hint(
            "What stands between (a proxy, a load balancer, a firewall) holds the connection up: they are read over another one",
        )
    }

    fn say(&mut self, reason: String) {
        say(&self.around.status, &self.job, Some(&reason));
        self.told = Some(reason);
    }

    /// Takes back what was said, unless the reader has said something else by now.
    fn unsay(&mut self) {
        let Some(told) = self.told.take() else { return };
        self.around.status.snapshots(|board| {
            if let Some(shown) = board.get_mut(&self.job.note()) {
                shown.reason.take_if(|reason| *reason == told);
            }
        });
    }
}

impl Doing {
    fn is_lost(&self) -> bool {
        matches!(self, Self::Waits(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_at_it_is_waited_for() {
        let reads = |state, kind, event| judge(Some((state, kind, event))).is_lost();
        // Of a role that has its activities hidden, too.
        for state in ["active", "disabled", ""] {
            assert!(!reads(state, "", "") && !reads(state, "IO", "DataFileRead"), "{state}");
            assert!(!reads(state, "Lock", "relation"), "{state}");
            assert!(reads(state, "Client", "ClientWrite") && reads(state, "Client", "ClientRead"), "{state}");
        }
        assert!(judge(None).is_lost());
        assert!(reads("idle in transaction", "Client", "ClientRead") && reads("idle", "", ""));
        let told = judge(Some(("active", "IO", "DataFileRead"))).to_string();
        assert_eq!(told, "looks for it (IO DataFileRead)");
    }
}
