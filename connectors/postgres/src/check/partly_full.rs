//! Partitions whose replica identity is not that of the root under whose name their changes come.

use std::collections::BTreeMap;

use rowcast_engine::Result;
use rowcast_engine::schema::Schema;
use tokio_postgres::Client;

use super::{NAMED_TABLES, Requirement, requirement};
use crate::config::Source;
use crate::setup::candidates::Table;
use crate::setup::publications;
use crate::setup::server::Server;
use crate::tables::qualified;
use crate::wire::sql_error;

/// FULL of a partitioned table is not that of its partitions, and a new one does not get it from there. One of which nothing
/// is logged of an old row has none to be told.
const KEYED: &str = "
with recursive below as (
    select c.oid as root, i.inhrelid as leaf from pg_class c join pg_inherits i on i.inhparent = c.oid
    where c.oid = any($1) and c.relkind = 'p' and c.relreplident = 'f'
    union all select b.root, i.inhrelid from below b join pg_inherits i on i.inhparent = b.leaf
)
select rn.nspname::text, r.relname::text, ln.nspname::text, l.relname::text
from below b join pg_class l on l.oid = b.leaf join pg_namespace ln on ln.oid = l.relnamespace
     join pg_class r on r.oid = b.root join pg_namespace rn on rn.oid = r.relnamespace
where l.relkind = 'r'
  and exists (select from pg_index i where i.indrelid = l.oid
              and case l.relreplident when 'd' then i.indisprimary and i.indimmediate
                                      when 'i' then i.indisreplident end)
order by 1, 2, 3, 4";

/// Roots of which old rows are told with their key alone, although they are FULL.
pub(super) async fn of_partitions(
    client: &Client,
    source: &Source,
    server: &Server,
    wanted: &[&Table],
) -> Result<Vec<Requirement>> {
    let publication = publications::read(client, server.version, &source.publication).await?;
    let theirs = publication.filter(|there| !(source.manage && there.ours));
    if !theirs.map_or(source.via_partition_root, |there| there.via_root) {
        return Ok(Vec::new());
    }
    let oids: Vec<u32> = wanted.iter().filter(|table| table.partitioned).map(|table| table.oid).collect();
    let rows = client.query(KEYED, &[&oids]).await;
    let rows = rows.map_err(|error| sql_error("Cannot compare replica identities of partitions", error))?;
    let mut keyed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in &rows {
        let root = Schema::channel_of(row.get(0), row.get(1));
        keyed.entry(root).or_default().push(qualified(row.get(2), row.get(3)));
    }
    Ok(keyed.into_iter().take(NAMED_TABLES).map(|(root, leaves)| of_root(&root, &leaves)).collect())
}

fn of_root(root: &str, leaves: &[String]) -> Requirement {
    let found = format!(
        "{root} has REPLICA IDENTITY FULL, and {} of its partitions have not: of old rows only the key is told",
        leaves.len()
    );
    let named = leaves.iter().take(NAMED_TABLES);
    let mut sql: Vec<String> =
        named.map(|leaf| format!("ALTER TABLE {leaf} REPLICA IDENTITY FULL;")).collect();
    if leaves.len() > NAMED_TABLES {
        sql.push("and so on".to_owned());
    }
    requirement("partitions of FULL", true, found, sql.join(" "))
}
