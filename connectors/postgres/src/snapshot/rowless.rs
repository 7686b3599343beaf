//! Which tables of a snapshot have no row to be read: they are dealt with first, so that the last table has a last row.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::job::Job;
use crate::tables::{literal, qualified};
use crate::wire::sql_error;

/// What is locked for longer is taken for a table with rows.
const LOCK_TIMEOUT: &str = "set lock_timeout = '1s'";

/// Of rows without a key none is read. Before version 18 generated columns are not published, and no key.
const KEYED: &str = "exists (select from pg_class c join pg_index i on i.indrelid = c.oid
    where c.oid = to_regclass({name}) and c.relreplident <> 'n' and i.indisvalid and i.indimmediate
      and case when c.relreplident = 'i' then i.indisreplident else i.indisprimary end
      and not exists (select from pg_attribute a
                      where a.attrelid = c.oid and a.attnum = any(i.indkey[0:i.indnkeyatts - 1])
                        and a.attgenerated <> '' and current_setting('server_version_num')::int < 180000))";

/// Jobs of these tables, in their order, with those marked that have no row.
pub(super) async fn rows_last(client: &Client, tables: Vec<(String, String)>) -> Vec<Job> {
    let mut jobs = Vec::new();
    let single = tables.len() == 1;
    // Places are the names': as with Debezium there is no first row when the table that comes first by name has none.
    for (place, (schema, table)) in (0..).zip(tables) {
        // That it cannot be seen now is no matter: then it is one with rows.
        let rowless = !single && !has_rows(client, &qualified(&schema, &table)).await.unwrap_or(true);
        jobs.push(Job { place, schema, table, rowless, ..Job::default() });
    }
    jobs
}

async fn has_rows(client: &Client, name: &str) -> Result<bool> {
    let failed = |error| sql_error("Cannot look for rows", error);
    client.batch_execute(LOCK_TIMEOUT).await.map_err(failed)?;
    let keyed = KEYED.replace("{name}", &literal(name));
    let sql = format!("select exists (select from {name}) and {keyed}");
    Ok(client.query_one(&sql, &[]).await.map_err(failed)?.get(0))
}
