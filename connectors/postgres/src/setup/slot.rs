//! The replication slot: what the server says of it, and making one.

use rowcast_engine::{Error, Lsn, Result};
use serde::Deserialize;
use tokio_postgres::Client;

use crate::tables::{identifier, literal};
use crate::wire::{Connection, DbError, sql_error};

/// Creating a slot waits for every transaction that is running; past this it says which.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '30s'";

/// How many of the transactions in the way are named.
const BLOCKERS: i64 = 5;

/// A row of `pg_replication_slots`; columns that a version lacks read as nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Slot {
    pub(crate) plugin: Option<String>,
    pub(crate) slot_type: String,
    pub(crate) database: Option<String>,
    pub(crate) temporary: bool,
    pub(crate) active: bool,
    pub(crate) active_pid: Option<i32>,
    pub(crate) confirmed_flush_lsn: Option<Lsn>,
    pub(crate) wal_status: Option<String>,
    /// From version 17 on.
    pub(crate) invalidation_reason: Option<String>,
    /// From version 16 on.
    pub(crate) conflicting: Option<bool>,
    /// From version 17 on: kept in step from a primary, not to be read here.
    pub(crate) synced: bool,
    /// Bytes that may still be written before the slot is lost.
    pub(crate) safe_wal_size: Option<i64>,
}

/// The slot, if there is one.
pub(crate) async fn read(client: &Client, name: &str) -> Result<Option<Slot>> {
    let failed = |error| sql_error("Cannot read the replication slot", error);
    let sql = "select to_jsonb(s)::text from pg_replication_slots s where s.slot_name = $1";
    let Some(row) = client.query_opt(sql, &[&name]).await.map_err(failed)? else { return Ok(None) };
    serde_json::from_str(row.get(0))
        .map(Some)
        .map_err(|error| Error::failed("Cannot understand the replication slot's row").because(error))
}

impl Slot {
    /// Makes sure that the slot is of the kind that can be read at all.
    pub(crate) fn fit(&self, name: &str, database: &str) -> Result<()> {
        let other = "Choose another name for the slot (source.slot)";
        let refused = |what: String| Err(Error::refused(what).hint(other));
        if self.slot_type != "logical" {
            return refused(format!("The replication slot {name} is a {} one, not logical", self.slot_type));
        }
        match (self.plugin.as_deref(), self.database.as_deref()) {
            (Some("pgoutput"), Some(of)) if of == database => {}
            (Some("pgoutput"), of) => {
                let of = of.unwrap_or_default();
                return refused(format!("The replication slot {name} belongs to database {of:?}"));
            }
            (plugin, _) => {
                let plugin = plugin.unwrap_or_default();
                return refused(format!(
                    "The replication slot {name} uses the output plugin {plugin:?}, not pgoutput"
                ));
            }
        }
        if self.temporary {
            return refused(format!("The replication slot {name} is a temporary one of another session"));
        }
        if self.synced {
            return Err(Error::refused(format!("The replication slot {name} is a copy of the primary's"))
                .hint("Connect to the primary, or promote this standby"));
        }
        Ok(())
    }

    /// Why nothing can be read from it any more, if so.
    pub(crate) fn lost(&self) -> Option<&'static str> {
        match (self.invalidation_reason.as_deref(), self.wal_status.as_deref()) {
            (Some("rows_removed"), _) => Some("the primary has removed rows that decoding needs"),
            (Some("wal_level_insufficient"), _) => Some("the primary's wal_level was not logical for a time"),
            (Some("idle_timeout"), _) => Some("it was idle for longer than idle_replication_slot_timeout"),
            (Some(_), _) | (None, Some("lost")) => {
                Some("the log that it needs has been removed (see max_slot_wal_keep_size)")
            }
            _ if self.conflicting == Some(true) => Some("it conflicted with recovery on this standby"),
            _ => None,
        }
    }
}

/// Makes the slot; gives the position from which it shows changes.
pub(crate) async fn create(connection: &mut Connection, client: &Client, name: &str) -> Result<Lsn> {
    connection.simple_query(LOCK_TIMEOUT).await?;
    let command = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput NOEXPORT_SNAPSHOT", identifier(name));
    let rows = match connection.simple_query(&command).await {
        Ok(rows) => rows,
        Err(error) => return Err(explain(error, client, name).await),
    };
    connection.simple_query("RESET lock_timeout").await?;
    rows.first()
        .and_then(|row| row.get(1)?.as_deref()?.parse().ok())
        .ok_or_else(|| Error::failed("CREATE_REPLICATION_SLOT gave no position"))
}

/// Removes a slot from which nothing can be read any more.
pub(crate) async fn drop(client: &Client, name: &str) -> Result<()> {
    let dropped = client.execute("select pg_drop_replication_slot($1)", &[&name]).await;
    dropped
        .map(std::mem::drop)
        .map_err(|error| sql_error(format!("Cannot drop the replication slot {name}"), error))
}

