//! Making a slot: it waits for every transaction that is running, and says which.

use std::time::Duration;

use rowcast_engine::{Error, Lsn, Result};
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use super::server::{FAILOVER_SLOTS, Server};
use super::slot::sqlstate;
use crate::config::Source;
use crate::tables::identifier;
use crate::wire::{Connection, sql_error};

/// How many of the transactions in the way are named.
const BLOCKERS: i64 = 5;

/// When we are gone, the server notices it so soon although it waits for a lock; without this it would go on
/// waiting, with a slot that nobody has asked for any more. Not every platform can: then `lock_timeout` ends it.
const NOTICE_OUR_END: &str = "SET client_connection_check_interval = '1s'";

/// Between two looks whether the server still makes it.
const PROBE_EVERY: Duration = Duration::from_secs(10);

/// What a command gives.
type Rows = Vec<Vec<Option<String>>>;

/// What became of it.
pub(crate) enum Made {
    /// It shows changes from here on.
    At(Lsn),
    /// Transactions in the way did not end in time. There is no slot, and it may be tried again.
    Blocked(Error),
}

/// Makes the slot, waiting for transactions in the way as long as the configuration says.
pub(crate) async fn create(
    connection: &mut Connection,
    client: &Client,
    server: &Server,
    source: &Source,
) -> Result<Made> {
    if let Err(error) = connection.simple_query(NOTICE_OUR_END).await {
        tracing::debug!("The server cannot notice that a client is gone: {error}");
    }
    // No statement_timeout holds for replication commands, but this does. The statement also starts the clock of
    // the setting before it.
    let timeout = source.lock_timeout.as_millis();
    connection.simple_query(&format!("SET lock_timeout = {timeout}")).await?;
    let rows = match watched(connection, client, &command(server, source)).await {
        Ok(rows) => rows,
        Err(error) => return explain(error, client, source).await,
    };
    connection.simple_query("RESET lock_timeout; RESET client_connection_check_interval").await?;
    rows.first()
        .and_then(|row| row.get(1)?.as_deref()?.parse().ok())
        .map(Made::At)
        .ok_or_else(|| Error::failed("CREATE_REPLICATION_SLOT gave no position"))
}

/// Making it may take any time. Whether it still goes on is asked over another session, whose answers may not.
async fn watched(connection: &mut Connection, client: &Client, command: &str) -> Result<Rows> {
    let pid = connection.process_id();
    let mut making = std::pin::pin!(connection.patient_query(command));
    loop {
        tokio::select! {
            made = &mut making => return made,
            () = sleep(PROBE_EVERY) => {}
        }
        let failed = |error| sql_error("Cannot see whether the replication slot is still being made", error);
        // Idle: the command has not reached the server, or its answer has not reached us.
        let goes_on = "select exists (select from pg_stat_activity
                                      where pid = $1 and coalesce(state, 'active') = 'active')";
        let row = client.query_one(goes_on, &[&pid]).await.map_err(failed)?;
        if row.get::<_, bool>(0) {
            continue;
        }
        // It may have ended just now.
        return timeout(PROBE_EVERY, making).await.unwrap_or_else(|_| {
            Err(Error::transient(
                "The server does not make the replication slot any more, and has not said what came of it",
            ))
        });
    }
}

fn command(server: &Server, source: &Source) -> String {
    let options = if source.failover && server.version >= FAILOVER_SLOTS {
        "(SNAPSHOT 'nothing', FAILOVER)"
    } else {
        // As versions before 15 read it, and all later ones.
        "NOEXPORT_SNAPSHOT"
    };
    format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput {options}", identifier(&source.slot))
}

async fn explain(error: Error, client: &Client, source: &Source) -> Result<Made> {
    let name = &source.slot;
    match sqlstate(&error) {
        Some("53400") => Err(none_free(name)),
        Some("55P03") => {
            let blockers = blockers(client).await.unwrap_or_default();
            let what = format!(
                "Cannot create the replication slot {name}: transactions that began before are still running{blockers}"
            );
            Ok(Made::Blocked(Error::transient(what).hint(
                "End them (COMMIT; ROLLBACK PREPARED 'GID'; SELECT pg_terminate_backend(PID);): it is tried again. Where commits \
                 wait for rowcast itself, it comes into synchronous_standby_names when it has its slot",
            )))
        }
        _ => Err(error),
    }
}

