//! The tables that could be captured, and whether their UPDATE and DELETE may be.

use std::collections::HashSet;

use rowcast_engine::Result;
use rowcast_engine::schema::Schema;
use tokio_postgres::Client;

use crate::config::Source;
use crate::tables::{Tables, qualified};
use crate::wire::sql_error;

/// An ordinary or partitioned table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// We may add it to a publication.
    pub(crate) owned: bool,
    pub(crate) owner: String,
    /// Its replica identity, and that of all its partitions, identifies rows. Without one, a publication of updates
    /// would make the application's UPDATE and DELETE fail.
    pub(crate) identified: bool,
    /// Partitioned tables above it.
    pub(crate) ancestors: Vec<u32>,
    /// Listed by name in the publication for all operations, in the one for inserts.
    pub(crate) in_all: bool,
    pub(crate) in_inserts: bool,
}

impl Table {
    /// For use in SQL.
    pub(crate) fn sql(&self) -> String {
        qualified(&self.schema, &self.name)
    }

    pub(crate) fn channel(&self) -> String {
        Schema::channel_of(&self.schema, &self.name)
    }
}

/// A deferrable or invalid index is no replica identity. FULL contains virtual generated columns (18 and later),
/// which are never published, so that the server would refuse every UPDATE.
const QUERY: &str = "
with tables as (
    select c.oid, n.nspname::text as schema, c.relname::text as name, c.relkind, c.relowner,
           case c.relreplident
               when 'f' then not exists (select from pg_attribute a where a.attrelid = c.oid and a.attnum > 0
                                         and not a.attisdropped and a.attgenerated = 'v')
               when 'n' then false
               else exists (select from pg_index i where i.indrelid = c.oid and i.indisvalid and i.indimmediate
                            and case c.relreplident when 'd' then i.indisprimary else i.indisreplident end)
           end as identified
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and c.relpersistence = 'p'
      and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'rowcast')
)
select t.oid, t.schema, t.name, pg_has_role(t.relowner, 'USAGE') as owned,
       pg_get_userbyid(t.relowner)::text as owner,
       t.identified and (t.relkind = 'r' or not exists (
           select from pg_partition_tree(t.oid) p join tables l on l.oid = p.relid
           where p.isleaf and not l.identified)) as identified,
       array(select a.relid::oid from pg_partition_ancestors(t.oid) a where a.relid <> t.oid) as ancestors,
       exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
               where r.prrelid = t.oid and p.pubname = $1) as in_all,
       exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
               where r.prrelid = t.oid and p.pubname = $2) as in_inserts
from tables t
order by t.schema, t.name";

/// All tables outside system schemas.
pub(crate) async fn read(client: &Client, source: &Source) -> Result<Vec<Table>> {
    let failed = |error| sql_error("Cannot list the tables", error);
    let rows = client.query(QUERY, &[&source.publication, &source.inserts]).await.map_err(failed)?;
    let table = |row: &tokio_postgres::Row| {
        Ok(Table {
            oid: row.try_get("oid")?,
            schema: row.try_get("schema")?,
            name: row.try_get("name")?,
            owned: row.try_get("owned")?,
            owner: row.try_get("owner")?,
            identified: row.try_get("identified")?,
            ancestors: row.try_get("ancestors")?,
            in_all: row.try_get("in_all")?,
            in_inserts: row.try_get("in_inserts")?,
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
    /// Wanted and not ours to add.
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
        let list = match (matching.contains(&table.oid) && !through, member) {
            (false, false) => continue,
            (false, true) => &mut plan.unwanted,
            (true, _) if table.in_all == table.identified && table.in_inserts != table.identified => continue,
            (true, _) if !table.owned => &mut plan.foreign,
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
            Table { in_all: true, ..table(8, "secret") },
        ];
        let wanted = Tables::parse(&["public.*".to_owned()], &["public.secret".to_owned()]).unwrap();
        let plan = plan(&tables, &wanted);
        assert_eq!(names(&plan.new), ["new"]);
        assert_eq!(names(&plan.moved), ["lost_its_key", "got_a_key", "in_both"]);
        assert_eq!(names(&plan.unwanted), ["secret"]);
        assert_eq!(names(&plan.foreign), ["foreign"]);
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
