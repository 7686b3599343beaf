//! The replication slot: what the server says of it, and what that means.

use std::borrow::Cow;

use rowcast_engine::{Error, Lsn, Result, in_quotes};
use serde::Deserialize;
use tokio_postgres::Client;

use super::server::{FAILOVER_SLOTS, Server};
use super::synchronous::COMMITS_WAIT;
use crate::config::Source;
use crate::tables::{identifier, literal};
use crate::wire::{DbError, sql_error};

/// What a slot can be, for metrics and programs.
pub(crate) const STATES: [&str; 12] = [
    ACTIVE,
    INACTIVE,
    IN_USE,
    MISSING,
    SYNCED,
    OTHER,
    WAL_REMOVED.state,
    ROWS_REMOVED.state,
    WAL_LEVEL.state,
    IDLE_TIMEOUT.state,
    CONFLICTING.state,
    INVALIDATED,
];

/// This process reads it.
const ACTIVE: &str = "active";
/// Nobody reads it.
const INACTIVE: &str = "inactive";
/// Somebody else does.
const IN_USE: &str = "in_use";
/// There is none of this name.
const MISSING: &str = "missing";
/// A standby's copy of the primary's.
const SYNCED: &str = "synced";
/// Of a kind that cannot be read: physical, temporary, of another plugin or database, for prepared transactions.
const OTHER: &str = "other";

/// The server has given it up for a reason that is not known here.
const INVALIDATED: &str = "invalidated";

/// Of a copy that a promotion would not leave there.
pub(crate) const NOT_READY: &str = "A fail-over to this standby now would be a gap in the history: the copy would be gone, or \
                                    of no use. The standby's log says what it waits for; writes on the primary, and rowcast \
                                    reading them, let it go on";

/// SQLSTATE `cannot_connect_now`: the server is stopping or starting.
pub(crate) const STOPPING: &str = "57P03";

/// Why nothing can be read from a slot any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    /// For metrics and programs.
    pub(crate) state: &'static str,
    pub(crate) why: Cow<'static, str>,
    /// So that it does not come again.
    pub(crate) remedy: &'static str,
}

impl Lost {
    /// For a reason that a newer server gives, by its own word.
    fn unknown(reason: &str) -> Self {
        Self {
            state: INVALIDATED,
            why: format!("the server has given it up for the reason {}", in_quotes(reason)).into(),
            remedy: "The server's documentation says of that word (pg_replication_slots.invalidation_reason) what keeps it \
                     from coming again",
        }
    }
}

const WAL_REMOVED: Lost = Lost {
    state: "wal_removed",
    why: Cow::Borrowed("the log that it needs has been removed (see max_slot_wal_keep_size)"),
    remedy: "So that it does not come again, ALTER SYSTEM SET max_slot_wal_keep_size = '…' as the server's disk \
             allows, then SELECT pg_reload_conf()",
};
const ROWS_REMOVED: Lost = Lost {
    state: "rows_removed",
    why: Cow::Borrowed("the primary has removed rows that decoding needs"),
    remedy: "So that it does not come again, on the standby ALTER SYSTEM SET hot_standby_feedback = on, and a physical \
             slot for it (primary_slot_name)",
};
const WAL_LEVEL: Lost = Lost {
    state: "wal_level_insufficient",
    why: Cow::Borrowed("the primary's wal_level was not logical for a time"),
    remedy: "On the primary ALTER SYSTEM SET wal_level = logical, then restart it",
};
const IDLE_TIMEOUT: Lost = Lost {
    state: "idle_timeout",
    why: Cow::Borrowed("it was idle for longer than idle_replication_slot_timeout"),
    remedy: "So that it does not come again, ALTER SYSTEM SET idle_replication_slot_timeout = '…' to longer than \
             rowcast may be away (0: for ever), then SELECT pg_reload_conf()",
};
const CONFLICTING: Lost = Lost {
    state: "conflicting",
    why: Cow::Borrowed(
        "it conflicted with recovery on this standby: the primary has removed rows that decoding needs, or its \
          wal_level was not logical for a time",
    ),
    remedy: "So that it does not come again, on the standby ALTER SYSTEM SET hot_standby_feedback = on, and a physical \
             slot for it (primary_slot_name); on the primary wal_level = logical",
};

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
    /// The oldest log that the server keeps for it.
    pub(crate) restart_lsn: Option<Lsn>,
    pub(crate) confirmed_flush_lsn: Option<Lsn>,
    pub(crate) wal_status: Option<String>,
    /// From version 17 on.
    pub(crate) invalidation_reason: Option<String>,
    /// From version 16 on.
    pub(crate) conflicting: Option<bool>,
    /// From version 17 on: kept in step from a primary, not to be read here.
    pub(crate) synced: bool,
    /// From version 17 on: standbys keep a copy of it.
    pub(crate) failover: bool,
    /// It sends prepared transactions when they are prepared.
    pub(crate) two_phase: bool,
    /// Bytes that may still be written before the slot is lost.
    pub(crate) safe_wal_size: Option<i64>,
    /// Transactions that were decoded through it since it was made, or since the server has lost its statistics (a
    /// crash); moving it decodes none.
    pub(crate) decoded: Option<i64>,
}