/// The error where the server has no slot left.
pub(super) fn none_free(name: &str) -> Error {
    let what = format!("Cannot create the replication slot {name}: all that the server has are in use");
    Error::refused(what).hint(slots_remedy())
}

pub(crate) fn slots_remedy() -> String {
    "Raise max_replication_slots (restart needed), or drop one seen unused in pg_replication_slots: \
     select pg_drop_replication_slot('NAME')"
        .to_owned()
}

/// The oldest transactions, for people. Never what they are doing: statements hold values.
async fn blockers(client: &Client) -> Result<String> {
    let sql = "
        with running (since, text) as (
            select xact_start, format('process %s of %s%s (%s)', pid, coalesce(usename::text, 'nobody'),
                   coalesce(', application ' || nullif(application_name, ''), ''),
                   case when wait_event = 'SyncRep' then 'its commit waits for a standby: synchronous_standby_names'
                        else coalesce(state, 'not shown') end)
            from pg_stat_activity where backend_xid is not null and pid <> pg_backend_pid()
            union all
            select prepared, format('prepared transaction %L of %s in database %s', gid, owner, database)
            from pg_prepared_xacts
        )
        select text, round(extract(epoch from clock_timestamp() - since))::int8, count(*) over ()
        from running order by since nulls last limit $1";
    let failed = |error| sql_error("Cannot list running transactions", error);
    let rows = client.query(sql, &[&BLOCKERS]).await.map_err(failed)?;
    let told = |row: &tokio_postgres::Row| match row.get::<_, Option<i64>>(1) {
        Some(seconds) => format!("{}, for {}", row.get::<_, &str>(0), lasting(seconds)),
        None => row.get(0),
    };
    let mut texts: Vec<String> = rows.iter().map(told).collect();
    let more = rows.first().map_or(0, |row| row.get::<_, i64>(2)) - BLOCKERS;
    if more > 0 {
        texts.push(format!("{more} more"));
    }
    Ok(if texts.is_empty() { String::new() } else { format!(": {}", texts.join("; ")) })
}

pub(super) fn lasting(seconds: i64) -> String {
    let seconds = u64::try_from(seconds).unwrap_or(0).max(1);
    let unit = match seconds {
        0..120 => 1,
        120..7200 => 60,
        _ => 3600,
    };
    // Whole units of the largest that says enough: 90s, 17min, 49h.
    rowcast_engine::units::show_time(Duration::from_secs(seconds / unit * unit))
}

/// Has the server's standbys keep a copy of the slot, or not, as configured. Nobody may be reading it.
pub(crate) async fn set_failover(connection: &mut Connection, source: &Source) -> Result<()> {
    let sql = format!("ALTER_REPLICATION_SLOT {} (FAILOVER {})", identifier(&source.slot), source.failover);
    connection.simple_query(&sql).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn later_servers_are_asked_for_more() {
        let config = Config { url: "postgres://me@h/db".to_owned(), ..Config::default() };
        let source = Source::new(&config).unwrap();
        let of = |version| command(&Server { version, ..Server::default() }, &source);
        assert_eq!(of(160_000), "CREATE_REPLICATION_SLOT \"rowcast\" LOGICAL pgoutput NOEXPORT_SNAPSHOT");
        assert!(of(170_000).ends_with("LOGICAL pgoutput (SNAPSHOT 'nothing', FAILOVER)"));
        let without = Source { failover: false, ..source.clone() };
        assert!(
            command(&Server { version: 170_000, ..Server::default() }, &without)
                .ends_with("NOEXPORT_SNAPSHOT")
        );
    }

    #[test]
    fn lengths_of_time_for_people() {
        assert_eq!([31, 150, 86_500, -1].map(lasting), ["31s", "2min", "1d", "1s"]);
    }
}
