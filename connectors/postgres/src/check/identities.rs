//! Replica identities that can go before anybody hears of it.

use std::collections::HashMap;

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::{Requirement, requirement};
use crate::setup::candidates::Table;
use crate::setup::publications::named;
use crate::wire::sql_error;

/// An index that is a constraint's cannot be dropped concurrently, nor can a partitioned one.
const BY_INDEX: &str = "
select i.indrelid from pg_index i join pg_class c on c.oid = i.indrelid
where c.relreplident = 'i' and c.relkind = 'r' and i.indisreplident
  and not exists (select from pg_constraint x where x.conindid = i.indexrelid and x.conrelid = i.indrelid)";

/// One line for all of them: with what they are, all is well.
pub(super) async fn of_indexes(client: &Client, wanted: &[&Table]) -> Result<Option<Requirement>> {
    let rows = client.query(BY_INDEX, &[]).await;
    let rows = rows.map_err(|error| sql_error("Cannot look for replica identities by an index", error))?;
    let wanted: HashMap<u32, &Table> = wanted.iter().map(|table| (table.oid, *table)).collect();
    let tables: Vec<String> =
        rows.iter().filter_map(|row| wanted.get(&row.get(0)).map(|table| table.channel())).collect();
    if tables.is_empty() {
        return Ok(None);
    }
    let found = format!("by an index that no constraint holds: {}", named(tables.into_iter()));
    let remedy = "Before DROP INDEX CONCURRENTLY of it choose another one (ALTER TABLE … REPLICA IDENTITY …): UPDATE and DELETE \
                  fail from its begin until those who read the table then have ended, and no event trigger hears of it before";
    Ok(Some(requirement("replica identities", true, found, remedy.to_owned())))
}
