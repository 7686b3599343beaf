//! Publications that another rowcast of the database captures with: whose they are says `rowcast.capture`.

use rowcast_engine::{Error, Result};
use tokio_postgres::Client;

use crate::config::Source;
use crate::wire::sql_error;

/// Publications that the rowcast of another slot keeps, each with that slot.
pub(crate) async fn others(client: &Client, slot: &str) -> Result<Vec<(String, String)>> {
    let failed = |error| sql_error("Cannot see who else captures with the publications", error);
    if !super::may_read(client, "capture").await.map_err(failed)? {
        return Ok(Vec::new());
    }
    // A slot that is gone captures nothing, and one of another database nothing here.
    let sql = "select k.slot, p.name
               from rowcast.capture k cross join lateral unnest(array[k.publication, k.inserts]) p(name)
                    join pg_replication_slots s on s.slot_name = k.slot and s.database = current_database()
               where k.slot <> $1 and k.kept order by 1, 2";
    let rows = client.query(sql, &[&slot]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Each would take out what the other one puts in. Whoever came first goes on; a slot that is gone captures nothing.
pub(super) async fn refuse(client: &Client, source: &Source) -> Result<()> {
    for (slot, publication) in others(client, &source.slot).await? {
        if !source.publications().contains(&publication.as_str())
            || !came_before(client, &slot, source).await?
        {
            continue;
        }
        let what =
            format!("The publication {publication} is kept by another rowcast, which reads the slot {slot}");
        return Err(Error::refused(what).hint(format!(
            "Name another publication (source.publication); the slot's own name is taken where none is named. If that \
             rowcast is gone for good, have what it made removed: rowcast uninstall --source … --set source.slot={slot} --yes"
        )));
    }
    Ok(())
}

async fn came_before(client: &Client, slot: &str, source: &Source) -> Result<bool> {
    let sql = "select not exists (select from rowcast.installation ours, rowcast.installation other
                                  where ours.slot = $2 and other.slot = $1 and ours.created_at < other.created_at)";
    let row = client.query_one(sql, &[&slot, &source.slot]).await;
    row.map(|row| row.get(0)).map_err(|error| sql_error("Cannot see who came first", error))
}
