//! From several hosts to one session, as libpq does it: in their order, each address of a name for itself.

use std::time::Duration;

use rowcast_engine::{Error, Kind, Result};
use tokio::time::timeout;

use super::connection::{Connection, Purpose};
use super::dial;
use super::login::{is_wanted, login, other_server};
use super::remedy;
use crate::conninfo::{Conninfo, Host, TargetServer};

/// One search through the hosts.
struct Search<'a> {
    info: &'a Conninfo,
    purpose: Purpose,
    /// Why each server that was tried would not do.
    failures: Vec<Error>,
    /// One that will do if there is none that is preferred.
    second_best: Option<Connection>,
}

/// Tries each for `connect_timeout` at most, until one lets us in and is what `target_session_attrs` asks for.
///
/// # Errors
///
/// What every one of them said. A refusal for good ends the search, as in libpq: that is no matter of the host.
pub(super) async fn connect(info: &Conninfo, purpose: Purpose) -> Result<Connection> {
    let mut search = Search { info, purpose, failures: Vec::new(), second_best: None };
    for (index, host) in info.hosts.iter().enumerate() {
        if let Some(found) = search.try_host(host).await? {
            return Ok(found);
        }
        if let (Some(error), true) = (search.failures.last(), index + 1 < info.hosts.len()) {
            tracing::warn!("{error}; trying the next host");
        }
    }
    let Search { failures, second_best, .. } = search;
    second_best.ok_or_else(|| all(failures))
}

impl Search<'_> {
    /// A session at one of the host's addresses; None when another host has to do.
    async fn try_host(&mut self, host: &Host) -> Result<Option<Connection>> {
        let limit = self.info.connect_timeout;
        let addresses = match within(host, limit, dial::addresses(host)).await {
            Ok(addresses) => addresses,
            Err(error) => {
                self.note(error)?;
                return Ok(None);
            }
        };
        for address in &addresses {
            // On the heap: the login's state is large, and every caller's future would hold it.
            let attempt = Box::pin(within(address, limit, self.at(address)));
            match attempt.await {
                Ok(connection) if is_wanted(&connection, self.info.target) => return Ok(Some(connection)),
                Ok(connection) if self.is_preference() => {
                    self.second_best.get_or_insert(connection);
                }
                Ok(_) => self.note(other_server(address, self.info.target))?,
                Err(error) => self.note(error)?,
            }
        }
        Ok(None)
    }

    /// Whether any server will do if there is none of the kind that is asked for.
    fn is_preference(&self) -> bool {
        matches!(self.info.target, TargetServer::PreferStandby | TargetServer::PreferPrimary)
    }

    async fn at(&self, address: &Host) -> Result<Connection> {
        login(self.info, address, self.purpose).await
    }

    /// Keeps what may be otherwise at the next server; the rest ends the search.
    fn note(&mut self, error: Error) -> Result<()> {
        if error.kind() != Kind::Transient {
            let mut failures = std::mem::take(&mut self.failures);
            failures.push(error);
            return Err(all(failures));
        }
        self.failures.push(error);
        Ok(())
    }
}

async fn within<T>(host: &Host, limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(remedy::too_slow(host, limit)))
}

/// One error for all that was tried; the remedy is that of the last.
fn all(mut failures: Vec<Error>) -> Error {
    let Some(last) = failures.pop() else { return Error::usage("The source names no host") };
    if failures.is_empty() {
        return last;
    }
    let before: Vec<String> = failures.iter().map(Error::to_string).collect();
    let what = format!("None of {} servers will do: {}; and", failures.len() + 1, before.join("; "));
    let hint = last.remedy().map(str::to_owned);
    let all = Error::new(last.kind(), what).because(last);
    match hint {
        Some(hint) => all.hint(hint),
        None => all,
    }
}
