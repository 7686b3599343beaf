//! Which tables of a snapshot have no row to be read: they are dealt with first, so that the last table has a last row. And
//! which have no key: they come next, so that little has been told of them since the snapshot was wanted.

use std::collections::BTreeMap;

use rowcast_engine::{Lsn, Result};
use tokio_postgres::{Client, Row};

use super::job::{Job, Progress};
use super::server::have_rows;
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
    publications: [&str; 2],
) -> Result<Vec<Job>> {
    let found = look_up(client, &tables, publications).await?;
    let of = |table: &(String, String)| found.get(table).copied().unwrap_or_default();
    let mut jobs = Vec::new();
    let single = tables.len() == 1;
    tables.sort_by_key(|table| !of(table).keyless);
    let sources: Vec<String> = tables.iter().map(|(schema, table)| qualified(schema, table)).collect();
    let have_rows = if single { vec![true] } else { have_rows(client, &sources).await };
    // As with Debezium there is no first row when the table that comes first has none.
    for ((place, table), has_rows) in (0..).zip(tables).zip(have_rows) {
        let found = of(&table);
        let (keyless, progress) = (found.keyless, found.progress(history));
        let (schema, table) = table;
        jobs.push(Job { place, schema, table, rowless: !has_rows, keyless, progress, ..Job::default() });
    }
    Ok(jobs)
}

/// Whether nothing tells the rows of `c` apart, in events as in snapshots: the key is no key for the server (DEFERRABLE, but
/// where all of an old row is logged), or a part of it is not published.
const KEYLESS: &str = "
not exists (
    select from pg_index i
    where i.indrelid = c.oid and i.indisvalid and (i.indimmediate or c.relreplident = 'f')
      and case c.relreplident when 'i' then i.indisreplident when 'n' then false else i.indisprimary end
      and not exists (
          select from pg_attribute a
          where a.attrelid = c.oid and a.attnum = any(i.indkey[0:i.indnkeyatts - 1])
            and not case when m.list <> 'null' then m.list @> to_jsonb(a.attnum)
                         else a.attgenerated = '' or a.attgenerated = 's' and coalesce(m.generated, '') = 's' end))";

/// By which publication a table is sent: its column list, where it has one, and whether generated columns are.
const MEMBER: &str = "
select to_jsonb(p) ->> 'pubgencols' as generated, to_jsonb(r) -> 'prattrs' as list
from pg_publication p left join pg_publication_rel r on r.prpubid = p.oid and r.prrelid = c.oid
where p.pubname::text = any($3::text[]) and (p.puballtables or r.oid is not null)
order by r.oid is null limit 1";

/// Their OIDs, and whether nothing tells their rows apart.
pub(super) async fn look_up(
    client: &Client,
    tables: &[(String, String)],
    publications: [&str; 2],
) -> Result<BTreeMap<(String, String), Found>> {
    let sql = format!(
        "select n.nspname, c.relname, c.oid, {KEYLESS}
         from unnest($1::text[], $2::text[]) t (schema, name)
         join pg_namespace n on n.nspname = t.schema join pg_class c on c.relnamespace = n.oid and c.relname = t.name
         left join lateral ({MEMBER}) m on true"
    );
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        tables.iter().map(|(schema, table)| (schema.as_str(), table.as_str())).unzip();
    let failed = |error| sql_error("Cannot look for tables without a key", error);
    let rows = client.query(&sql, &[&schemas, &names, &publications.as_slice()]).await.map_err(failed)?;
    let found = |row: &Row| ((row.get(0), row.get(1)), Found { oid: row.get(2), keyless: row.get(3) });
    Ok(rows.iter().map(found).collect())
}
