//! Who owns the slot: one row in schema `rowcast`.

use rowcast_engine::{Lsn, Result};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::wire::sql_error;

/// The remedy for every break of the history.
pub(crate) const ADOPT: &str = "Run `rowcast adopt` with the same data directory or configuration, also while rowcast \
                                runs: it records a gap in the history, of which every reader is told, and goes on from where the source can. First make sure that this \
                                is the right server, and that no other rowcast reads this slot";

/// The owner of a slot, as the source remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) installation: Uuid,
    /// When it became the owner, as text.
    pub(crate) since: String,
    /// Where the slot stood when it was created; `None` when that is not known.
    pub(crate) slot_birth: Option<Lsn>,
}

impl Owner {
    /// Why somebody else may not read the slot.
    pub(crate) fn belongs(&self, slot: &str) -> String {
        format!(
            "The replication slot {slot} belongs to another installation (since {}), or to this one before its data \
             directory was lost",
            self.since
        )
    }
}

/// The slot's owner. `None` when nobody has claimed it, or where the schema does not exist or may not be read.
pub(crate) async fn read(client: &Client, slot: &str) -> Result<Option<Owner>> {
    let failed = |error| sql_error("Cannot read who owns the replication slot", error);
    if !super::may_read(client, "installation").await.map_err(failed)? {
        return Ok(None);
    }
    let sql = "select installation::text, created_at::text, slot_birth::text \
               from rowcast.installation where slot = $1";
    let Some(row) = client.query_opt(sql, &[&slot]).await.map_err(failed)? else { return Ok(None) };
    let birth: Option<String> = row.get(2);
    Ok(Some(Owner {
        installation: row.get::<_, String>(0).parse().unwrap_or_default(),
        since: row.get(1),
        slot_birth: birth.and_then(|text| text.parse().ok()),
    }))
}

/// Makes `installation` the owner.
pub(crate) async fn claim(client: &Client, slot: &str, installation: Uuid, birth: Option<Lsn>) -> Result<()> {
    let sql = "insert into rowcast.installation (slot, installation, slot_birth)
               values ($1, $2::text::uuid, $3::text::pg_lsn)
               on conflict (slot) do update set
                   created_at = case when installation.installation = excluded.installation
                                     then installation.created_at else now() end,
                   installation = excluded.installation,
                   slot_birth = excluded.slot_birth";
    let birth = birth.map(|lsn| lsn.to_string());
    client
        .execute(sql, &[&slot, &installation.to_string(), &birth])
        .await
        .map(drop)
        .map_err(|error| sql_error("Cannot claim the replication slot in rowcast.installation", error))
}
