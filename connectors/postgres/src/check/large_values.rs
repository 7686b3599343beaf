//! Values that Postgres does not send since an update left them as they were.

use std::collections::HashSet;

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::{Requirement, requirement};
use crate::setup::candidates::Table;
use crate::setup::publications::named;
use crate::wire::sql_error;

/// Those of the tables that can keep values apart from their rows (TOAST), they or their partitions, and whose identity
/// does not bring the old row along.
const APART: &str = "
with recursive parts (root, leaf) as (
    select oid, oid from pg_class where oid = any($1)
    union all select p.root, i.inhrelid from parts p join pg_class c on c.oid = p.leaf and c.relkind = 'p'
    join pg_inherits i on i.inhparent = p.leaf
)
select distinct p.root from parts p join pg_class c on c.oid = p.leaf
where c.reltoastrelid <> 0 and c.relreplident <> 'f'
  and exists (select from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
              and a.attstorage in ('x', 'e'))";

const FOUND: &str = "an update does not carry the large values (of some 2 kB) of columns that it leaves as they are: its event \
                     names them in `unchanged`";

const REMEDY: &str = "Consumers keep the value that they have. For those of a table that cannot: ALTER TABLE … REPLICA IDENTITY \
                      FULL; has the server write the whole old row to its log with each update and delete";

/// One line for all of them: in most databases that is most tables. Of those whose updates are not captured nothing is said.
pub(super) async fn of_large_values(client: &Client, wanted: &[&Table]) -> Result<Option<Requirement>> {
    let of_updates: Vec<&&Table> = wanted.iter().filter(|table| table.identified).collect();
    let oids: Vec<u32> = of_updates.iter().map(|table| table.oid).collect();
    let rows = client.query(APART, &[&oids]).await;
    let rows = rows.map_err(|error| sql_error("Cannot see which tables have large values", error))?;
    let apart: HashSet<u32> = rows.iter().map(|row| row.get(0)).collect();
    let names: Vec<String> =
        of_updates.iter().filter(|table| apart.contains(&table.oid)).map(|table| table.channel()).collect();
    Ok((!names.is_empty()).then(|| {
        let found = format!("{}: {FOUND}", named(names.into_iter()));
        requirement("large values", true, found, REMEDY.to_owned())
    }))
}