/// The slot, if there is one.
pub(crate) async fn read(client: &Client, name: &str) -> Result<Option<Slot>> {
    let failed = |error| sql_error("Cannot read the replication slot", error);
    let sql = "select to_jsonb(s)::text from pg_replication_slots s where s.slot_name = $1";
    let Some(row) = client.query_opt(sql, &[&name]).await.map_err(failed)? else { return Ok(None) };
    understand(row.get(0)).map(Some)
}

/// A slot with what goes on around it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) slot: Option<Slot>,
    /// Where the server's log ends; on a standby, up to where it has been replayed.
    pub(crate) end: Lsn,
    /// For so many seconds nobody has read it; from version 17 on.
    pub(crate) inactive: Option<u64>,
    /// In bytes; `None`: without limit.
    pub(crate) keep: Option<u64>,
    /// Those of our publications that exist, with their OIDs.
    pub(crate) publications: Vec<(String, u32)>,
    /// Commits wait for whoever reads it; `None` while nobody does.
    pub(crate) commits_wait: Option<bool>,
}

impl Observed {
    /// Bytes of its log that the server keeps for the slot.
    pub(crate) fn retained(&self) -> Option<u64> {
        Some(self.end.0.saturating_sub(self.slot.as_ref()?.restart_lsn?.0))
    }

    /// Bytes of it that are not confirmed: the rest is kept for other people's transactions.
    pub(crate) fn behind(&self) -> u64 {
        let confirmed = self.slot.as_ref().and_then(|slot| slot.confirmed_flush_lsn);
        confirmed.map_or(0, |confirmed| self.end.0.saturating_sub(confirmed.0))
    }
}

/// What [`Observed`] tells, at one moment.
pub(crate) async fn observe(client: &Client, source: &Source) -> Result<Observed> {
    let failed = |error| sql_error("Cannot look after the replication slot", error);
    let sql = format!(
        "
        select (to_jsonb(s) || jsonb_build_object('decoded', (
                   select total_txns from pg_stat_replication_slots d where d.slot_name = s.slot_name)))::text,
               case when pg_is_in_recovery() then coalesce(pg_last_wal_replay_lsn(), '0/0')
                    else pg_current_wal_lsn() end::text,
               extract(epoch from now() - (to_jsonb(s) ->> 'inactive_since')::timestamptz)::int8,
               (select nullif(setting, '-1')::int8 * 1048576 from pg_settings where name = 'max_slot_wal_keep_size'),
               array(select pubname::text from pg_publication where pubname in ($2, $3) order by oid),
               array(select oid from pg_publication where pubname in ($2, $3) order by oid), case when s.active_pid is not null then {COMMITS_WAIT} end
        from (select $1::text as wanted) w left join pg_replication_slots s on s.slot_name = w.wanted"
    );
    let (all, inserts) = (&source.publication, &source.inserts);
    let row = client.query_one(&sql, &[&source.slot, all, inserts]).await.map_err(failed)?;
    let slot: Option<String> = row.get(0);
    let count = |at: usize| row.get::<_, Option<i64>>(at).and_then(|count| count.try_into().ok());
    let (names, oids): (Vec<String>, Vec<u32>) = (row.get(4), row.get(5));
    Ok(Observed {
        slot: slot.as_deref().map(understand).transpose()?,
        end: row.get::<_, String>(1).parse().unwrap_or_default(),
        inactive: count(2),
        keep: count(3),
        publications: names.into_iter().zip(oids).collect(),
        commits_wait: row.get(6),
    })
}

