//! The tables that could be captured, and whether their UPDATE and DELETE may be.

use std::collections::HashSet;

use rowcast_engine::Result;
use rowcast_engine::schema::Schema;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::server::{GENERATED_COLUMNS, INHERITED_BY_GRANT, LISTED_COLUMNS};
use crate::config::Source;
use crate::tables::{Tables, qualified};
use crate::wire::sql_error;

/// An ordinary or partitioned table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// Our role has its owner's rights.
    pub(crate) owned: bool,
    pub(crate) owner: String,
    /// That is a superuser, whose rights nobody should be given for the sake of a table: often it is an extension's.
    pub(crate) superusers: bool,
    /// Our role is a member of its owner's, and does not have the rights of that by itself.
    pub(crate) uninherited: bool,
    /// Our role may not use its schema, and so not name it.
    pub(crate) unusable: bool,
    /// Its replica identity, and that of all its partitions, identifies rows, also within the column list and row
    /// filter that somebody gave it. Otherwise a publication of updates would make the application's UPDATE and
    /// DELETE fail. Shown as its root, each partition has to identify rows by what identifies them in the root.
    pub(crate) identified: bool,
    /// Columns of its key, or of its partitions', that are not published: before version 18 generated ones, and those
    /// that a column list leaves out. What is left of such a key identifies nothing.
    pub(crate) hidden: Vec<String>,
    /// Its rows lie in its partitions.
    pub(crate) partitioned: bool,
    /// Partitioned tables above it.
    pub(crate) ancestors: Vec<u32>,
    /// Listed by name in the publication for all operations, in the one for inserts.
    pub(crate) in_all: bool,
    pub(crate) in_inserts: bool,
    /// Its column list there, as SQL; empty when it has none.
    pub(crate) written: String,
    /// It has a row filter there, whose text takes a lock on the table.
    pub(crate) filters: bool,
}

impl Table {
    /// For use in SQL.
    pub(crate) fn sql(&self) -> String {
        qualified(&self.schema, &self.name)
    }

    /// We may add it to a publication.
    pub(crate) fn is_ours(&self) -> bool {
        self.owned && !self.unusable
    }

    pub(crate) fn channel(&self) -> String {
        Schema::channel_of(&self.schema, &self.name)
    }

    /// A publication of updates makes the application's UPDATE and DELETE fail. That a generated column is not published
    /// is no reason for the server before version 18, unless it has a list to compare with.
    pub(crate) fn would_fail(&self) -> bool {
        !self.identified && (self.hidden.is_empty() || !self.written.is_empty())
    }

    /// What gives its events a key. With a column list, FULL identifies nothing for the server.
    pub(crate) fn hidden_remedy(&self) -> String {
        if self.written.is_empty() {
            return unpublished_remedy(&self.sql(), self.identified);
        }
        let other = unpublished_remedy(&self.sql(), true);
        format!("{other}, or take {} into the publication's column list", self.hidden.join(", "))
    }
}

/// What gives the events of a table a key, and as long as it has none, also its old rows.
pub(crate) fn unpublished_remedy(table: &str, whole: bool) -> String {
    let full = if whole { String::new() } else { format!(", or ALTER TABLE {table} REPLICA IDENTITY FULL;") };
    format!(
        "ALTER TABLE {table} REPLICA IDENTITY USING INDEX …; with a unique index of NOT NULL columns that are all \
         published{full}"
    )
}

