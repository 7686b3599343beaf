//! Tables of which somebody has chosen columns or rows in a publication of ours. The choice goes with the membership, when
//! one of its columns is dropped with CASCADE, or when the table is not wanted for a while. So it is remembered that there
//! was one (migration V14): without it the table would show what was left out, so only a person puts it back.

use std::collections::{BTreeMap, HashMap};

use rowcast_engine::Result;
use tokio_postgres::{Client, Row};

use super::candidates::{self, Table};
use super::publications;
use super::server::{LISTED_COLUMNS, Server};
use crate::config::Source;
use crate::tables::identifier;
use crate::wire::sql_error;

/// A table that somebody has put back without either is as he wants it.
const REMEMBER: &str = "
with members as (
    select r.prrelid as relation, r.prattrs::int2[] as columns, r.prqual is not null as filters, p.pubname <> $2 as inserts
    from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
    where p.pubname in ($2, $3)
), given_up as (
    delete from rowcast.chosen c
    where c.slot = $1 and (
        not exists (select from pg_class t where t.oid = c.relation)
        or (select bool_and(m.columns is null and not m.filters) from members m where m.relation = c.relation))
)
insert into rowcast.chosen as c (slot, relation, columns, filters, inserts)
select distinct on (m.relation) $1, m.relation, m.columns, m.filters, m.inserts
from members m where m.columns is not null or m.filters
order by m.relation, m.inserts
on conflict (slot, relation) do update
set columns = excluded.columns, filters = excluded.filters, inserts = excluded.inserts
where (c.columns, c.filters, c.inserts) is distinct from (excluded.columns, excluded.filters, excluded.inserts)";

pub(crate) const WHY: &str = "it had a column list or a row filter, and has left its publication with that (a column of it was \
                              dropped, say)";

/// What is left of the column list. A row filter's text is nowhere any more.
const RECALL: &str = "
select c.relation, c.columns is not null as listed,
       (select string_agg(quote_ident(a.attname), ', ' order by a.attnum) from pg_attribute a
        where a.attrelid = c.relation and a.attnum = any(c.columns) and not a.attisdropped) as columns,
       c.filters, c.inserts
from rowcast.chosen c where c.slot = $1 and c.relation = any($2)";

/// Notes which members have a column list or a row filter now.
///
/// # Errors
///
/// When the server cannot be asked, or does not take it.
pub(super) async fn remember(client: &Client, source: &Source, server: &Server) -> Result<()> {
    if server.version < LISTED_COLUMNS {
        return Ok(());
    }
    let noted = client.execute(REMEMBER, &[&source.slot, &source.publication, &source.inserts]).await;
    let failed = |error| sql_error("Cannot note which tables have a column list or a row filter", error);
    noted.map(drop).map_err(failed)
}

/// Takes those out of `new` that had one, and tells why they are not captured, by channel.
///
/// # Errors
///
/// When the server cannot be asked.
pub(super) async fn withhold(
    client: &Client,
    source: &Source,
    server: &Server,
    new: &mut Vec<Table>,
) -> Result<BTreeMap<String, String>> {
    if server.version < LISTED_COLUMNS || new.is_empty() {
        return Ok(BTreeMap::new());
    }
    let had = recall(client, source, new).await?;
    let withheld = new.extract_if(.., |table| had.contains_key(&table.oid));
    let told = withheld.filter_map(|table| {
        let remedy = remedy(source, &table, had.get(&table.oid)?);
        Some((
            table.channel(),
            format!("{WHY}. Put back without, it might show what was left out, so that is for you: {remedy}"),
        ))
    });
    Ok(told.collect())
}

/// Those that are withheld now, for `rowcast check`: channel and remedy. None where nobody keeps that list, or our role may
/// not see it.
///
/// # Errors
///
/// When the server cannot be asked.
pub(crate) async fn withheld(
    client: &Client,
    source: &Source,
    server: &Server,
    tables: &[Table],
) -> Result<Vec<(String, String)>> {
    let failed = |error| sql_error("Cannot look for column lists and row filters", error);
    let kept = publications::read(client, server.version, &source.publication).await?;
    if !source.manage || !kept.is_some_and(|there| there.is_kept(source)) {
        return Ok(Vec::new());
    }
    let there =
        client.query_one("select to_regclass('rowcast.chosen') is not null", &[]).await.map_err(failed)?;
    if !there.get::<_, bool>(0) || !super::may_read(client, "chosen").await.map_err(failed)? {
        return Ok(Vec::new());
    }
    let new = candidates::plan(tables, &source.tables).new;
    let had = recall(client, source, &new).await?;
    let told =
        new.iter().filter_map(|table| Some((table.channel(), remedy(source, table, had.get(&table.oid)?))));
    Ok(told.collect())
}

/// Which of these had one, by table.
async fn recall(client: &Client, source: &Source, new: &[Table]) -> Result<HashMap<u32, Row>> {
    let tables: Vec<u32> = new.iter().map(|table| table.oid).collect();
    let rows = client.query(RECALL, &[&source.slot, &tables]).await;
    let rows = rows.map_err(|error| sql_error("Cannot look for column lists and row filters", error))?;
    Ok(rows.into_iter().map(|row| (row.get("relation"), row)).collect())
}

/// What puts it back as it was.
fn remedy(source: &Source, table: &Table, had: &Row) -> String {
    let columns = match (had.get("listed"), had.get::<_, Option<&str>>("columns")) {
        (false, _) => String::new(),
        (true, columns) => format!(" ({})", columns.unwrap_or("…")),
    };
    let (filters, inserts): (bool, bool) = (had.get("filters"), had.get("inserts"));
    let publication = if inserts || !table.identified { &source.inserts } else { &source.publication };
    format!(
        "ALTER PUBLICATION {} ADD TABLE ONLY {}{columns}{}; or leave it out (source.exclude)",
        identifier(publication),
        table.sql(),
        if filters { " WHERE (…)" } else { "" }
    )
}

/// Says it of those of which it was not said before.
pub(super) fn tell(withheld: &BTreeMap<String, String>, before: &BTreeMap<String, String>) {
    for (table, why) in withheld.iter().filter(|(table, _)| !before.contains_key(*table)) {
        tracing::warn!(table, "The table is not captured any more: {why}");
    }
}
