//! The tables that are captured: those that our publications show and that are wanted, as the stream decides it.

use std::collections::BTreeMap;

use rowcast_engine::Result;
use rowcast_engine::schema::Schema;
use rowcast_engine::status::Captured;
use tokio_postgres::Client;

use super::published;
use crate::config::Source;
use crate::wire::sql_error;

struct Member {
    schema: String,
    name: String,
    inserts_only: bool,
}

/// Schema and name of each.
pub(crate) async fn names(client: &Client, source: &Source, version: u32) -> Result<Vec<(String, String)>> {
    let members = wanted(client, source, version).await?;
    Ok(members.into_iter().map(|member| (member.schema, member.name)).collect())
}

/// The same by channel, for the status.
pub(crate) async fn tables(
    client: &Client,
    source: &Source,
    version: u32,
) -> Result<BTreeMap<String, Captured>> {
    let members = wanted(client, source, version).await?;
    let by_channel = |Member { schema, name, inserts_only }: Member| {
        (Schema::channel_of(&schema, &name), Captured { inserts_only })
    };
    Ok(members.into_iter().map(by_channel).collect())
}

/// A leaf that is shown by itself may be wanted through a table above it, and be left out by its own name.
async fn wanted(client: &Client, source: &Source, version: u32) -> Result<Vec<Member>> {
    let sql = format!(
        "
        select t.schemaname::text, t.tablename::text, not bool_or(p.pubupdate and p.pubdelete), above.schemas, above.names
        from pg_publication p join {} t on t.pubname = p.pubname
        cross join lateral (
            select coalesce(array_agg(n.nspname::text order by c.oid), '{{}}') as schemas,
                   coalesce(array_agg(c.relname::text order by c.oid), '{{}}') as names
            from pg_class k join pg_namespace kn on kn.oid = k.relnamespace
            cross join lateral pg_partition_ancestors(k.oid) a
            join pg_class c on c.oid = a.relid join pg_namespace n on n.oid = c.relnamespace
            where (kn.nspname, k.relname) = (t.schemaname, t.tablename)) above
        where p.pubname in ($1, $2) group by 1, 2, 4, 5",
        published::tables(version)
    );
    let rows = client
        .query(&sql, &[&source.publication, &source.inserts])
        .await
        .map_err(|error| sql_error("Cannot list the tables of the publications", error))?;
    let members = rows.iter().filter_map(|row| {
        let (schema, name): (String, String) = (row.get(0), row.get(1));
        let above: Vec<String> = row.get(3);
        let mut tree: Vec<(String, String)> = above.into_iter().zip(row.get::<_, Vec<String>>(4)).collect();
        tree.push((schema.clone(), name.clone()));
        let wanted = source.tables.takes(&schema, &name, &tree);
        wanted.then(|| Member { schema, name, inserts_only: row.get(2) })
    });
    Ok(members.collect())
}

/// Says which tables are named and not there, or that there are none.
pub(crate) fn warn_missing(source: &Source, tables: &BTreeMap<String, Captured>) {
    for (schema, table) in source.tables.exact() {
        let channel = Schema::channel_of(schema, table);
        if !tables.contains_key(&channel) {
            tracing::warn!(table = channel, "The table does not exist or is not captured yet");
        }
    }
    if tables.is_empty() {
        tracing::warn!(
            hint = "Say which with --tables, as in --tables 'public.*' (source.tables), or create them: new ones \
                    that match are captured by themselves, with source.manage = false those in the publication; \
                    rowcast check shows what matches",
            "No table is captured: none matches source.tables, or the database has none"
        );
    }
}
