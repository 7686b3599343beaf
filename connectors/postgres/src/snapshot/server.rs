//! What a reader of a table asks of the server beside its rows.

use rowcast_engine::Result;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

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
