//! A table without a key: rows that nothing tells apart cannot be read beside a stream that changes them.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::job::Job;
use super::task::Surroundings;
use crate::capture::now;
use crate::tables::qualified;
use crate::wire::sql_error;

const DETAIL: &str =
    "The table has no key by which a snapshot could tell its rows apart: those of before are in no event";

/// Tells readers that rows are missing, if there are any, and forgets the wish.
pub(super) async fn give_up(client: &Client, around: &Surroundings, job: &Job) -> Result<()> {
    let (channel, table) = (job.channel(), qualified(&job.schema, &job.table));
    if has_rows(client, job).await? {
        tracing::warn!(
            table = channel,
            hint = format!("ALTER TABLE {table} ADD PRIMARY KEY (…), of columns that are all published"),
            "There is no snapshot of a table without a key: its rows so far are told as a gap"
        );
        around.journal.record_gap_for(&job.sinks, &channel, ("no_key", DETAIL), now()).await?;
        around.status.note_dropped(&channel, "has no key by which a snapshot could tell its rows apart");
    }
    around.journal.note(&[(&job.note(), b"")]).await
}

/// What is empty now has lost nothing: the stream began before, with all that was still open then.
async fn has_rows(client: &Client, job: &Job) -> Result<bool> {
    let failed = |error| sql_error(format!("Cannot look into {}", job.channel()), error);
    // Where a policy hides rows, they cannot be ruled out.
    let sql = "select c.relkind = 'p', c.relrowsecurity from pg_class c join pg_namespace n on n.oid = c.relnamespace
               where n.nspname = $1 and c.relname = $2";
    let found = client.query_opt(sql, &[&job.schema, &job.table]).await.map_err(failed)?;
    let Some(found) = found else { return Ok(false) };
    let (partitioned, hidden): (bool, bool) = (found.get(0), found.get(1));
    let only = if partitioned { "" } else { "only " };
    let sql = format!("select exists (select from {only}{})", qualified(&job.schema, &job.table));
    Ok(hidden || client.query_one(&sql, &[]).await.map_err(failed)?.get(0))
}
