//! In which order a key's values stand: that of its index, by the operators of the index.
//!
//! The operator that a plain `>` finds need not be that of the type's order: a search path without the type's schema
//! finds `text`'s for `citext`, and none for `ltree`. Two orders in one query would skip rows.

use rowcast_engine::{Error, Result};
use tokio_postgres::Row;

use super::statements::Asked;
use crate::tables::{identifier, literal};
use crate::wire::sql_error;

/// A key's columns, in its order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KeyOrder(Vec<Column>);

#[derive(Debug, PartialEq, Eq)]
struct Column {
    /// As the index has it: with the base type of a domain, and with the index's collation.
    sql: String,
    /// Qualified, without a length: what the key's text is read as.
    ty: String,
    is_array: bool,
    /// `operator(pg_catalog.<)` and so on.
    less: String,
    at_most: String,
    equal: String,
    at_least: String,
    greater: String,
    /// The collation, with its version, and an enum's labels: with others a value may stand elsewhere, or be none.
    values: String,
}

/// The columns of the index that makes `$2` the key of table `$1`.
const QUERY: &str = "
with chosen as (
    select i.* from pg_index i
    where i.indrelid = $1 and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
      and (select array_agg(a.attname::text order by a.attname::text collate \"C\") from pg_attribute a
           where a.attrelid = i.indrelid and a.attnum = any(i.indkey[0:i.indnkeyatts - 1]))
        = (select array_agg(name order by name collate \"C\") from unnest($2::text[]) name)
    order by i.indisreplident desc, i.indisprimary desc, i.indexrelid limit 1
), operators as (
    select m.amopfamily as family, m.amoplefttype as type, m.amopstrategy as strategy,
           format('operator(%I.%s)', n.nspname, o.oprname) as sql
    from pg_amop m join pg_am am on am.oid = m.amopmethod join pg_operator o on o.oid = m.amopopr
         join pg_namespace n on n.oid = o.oprnamespace
    where am.amname = 'btree' and m.amoplefttype = m.amoprighttype
)
select a.attname::text as name, format('%I.%I', tn.nspname, t.typname) as type, t.oid <> a.atttypid as is_domain,
       t.typcategory = 'A' as is_array,
       (select format('%I.%I', n.nspname, l.collname) from pg_collation l join pg_namespace n on n.oid = l.collnamespace
        where l.oid = k.coll and k.coll <> a.attcollation) as coll,
       concat_ws(' ',
           (select format('%I.%I %s', n.nspname, l.collname, l.collversion)
            from pg_collation l join pg_namespace n on n.oid = l.collnamespace where l.oid = k.coll),
           (select string_agg(quote_literal(e.enumlabel), ' ' order by e.enumsortorder)
            from pg_enum e where e.enumtypid = t.oid)) as values,
       array(select o.sql from operators o
             where o.family = c.opcfamily and o.type = c.opcintype and o.strategy between 1 and 5
             order by o.strategy) as operators
from chosen i
     cross join unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[]) k(attnum, class, coll)
     join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
     join pg_opclass c on c.oid = k.class
     cross join lateral (
         with recursive base as (
             select b.oid, b.typtype, b.typbasetype from pg_type b where b.oid = a.atttypid
             union all
             select b.oid, b.typtype, b.typbasetype from base d join pg_type b on d.typtype = 'd' and b.oid = d.typbasetype)
         select base.oid from base where base.typtype <> 'd') base
     join pg_type t on t.oid = base.oid
     join pg_namespace tn on tn.oid = t.typnamespace
order by array_position($2::text[], a.attname::text)";

/// Reads the order of a table's key.
///
/// # Errors
///
/// When there is no index of it that has an order.
pub(crate) async fn read(asked: Asked<'_>, relation: u32, key: &[String]) -> Result<KeyOrder> {
    let failed = |error| sql_error(super::CANNOT_READ, error);
    let rows = asked.query(QUERY, &[&relation, &key]).await.map_err(failed)?;
    let columns: Option<Vec<Column>> = rows.iter().map(column).collect();
    columns.filter(|columns| columns.len() == key.len()).map(KeyOrder).ok_or_else(|| {
        Error::refused(format!("The key ({}) has no B-tree index that gives its order", key.join(", ")))
            .hint("Give the table a primary key, or a replica identity, with a B-tree index")
    })
}

fn column(row: &Row) -> Option<Column> {
    let (name, ty): (&str, String) = (row.get("name"), row.get("type"));
    let mut sql = identifier(name);
    if row.get("is_domain") {
        sql = format!("({sql})::{ty}");
    }
    if let Some(collation) = row.get::<_, Option<&str>>("coll") {
        sql = format!("({sql}) collate {collation}");
    }
    let [less, at_most, equal, at_least, greater] =
        <[String; 5]>::try_from(row.get::<_, Vec<String>>("operators")).ok()?;
    let (is_array, values) = (row.get("is_array"), row.get("values"));
    Some(Column { sql, ty, is_array, less, at_most, equal, at_least, greater, values })
}

/// The operators that say that a row stands on one side of a key.
struct Beyond<'a> {
    /// Of its last column.
    last: &'a str,
    /// Of one before, whatever those behind it are.
    beyond: &'a str,
    /// What all those have in common.
    within: &'a str,
}

impl Column {
    fn literal(&self, value: &str) -> String {
        format!("{}::{}", literal(value), self.ty)
    }
}

impl KeyOrder {
    /// What stands behind `order by`.
    pub(crate) fn sorted(&self) -> String {
        let columns = self.0.iter().map(|column| format!("{} using {}", column.sql, column.less));
        columns.collect::<Vec<_>>().join(", ")
    }

    /// All that the place of a key depends on. Where it is another text, a key of before says nothing.
    pub(crate) fn described(&self) -> String {
        let column = |column: &Column| {
            let Column { sql, ty, less, values, .. } = column;
            format!("{sql} {ty} {less} {values}").trim_end().to_owned()
        };
        self.0.iter().map(column).collect::<Vec<_>>().join(", ")
    }

    /// The condition that a row stands behind this key; none for no key.
    pub(crate) fn behind(&self, key: &[String]) -> Option<String> {
        self.beyond(key, |column| Beyond {
            last: &column.greater,
            beyond: &column.greater,
            within: &column.at_least,
        })
    }

    /// The condition that it stands at this key or before it.
    pub(crate) fn up_to(&self, key: &[String]) -> Option<String> {
        self.beyond(key, |column| Beyond {
            last: &column.at_most,
            beyond: &column.less,
            within: &column.at_most,
        })
    }

    fn beyond<'a>(&'a self, key: &[String], of: impl Fn(&'a Column) -> Beyond<'a>) -> Option<String> {
        let (first, value) = self.0.first().zip(key.first())?;
        let last = of(first).last;
        // One comparison of rows, which an index follows, where one name is all their operators'.
        if self.0.iter().all(|column| of(column).last == last) {
            let columns: Vec<&str> = self.0.iter().map(|column| column.sql.as_str()).collect();
            let values: Vec<String> =
                self.0.iter().zip(key).map(|(column, value)| column.literal(value)).collect();
            return Some(format!("({}) {last} ({})", columns.join(", "), values.join(", ")));
        }
        let found = self.0.iter().zip(key).rev().fold(None, |found: Option<String>, (column, value)| {
            let (sql, value, Beyond { last, beyond, .. }) = (&column.sql, column.literal(value), of(column));
            Some(match found {
                None => format!("{sql} {last} {value}"),
                Some(found) => {
                    format!("({sql} {beyond} {value} or ({sql} {} {value} and {found}))", column.equal)
                }
            })
        });
        // For the index: everything on the other side of it can be left out.
        let within = of(first).within;
        found.map(|found| format!("({} {within} {} and {found})", first.sql, first.literal(value)))
    }

    /// The condition that a row has one of these keys.
    pub(crate) fn among(&self, keys: &[Vec<String>]) -> String {
        if let [column] = self.0.as_slice()
            && !column.is_array
        {
            let values: Vec<String> = keys.iter().flatten().map(|value| column.literal(value)).collect();
            return format!("{} {} any (array[{}])", column.sql, column.equal, values.join(", "));
        }
        let same = |key: &Vec<String>| {
            let equal = |(column, value): (&Column, &String)| {
                format!("{} {} {}", column.sql, column.equal, column.literal(value))
            };
            let all: Vec<String> = self.0.iter().zip(key).map(equal).collect();
            format!("({})", all.join(" and "))
        };
        format!("({})", keys.iter().map(same).collect::<Vec<_>>().join(" or "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, schema: &str, ty: &str) -> Column {
        let operator = |sign: &str| format!("operator({schema}.{sign})");
        Column {
            sql: name.to_owned(),
            ty: format!("{schema}.{ty}"),
            is_array: false,
            less: operator("<"),
            at_most: operator("<="),
            equal: operator("="),
            at_least: operator(">="),
            greater: operator(">"),
            values: String::new(),
        }
    }

    fn key(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn one_operator_for_a_whole_key_or_one_for_each_column() {
        let both = KeyOrder(vec![column("a", "pg_catalog", "int4"), column("b", "pg_catalog", "text")]);
        assert_eq!(both.sorted(), "a using operator(pg_catalog.<), b using operator(pg_catalog.<)");
        assert_eq!(
            both.behind(&key(&["1", "x'"])).unwrap(),
            "(a, b) operator(pg_catalog.>) ('1'::pg_catalog.int4, 'x'''::pg_catalog.text)"
        );
        let mixed = KeyOrder(vec![column("a", "pg_catalog", "int4"), column("b", "public", "citext")]);
        assert_eq!(
            mixed.behind(&key(&["1", "x"])).unwrap(),
            "(a operator(pg_catalog.>=) '1'::pg_catalog.int4 and (a operator(pg_catalog.>) '1'::pg_catalog.int4 or \
             (a operator(pg_catalog.=) '1'::pg_catalog.int4 and b operator(public.>) 'x'::public.citext)))"
        );
        assert_eq!((mixed.behind(&[]), mixed.up_to(&[])), (None, None));
        assert_eq!(
            both.up_to(&key(&["1", "x"])).unwrap(),
            "(a, b) operator(pg_catalog.<=) ('1'::pg_catalog.int4, 'x'::pg_catalog.text)"
        );
        assert_eq!(
            mixed.up_to(&key(&["1", "x"])).unwrap(),
            "(a operator(pg_catalog.<=) '1'::pg_catalog.int4 and (a operator(pg_catalog.<) '1'::pg_catalog.int4 or \
             (a operator(pg_catalog.=) '1'::pg_catalog.int4 and b operator(public.<=) 'x'::public.citext)))"
        );
        assert_eq!(
            mixed.among(&[key(&["1", "x"])]),
            "((a operator(pg_catalog.=) '1'::pg_catalog.int4 and b operator(public.=) 'x'::public.citext))"
        );
        let one = KeyOrder(vec![column("b", "public", "citext")]);
        assert_eq!(
            one.among(&[key(&["x"]), key(&["y"])]),
            "b operator(public.=) any (array['x'::public.citext, 'y'::public.citext])"
        );
    }
}