async fn explain(error: Error, client: &Client, name: &str) -> Error {
    match sqlstate(&error) {
        Some("53400") => {
            let what =
                format!("Cannot create the replication slot {name}: all that the server has are in use");
            Error::refused(what).hint(slots_remedy())
        }
        Some("55P03") => {
            let blockers = blockers(client).await.unwrap_or_default();
            let what = format!(
                "Cannot create the replication slot {name}: transactions that began before are still running{blockers}"
            );
            Error::refused(what).hint(
                "End them (COMMIT, ROLLBACK PREPARED, select pg_terminate_backend(PID)) and start again",
            )
        }
        _ => error,
    }
}

pub(crate) fn slots_remedy() -> String {
    "Raise max_replication_slots (restart needed), or drop one seen unused in pg_replication_slots: \
     select pg_drop_replication_slot('NAME')"
        .to_owned()
}

/// The oldest transactions, for people.
async fn blockers(client: &Client) -> Result<String> {
    let sql = "
        select format('session %s of %s (%s), since %s', pid, usename, coalesce(nullif(application_name, ''), state),
                      date_trunc('second', xact_start))
        from pg_stat_activity where backend_xid is not null and pid <> pg_backend_pid()
        union all
        select format('prepared transaction %L of %s, since %s', gid, owner, date_trunc('second', prepared))
        from pg_prepared_xacts
        limit $1";
    let failed = |error| sql_error("Cannot list running transactions", error);
    let rows = client.query(sql, &[&BLOCKERS]).await.map_err(failed)?;
    let texts: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(if texts.is_empty() { String::new() } else { format!(": {}", texts.join("; ")) })
}

/// Who has the slot, for people.
pub(crate) async fn holder(client: &Client, name: &str) -> Result<Option<String>> {
    let sql = "
        select format('process %s%s%s', s.active_pid,
                      coalesce(', application ' || nullif(r.application_name, ''), ''),
                      coalesce(', from ' || host(r.client_addr), ''))
        from pg_replication_slots s left join pg_stat_replication r on r.pid = s.active_pid
        where s.slot_name = $1 and s.active_pid is not null";
    let row = client.query_opt(sql, &[&name]).await;
    row.map(|row| row.map(|row| row.get(0)))
        .map_err(|error| sql_error("Cannot see who reads the slot", error))
}

/// The SQL that makes the slot by hand.
pub(crate) fn create_remedy(name: &str) -> String {
    format!("SELECT pg_create_logical_replication_slot({}, 'pgoutput');", literal(name))
}

/// The server's code for an error, if it came from the server.
pub(crate) fn sqlstate(error: &Error) -> Option<&str> {
    let cause = std::error::Error::source(error)?;
    cause.downcast_ref::<DbError>().map(|error| error.code.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(json: &str) -> Slot {
        serde_json::from_str(json).unwrap()
    }

    const GOOD: &str = r#"{"slot_type":"logical","plugin":"pgoutput","database":"shop","active":false,
        "confirmed_flush_lsn":"0/1A2B","wal_status":"reserved","two_phase":false}"#;

    #[test]
    fn a_sound_slot() {
        let slot = slot(GOOD);
        assert_eq!(slot.confirmed_flush_lsn, Some(Lsn(0x1A2B)));
        assert_eq!(slot.lost(), None);
        slot.fit("rowcast", "shop").unwrap();
    }

    #[test]
    fn each_wrong_slot_has_its_own_message() {
        let good = slot(GOOD);
        let wrong = [
            (Slot { slot_type: "physical".to_owned(), ..good.clone() }, "physical"),
            (Slot { plugin: Some("wal2json".to_owned()), ..good.clone() }, "wal2json"),
            (Slot { database: Some("other".to_owned()), ..good.clone() }, "\"other\""),
            (Slot { temporary: true, ..good.clone() }, "temporary"),
            (Slot { synced: true, ..good.clone() }, "primary's"),
        ];
        for (slot, word) in wrong {
            let error = slot.fit("rowcast", "shop").unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert!(error.remedy().is_some());
        }
    }

    #[test]
    fn lost_slots() {
        let good = slot(GOOD);
        for (reason, word) in
            [("wal_removed", "log"), ("idle_timeout", "idle"), ("rows_removed", "rows"), ("other", "log")]
        {
            let slot = Slot { invalidation_reason: Some(reason.to_owned()), ..good.clone() };
            assert!(slot.lost().unwrap().contains(word));
        }
        assert!(Slot { wal_status: Some("lost".to_owned()), ..good.clone() }.lost().is_some());
        assert!(Slot { wal_status: Some("extended".to_owned()), ..good }.lost().is_none());
    }
}
