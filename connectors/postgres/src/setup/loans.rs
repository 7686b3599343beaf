//! Tables that have lost their key while somebody held their publication: they were lent REPLICA IDENTITY FULL (migration
//! V6), so that their UPDATE and DELETE go on working, and it is given back as soon as that can be.

use std::collections::HashSet;
use std::time::Instant;

use rowcast_engine::Result;
use tokio_postgres::{Client, Transaction};

use super::busy::Pauses;
use super::candidates::Table;
use super::trigger::Attempt;
use crate::config::Source;
use crate::wire::sql_error;

/// Who reads or writes the table waits behind us while we wait for it, so it must be short; a later round tries again.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '1s'";

/// Held by whoever changes a publication of ours.
const PUBLICATIONS: &str = "
select pg_advisory_xact_lock(1920295796, hashtext(k.publication))
from rowcast.capture k where k.kept order by k.publication";

/// What has become of one.
enum Repaid {
    Done,
    /// Somebody changes the publications: nobody has waited for us.
    NotNow(tokio_postgres::Error),
    /// The table is in use, or something else is in the way.
    InVain(tokio_postgres::Error),
}

/// Gives back what can be given back now, and tries rarer and rarer what cannot. Gives whether something is still lent.
///
/// # Errors
///
/// When the database cannot be asked. What is in the way of one table is logged.
pub(crate) async fn repay(client: &mut Client, attempt: Attempt, pauses: &mut Pauses) -> Result<bool> {
    let mut still = false;
    let failed = |error| sql_error("Cannot look for replica identities that were lent", error);
    let sql = "select l.relation, coalesce(rowcast.channel(n.nspname, c.relname), 'a table that is gone')
               from rowcast.lent l left join pg_class c on c.oid = l.relation
               left join pg_namespace n on n.oid = c.relnamespace order by 1";
    let lent: Vec<(u32, String)> =
        client.query(sql, &[]).await.map_err(failed)?.iter().map(|row| (row.get(0), row.get(1))).collect();
    pauses.keep(&lent.iter().map(|(relation, _)| *relation).collect::<HashSet<_>>());
    for (relation, table) in lent {
        if attempt == Attempt::Look && !pauses.may_try(relation, Instant::now()) {
            still = true;
            continue;
        }
        let transaction = client.transaction().await.map_err(failed)?;
        let (error, again_in_seconds) = match repay_one(transaction, relation).await.map_err(failed)? {
            Repaid::Done => {
                tracing::info!(table, "The replica identity is again what it was before the key was lost");
                continue;
            }
            Repaid::NotNow(error) => (error, None),
            Repaid::InVain(error) => (error, Some(pauses.note(relation, Instant::now()).1.as_secs())),
        };
        still = true;
        let error = sql_error("The replica identity FULL that it was lent is not given back yet", error);
        tracing::warn!(table, again_in_seconds, "{error}; it is tried again");
    }
    Ok(still)
}

async fn repay_one(transaction: Transaction<'_>, relation: u32) -> Result<Repaid, tokio_postgres::Error> {
    transaction.batch_execute(LOCK_TIMEOUT).await?;
    if let Err(error) = transaction.query(PUBLICATIONS, &[]).await {
        return Ok(Repaid::NotNow(error));
    }
    let repaid = match transaction.execute("select rowcast.repay($1)", &[&relation]).await {
        Ok(_) => transaction.commit().await,
        Err(error) => Err(error),
    };
    Ok(repaid.map_or_else(Repaid::InVain, |()| Repaid::Done))
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
