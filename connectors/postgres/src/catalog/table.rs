//! What the catalog says of a table itself.

use rowcast_engine::{Error, Result};
use serde::Deserialize;
use tokio_postgres::Row;

use super::statements::Asked;
use crate::setup::published::BY_SCHEMA;
use crate::wire::sql_error;

/// As of now. All empty for a table that is gone.
#[derive(Debug, Default)]
pub(super) struct TableFacts {
    pub(super) database: String,
    /// Schema and name of the table and of the partitioned tables above it.
    pub(super) names: Vec<(String, String)>,
    /// Columns with NOT NULL that no row was spared: from version 18 on it may be NOT VALID.
    pub(super) not_null: Vec<String>,
    /// Columns of the primary key, in key order.
    pub(super) primary: Vec<String>,
    /// Columns of the index named by REPLICA IDENTITY USING INDEX, in key order.
    pub(super) identity: Vec<String>,
    /// Columns of the first unique index that has nothing but plain columns, by name of the index.
    pub(super) unique: Vec<String>,
    /// Unique indexes with columns that are not published.
    pub(super) hidden: Vec<HiddenKey>,
    /// No publication sends its updates and deletes.
    pub(super) inserts_only: bool,
    /// As it is seen, some publication sends it.
    pub(super) published: bool,
    /// Of some of its partitions only a key is logged of an old row, where its own identity is FULL.
    pub(super) partly_whole: bool,
}

/// A unique index of which the stream shows a part, which identifies no row.
#[derive(Debug, Deserialize)]
pub(super) struct HiddenKey {
    pub(super) primary: bool,
    /// What is published of it.
    pub(super) shown: Vec<String>,
    /// What is not: generated columns, and those that a column list leaves out.
    pub(super) hidden: Vec<String>,
}

/// Of a table that is published by its schema, from version 15 on.
const IN_SCHEMA: &str = "exists (select from pg_publication_namespace s join tree on tree.relnamespace = s.pnnspid where s.pnpubid = p.oid)";

/// Arrays come back for every table, found or not; `$1` is its OID, `$2` the publications, `$3`: its identity is said to be FULL.
/// It takes no table's lock: see `setup/published.rs`.
const QUERY: &str = "
with recursive below as (
    select i.inhrelid as oid from pg_inherits i join pg_class c on c.oid = i.inhparent
    where i.inhparent = $1 and c.relkind = 'p' and ($3 or c.relreplident = 'f')
    union all select i.inhrelid from below b join pg_inherits i on i.inhparent = b.oid
), key_columns as (
    select i.indexrelid, c.relname, i.indisprimary, i.indisreplident,
           i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null as plain,
           array(select a.attname::text
                 from unnest(i.indkey) with ordinality k(attnum, place)
                 join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                 where k.place <= i.indnkeyatts
                 order by k.place) as columns
    from pg_index i join pg_class c on c.oid = i.indexrelid
    where i.indrelid = $1
), tree as (
    select n.nspname::text as schema, c.relname::text as name, c.oid, c.relnamespace
    from (select $1::oid as oid union select relid::oid from pg_partition_ancestors($1::oid::regclass)) t
    join pg_class c on c.oid = t.oid
    join pg_namespace n on n.oid = c.relnamespace
), members as materialized (
    select p.pubupdate and p.pubdelete as changes, to_jsonb(p) ->> 'pubgencols' as generated,
           (select to_jsonb(r) -> 'prattrs' from pg_publication_rel r where r.prpubid = p.oid and r.prrelid = $1) as list
    from pg_publication p
    where p.pubname::text = any($2)
      and (p.puballtables or IN_SCHEMA
           or exists (select from pg_publication_rel r join tree on tree.oid = r.prrelid where r.prpubid = p.oid))
), unpublished as (
    select a.attnum, a.attname::text as name
    from pg_attribute a left join (select generated, list from members order by list is null or list = 'null' limit 1) m on true
    where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
      and not case when m.list <> 'null' then m.list @> to_jsonb(a.attnum)
                   else a.attgenerated = '' or a.attgenerated = 's' and coalesce(m.generated, '') = 's' end
), hidden_keys as (
    select k.indisprimary as primary,
           array(select name from unnest(k.columns) name where name not in (select u.name from unpublished u)) as shown,
           array(select name from unnest(k.columns) name where name in (select u.name from unpublished u)) as hidden
    from key_columns k
    where k.plain and k.columns && array(select name from unpublished)
)
select current_database()::text as database,
       array(select schema from tree) as schemas,
       array(select name from tree) as names,
       array(select attname::text from pg_attribute
             where attrelid = $1 and attnum > 0 and attnotnull and not attisdropped
               and not exists (select from pg_constraint where conrelid = attrelid and contype = 'n'
                                                           and conkey = array[attnum] and not convalidated)) as not_null,
       coalesce((select columns from key_columns where indisprimary limit 1), '{}') as primary_key,
       coalesce((select columns from key_columns where indisreplident limit 1), '{}') as identity_key,
       coalesce((select columns from key_columns where plain and not indisprimary order by relname limit 1),
                '{}') as unique_key,
       coalesce((select json_agg(h order by h.primary desc) from hidden_keys h), '[]')::text as hidden,
       not exists (select from members where changes) as inserts_only,
       exists (select from members) as published,
       exists (select from below b join pg_class c on c.oid = b.oid join pg_index i on i.indrelid = c.oid
               where c.relkind = 'r' and case c.relreplident when 'd' then i.indisprimary and i.indimmediate
                                                             when 'i' then i.indisreplident end) as partly_whole";

pub(super) async fn read(
    asked: Asked<'_>,
    (relation, is_full): (u32, bool),
    publications: &[String],
    version: u32,
) -> Result<TableFacts> {
    let failed = |error| sql_error(super::CANNOT_READ, error);
    let sql = QUERY.replace("IN_SCHEMA", if version >= BY_SCHEMA { IN_SCHEMA } else { "false" });
    let row = asked.query_one(&sql, &[&relation, &publications, &is_full]).await.map_err(failed)?;
    let hidden = serde_json::from_str(row.try_get("hidden").map_err(failed)?).map_err(|error| {
        Error::failed("A table's keys in the catalog cannot be understood").because(error)
    })?;
    of_row(&row, hidden).map_err(failed)
}

fn of_row(row: &Row, hidden: Vec<HiddenKey>) -> Result<TableFacts, tokio_postgres::Error> {
    let schemas: Vec<String> = row.try_get("schemas")?;
    let names: Vec<String> = row.try_get("names")?;
    Ok(TableFacts {
        database: row.try_get("database")?,
        inserts_only: row.try_get::<_, bool>("inserts_only")? && !names.is_empty(),
        published: row.try_get("published")?,
        partly_whole: row.try_get("partly_whole")?,
        names: schemas.into_iter().zip(names).collect(),
        not_null: row.try_get("not_null")?,
        primary: row.try_get("primary_key")?,
        identity: row.try_get("identity_key")?,
        unique: row.try_get("unique_key")?,
        hidden,
    })
}
