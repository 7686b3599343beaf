//! Having the slot: made where there is none, copied to standbys, and free.

use std::time::Duration;

use rowcast_engine::adoption::WAITING;
use rowcast_engine::journal::StreamPosition;
use rowcast_engine::{Error, Lsn, Result};
use tokio_postgres::Client;

use super::connect::Link;
use super::during::during;
use super::resume::{System, switch_point};
use super::with_remedy;
use crate::setup::creation::{self, Made};
use crate::setup::server::{FAILOVER_SLOTS, Server};
use crate::setup::slot;
use crate::wire::{Connection, NAME_THE_SERVER, sql_error};

/// A cluster's timeline before anything was promoted.
const FIRST_TIMELINE: u32 = 1;

/// SQLSTATE `undefined_file`: nothing there says where the server's timeline came from.
const NO_FILE: &str = "58P01";

/// SQLSTATE `syntax_error`.
const SYNTAX: &str = "42601";

/// Changes with each start of a server, to the microsecond.
const WHICH_SERVER: &str = "select pg_postmaster_start_time()::text";

impl Link {
    /// Makes the slot, for as long as transactions in the way take. A person who waits is told of them instead.
    pub(super) async fn make(
        &self,
        client: &Client,
        connection: &mut Connection,
        server: &Server,
    ) -> Result<Lsn> {
        loop {
            let create = creation::create(connection, client, server, &self.source);
            let what = "Makes the replication slot, which waits for every transaction that is running";
            let error = match during(&self.status, what, create).await? {
                Made::At(birth) => return Ok(birth),
                Made::Blocked(error) if self.asked.is_some() => return Err(error),
                Made::Blocked(error) => error,
            };
            tracing::warn!(hint = error.remedy(), "Capture waits: {error}");
            self.say(with_remedy(&error));
        }
    }

    /// Has standbys keep a copy of the slot, or not, as configured. What goes wrong there is no reason not to read.
    pub(super) async fn keep_copies(
        &self,
        client: &Client,
        connection: &mut Connection,
        server: &Server,
    ) -> Result<()> {
        if !self.source.manage || server.standby || server.version < FAILOVER_SLOTS {
            return Ok(());
        }
        let (name, failover) = (&self.source.slot, self.source.failover);
        let slot = slot::read(client, name).await?;
        if slot.is_none_or(|slot| slot.failover == failover || slot.active) {
            return Ok(());
        }
        match creation::set_failover(connection, &self.source).await {
            Ok(()) => {
                tracing::info!(slot = name, failover, "Changed whether standbys keep a copy of the slot")
            }
            Err(error) => {
                tracing::warn!(slot = name, "Cannot change whether standbys keep a copy of it: {error}")
            }
        }
        Ok(())
    }

    /// Says who is in the way.
    pub(super) async fn say_in_use(&self, client: &Client, patience: Duration) {
        let name = &self.source.slot;
        let Ok(Some(holder)) = slot::holder(client, name).await else { return };
        self.say(format!(
            "The replication slot {name} is being read by {holder}: waits {} s for it, which is as long as the server \
             takes to notice a dead connection",
            patience.as_secs()
        ));
    }

    /// Why it does not stream yet. Somebody who waits for a person is not told something else.
    fn say(&self, reason: String) {
        self.status.source(|source| {
            if source.state != WAITING {
                source.reason = Some(reason);
            }
        });
    }
}

/// Of several hosts, each connection may find another one; what they say would not go together.
pub(crate) async fn same_server(client: &Client, connection: &mut Connection) -> Result<()> {
    let one = which_server(client).await?;
    let rows = connection.simple_query(WHICH_SERVER).await?;
    let other = rows.first().and_then(|row| row.first()).and_then(Option::as_deref);
    if other == Some(one.as_str()) {
        return Ok(());
    }
    Err(Error::transient("The SQL session and the replication connection have ended at two servers").hint(
        "Name each server in the source URL, postgres://USER@HOST1,HOST2/DATABASE, instead of an address that \
         spreads connections",
    ))
}

/// When the server was started, to the microsecond: no two were at once.
pub(crate) async fn which_server(client: &Client) -> Result<String> {
    let row = client.query_one(WHICH_SERVER, &[]).await;
    row.map(|row| row.get(0)).map_err(|error| sql_error("Cannot see which server this is", error))
}

pub(super) async fn identify_system(connection: &mut Connection) -> Result<System> {
    let rows = connection.simple_query("IDENTIFY_SYSTEM").await.map_err(no_replication)?;
    let row = rows.first().map(Vec::as_slice).unwrap_or_default();
    let text = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
    match (text(0).parse(), text(1).parse(), text(2).parse()) {
        (Ok(id), Ok(timeline), Ok(end)) => Ok(System { id, timeline, end }),
        _ => Err(Error::failed("IDENTIFY_SYSTEM gave no answer that can be understood")),
    }
}

/// Where the journal's timeline ended, if the server is on another one that came of it, as far as the server knows.
pub(super) async fn switched(
    connection: &mut Connection,
    stored: &StreamPosition,
    system: &System,
) -> Result<Option<Lsn>> {
    if stored.slot.is_empty() || stored.system != system.id || stored.timeline == system.timeline {
        return Ok(None);
    }
    // The first one comes of none: no file says so.
    if system.timeline == FIRST_TIMELINE {
        return Ok(None);
    }
    let rows = match connection.simple_query(&format!("TIMELINE_HISTORY {}", system.timeline)).await {
        Err(error) if slot::sqlstate(&error) == Some(NO_FILE) => return Ok(None),
        rows => rows?,
    };
    let history = rows.first().and_then(|row| row.get(1)).and_then(Option::as_deref);
    Ok(switch_point(history.unwrap_or_default(), stored.timeline))
}

/// Makes sure that replication commands are understood.
pub(crate) async fn replicates(connection: &mut Connection) -> Result<()> {
    identify_system(connection).await.map(drop)
}

/// A pooler may leave out what makes a session one for replication; then such commands are bad SQL.
fn no_replication(error: Error) -> Error {
    if slot::sqlstate(&error) != Some(SYNTAX) {
        return error;
    }
    let what = "What the source URL leads to is a connection pooler, which has made an ordinary session of the one for \
                replication";
    Error::refused(what).because(error).hint(NAME_THE_SERVER)
}

/// A standby that was started again may lie behind what it has sent before: that comes.
pub(super) fn caught_up(server: &Server, stored: &StreamPosition, system: &System) -> Result<()> {
    if !server.standby || stored.system != system.id || system.end >= stored.lsn {
        return Ok(());
    }
    let what = format!(
        "The standby has replayed its log up to {}, the journal stands at {}: waits until it has caught up",
        system.end, stored.lsn
    );
    Err(Error::transient(what).hint("See pg_stat_wal_receiver on the standby: it must be receiving"))
}
