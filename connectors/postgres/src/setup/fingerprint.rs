//! Whether anything has changed in the catalog that decides which tables are captured, and how: one cheap question, so that
//! the whole look with thousands of tables is taken only when it may find something.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::published::BY_SCHEMA;
use crate::wire::sql_error;

/// Every command that changes a definition leaves a row of another transaction in one of these. What VACUUM and ANALYZE
/// note is written in place.
const QUERY: &str = "
select concat_ws(' ', current_user::text,
    (select sum(hashint8extended(oid::int8, xmin::text::int8)) from pg_class
     where relkind in ('r', 'p') and relpersistence = 'p'),
    (select sum(hashint8extended(i.indexrelid::int8, i.xmin::text::int8))
     from pg_index i join pg_class c on c.oid = i.indrelid where c.relkind in ('r', 'p') and c.relpersistence = 'p'),
    (select sum(hashint8extended((inhrelid::int8 << 32) # inhparent::int8, xmin::text::int8)) from pg_inherits),
    (select sum(hashint8extended(oid::int8, xmin::text::int8)) from pg_namespace where nspname !~ '^pg_'),
    (select sum(hashint8extended(oid::int8, xmin::text::int8)) from pg_publication),
    (select sum(hashint8extended(oid::int8, xmin::text::int8)) from pg_publication_rel),
    (select sum(hashint8extended((roleid::int8 << 32) # member::int8, xmin::text::int8)) from pg_auth_members),
    (select sum(hashint8extended(oid::int8, xmin::text::int8)) from pg_event_trigger),
    SCHEMAS)";

const SCHEMAS: &str =
    "(select sum(hashint8extended(oid::int8, xmin::text::int8)) from pg_publication_namespace)";

/// Another one as soon as there may be something to find.
///
/// # Errors
///
/// When the server cannot be asked.
pub(crate) async fn read(client: &Client, version: u32) -> Result<String> {
    let sql = QUERY.replace("SCHEMAS", if version >= BY_SCHEMA { SCHEMAS } else { "''" });
    let row = client.query_one(&sql, &[]).await;
    row.map(|row| row.get(0)).map_err(|error| sql_error("Cannot ask whether a definition has changed", error))
}
