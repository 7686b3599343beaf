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
use crate::conninfo::Conninfo;
use crate::snapshot::job::Job;
use crate::snapshot::task::Surroundings;
use crate::wire::{Quiet, answering_client, observed_client, sql_error};

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
    /// When the server began it: numbers are given again.
    begun: String,
    /// The very server.
    here: Conninfo,
    quiet: Quiet,
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

    /// Logs in; from here on this is the session.
    pub(super) async fn open(&self, info: &Conninfo) -> Result<Client> {
        self.set(None);
        let (client, here, quiet) = observed_client(info).await?;
        let asked = timeout(info.answer_limit(), identity(&client)).await;
        let late =
            |_| Error::transient("The server does not say which of its processes reads a table's rows");
        let (backend, begun) = asked.map_err(late)??;
        self.set(Some(Session { backend, begun, here, quiet }));
        Ok(client)
    }
}

impl Reading {
    /// Another session, in place of one that is still to send what nobody reads.
    pub(super) async fn take_another(&mut self, client: &mut Client) -> Result<()> {
        let before = self.session.get();
        let here = before.as_ref().map_or(&self.around.source.info, |session| &session.here);
        *client = self.session.open(here).await?;
        if let Some(before) = before {
            before.end(client, "pg_cancel_backend").await?;
        }
        Ok(())
    }
}

async fn identity(client: &Client) -> Result<(i32, String)> {
    let sql = "select pid, backend_start::text from pg_stat_activity where pid = pg_backend_pid()";
    let row = client.query_one(sql, &[]).await;
    let row = row.map_err(|error| sql_error("Cannot ask for the session's number", error))?;
    Ok((row.get(0), row.get(1)))
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

/// Judges what `pg_stat_activity` says of a process that is to send rows; without a row there is none.
fn judge(found: Option<(&str, &str, &str)>) -> Doing {
    match found {
        None => Doing::Waits("has ended"),
        Some(("active", _, "ClientWrite")) => Doing::Waits("has rows that nobody takes"),
        Some(("active", _, "ClientRead")) => Doing::Waits("has heard a part of the question"),
        Some(("active", "", _)) => Doing::Reads(String::new()),
        Some(("active", kind, event)) => Doing::Reads(format!("{kind} {event}")),
        Some(_) => Doing::Waits("waits for a question"),
    }
}

impl Session {
    /// Ends what the session does, or the session.
    async fn end(&self, other: &Client, function: &str) -> Result<()> {
        let sql = format!(
            "select {function}(pid) from pg_stat_activity where pid = $1 and backend_start::text = $2"
        );
        let ended = other.execute(&sql, &[&self.backend, &self.begun]).await;
        ended.map(drop).map_err(|error| sql_error("Cannot end a read that nobody needs any more", error))
    }

    async fn look(&self) -> Result<(Client, Doing)> {
        let client = answering_client(&self.here).await?;
        let sql = "select coalesce(state, ''), coalesce(wait_event_type, ''), coalesce(wait_event, '')
                   from pg_stat_activity where pid = $1 and backend_start::text = $2";
        let found = client.query_opt(sql, &[&self.backend, &self.begun]).await;
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
    /// What is on the board is ours.
    told: bool,
    /// A silence that the log has.
    logged: Option<Instant>,
}

impl Attendant {
    pub(super) fn of(reading: &Reading) -> Self {
        let (around, job, session) = (reading.around.clone(), reading.job.clone(), reading.session.clone());
        Self { around, job, session, lost: None, told: false, logged: None }
    }

    /// Ends with an error when nothing is to be expected any more.
    pub(super) async fn attend(mut self) -> Error {
        loop {
            sleep(TICK).await;
            let session = self.session.get();
            let quiet = session.and_then(|session| Some((session.quiet.since()?, session)));
            match quiet.filter(|(since, _)| since.elapsed() >= LOOK_EVERY) {
                Some((since, session)) => {
                    if let Some(error) = self.look(&session, since).await {
                        return error;
                    }
                    sleep(LOOK_EVERY - TICK).await;
                }
                None => self.say(None),
            }
        }
    }

    async fn look(&mut self, session: &Session, since: Instant) -> Option<Error> {
        let looked = session.look().await;
        // Something may have come meanwhile.
        if session.quiet.since() != Some(since) {
            return None;
        }
        let (seconds, backend) = (since.elapsed().as_secs(), session.backend);
        let channel = self.job.channel();
        let (client, doing) = match looked {
            Ok(looked) => looked,
            Err(error) if since.elapsed() > session.here.answer_limit() => return Some(error),
            Err(error) => {
                self.say(Some(&format!(
                    "Nothing has come of a read for {seconds} s, and it cannot be asked why: {error}"
                )));
                return None;
            }
        };
        let what = format!("The server's process {backend} {doing}, and nothing has come for {seconds} s");
        if doing.is_lost() && self.lost == Some(since) {
            metrics::counter!("rowcast_snapshot_stalls_total").increment(1);
            // It holds the table's lock, and what vacuum would remove.
            if let Err(error) = session.end(&client, "pg_terminate_backend").await {
                tracing::debug!("A session that is given up stays: {error}");
            }
            return Some(Error::transient(format!("Rows of {channel} do not arrive. {what}")).hint(
                "What stands between (a proxy, a load balancer, a firewall) holds the connection up: they are read over another one",
            ));
        }
        self.lost = doing.is_lost().then_some(since);
        if since.elapsed() >= SLOW && self.logged != Some(since) {
            self.logged = Some(since);
            tracing::info!(table = channel, "The next rows of a snapshot take long. {what}");
        }
        self.say(Some(&what));
        None
    }

    fn say(&mut self, reason: Option<&str>) {
        if reason.is_some() || self.told {
            self.told = reason.is_some();
            say(&self.around.status, &self.job, reason);
        }
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
        let reads = |kind, event| judge(Some(("active", kind, event))).is_lost();
        assert!(!reads("", "") && !reads("IO", "DataFileRead") && !reads("Lock", "relation"));
        assert!(reads("Client", "ClientWrite") && reads("Client", "ClientRead"));
        assert!(judge(None).is_lost());
        assert!(judge(Some(("idle in transaction", "Client", "ClientRead"))).is_lost());
        assert!(judge(Some(("", "", ""))).is_lost());
        let told = judge(Some(("active", "IO", "DataFileRead"))).to_string();
        assert_eq!(told, "looks for it (IO DataFileRead)");
    }
}