/// Sets the gauges of what the server says of decoding for the slot.
pub(crate) async fn show_decoding(client: &Client, name: &str) -> Result<()> {
    let sql = "select d.spill_txns, d.spill_bytes, d.stream_txns, d.stream_bytes, age(s.catalog_xmin)::int8
               from pg_replication_slots s left join pg_stat_replication_slots d on d.slot_name = s.slot_name
               where s.slot_name = $1::text::name";
    let row = client.query_opt(sql, &[&name]).await;
    let row = row.map_err(|error| sql_error("Cannot read what decoding has cost", error))?;
    let figure = |at| row.as_ref().and_then(|row| row.get::<_, Option<i64>>(at)).unwrap_or(0) as f64;
    metrics::gauge!("rowcast_source_slot_spilled_transactions").set(figure(0));
    metrics::gauge!("rowcast_source_slot_spilled_bytes").set(figure(1));
    metrics::gauge!("rowcast_source_slot_streamed_transactions").set(figure(2));
    metrics::gauge!("rowcast_source_slot_streamed_bytes").set(figure(3));
    metrics::gauge!("rowcast_source_slot_catalog_xmin_age").set(figure(4));
    Ok(())
}

fn understand(json: &str) -> Result<Slot> {
    serde_json::from_str(json)
        .map_err(|error| Error::failed("Cannot understand the replication slot's row").because(error))
}

impl Slot {
    /// Makes sure that the slot is of the kind that can be read at all.
    ///
    /// # Errors
    ///
    /// `Kind::Transient` for the copy of a standby, which can be read once that is promoted.
    pub(crate) fn fit(&self, source: &Source, server: &Server) -> Result<()> {
        let name = &source.slot;
        let Some(what) = self.unfit(server) else {
            return if self.is_copy(server) { Err(self.copied(name)) } else { Ok(()) };
        };
        let remedy = if self.temporary {
            "It vanishes with that session; or choose another name for the slot (source.slot)".to_owned()
        } else if self.is_somebody_elses(&server.database) {
            // What it is good for is not known here, and a slot that is dropped is a history lost.
            "Choose another name for the slot (source.slot): this one is somebody else's".to_owned()
        } else {
            let (wrong, right) = (drop_sql(name), create_remedy(source, server));
            format!(
                "Choose another name for the slot (source.slot), or, if nobody needs it, replace it: {wrong} {right}"
            )
        };
        Err(Error::refused(format!("The replication slot {name} {what}")).hint(remedy))
    }

    fn is_somebody_elses(&self, database: &str) -> bool {
        let of = self.database.as_deref().unwrap_or_default();
        self.slot_type != "logical" || self.plugin.as_deref() != Some("pgoutput") || of != database
    }

    /// It is kept in step from a primary.
    pub(crate) fn is_copy(&self, server: &Server) -> bool {
        self.synced && server.standby
    }

    /// The copy is there after a promotion. Until what the primary's slot needs is here, too, it is the temporary one of
    /// the server's process that copies slots, and goes with a promotion.
    pub(crate) fn is_ready(&self) -> bool {
        self.synced && !self.temporary && self.lost().is_none()
    }

    /// Why a copy is not read.
    fn copied(&self, name: &str) -> Error {
        let what = format!("The replication slot {name} is a copy of the primary's");
        if self.is_ready() {
            let hint =
                "Connect to the primary, or promote this standby (SELECT pg_promote();): then it is read";
            return Error::transient(what).hint(hint);
        }
        Error::transient(format!("{what} that is not ready"))
            .hint(format!("Connect to the primary. {NOT_READY}"))
    }