/// Says the same as the view of migration V9 and the functions of V2, V12 and V13, which look after tables where an event
/// trigger may; this one also serves where nothing may be created. `$3`: trees are shown as their root.
/// `$4`: stored generated columns are published. What hangs on the whole of a tree is worked out for all of them at once:
/// for each by itself it would take the square of what there is.
const QUERY: &str = "
with recursive below as (
    select oid as root, oid as leaf from pg_class where relkind = 'p'
    union all select b.root, i.inhrelid from below b join pg_inherits i on i.inhparent = b.leaf
    where not i.inhdetachpending
), trees as materialized (
    select root, leaf from below
    union all select oid, oid from pg_class where relkind = 'r'
), identity as materialized (
    select c.oid, c.relkind as kind, c.relreplident = 'f' as whole,
           case when c.relreplident = 'f' then
               (select array_agg(a.attname::text) from pg_attribute a
                where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                having count(*) filter (where a.attgenerated = 'v') = 0)
           else
               (select array(select a.attname::text from pg_attribute a
                             where a.attrelid = c.oid and a.attnum = any(i.indkey[0:i.indnkeyatts - 1]))
                from pg_index i
                where i.indrelid = c.oid and i.indisvalid and i.indimmediate
                  and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident end
                  and not exists (select from pg_attribute a
                                  where a.attrelid = c.oid and a.attnum = any(i.indkey[0:i.indnkeyatts - 1])
                                    and a.attgenerated <> '' and not $4))
           end as columns,
           (select array(select a.attname::text from pg_attribute a
                         where a.attrelid = c.oid and a.attnum = any(i.indkey[0:i.indnkeyatts - 1]))
            from pg_index i
            where i.indrelid = c.oid and i.indisprimary and i.indisvalid and i.indimmediate) as key
    from pg_class c
    where c.relkind in ('r', 'p')
), members as materialized (
    select distinct on (r.prrelid) r.prrelid, bool_or(p.pubname = $1) over places as in_all,
           bool_or(p.pubname = $2) over places as in_inserts, LISTS
    from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
    where p.pubname in ($1, $2)
    window places as (partition by r.prrelid)
    order by r.prrelid, p.pubname <> $1
), judged as materialized (
    select own.oid,
           (not $3 or bool_and(own.columns is not null)) and coalesce(bool_and(
               leaf.columns is not null
               and (m.listed is null or not leaf.whole and leaf.columns <@ m.listed)
               and (m.filtered is null or m.filtered <@ leaf.columns)
               and (not $3 or leaf.whole or coalesce(
                    case when own.whole then own.key else own.columns end <@ leaf.columns, false)))
               filter (where leaf.kind = 'r'), true) as identified
    from trees t join identity own on own.oid = t.root join identity leaf on leaf.oid = t.leaf
    left join members m on m.prrelid = t.root
    group by own.oid
), unpublished as materialized (
    select t.root, array_agg(distinct a.attname::text order by a.attname::text) as columns
    from trees t join pg_class k on k.oid = t.leaf join pg_index i on i.indrelid = k.oid
    join pg_attribute a on a.attrelid = k.oid and a.attnum = any(i.indkey[0:i.indnkeyatts - 1])
    left join members m on m.prrelid = t.root
    where i.indisvalid and i.indimmediate
      and case k.relreplident when 'i' then i.indisreplident when 'n' then false else i.indisprimary end
      and (a.attgenerated <> '' and not $4 or not a.attname::text = any(m.listed))
    group by t.root
)
select c.oid, n.nspname::text as schema, c.relname::text as name, pg_has_role(c.relowner, 'USAGE') as owned,
       pg_get_userbyid(c.relowner)::text as owner,
       exists (select from pg_roles o where o.oid = c.relowner and o.rolsuper) as superusers,
       pg_has_role(c.relowner, 'MEMBER') and not pg_has_role(c.relowner, 'USAGE')
           and (current_setting('server_version_num')::int >= INHERITED_BY_GRANT
                or not (select rolinherit from pg_roles where rolname = current_user)) as uninherited,
       not has_schema_privilege(n.oid, 'USAGE') as unusable,
       own.identified, coalesce(hidden.columns, '{}') as hidden,
       c.relkind = 'p' as partitioned,
       array(select a.relid::oid from pg_partition_ancestors(c.oid) a where a.relid <> c.oid) as ancestors,
       coalesce(m.in_all, false) as in_all, coalesce(m.in_inserts, false) as in_inserts,
       coalesce(m.written, '') as written, m.filtered is not null as filters
from pg_class c join pg_namespace n on n.oid = c.relnamespace join judged own on own.oid = c.oid
left join unpublished hidden on hidden.root = c.oid
left join members m on m.prrelid = c.oid
where c.relpersistence = 'p' and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'rowcast')
order by n.nspname, c.relname";

/// Column list and row filter of a publication's member, by names, and the list as it is written. The publication depends
/// once on a column for its list, and once for its filter.
const LISTS: &str = "
    (select array_agg(a.attname::text) from pg_attribute a
     where a.attrelid = r.prrelid and a.attnum = any(r.prattrs)) as listed,
    case when r.prqual is not null then array(
        select a.attname::text from pg_depend d
        join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
        where d.classid = 'pg_publication_rel'::regclass and d.objid = r.oid
          and d.refclassid = 'pg_class'::regclass and d.refobjid = r.prrelid and d.refobjsubid > 0
        group by a.attname, a.attnum
        having count(*) > case when a.attnum = any(r.prattrs) then 1 else 0 end) end as filtered,
    coalesce((select ' (' || string_agg(quote_ident(a.attname), ', ' order by a.attnum) || ')' from pg_attribute a
              where a.attrelid = r.prrelid and a.attnum = any(r.prattrs)), '') as written";

/// Before version 15 a publication has neither.
const NO_LISTS: &str = "null::text[] as listed, null::text[] as filtered, '' as written";

