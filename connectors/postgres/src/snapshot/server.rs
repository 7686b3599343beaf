//! What a reader of a table asks of the server beside its rows.

use std::time::Duration;

use futures_util::{StreamExt, pin_mut, stream};
use rowcast_engine::Result;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::job::Job;
use crate::wire::sql_error;

pub(super) async fn oid(client: &Client, job: &Job) -> Result<Option<u32>> {
    let sql = "select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
               where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p')";
    let failed = |error| sql_error(format!("Cannot find {}", job.channel()), error);
    let row = client.query_opt(sql, &[&job.schema, &job.table]).await.map_err(failed)?;
    Ok(row.map(|row| row.get(0)))
}

/// Schema and name of a table, by its OID.
pub(super) async fn name_of(client: &Client, oid: u32) -> Result<Option<(String, String)>> {
    let sql = "select n.nspname::text, c.relname::text
               from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = $1";
    let row = client.query_opt(sql, &[&oid]).await;
    let row = row.map_err(|error| sql_error("Cannot read what a table is called", error))?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

/// Whoever wants the table for himself waits meanwhile, and so do all who come behind him: a table whose rows are all dead
/// and not vacuumed yet is gone through to its end.
const LOOK_LIMITS: &str = "set lock_timeout = '1s'; set statement_timeout = '1s'";

/// Whether there is a row. What cannot be looked at in time counts as one; the session is limited from here on.
pub(super) async fn has_rows(client: &Client, source: &str) -> Result<bool> {
    let failed = |error| sql_error(format!("Cannot look for rows in {source}"), error);
    client.batch_execute(LOOK_LIMITS).await.map_err(failed)?;
    let found = client.query_one(&format!("select exists (select from {source})"), &[]).await;
    match found {
        Err(error) if matches!(error.code().map(SqlState::code), Some("57014" | "55P03")) => Ok(true),
        found => Ok(found.map_err(failed)?.get(0)),
    }
}

/// So many questions are on their way at once: each would have to go to the server and back before the next one.
const LOOKS_AT_ONCE: usize = 200;

/// Of many, who holds one is not waited for long.
const LOOKS_LIMITS: &str = "set lock_timeout = '50ms'; set statement_timeout = '1s'";

/// All of them together take no longer: meanwhile no order is heard.
const LOOKS_MAX: Duration = Duration::from_secs(5);

/// Whether there is a row, of each of these. What cannot be looked at, or not in time, counts as one; the session is of no other
/// use from here on.
pub(super) async fn have_rows(client: &Client, sources: &[String]) -> Vec<bool> {
    let mut found = Vec::new();
    let look = async {
        client.batch_execute(LOOKS_LIMITS).await?;
        let has_rows = async |source: &String| {
            let said = client.simple_query(&format!("select exists (select from {source})")).await;
            let is_empty = |said: &SimpleQueryMessage| matches!(said, SimpleQueryMessage::Row(row) if row.get(0) == Some("f"));
            said.map_or(true, |said| !said.iter().any(is_empty))
        };
        let looks = stream::iter(sources).map(has_rows).buffered(LOOKS_AT_ONCE);
        pin_mut!(looks);
        while let Some(has_rows) = looks.next().await {
            found.push(has_rows);
        }
        Ok::<_, tokio_postgres::Error>(())
    };
    // What is wrong with the server is said by whoever reads the rows.
    let _ = timeout(LOOKS_MAX, look).await;
    found.resize(sources.len(), true);
    found
}

/// What a server does that is to send something.
pub(super) enum Nudged {
    Written,
    /// It can write nothing; and why what is waited for has not been replayed.
    Standby(&'static str),
}

/// Has the server write and send something; it changes nothing.
pub(super) async fn nudge(client: &Client) -> Result<Nudged> {
    let failed = |error| sql_error("Cannot have the server send its position", error);
    let sql = "select case when pg_is_in_recovery() then pg_get_wal_replay_pause_state() <> 'not paused' end,
                      exists (select from pg_stat_wal_receiver),
                      case when not pg_is_in_recovery()
                           then pg_logical_emit_message(true, 'rowcast.heartbeat', '') end";
    let row = client.query_one(sql, &[]).await.map_err(failed)?;
    Ok(match (row.get(0), row.get(1)) {
        (None, _) => Nudged::Written,
        (Some(true), _) => Nudged::Standby("The standby's replay is paused: SELECT pg_wal_replay_resume();"),
        (_, false) => Nudged::Standby(
            "The standby receives nothing (pg_stat_wal_receiver is empty), and goes on when its archive brings more: \
             see primary_conninfo and the standby's log",
        ),
        (_, true) => Nudged::Standby(
            "The standby has not replayed yet what it had received when rows were read: see pg_stat_wal_receiver and \
             recovery_min_apply_delay",
        ),
    })
}
