//! What reading the rows needs beside capture: rights on the tables, and connections.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::{NAMED_TABLES, Requirement, requirement};
use crate::config::Source;
use crate::setup::candidates::Table;
use crate::setup::server::Server;
use crate::tables::{identifier, shown};
use crate::wire::sql_error;

/// Beside those that read tables: setup, the watch over the tables, the guard of the slot, the catalog, and the list of
/// what snapshots are to read.
const CONNECTIONS: i64 = 5;

/// Tables of which rows cannot be read, and why: schema, table, whether the schema can be used, the rows be selected, and
/// whether a policy would hide some.
const UNREADABLE: &str = "
select n.nspname::text, c.relname::text, has_schema_privilege(n.oid, 'USAGE'), has_table_privilege(c.oid, 'SELECT'),
       row_security_active(c.oid)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.oid = any($1)
  and not (has_schema_privilege(n.oid, 'USAGE') and has_table_privilege(c.oid, 'SELECT')
           and not row_security_active(c.oid))
order by 1, 2";

/// The stream needs no right on a table, a snapshot does. Without snapshots that is advice.
pub(super) async fn of_rights(
    client: &Client,
    source: &Source,
    server: &Server,
    wanted: &[&Table],
) -> Result<Vec<Requirement>> {
    let oids: Vec<u32> = wanted.iter().map(|table| table.oid).collect();
    let rows = client.query(UNREADABLE, &[&oids]).await;
    let rows = rows.map_err(|error| sql_error("Cannot see which tables may be read", error))?;
    let ok = !source.snapshot.is_on();
    let role = shown(&server.role);
    let mut found = Vec::new();
    for row in rows.iter().take(NAMED_TABLES) {
        let (schema, name): (&str, &str) = (row.get(0), row.get(1));
        let channel = rowcast_engine::schema::Schema::channel_of(schema, name);
        let table = crate::tables::qualified(schema, name);
        let (mut why, mut sql) = (Vec::new(), Vec::new());
        if !row.get::<_, bool>(2) {
            why.push("its schema may not be used");
            sql.push(format!("GRANT USAGE ON SCHEMA {} TO {role};", identifier(schema)));
        }
        if !row.get::<_, bool>(3) {
            why.push("it may not be selected from");
            sql.push(format!("GRANT SELECT ON {table} TO {role};"));
        }
        if row.get(4) {
            why.push("row-level security would hide rows, which is refused");
            sql.push(format!("ALTER ROLE {role} BYPASSRLS;"));
        }
        let what = format!("its rows cannot be read: {}", why.join(", and "));
        found.push(requirement(&format!("snapshot of {channel}"), ok, what, sql.join(" ")));
    }
    if let Some(more) = rows.len().checked_sub(NAMED_TABLES).filter(|more| *more > 0) {
        found.push(requirement(
            "snapshots",
            ok,
            format!("{more} more tables whose rows cannot be read"),
            "The same for each of them as for those above".to_owned(),
        ));
    }
    Ok(found)
}

/// Sessions that are free for us, by the narrowest of the limits; those that rowcast has now are its own.
const FREE: &str = "
with sessions as (
    select datname, usename, application_name = $1 and usename = current_user as ours from pg_stat_activity
    where backend_type = 'client backend' and pid <> pg_backend_pid()
), limits (name, most, used) as (
    select 'max_connections',
           current_setting('max_connections')::int8
               - case when r.rolsuper then 0 else current_setting('superuser_reserved_connections')::int8
                     + coalesce(current_setting('reserved_connections', true)::int8, 0) end,
           (select count(*) from sessions where not coalesce(ours, false))
    from pg_roles r where r.rolname = current_user
    union all
    select 'CONNECTION LIMIT of the role', r.rolconnlimit,
           (select count(*) from sessions where usename = current_user and not ours)
    from pg_roles r where r.rolname = current_user and r.rolconnlimit >= 0
    union all
    select 'CONNECTION LIMIT of the database', d.datconnlimit,
           (select count(*) from sessions where datname = d.datname and not coalesce(ours, false))
    from pg_database d where d.datname = current_database() and d.datconnlimit >= 0
)
select name, most, used from limits order by most - used limit 1";

/// Whether there is room for all sessions that rowcast opens at its busiest; the stream counts as a sender instead.
pub(super) async fn of_connections(client: &Client, source: &Source) -> Result<Option<Requirement>> {
    let row = client.query_opt(FREE, &[&source.info.application_name]).await;
    let row = row.map_err(|error| sql_error("Cannot see how many connections are free", error))?;
    let tables = i64::try_from(source.snapshot_tables).unwrap_or(i64::MAX);
    Ok(row.map(|row| of_free(row.get(0), row.get(1), row.get(2), tables)))
}

fn of_free(name: &str, most: i64, used: i64, tables: i64) -> Requirement {
    let needed = CONNECTIONS + tables;
    let free = most.saturating_sub(used).max(0);
    let found = format!("up to {needed} needed, {free} free ({name}: {used} of {most} are others')");
    let remedy = format!(
        "Raise it, or close sessions seen in pg_stat_activity; {tables} of them are for snapshots \
         (source.snapshot_tables)"
    );
    requirement("connections", free >= needed, found, (free < needed).then_some(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_are_short_are_told() {
        assert!(of_free("max_connections", 97, 90, 2).ok);
        let short = of_free("max_connections", 97, 91, 2);
        assert!(!short.ok && short.found.contains("7 needed, 6 free"), "{short:?}");
        assert!(short.remedy.unwrap().contains("source.snapshot_tables"));
    }
}
