//! Publications of our making that nobody looks after any more: the writers of a table in them that loses its key would fail
//! for good.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::publications::MARK;
use crate::tables::identifier;
use crate::wire::sql_error;

/// Whether something reads of which `rowcast.capture` says nothing: a rowcast with `source.manage = false`, a subscription.
/// It may read any publication.
const OTHER_READERS: &str = "exists (
    select from pg_replication_slots s
    where s.database = current_database() and s.plugin = 'pgoutput' and s.slot_name <> $2 and NOT_NAMED)";

const SLOT_NAMED: &str = "not exists (select from rowcast.capture k where k.slot = s.slot_name)";

/// Those with our mark that no rowcast of the database says to read. None where that may not be seen, or where somebody may
/// read them who says nothing. `slot` is ours.
pub(crate) async fn forsaken(client: &Client, slot: &str) -> Result<Vec<String>> {
    let failed = |error| sql_error("Cannot look for publications that nobody looks after", error);
    let there = "select to_regclass('rowcast.capture') is not null";
    let known: bool = client.query_one(there, &[]).await.map_err(failed)?.get(0);
    if known && !super::may_read(client, "capture").await.map_err(failed)? {
        return Ok(Vec::new());
    }
    let (named, slot_named) = if known {
        ("exists (select from rowcast.capture k where p.pubname in (k.publication, k.inserts))", SLOT_NAMED)
    } else {
        ("false", "true")
    };
    let sql = format!(
        "select p.pubname::text from pg_publication p
         where starts_with(obj_description(p.oid, 'pg_publication'), $1) and not {named} and not {} order by 1",
        OTHER_READERS.replace("NOT_NAMED", slot_named)
    );
    let rows = client.query(&sql, &[&MARK, &slot]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Slots that may read any publication, and of which nobody here says what they read.
///
/// # Errors
///
/// When the database cannot be asked.
pub(crate) async fn other_readers(client: &Client, slot: &str) -> Result<Vec<String>> {
    let failed = |error| sql_error("Cannot look for other readers of publications", error);
    let named = super::may_read(client, "capture").await.map_err(failed)?;
    let sql = format!(
        "select s.slot_name::text from pg_replication_slots s
         where s.database = current_database() and s.plugin = 'pgoutput' and s.slot_name <> $1 and {} order by 1",
        if named { SLOT_NAMED } else { "true" }
    );
    let rows = client.query(&sql, &[&slot]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Kept by a rowcast whose slot is gone, each with that slot: nothing reads them, and the event trigger goes on filling them.
/// They go when a person says that this rowcast is gone, too: it may wait for him to be adopted.
pub(crate) async fn orphaned(client: &Client, slot: &str) -> Result<Vec<(String, String)>> {
    let failed = |error| sql_error("Cannot look for publications of slots that are gone", error);
    for table in ["capture", "installation"] {
        if !super::may_read(client, table).await.map_err(failed)? {
            return Ok(Vec::new());
        }
    }
    // A first start that waits for its slot is not in rowcast.installation yet.
    let sql = "select k.slot, p.pubname::text
               from rowcast.capture k join rowcast.installation i on i.slot = k.slot
                    join pg_publication p on p.pubname in (k.publication, k.inserts)
               where k.kept and k.slot <> $1 and starts_with(obj_description(p.oid, 'pg_publication'), $2)
                 and not exists (select from pg_replication_slots s
                                 where s.slot_name = k.slot and s.database = current_database())
               order by 1, 2";
    let rows = client.query(sql, &[&slot, &MARK]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// What is to be done about what is left of a slot.
pub(crate) fn remedy(slot: &str) -> String {
    format!(
        "If the rowcast of that slot is not to go on, and does not read from a standby, have what it made removed: rowcast uninstall --source … \
         --set source.slot={slot} --yes"
    )
}

/// Says which those are.
///
/// They are not removed: should the stream refuse to go on with other ones, what was changed meanwhile is in these alone.
pub(super) async fn warn_of_forsaken(client: &Client, slot: &str) -> Result<()> {
    let names = forsaken(client, slot).await?;
    if !names.is_empty() {
        let list = names.iter().map(|name| identifier(name)).collect::<Vec<_>>().join(", ");
        tracing::warn!(
            publications = list,
            hint = format!("DROP PUBLICATION {list}; (`rowcast uninstall` offers it, too)"),
            "Publications of rowcast's making that nobody looks after any more: UPDATE and DELETE fail of a table in them \
             that loses its key"
        );
    }
    for (gone, name) in orphaned(client, slot).await? {
        tracing::warn!(
            publication = identifier(&name),
            hint = remedy(&gone),
            "Nothing reads the publication any more, since the slot {gone} is gone, and the event trigger goes on adding new \
             tables to it"
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