/// All tables outside system schemas.
pub(crate) async fn read(client: &Client, source: &Source, version: u32) -> Result<Vec<Table>> {
    let failed = |error| sql_error("Cannot list the tables", error);
    let sql = QUERY
        .replace("LISTS", if version >= LISTED_COLUMNS { LISTS } else { NO_LISTS })
        .replace("INHERITED_BY_GRANT", &INHERITED_BY_GRANT.to_string());
    let generated = version >= GENERATED_COLUMNS;
    let parameters: [&(dyn ToSql + Sync); 4] =
        [&source.publication, &source.inserts, &source.via_partition_root, &generated];
    let rows = client.query(&sql, &parameters).await.map_err(failed)?;
    let table = |row: &tokio_postgres::Row| {
        Ok(Table {
            oid: row.try_get("oid")?,
            schema: row.try_get("schema")?,
            name: row.try_get("name")?,
            owned: row.try_get("owned")?,
            owner: row.try_get("owner")?,
            superusers: row.try_get("superusers")?,
            uninherited: row.try_get("uninherited")?,
            unusable: row.try_get("unusable")?,
            identified: row.try_get("identified")?,
            hidden: row.try_get("hidden")?,
            partitioned: row.try_get("partitioned")?,
            ancestors: row.try_get("ancestors")?,
            in_all: row.try_get("in_all")?,
            in_inserts: row.try_get("in_inserts")?,
            written: row.try_get("written")?,
            filters: row.try_get("filters")?,
        })
    };
    rows.iter().map(table).collect::<Result<_, _>>().map_err(failed)
}

/// What has to change so that the publications hold what is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In no publication yet.
    pub(crate) new: Vec<Table>,
    /// In the wrong one: they move to the one that their identity allows.
    pub(crate) moved: Vec<Table>,
    /// Not wanted (any more).
    pub(crate) unwanted: Vec<Table>,
    /// Wanted and not ours to add (`foreign.rs`).
    pub(crate) foreign: Vec<Table>,
}

impl Plan {
    pub(crate) fn is_empty(&self) -> bool {
        self.new.is_empty() && self.moved.is_empty() && self.unwanted.is_empty()
    }
}

/// Compares what is with what is wanted. A partition is captured through the topmost wanted table above it.
pub(crate) fn plan(tables: &[Table], wanted: &Tables) -> Plan {
    let matching: HashSet<u32> = tables
        .iter()
        .filter(|table| wanted.matches(&table.schema, &table.name))
        .map(|table| table.oid)
        .collect();
    let mut plan = Plan::default();
    for table in tables {
        let through = table.ancestors.iter().any(|oid| matching.contains(oid));
        let member = table.in_all || table.in_inserts;
        let is_wanted = matching.contains(&table.oid) && !through;
        if is_wanted && table.in_all && !table.is_ours() && table.would_fail() {
            // Its writers fail until it has left, and the other publication it may not be added to.
            plan.unwanted.push(Table { in_inserts: false, ..table.clone() });
            plan.foreign.push(Table { in_all: false, ..table.clone() });
            continue;
        }
        let list = match (is_wanted, member) {
            (false, false) => continue,
            (false, true) => &mut plan.unwanted,
            (true, _) if table.in_all == table.identified && table.in_inserts != table.identified => continue,
            (true, _) if !table.is_ours() => &mut plan.foreign,
            (true, false) => &mut plan.new,
            (true, true) => &mut plan.moved,
        };
        list.push(table.clone());
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(oid: u32, name: &str) -> Table {
        Table {
            oid,
            schema: "public".to_owned(),
            name: name.to_owned(),
            owned: true,
            identified: true,
            ..Table::default()
        }
    }

    fn names(tables: &[Table]) -> Vec<&str> {
        tables.iter().map(|table| table.name.as_str()).collect()
    }

    #[test]
    fn each_table_goes_where_its_identity_allows() {
        let tables = [
            table(1, "new"),
            Table { in_all: true, ..table(2, "settled") },
            Table { in_inserts: true, identified: false, ..table(3, "keyless") },
            Table { in_all: true, identified: false, ..table(4, "lost_its_key") },
            Table { in_inserts: true, ..table(5, "got_a_key") },
            Table { in_all: true, in_inserts: true, ..table(6, "in_both") },
            Table { owned: false, ..table(7, "foreign") },
            Table { unusable: true, ..table(10, "hidden") },
            Table { owned: false, in_all: true, identified: false, ..table(9, "theirs_lost_its_key") },
            Table { in_all: true, ..table(8, "secret") },
        ];
        let wanted = Tables::parse(&["public.*".to_owned()], &["public.secret".to_owned()]).unwrap();
        let plan = plan(&tables, &wanted);
        assert_eq!(names(&plan.new), ["new"]);
        assert_eq!(names(&plan.moved), ["lost_its_key", "got_a_key", "in_both"]);
        assert_eq!(names(&plan.unwanted), ["theirs_lost_its_key", "secret"]);
        assert_eq!(names(&plan.foreign), ["foreign", "hidden", "theirs_lost_its_key"]);
    }

    #[test]
    fn partitions_come_through_their_root() {
        let tables = [
            table(1, "root"),
            Table { ancestors: vec![1], ..table(2, "leaf") },
            Table { ancestors: vec![1], in_all: true, ..table(3, "listed_leaf") },
        ];
        let wanted = Tables::parse(&["*".to_owned()], &[]).unwrap();
        let all = plan(&tables, &wanted);
        assert_eq!((names(&all.new), names(&all.unwanted)), (vec!["root"], vec!["listed_leaf"]));
        let wanted = Tables::parse(&["public.leaf".to_owned()], &[]).unwrap();
        assert_eq!(names(&plan(&tables, &wanted).new), ["leaf"]);
    }
}
