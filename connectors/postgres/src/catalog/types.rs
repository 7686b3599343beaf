//! Rows of `pg_type`, with all that the types are made of.

use std::collections::HashMap;

use tokio_postgres::{Error, Row};

use super::statements::Asked;

/// Levels of types within types. Postgres has no such limit, a table that comes near it does not exist.
const MAX_LEVELS: usize = 32;

/// What `pg_type` says of a type.
#[derive(Clone, Debug)]
pub(super) struct TypeRow {
    pub(super) name: String,
    /// `typtype`: b, c, d, e, m, p, r.
    pub(super) kind: u8,
    /// Of the elements, where this is an array.
    pub(super) element: Option<u32>,
    /// Between elements in the text form.
    pub(super) delimiter: char,
    /// Under a domain.
    pub(super) base: u32,
    /// Of a domain.
    pub(super) typmod: i32,
    /// Of an enumeration, in sort order.
    pub(super) labels: Vec<String>,
    /// Of a row type, without dropped ones.
    pub(super) attributes: Vec<(String, u32)>,
    /// Some of the row type's were dropped.
    pub(super) lost: bool,
    /// The extension that brought it.
    pub(super) extension: Option<String>,
}

/// Types by OID.
pub(super) type Types = HashMap<u32, TypeRow>;

const QUERY: &str = "
select t.oid, t.typname::text as name, t.typtype::text as kind, t.typbasetype as base, t.typtypmod as typmod,
       case when t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc
            then nullif(t.typelem, 0) end as element,
       coalesce((select e.typdelim from pg_type e where e.oid = t.typelem), ',')::text as delimiter,
       (select e.extname::text from pg_depend d join pg_extension e on e.oid = d.refobjid
        where d.classid = 'pg_type'::regclass and d.objid = t.oid and d.refclassid = 'pg_extension'::regclass
          and d.deptype = 'e') as extension,
       array(select e.enumlabel::text from pg_enum e
             where e.enumtypid = t.oid order by e.enumsortorder) as labels,
       array(select a.attname::text from pg_attribute a
             where t.typrelid <> 0 and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
             order by a.attnum) as names,
       array(select a.atttypid from pg_attribute a
             where t.typrelid <> 0 and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
             order by a.attnum) as types,
       exists (select from pg_attribute a
               where t.typrelid <> 0 and a.attrelid = t.typrelid and a.attnum > 0 and a.attisdropped) as lost
from pg_type t
where t.oid = any($1)";

/// Those of the columns of table `$1`, in place of those named.
const OF_TABLE: &str = "array(select a.atttypid from pg_attribute a where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped)";

/// Reads the types and everything below them, level by level. Types that are gone are missing in the result.
pub(super) async fn read(asked: Asked<'_>, oids: Vec<u32>) -> Result<Types, Error> {
    below(asked, Types::new(), oids).await
}

/// Those of a table's columns as they are, and everything below them.
pub(super) async fn of_table(asked: Asked<'_>, relation: u32) -> Result<Types, Error> {
    let rows = asked.query(&QUERY.replace("$1", OF_TABLE), &[&relation]).await?;
    let mut types = Types::new();
    let wanted = take_in(&mut types, &rows)?;
    below(asked, types, wanted).await
}

async fn below(asked: Asked<'_>, mut types: Types, mut wanted: Vec<u32>) -> Result<Types, Error> {
    for _ in 0..MAX_LEVELS {
        wanted.sort_unstable();
        wanted.dedup();
        wanted.retain(|oid| !types.contains_key(oid));
        if wanted.is_empty() {
            break;
        }
        let rows = asked.query(QUERY, &[&wanted]).await?;
        wanted = take_in(&mut types, &rows)?;
    }
    Ok(types)
}

/// Gives those that they are made of.
fn take_in(types: &mut Types, rows: &[Row]) -> Result<Vec<u32>, Error> {
    let mut below = Vec::new();
    for row in rows {
        let names: Vec<String> = row.try_get("names")?;
        let members: Vec<u32> = row.try_get("types")?;
        let found = TypeRow {
            name: row.try_get("name")?,
            kind: row.try_get::<_, &str>("kind")?.bytes().next().unwrap_or(b'b'),
            element: row.try_get("element")?,
            delimiter: row.try_get::<_, &str>("delimiter")?.chars().next().unwrap_or(','),
            base: row.try_get("base")?,
            typmod: row.try_get("typmod")?,
            labels: row.try_get("labels")?,
            lost: row.try_get("lost")?,
            attributes: names.into_iter().zip(members).collect(),
            extension: row.try_get("extension")?,
        };
        below.extend(found.attributes.iter().map(|(_, oid)| *oid));
        below.extend(found.element);
        below.extend((found.base != 0).then_some(found.base));
        types.insert(row.try_get("oid")?, found);
    }
    Ok(below)
}
