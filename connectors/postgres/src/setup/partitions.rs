//! What version 14 does to partitions that are told under the name of their root.

use rowcast_engine::Result;
use rowcast_engine::schema::Schema;
use tokio_postgres::Client;

use super::publications::named;
use super::server::Server;
use super::trigger::SEES_PARTITIONS;
use crate::config::Source;
use crate::tables::identifier;
use crate::wire::sql_error;

/// Partitions whose columns stand in another place than their root's: their rows are converted
/// (`convert_tuples_by_name`, access/common/tupconvert.c).
const CONVERTED: &str = "
with recursive shown as (
    select distinct c.oid from pg_publication p join pg_publication_tables t on t.pubname = p.pubname
    join pg_class c on c.relname = t.tablename and c.relnamespace = to_regnamespace(quote_ident(t.schemaname))
    where p.pubname in ($1, $2) and p.pubviaroot and c.relkind = 'p'
), below as (
    select s.oid as root, s.oid as leaf from shown s
    union all select b.root, i.inhrelid from below b join pg_inherits i on i.inhparent = b.leaf
), tables as (
    select b.root, b.leaf from below b join pg_class c on c.oid = b.leaf where c.relkind = 'r'
), layouts as (
    select a.attrelid, array_agg(case when attisdropped then format('%s %s', attlen, attalign) else attname::text end
                                 order by attnum) as columns
    from pg_attribute a where attnum > 0 and attrelid in (select root from tables union select leaf from tables) group by 1
)
select n.nspname::text, c.relname::text, m.nspname::text, r.relname::text
from tables t join layouts of_leaf on of_leaf.attrelid = t.leaf join layouts of_root on of_root.attrelid = t.root
join pg_class c on c.oid = t.leaf join pg_namespace n on n.oid = c.relnamespace
join pg_class r on r.oid = t.root join pg_namespace m on m.oid = r.relnamespace
where of_leaf.columns <> of_root.columns order by 1, 2";

/// One of our publications for which it matters what is a partition of what, and how it shows partitions. A publication
/// for all tables that shows each leaf shows the same whatever the leaf is part of.
const TREES: &str = "
select p.pubname::text, p.pubviaroot
from pg_publication p
where p.pubname in ($1, $2)
  and case when p.puballtables
           then p.pubviaroot and exists (select from pg_class where relkind = 'p' and relpersistence = 'p')
           else exists (select from pg_publication_rel r join pg_class c on c.oid = r.prrelid
                        where r.prpubid = p.oid and c.relkind = 'p') end
order by p.pubname <> $1 limit 1";

/// What has version 14 look again at what is a partition of what; `None` where the server sees that by itself, or no tree is
/// published. Any change of a publication does it, so an option is set to what it is.
pub(crate) async fn unseen(client: &Client, source: &Source, server: &Server) -> Result<Option<String>> {
    if server.version >= SEES_PARTITIONS {
        return Ok(None);
    }
    let row = client.query_opt(TREES, &[&source.publication, &source.inserts]).await;
    let row = row.map_err(|error| sql_error("Cannot look for partitioned tables", error))?;
    Ok(row.map(|row| {
        let (name, root): (&str, bool) = (row.get(0), row.get(1));
        format!("ALTER PUBLICATION {} SET (publish_via_partition_root = {root});", identifier(name))
    }))
}

/// A partition whose rows version 14 may garble, and may end of itself by that: its walsender forgets how they are
/// converted when it learns, while it describes the table, that the table has changed. Told with its root, as channels,
/// and how many more there are.
pub(crate) async fn endangered(client: &Client, source: &Source, server: &Server) -> Result<Option<String>> {
    if server.version >= SEES_PARTITIONS {
        return Ok(None);
    }
    let rows = client.query(CONVERTED, &[&source.publication, &source.inserts]).await;
    let rows = rows.map_err(|error| sql_error("Cannot compare the columns of partitions", error))?;
    let told = rows.iter().map(|row| {
        let (leaf, root) = ((row.get(0), row.get(1)), (row.get(2), row.get(3)));
        format!("{} of {}", Schema::channel_of(leaf.0, leaf.1), Schema::channel_of(root.0, root.1))
    });
    Ok((!rows.is_empty()).then(|| named(told)))
}

/// What can be done about those.
pub(crate) const ENDANGERED: &str = "Have partitions told by their own names (source.via_partition_root = false), or upgrade \
    to PostgreSQL 15, or make such a partition anew with its columns in the order of its root's; where columns of the root \
    were dropped, the whole tree";