    /// Why it is none that could be read, if so; behind its name.
    fn unfit(&self, server: &Server) -> Option<String> {
        let plugin = self.plugin.as_deref().unwrap_or_default();
        let of = self.database.as_deref().unwrap_or_default();
        if self.slot_type != "logical" {
            Some(format!("is a {} one, not logical", self.slot_type))
        } else if plugin != "pgoutput" {
            Some(format!("uses the output plugin {}, not pgoutput", identifier(plugin)))
        } else if of != server.database {
            Some(format!("belongs to database {}", identifier(of)))
        } else if self.temporary && !self.is_copy(server) {
            Some("is a temporary one of another session".to_owned())
        } else if self.two_phase {
            Some("sends prepared transactions before they are committed (two_phase)".to_owned())
        } else {
            None
        }
    }

    /// Why nothing can be read from it any more, if so.
    pub(crate) fn lost(&self) -> Option<Lost> {
        match (self.invalidation_reason.as_deref(), self.wal_status.as_deref()) {
            (Some("rows_removed"), _) => Some(ROWS_REMOVED),
            (Some("wal_level_insufficient"), _) => Some(WAL_LEVEL),
            (Some("idle_timeout"), _) => Some(IDLE_TIMEOUT),
            // Version 16 calls everything a conflict that ends a slot; one that lost its log has no place in it any more.
            (None, _) if self.conflicting == Some(true) && self.restart_lsn.is_some() => Some(CONFLICTING),
            (Some("wal_removed"), _) | (None, Some("lost")) => Some(WAL_REMOVED),
            (Some(other), _) => Some(Lost::unknown(other)),
            _ => None,
        }
    }
}

/// Which of [`STATES`] it is in; `reader` is the server's process that we read through.
pub(crate) fn state(slot: Option<&Slot>, server: &Server, reader: Option<i32>) -> &'static str {
    let Some(slot) = slot else { return MISSING };
    match (slot.lost(), slot.active_pid) {
        (Some(lost), _) => lost.state,
        _ if slot.unfit(server).is_some() => OTHER,
        _ if slot.is_copy(server) => SYNCED,
        (None, None) => INACTIVE,
        (None, pid) if pid == reader => ACTIVE,
        _ => IN_USE,
    }
}

/// Removes a slot from which nothing can be read any more.
pub(crate) async fn drop(client: &Client, name: &str) -> Result<()> {
    let dropped = client.execute("select pg_drop_replication_slot($1)", &[&name]).await;
    dropped
        .map(std::mem::drop)
        .map_err(|error| sql_error(format!("Cannot drop the replication slot {name}"), error))
}

/// Who has the slot, for people.
pub(crate) async fn holder(client: &Client, name: &str) -> Result<Option<String>> {
    let sql = "
        select format('process %s%s%s', s.active_pid,
                      coalesce(', application ' || nullif(a.application_name, ''), ''),
                      coalesce(', from ' || host(a.client_addr), ''))
        from pg_replication_slots s left join pg_stat_activity a on a.pid = s.active_pid
        where s.slot_name = $1 and s.active_pid is not null";
    let row = client.query_opt(sql, &[&name]).await;
    row.map(|row| row.map(|row| row.get(0)))
        .map_err(|error| sql_error("Cannot see who reads the slot", error))
}

/// The SQL that makes the slot by hand.
pub(crate) fn create_remedy(source: &Source, server: &Server) -> String {
    let copied = source.failover && server.version >= FAILOVER_SLOTS && !server.standby;
    let failover = if copied { ", failover => true" } else { "" };
    let name = literal(&source.slot);
    let sql = format!("SELECT pg_create_logical_replication_slot({name}, 'pgoutput'{failover});");
    if server.standby {
        // There the slot begins at what the primary logs of its running transactions, now and then.
        format!("{sql} (on a standby it waits for the primary: there, SELECT pg_log_standby_snapshot();)")
    } else {
        sql
    }
}

/// The SQL that removes it.
pub(crate) fn drop_sql(name: &str) -> String {
    format!("SELECT pg_drop_replication_slot({});", literal(name))
}

/// The server's code for an error, if it came from the server.
pub(crate) fn sqlstate(error: &Error) -> Option<&str> {
    db_error(error).map(|error| error.code.as_str())
}

