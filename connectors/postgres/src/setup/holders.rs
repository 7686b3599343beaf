//! Who is in the way: of a change of a table, of a publication.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::creation::lasting;
use crate::wire::sql_error;

/// So many are named.
const NAMED: i64 = 3;

/// Whoever has the table in a way that keeps definitions and publications from being changed, and for whom he waits, since
/// that one decides when it ends. Never what they are doing: statements hold values.
const HOLDERS: &str = "
with holding as (
    select distinct l.pid from pg_locks l
    where l.locktype = 'relation' and l.relation = $1 and l.granted and l.pid <> pg_backend_pid()
      and l.database = (select d.oid from pg_database d where d.datname = current_database())
      and l.mode in ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
), concerned as (
    select h.pid, 0 as place from holding h
    union
    select b.pid, 1 from holding h cross join lateral unnest(pg_blocking_pids(h.pid)) b(pid)
    where b.pid not in (select pid from holding) and b.pid <> pg_backend_pid()
)
select format('%sprocess %s of %s%s (%s)', case c.place when 1 then 'which waits for ' end, a.pid,
              coalesce(a.usename::text, 'nobody'), coalesce(', application ' || nullif(a.application_name, ''), ''),
              coalesce(a.state, 'not shown')),
       round(extract(epoch from clock_timestamp() - a.xact_start))::int8
from concerned c join pg_stat_activity a on a.pid = c.pid
order by c.place, a.xact_start nulls last limit $2";

/// Who runs a transaction, by the number that it has now; what ends it.
const OLDEST: &str = "
select format('the prepared transaction %L of %s', p.gid, p.owner),
       format('COMMIT PREPARED %1$L, or ROLLBACK PREPARED %1$L, in the database %2$s', p.gid, p.database),
       round(extract(epoch from clock_timestamp() - p.prepared))::int8
from pg_prepared_xacts p where p.transaction::text = $1
union all
select format('process %s of %s%s (%s)', a.pid, coalesce(a.usename::text, 'nobody'),
              coalesce(', application ' || nullif(a.application_name, ''), ''), coalesce(a.state, 'not shown')),
       format('select pg_terminate_backend(%s)', a.pid),
       round(extract(epoch from clock_timestamp() - a.xact_start))::int8
from pg_stat_activity a where a.backend_xid::text = $1
limit 1";

/// Who runs this transaction, for people, with what ends it. Where that is not seen (at a standby, or without the right), how to.
pub(crate) async fn oldest(client: &Client, transaction: i64) -> String {
    // Where programs are shown it, it has 32 bits.
    let number = (transaction & i64::from(u32::MAX)).to_string();
    match client.query_opt(OLDEST, &[&number]).await {
        Ok(None) | Err(_) => format!(
            "transaction {number}; on the primary: select pid, usename, xact_start from pg_stat_activity where backend_xid::text = \
             '{number}'; select gid from pg_prepared_xacts where transaction::text = '{number}'"
        ),
        Ok(Some(row)) => {
            let (who, how) = (row.get::<_, &str>(0), row.get::<_, &str>(1));
            let since = row.get::<_, Option<i64>>(2).map(|seconds| format!(", for {}", lasting(seconds)));
            format!("{who}{}; {how} ends it", since.unwrap_or_default())
        }
    }
}

/// For people; empty where nobody is.
///
/// # Errors
///
/// When the database cannot be asked.
pub(super) async fn holders(client: &Client, table: u32) -> Result<Option<String>> {
    let rows = client.query(HOLDERS, &[&table, &NAMED]).await;
    let rows = rows.map_err(|error| sql_error("Cannot see who has the table", error))?;
    let told = |row: &tokio_postgres::Row| match row.get::<_, Option<i64>>(1) {
        Some(seconds) => format!("{}, for {}", row.get::<_, &str>(0), lasting(seconds)),
        None => row.get(0),
    };
    let texts: Vec<String> = rows.iter().map(told).collect();
    Ok((!texts.is_empty()).then(|| texts.join("; ")))
}
