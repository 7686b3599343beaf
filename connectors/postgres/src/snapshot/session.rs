//! What a reader asks of the server beside rows.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::job::Job;
use crate::conninfo::Conninfo;
use crate::wire::{sql_client, sql_error};

/// The table's OID, where there is one.
pub(super) async fn oid(client: &Client, job: &Job) -> Result<Option<u32>> {
    let sql = "select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
               where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p')";
    let failed = |error| sql_error(format!("Cannot find {}", job.channel()), error);
    let row = client.query_opt(sql, &[&job.schema, &job.table]).await.map_err(failed)?;
    Ok(row.map(|row| row.get(0)))
}

/// The process of the server that serves a session.
pub(super) async fn backend(client: &Client) -> Result<i32> {
    let failed = |error| sql_error("Cannot ask for the session's number", error);
    Ok(client.query_one("select pg_backend_pid()", &[]).await.map_err(failed)?.get(0))
}

/// Another session, in place of one that is to send no more.
pub(super) async fn instead_of(backend: i32, info: &Conninfo) -> Result<Client> {
    let client = sql_client(info).await?;
    let failed = |error| sql_error("Cannot end a read that is too large", error);
    client.execute("select pg_cancel_backend($1)", &[&backend]).await.map_err(failed)?;
    Ok(client)
}

/// Has the server write and send something; it changes nothing.
pub(super) async fn nudge(client: &Client) -> Result<()> {
    let failed = |error| sql_error("Cannot have the server send its position", error);
    client
        .execute("select pg_logical_emit_message(true, 'rowcast.heartbeat', '')", &[])
        .await
        .map(drop)
        .map_err(failed)
}
