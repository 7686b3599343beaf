//! Which tables of a snapshot have no row to be read: they are dealt with first, so that the last table has a last row. And
//! which have no key: they come next, so that little has been told of them since the snapshot was wanted.

use std::collections::BTreeMap;

use rowcast_engine::{Lsn, Result};
use tokio_postgres::{Client, Row};

use super::job::{Job, Progress};
use super::server::has_rows;
use crate::tables::qualified;
use crate::wire::sql_error;

/// What is looked up of a table before its turn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    /// By which it is found again under another name.
    oid: u32,
    pub(super) keyless: bool,
}

impl Found {
    /// The progress of one of which nothing has been read, in a history.
    pub(super) fn progress(self, history: Lsn) -> Progress {
        Progress { relation: self.oid, history, ..Progress::default() }
    }
}

/// Jobs of these tables, in their order but those without a key first, with those marked that have no row. `history`: that of
/// the stream.
pub(crate) async fn rows_last(
    client: &Client,
    mut tables: Vec<(String, String)>,
    history: Lsn,
) -> Result<Vec<Job>> {
    let found = look_up(client, &tables).await?;
    let of = |table: &(String, String)| found.get(table).copied().unwrap_or_default();
    let mut jobs = Vec::new();
    let single = tables.len() == 1;
    tables.sort_by_key(|table| !of(table).keyless);
    // As with Debezium there is no first row when the table that comes first has none.
    for (place, table) in (0..).zip(tables) {
        let found = of(&table);
        let (keyless, progress) = (found.keyless, found.progress(history));
        let (schema, table) = table;
        // That it cannot be seen now is no matter: then it is one with rows.
        let rowless = !single && !has_rows(client, &qualified(&schema, &table)).await.unwrap_or(true);
        jobs.push(Job { place, schema, table, rowless, keyless, progress, ..Job::default() });
    }
    Ok(jobs)
}

/// Their OIDs, and whether nothing tells their rows apart. Which columns are published is not looked at: a table whose key is
/// not is read in one piece, too, but in the turn of those that have one.
pub(super) async fn look_up(
    client: &Client,
    tables: &[(String, String)],
) -> Result<BTreeMap<(String, String), Found>> {
    let sql = "select n.nspname, c.relname, c.oid,
                      not exists (select from pg_index i where i.indrelid = c.oid and i.indisvalid and
                          case c.relreplident when 'i' then i.indisreplident when 'n' then false else i.indisprimary end)
               from unnest($1::text[], $2::text[]) t (schema, name)
               join pg_namespace n on n.nspname = t.schema join pg_class c on c.relnamespace = n.oid and c.relname = t.name";
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        tables.iter().map(|(schema, table)| (schema.as_str(), table.as_str())).unzip();
    let failed = |error| sql_error("Cannot look for tables without a key", error);
    let rows = client.query(sql, &[&schemas, &names]).await.map_err(failed)?;
    let found = |row: &Row| ((row.get(0), row.get(1)), Found { oid: row.get(2), keyless: row.get(3) });
    Ok(rows.iter().map(found).collect())
}
