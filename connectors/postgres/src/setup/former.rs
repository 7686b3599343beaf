//! Publications of our making that nobody looks after any more: the writers of a table in them that loses its key would fail
//! for good.

use rowcast_engine::{Kind, Result};
use tokio_postgres::Client;

use super::publications::MARK;
use crate::config::Source;
use crate::tables::identifier;
use crate::wire::sql_error;

/// Whoever changes one of them holds it until his transaction ends.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '5s'";

/// Those that this slot's rowcast kept under another name, and no other one does.
const FORMER: &str = "
select p.pubname::text
from rowcast.capture k join pg_publication p on p.pubname in (k.publication, k.inserts)
where k.slot = $1 and k.kept and p.pubname not in ($2, $3)
  and starts_with(obj_description(p.oid, 'pg_publication'), $4)
  and not exists (select from rowcast.capture o
                  where o.slot <> k.slot and p.pubname in (o.publication, o.inserts))
order by length(p.pubname), 1";

/// Removes the publications that this slot's rowcast kept before it was given another one.
///
/// # Errors
///
/// When that may go better the next time. What rowcast may not do is logged, with the SQL.
pub(super) async fn leave(client: &mut Client, source: &Source) -> Result<()> {
    let failed = |error| sql_error("Cannot look for publications that were kept before", error);
    let (all, inserts) = (&source.publication, &source.inserts);
    let rows = client.query(FORMER, &[&source.slot, all, inserts, &MARK]).await.map_err(failed)?;
    for name in rows.iter().map(|row| row.get::<_, String>(0)) {
        match remove(client, &name).await {
            Ok(()) => tracing::warn!(
                publication = name,
                instead = source.publication,
                "Removed a publication that rowcast kept before: source.publication names another one"
            ),
            Err(error) if error.kind() == Kind::Transient => return Err(error),
            // It is told as one that nobody looks after.
            Err(error) => tracing::warn!(publication = name, "{error}"),
        }
    }
    Ok(())
}

async fn remove(client: &mut Client, name: &str) -> Result<()> {
    let failed = |error| sql_error(format!("Cannot remove the publication {name}, kept before"), error);
    let transaction = client.transaction().await.map_err(failed)?;
    transaction.batch_execute(LOCK_TIMEOUT).await.map_err(failed)?;
    let sql = format!("drop publication if exists {}", identifier(name));
    transaction.batch_execute(&sql).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

/// Those with our mark that no rowcast of the database says to read. None where that may not be seen.
pub(crate) async fn forsaken(client: &Client) -> Result<Vec<String>> {
    let failed = |error| sql_error("Cannot look for publications that nobody looks after", error);
    let there = "select to_regclass('rowcast.capture') is not null";
    let known: bool = client.query_one(there, &[]).await.map_err(failed)?.get(0);
    if known && !super::may_read(client, "capture").await.map_err(failed)? {
        return Ok(Vec::new());
    }
    let named =
        "and not exists (select from rowcast.capture k where p.pubname in (k.publication, k.inserts))";
    let sql = format!(
        "select p.pubname::text from pg_publication p
         where starts_with(obj_description(p.oid, 'pg_publication'), $1) {} order by 1",
        if known { named } else { "" }
    );
    let rows = client.query(&sql, &[&MARK]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Says which those are.
pub(super) async fn warn_of_forsaken(client: &Client) -> Result<()> {
    let names = forsaken(client).await?;
    if !names.is_empty() {
        let list = names.iter().map(|name| identifier(name)).collect::<Vec<_>>().join(", ");
        tracing::warn!(
            publications = list,
            hint = format!("DROP PUBLICATION {list}; (`rowcast uninstall` offers it, too)"),
            "Publications of rowcast's making that nobody looks after any more: UPDATE and DELETE fail of a table in them \
             that loses its key"
        );
    }
    Ok(())
}

/// The names that this slot's row has in `rowcast.capture`, where its publications are kept.
pub(crate) async fn registered(client: &Client, slot: &str) -> Result<Vec<String>> {
    let failed = |error| sql_error("Cannot see which publications the slot has", error);
    if !super::may_read(client, "capture").await.map_err(failed)? {
        return Ok(Vec::new());
    }
    let sql = "select array[publication, inserts] from rowcast.capture where slot = $1 and kept";
    let row = client.query_opt(sql, &[&slot]).await.map_err(failed)?;
    Ok(row.map(|row| row.get(0)).unwrap_or_default())
}
