//! Tables of which somebody has chosen columns or rows in a publication of ours. The choice goes with the membership, when
//! one of its columns is dropped with CASCADE, or when the table is not wanted for a while. So it is remembered that there
//! was one (migration V14): without it the table would show what was left out, so only a person puts it back.

use std::collections::{BTreeMap, HashMap};

use rowcast_engine::Result;
use tokio_postgres::{Client, Row};

use super::candidates::Table;
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
    let tables: Vec<u32> = new.iter().map(|table| table.oid).collect();
    let rows = client.query(RECALL, &[&source.slot, &tables]).await;
    let rows = rows.map_err(|error| sql_error("Cannot look for column lists and row filters", error))?;
    let had: HashMap<u32, &Row> = rows.iter().map(|row| (row.get("relation"), row)).collect();
    let withheld = new.extract_if(.., |table| had.contains_key(&table.oid));
    Ok(withheld
        .filter_map(|table| Some((table.channel(), why(source, &table, had.get(&table.oid)?))))
        .collect())
}

fn why(source: &Source, table: &Table, had: &Row) -> String {
    let columns = match (had.get("listed"), had.get::<_, Option<&str>>("columns")) {
        (false, _) => String::new(),
        (true, columns) => format!(" ({})", columns.unwrap_or("…")),
    };
    let (filters, inserts): (bool, bool) = (had.get("filters"), had.get("inserts"));
    let publication = if inserts || !table.identified { &source.inserts } else { &source.publication };
    format!(
        "it had a column list or a row filter, and has left its publication with that (a column of it was dropped, say). \
         Put back without, it might show what was left out, so that is for you: ALTER PUBLICATION {} ADD TABLE ONLY \
         {}{columns}{}; or leave it out (source.exclude)",
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
