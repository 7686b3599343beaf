//! Tables that have lost their key while somebody held their publication: they were lent REPLICA IDENTITY FULL (migration
//! V6), so that their UPDATE and DELETE go on working, and it is given back as soon as that can be.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::candidates::Table;
use crate::config::Source;
use crate::wire::sql_error;

/// Writers of the table wait behind us while we wait for it, so it must be short; the next round tries again.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '1s'";

/// Gives back what can be given back now. Gives whether something is still lent.
///
/// # Errors
///
/// When the database cannot be asked. What is in the way of one table is logged.
pub(crate) async fn repay(client: &mut Client) -> Result<bool> {
    let mut still = false;
    let failed = |error| sql_error("Cannot look for replica identities that were lent", error);
    let sql = "select l.relation, coalesce(rowcast.channel(n.nspname, c.relname), 'a table that is gone')
               from rowcast.lent l left join pg_class c on c.oid = l.relation
               left join pg_namespace n on n.oid = c.relnamespace order by 1";
    for row in client.query(sql, &[]).await.map_err(failed)? {
        let (relation, table): (u32, String) = (row.get(0), row.get(1));
        let transaction = client.transaction().await.map_err(failed)?;
        transaction.batch_execute(LOCK_TIMEOUT).await.map_err(failed)?;
        let repaid = transaction.execute("select rowcast.repay($1)", &[&relation]).await;
        let done = match repaid {
            Ok(_) => transaction.commit().await,
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => {
                tracing::info!(table, "The replica identity is again what it was before the key was lost")
            }
            Err(error) => {
                still = true;
                let error =
                    sql_error("The replica identity FULL that it was lent is not given back yet", error);
                tracing::warn!(table, "{error}; it is tried again");
            }
        }
    }
    Ok(still)
}

/// Lends it to a table that cannot be moved now, so that its writers do not fail meanwhile.
///
/// # Errors
///
/// Where it may not, or the table is in use.
pub(crate) async fn lend(client: &mut Client, source: &Source, table: &Table) -> Result<bool> {
    let failed = |error| sql_error("Cannot lend it REPLICA IDENTITY FULL", error);
    let transaction = client.transaction().await.map_err(failed)?;
    transaction.batch_execute(LOCK_TIMEOUT).await.map_err(failed)?;
    let sql = "select rowcast.lend(k, $2) from rowcast.capture k where k.slot = $1";
    let lent = transaction.query_opt(sql, &[&source.slot, &table.oid]).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok(lent.is_some_and(|row| row.get(0)))
}
