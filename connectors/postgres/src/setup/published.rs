//! What publications show, read without a lock on any table.
//!
//! From version 16 on `pg_publication_tables` opens every table that it lists. A commit that waits for rowcast, which may
//! be the synchronous standby, holds its locks until it has been read: who waited for them would wait for ever.

/// From here on tables are published by their schema, too.
pub(crate) const BY_SCHEMA: u32 = 150_000;

/// From here on the server's own view takes locks.
const VIEW_LOCKS: u32 = 160_000;

/// As the view has it (`pg_get_publication_tables`, catalog/pg_publication.c): `pubname`, `schemaname`, `tablename`,
/// `attnames`, `rowfilter`. OIDs below 16384 are the server's own. What a member says of columns and rows counts for nothing
/// where it is published by its schema, too. A row filter's text takes a lock on its table: only who asks for it waits.
const TABLES: &str = "(
    select p.pubname, n.nspname as schemaname, c.relname as tablename,
           array(select a.attname from pg_attribute a
                 where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                   and case when r.prattrs is not null then a.attnum = any(r.prattrs)
                            else a.attgenerated = '' or a.attgenerated = 's' and to_jsonb(p) ->> 'pubgencols' = 's' end
                 order by a.attnum) as attnames,
           pg_get_expr(r.prqual, r.prrelid) as rowfilter
    from pg_publication p
    cross join lateral (
        with listed as materialized (
            select m.prrelid as oid from pg_publication_rel m where m.prpubid = p.oid
            union
            select t.oid from pg_publication_namespace s join pg_class t on t.relnamespace = s.pnnspid where s.pnpubid = p.oid
            union
            select t.oid from pg_class t where p.puballtables
        )
        select t.oid, t.relname, t.relnamespace from pg_class t
        where t.relkind in ('r', 'p') and t.relpersistence = 'p' and t.oid >= 16384
          and case when p.pubviaroot then t.oid in (select l.oid from listed l) else t.relkind = 'r' end
          and case when t.relispartition then p.pubviaroot <> exists (
                       select from pg_partition_ancestors(t.oid) a
                       where a.relid in (select l.oid from listed l) and not (p.pubviaroot and a.relid = t.oid))
                   else t.oid in (select l.oid from listed l) end
    ) c
    join pg_namespace n on n.oid = c.relnamespace
    left join pg_publication_rel r on r.prpubid = p.oid and r.prrelid = c.oid and not p.puballtables
                                   and not exists (select from pg_publication_namespace s
                                                   where s.pnpubid = p.oid and s.pnnspid = c.relnamespace))";

/// What to select from, in place of the view.
pub(crate) fn tables(version: u32) -> &'static str {
    if version >= VIEW_LOCKS { TABLES } else { "pg_publication_tables" }
}