/// What the server said, if the error came from it, however far down.
pub(crate) fn db_error(error: &Error) -> Option<&DbError> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn slot(json: &str) -> Slot {
        serde_json::from_str(json).unwrap()
    }

    const GOOD: &str = r#"{"slot_type":"logical","plugin":"pgoutput","database":"shop","active":false,
        "confirmed_flush_lsn":"0/1A2B","wal_status":"reserved","two_phase":false}"#;

    fn server(standby: bool) -> Server {
        Server { database: "shop".to_owned(), standby, version: 170_000, ..Server::default() }
    }

    fn source(failover: bool) -> Source {
        let url = "postgres://me@h/shop".to_owned();
        Source::new(&Config { url, failover, ..Config::default() }).unwrap()
    }

    #[test]
    fn a_sound_slot() {
        let slot = slot(GOOD);
        assert_eq!(slot.confirmed_flush_lsn, Some(Lsn(0x1A2B)));
        assert_eq!(slot.lost(), None);
        slot.fit(&source(true), &server(false)).unwrap();
        assert_eq!(state(Some(&slot), &server(false), None), "inactive");
        let read = Slot { active_pid: Some(7), ..slot.clone() };
        assert_eq!(state(Some(&read), &server(false), Some(7)), "active");
        assert_eq!(state(Some(&read), &server(false), Some(8)), "in_use");
        assert_eq!(state(None, &server(false), Some(8)), "missing");
        // What a promoted standby was copied before.
        Slot { synced: true, ..slot }.fit(&source(true), &server(false)).unwrap();
    }

    #[test]
    fn each_wrong_slot_has_its_own_message() {
        let good = slot(GOOD);
        let wrong = [
            (Slot { slot_type: "physical".to_owned(), ..good.clone() }, "physical"),
            (Slot { plugin: Some("wal2json".to_owned()), ..good.clone() }, "wal2json"),
            (Slot { database: Some("other".to_owned()), ..good.clone() }, "\"other\""),
            (Slot { temporary: true, ..good.clone() }, "temporary"),
            (Slot { two_phase: true, ..good.clone() }, "two_phase"),
            (Slot { synced: true, ..good.clone() }, "primary's"),
            (Slot { synced: true, temporary: true, active: true, ..good.clone() }, "that is not ready"),
        ];
        for (slot, word) in wrong {
            let error = slot.fit(&source(true), &server(true)).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(error.remedy().unwrap().contains("pg_promote()"), slot.is_ready(), "{error}");
            let expected = if slot.synced { "synced" } else { "other" };
            assert_eq!(state(Some(&slot), &server(true), None), expected);
        }
    }

    #[test]
    fn lost_slots() {
        let good = slot(GOOD);
        for (reason, word, expected) in [
            ("wal_removed", "log", "wal_removed"),
            ("idle_timeout", "idle", "idle_timeout"),
            ("rows_removed", "rows", "rows_removed"),
            ("wal_level_insufficient", "wal_level", "wal_level_insufficient"),
            ("solar_flare", "\"solar_flare\"", "invalidated"),
        ] {
            let slot = Slot { invalidation_reason: Some(reason.to_owned()), ..good.clone() };
            assert!(slot.lost().unwrap().why.contains(word));
            assert_eq!(state(Some(&slot), &server(false), None), expected);
            assert!(STATES.contains(&expected), "{expected} has no gauge");
        }
        // Version 16 says no more than this, with wal_status `lost`.
        let conflicting = Slot {
            conflicting: Some(true),
            wal_status: Some("lost".to_owned()),
            restart_lsn: Some(Lsn(7)),
            ..good.clone()
        };
        assert_eq!(conflicting.lost(), Some(CONFLICTING));
        assert_eq!(Slot { restart_lsn: None, ..conflicting }.lost(), Some(WAL_REMOVED));
        assert_eq!(Slot { wal_status: Some("lost".to_owned()), ..good.clone() }.lost(), Some(WAL_REMOVED));
        assert!(Slot { wal_status: Some("extended".to_owned()), ..good }.lost().is_none());
    }

    #[test]
    fn the_sql_says_what_a_standby_needs() {
        let sql = create_remedy(&source(true), &server(false));
        assert_eq!(
            sql,
            "SELECT pg_create_logical_replication_slot('rowcast', 'pgoutput', failover => true);"
        );
        let sql = create_remedy(&source(true), &server(true));
        assert!(!sql.contains("failover") && sql.contains("pg_log_standby_snapshot()"), "{sql}");
        assert!(!create_remedy(&source(false), &server(false)).contains("failover"));
    }
}
