//! What the stream would say of a table: its Relation message, made from the catalog, for tables that it has not
//! described.

use futures_util::future::join3;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

use super::statements::Asked;
use crate::setup::published;
use crate::setup::server::{GENERATED_COLUMNS, LISTED_COLUMNS};

/// A table as its publication shows it.
#[derive(Debug)]
pub(super) struct Published {
    /// The body of a Relation message.
    pub(super) message: Vec<u8>,
    /// The condition of its publications: rows that one of them sends.
    pub(super) filter: Option<String>,
    /// It has partitions.
    pub(super) partitioned: bool,
    /// `pg_class.reltuples`, or that of its partitions together.
    pub(super) estimate: u64,
}

/// The columns. The identity's are those that the server would log of an old row.
const COLUMNS: &str = "
select a.attname::text as name, a.atttypid as type, a.atttypmod as typmod, a.attgenerated::text as generated,
       case c.relreplident
           when 'f' then true
           when 'n' then false
           else exists (select from pg_index i where i.indrelid = c.oid and i.indisvalid and i.indimmediate
                        and case c.relreplident when 'd' then i.indisprimary else i.indisreplident end
                        and a.attnum = any(i.indkey[0:i.indnkeyatts - 1]))
       end as identity
from pg_attribute a join pg_class c on c.oid = a.attrelid
where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
order by a.attnum";

/// ANALYZE of a partitioned table counts its rows for itself, too: what the leaves have been found to have together is
/// newer, and its own count is taken only where nothing is known of them (-1).
const TABLE: &str = "
select n.nspname::text as schema, c.relname::text as name, c.relreplident::text as identity, c.relkind = 'p' as partitioned,
       greatest(coalesce((
           select sum(l.reltuples::float8) from pg_partition_tree(c.oid) p join pg_class l on l.oid = p.relid
           where c.relkind = 'p' and p.isleaf and l.reltuples > 0), c.reltuples), 0)::int8 as estimate
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.oid = $1";

/// `None` when the table is gone, has another name, or is in none of the publications.
pub(super) async fn read(
    asked: Asked<'_>,
    (relation, (schema, name)): (u32, (&str, &str)),
    publications: &[String],
    version: u32,
) -> Result<Option<Published>, Error> {
    let lists =
        if version >= LISTED_COLUMNS { "attnames::text[], rowfilter" } else { "null::text[], null::text" };
    let published = format!(
        "select {lists}, p.pubinsert from {} t join pg_publication p using (pubname)
         where pubname::text = any($1) and schemaname = $2 and tablename = $3 order by pubname",
        published::tables(version)
    );
    let params: [&(dyn ToSql + Sync); 3] = [&publications, &schema, &name];
    // All at once: each would have to go to the server and back.
    let (table, members, columns) = join3(
        asked.query_opt(TABLE, &[&relation]),
        asked.query(&published, &params),
        asked.query(COLUMNS, &[&relation]),
    )
    .await;
    let (table, members, mut columns) = (table?, members?, columns?);
    let is_it = |table: &Row| (table.get("schema"), table.get("name")) == (schema, name);
    let (Some(table), Some(member)) = (table.filter(is_it), members.first()) else { return Ok(None) };
    let list: Option<Vec<String>> = member.get(0);
    columns.retain(|column| is_published(column, list.as_deref(), version));
    let mut message = vec![b'R'];
    message.extend_from_slice(&relation.to_be_bytes());
    for text in [schema, name] {
        message.extend_from_slice(text.as_bytes());
        message.push(0);
    }
    message.extend_from_slice(table.get::<_, &str>("identity").as_bytes());
    message.extend_from_slice(&u16::try_from(columns.len()).unwrap_or(u16::MAX).to_be_bytes());
    for column in &columns {
        message.push(u8::from(column.get::<_, bool>("identity")));
        message.extend_from_slice(column.get::<_, &str>("name").as_bytes());
        message.push(0);
        message.extend_from_slice(&column.get::<_, u32>("type").to_be_bytes());
        message.extend_from_slice(&column.get::<_, i32>("typmod").to_be_bytes());
    }
    Ok(Some(Published {
        message,
        filter: filter(&members),
        partitioned: table.get("partitioned"),
        estimate: u64::try_from(table.get::<_, i64>("estimate")).unwrap_or(0),
    }))
}

/// Of a table without a list all columns but generated ones are.
fn is_published(column: &Row, list: Option<&[String]>, version: u32) -> bool {
    let (name, generated): (&str, &str) = (column.get("name"), column.get("generated"));
    match list {
        None => generated.is_empty(),
        // Generated columns are in the list from 18 on, where they are published.
        Some(list) => {
            let may_be = generated.is_empty() || version >= GENERATED_COLUMNS && generated == "s";
            may_be && list.iter().any(|listed| listed == name)
        }
    }
}

/// A row comes when one of the publications that send its insert lets it; one without a condition lets all. Where none
/// sends inserts, those count that send what becomes of the rows.
fn filter(members: &[Row]) -> Option<String> {
    let sends = |member: &&Row| member.get::<_, bool>(2);
    let all = members.iter().any(|member| sends(&member));
    let filters = members.iter().filter(|member| !all || sends(member)).map(|member| member.get(1));
    let filters: Vec<String> = filters.collect::<Option<_>>()?;
    Some(filters.iter().map(|filter| format!("({filter}\n)")).collect::<Vec<_>>().join(" or "))
}
