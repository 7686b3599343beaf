//! Which tables of a snapshot have no row to be read: they are dealt with first, so that the last table has a last row. And
//! which have no key: they come next, so that little has been told of them since the snapshot was wanted.

use std::collections::BTreeSet;

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::job::Job;
use super::server::has_rows;
use crate::tables::qualified;
use crate::wire::sql_error;

/// Jobs of these tables, in their order but those without a key first, with those marked that have no row.
pub(crate) async fn rows_last(client: &Client, mut tables: Vec<(String, String)>) -> Result<Vec<Job>> {
    let keyless = keyless(client, &tables).await?;
    let mut jobs = Vec::new();
    let single = tables.len() == 1;
    tables.sort_by_key(|table| !keyless.contains(table));
    // As with Debezium there is no first row when the table that comes first has none.
    for (place, table) in (0..).zip(tables) {
        let keyless = keyless.contains(&table);
        let (schema, table) = table;
        // That it cannot be seen now is no matter: then it is one with rows.
        let rowless = !single && !has_rows(client, &qualified(&schema, &table)).await.unwrap_or(true);
        jobs.push(Job { place, schema, table, rowless, keyless, ..Job::default() });
    }
    Ok(jobs)
}

/// Those of which nothing tells the rows apart. Which of its columns are published is not looked at: a table whose key is
/// not is read in one piece, too, but in the turn of those that have one.
pub(super) async fn keyless(
    client: &Client,
    tables: &[(String, String)],
) -> Result<BTreeSet<(String, String)>> {
    let sql = "select n.nspname, c.relname from unnest($1::text[], $2::text[]) t (schema, name)
               join pg_namespace n on n.nspname = t.schema join pg_class c on c.relnamespace = n.oid and c.relname = t.name
               where not exists (select from pg_index i where i.indrelid = c.oid and i.indisvalid and
                   case c.relreplident when 'i' then i.indisreplident when 'n' then false else i.indisprimary end)";
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        tables.iter().map(|(schema, table)| (schema.as_str(), table.as_str())).unzip();
    let failed = |error| sql_error("Cannot look for tables without a key", error);
    let rows = client.query(sql, &[&schemas, &names]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
