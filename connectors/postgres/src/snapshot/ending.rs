//! Whether the last row of a table is the last one of its whole snapshot.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::job::{Job, Jobs};
use super::task::Surroundings;
use crate::tables::qualified;
use crate::wire::sql_error;

/// So many tables that are left are looked into: they are looked at one by one.
const LOOKED_INTO: usize = 200;

/// The table has a key, which is what a snapshot needs.
const CAN_BE_READ: &str = "
select c.relkind = 'p' from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p') and exists (
    select from pg_index i
    where i.indrelid = c.oid and i.indisvalid and i.indimmediate
      and case c.relreplident when 'i' then i.indisreplident when 'n' then false else i.indisprimary end)";

/// Whether no other table of the snapshot has anything to be read, as it looks now.
pub(super) async fn is_last(client: &Client, around: &Surroundings, job: &Job) -> Result<bool> {
    let (jobs, mine) = (Jobs::read(&around.journal.notes())?, job.note());
    let left =
        jobs.tables.into_iter().filter(|(note, other)| other.snapshot == job.snapshot && *note != mine);
    let left: Vec<Job> = left.map(|(_, other)| other).collect();
    if left.len() > LOOKED_INTO {
        return Ok(false);
    }
    for other in left {
        if other.progress.rows > 0 || has_rows(client, &other).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn has_rows(client: &Client, job: &Job) -> Result<bool> {
    let failed = |error| sql_error(format!("Cannot look into {}", job.channel()), error);
    let found = client.query_opt(CAN_BE_READ, &[&job.schema, &job.table]).await.map_err(failed)?;
    let Some(found) = found else { return Ok(false) };
    let only = if found.get(0) { "" } else { "only " };
    let filter = job.condition.as_ref().map_or(String::new(), |sql| format!(" where ({sql}\n)"));
    let sql = format!("select exists (select from {only}{}{filter})", qualified(&job.schema, &job.table));
    Ok(client.query_one(&sql, &[]).await.map_err(failed)?.get(0))
}
