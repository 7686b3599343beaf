//! Whether the stream outlives a fail-over, as far as that can be seen from where we are.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::{Requirement, requirement};
use crate::config::Source;
use crate::setup::server::{FAILOVER_SLOTS, Server};
use crate::setup::slot;
use crate::tables::identifier;
use crate::wire::sql_error;

/// What either side says of itself; empty where it has no such setting or does not show it.
#[derive(Clone, Debug, Default)]
struct Seen {
    synchronized: String,
    sync_slots: String,
    feedback: String,
    slot_name: String,
    /// In milliseconds; -1: for ever.
    conflict_delay: i64,
    /// A WAL receiver runs.
    receives: bool,
    /// `None` where it is not shown to us.
    conninfo: Option<String>,
    /// Physical slots, and whether they are being read.
    physical: Vec<(String, bool)>,
    /// Senders that are no logical ones.
    standbys: i64,
}

/// A standby that waits no longer than this for queries, in milliseconds, has little patience with a chunk of rows, which
/// takes a quarter of a second.
const SHORT_DELAY: i64 = 2_000;

async fn see(client: &Client) -> Result<Seen> {
    let failed = |error| sql_error("Cannot see what there is for a fail-over", error);
    let sql = "
        with said as (select name, setting from pg_settings)
        select coalesce((select setting from said where name = 'synchronized_standby_slots'), ''),
               coalesce((select setting from said where name = 'sync_replication_slots'), ''),
               coalesce((select setting from said where name = 'hot_standby_feedback'), ''),
               coalesce((select setting from said where name = 'primary_slot_name'), ''),
               (select setting from said where name = 'primary_conninfo'),
               array(select slot_name::text from pg_replication_slots
                     where slot_type = 'physical' and not temporary order by 1),
               array(select active from pg_replication_slots
                     where slot_type = 'physical' and not temporary order by slot_name),
               (select count(*) from pg_stat_replication r where not exists (
                    select from pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical')),
               (select setting::int8 from said where name = 'max_standby_streaming_delay'),
               exists (select from pg_stat_wal_receiver)";
    let row = client.query_one(sql, &[]).await.map_err(failed)?;
    let (names, active): (Vec<String>, Vec<bool>) = (row.get(5), row.get(6));
    Ok(Seen {
        synchronized: row.get(0),
        sync_slots: row.get(1),
        feedback: row.get(2),
        slot_name: row.get(3),
        conninfo: row.get(4),
        physical: names.into_iter().zip(active).collect(),
        standbys: row.get(7),
        conflict_delay: row.get(8),
        receives: row.get(9),
    })
}

pub(super) async fn of_standbys(
    client: &Client,
    source: &Source,
    server: &Server,
) -> Result<Vec<Requirement>> {
    let seen = see(client).await?;
    if server.standby {
        return Ok(of_standby(&seen, source, server));
    }
    let mut found = Vec::new();
    if server.version < FAILOVER_SLOTS {
        if seen.standbys > 0 {
            let what = format!("{} standbys, which keep no copy of the slot", seen.standbys);
            let remedy =
                "A fail-over will be a gap in the history; from Postgres 17 on standbys can keep a copy";
            found.push(requirement("fail-over", true, what, remedy.to_owned()));
        }
        return Ok(found);
    }
    let slot = slot::read(client, &source.slot).await?;
    if source.failover && slot.is_some_and(|slot| !slot.failover) {
        let by_hand = format!(
            "while nobody reads the slot: psql \"… replication=database\" -c 'ALTER_REPLICATION_SLOT {} (FAILOVER true)'",
            identifier(&source.slot)
        );
        let remedy =
            if source.manage { format!("`rowcast run` changes it; by hand: {by_hand}") } else { by_hand };
        found.push(requirement("fail-over", true, "standbys keep no copy of the slot", remedy));
    }
    found.extend(of_synchronized(&seen, source));
    Ok(found)
}

/// On the primary: decoding waits for the standbys that are named, and only for those.
fn of_synchronized(seen: &Seen, source: &Source) -> Vec<Requirement> {
    const NAME: &str = "synchronized_standby_slots";
    let named: Vec<&str> = seen
        .synchronized
        .split(',')
        .map(|name| name.trim().trim_matches('"'))
        .filter(|name| !name.is_empty())
        .collect();
    let mut found = Vec::new();
    for name in &named {
        let what = match seen.physical.iter().find(|(slot, _)| slot == name) {
            Some((_, true)) => continue,
            Some((_, false)) => {
                format!("{name} is named there, and no standby reads it: capture waits for it")
            }
            None => format!("{name} is named there, and is no physical slot: capture waits for it"),
        };
        let remedy = "Bring that standby back, or take it out: ALTER SYSTEM SET synchronized_standby_slots = '…'; \
                      SELECT pg_reload_conf();";
        found.push(requirement(NAME, false, what, remedy.to_owned()));
    }
    if source.failover && named.is_empty() && seen.standbys > 0 {
        let what = format!("empty, with {} standbys", seen.standbys);
        let remedy = "Rowcast may be ahead of a standby that is promoted, which is a gap: name the physical slot of \
                      each standby that may be: ALTER SYSTEM SET synchronized_standby_slots = '…'; SELECT \
                      pg_reload_conf();";
        found.push(requirement(NAME, true, what, remedy.to_owned()));
    }
    if found.is_empty() && !named.is_empty() {
        found.push(requirement(NAME, true, named.join(", "), None));
    }
    found
}

/// On a standby: what it needs to keep a copy of the slot, or the rows that decoding here needs.
fn of_standby(seen: &Seen, source: &Source, server: &Server) -> Vec<Requirement> {
    let set = |name: &str, to: &str| {
        format!("On this standby: ALTER SYSTEM SET {name} = {to}; SELECT pg_reload_conf();")
    };
    let mut found = Vec::new();
    let mut need = |name: &str, ok: bool, what: &str, remedy: String| {
        let found_there = if what.is_empty() { "not set" } else { what };
        found.push(requirement(name, true, found_there, (!ok).then_some(remedy)));
    };
    need("hot_standby_feedback", seen.feedback == "on", &seen.feedback, set("hot_standby_feedback", "on"));
    let remedy = format!(
        "On the primary: SELECT pg_create_physical_replication_slot('…'); {}",
        set("primary_slot_name", "'…'")
    );
    need("primary_slot_name", !seen.slot_name.is_empty(), &seen.slot_name, remedy);
    if !seen.receives {
        let remedy = "See primary_conninfo and this standby's log. What comes from an archive alone comes a segment at a \
                      time, and the stream and the rows of snapshots wait for it";
        need("wal receiver", false, "not running", remedy.to_owned());
    }
    if source.snapshot.is_on() && (0..SHORT_DELAY).contains(&seen.conflict_delay) {
        let remedy = set("max_standby_streaming_delay", "'30s'");
        let found =
            format!("{} ms: replay ends the reading of rows that stands in its way", seen.conflict_delay);
        need("max_standby_streaming_delay", false, &found, remedy);
    }
    if server.version < FAILOVER_SLOTS || !(source.failover && source.manage) {
        return found;
    }
    need(
        "sync_replication_slots",
        seen.sync_slots == "on",
        &seen.sync_slots,
        set("sync_replication_slots", "on"),
    );
    if let Some(conninfo) = &seen.conninfo {
        let named = conninfo.contains("dbname");
        let what = if named { "names a database" } else { "names no database" };
        let remedy = "Add dbname=… to primary_conninfo on this standby: copying slots needs it".to_owned();
        need("primary_conninfo", named, what, remedy);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, SnapshotMode};

    fn config() -> Config {
        Config { url: "postgres://me@h/db".to_owned(), ..Config::default() }
    }

    fn source() -> Source {
        Source::new(&config()).unwrap()
    }

    fn told(found: &[Requirement]) -> Vec<(&str, bool, bool)> {
        found.iter().map(|one| (one.name.as_str(), one.ok, one.remedy.is_some())).collect()
    }

    #[test]
    fn a_primary() {
        let alone = Seen::default();
        assert!(of_synchronized(&alone, &source()).is_empty());
        let unnamed = Seen { standbys: 1, ..Seen::default() };
        assert_eq!(told(&of_synchronized(&unnamed, &source())), [("synchronized_standby_slots", true, true)]);
        let physical = vec![("a".to_owned(), true), ("b".to_owned(), false)];
        let named = Seen { synchronized: "a, \"b\",c".to_owned(), physical, standbys: 1, ..Seen::default() };
        let found = of_synchronized(&named, &source());
        assert_eq!(told(&found), [("synchronized_standby_slots", false, true); 2]);
        assert!(
            found[0].found.contains("no standby reads it") && found[1].found.contains("no physical slot")
        );
    }

    #[test]
    fn a_standby() {
        let bare =
            Seen { conninfo: Some("host=h".to_owned()), feedback: "off".to_owned(), ..Seen::default() };
        let server = Server { standby: true, version: 170_000, ..Server::default() };
        assert!(of_standby(&bare, &source(), &server).iter().all(|one| one.ok && one.remedy.is_some()));
        assert_eq!(of_standby(&bare, &source(), &server).len(), 5);
        let on = || "on".to_owned();
        let whole = Seen {
            conninfo: Some("host=h dbname=d".to_owned()),
            sync_slots: on(),
            feedback: on(),
            slot_name: "s".to_owned(),
            receives: true,
            ..Seen::default()
        };
        assert!(of_standby(&whole, &source(), &server).iter().all(|one| one.remedy.is_none()));
        let old = Server { version: 160_000, ..server };
        assert_eq!(of_standby(&bare, &source(), &old).len(), 3);
        // Rows are read there, and replay does not wait for it.
        let config = Config { snapshot: Some(SnapshotMode::Initial), ..config() };
        let reads = Source::new(&config).unwrap();
        assert_eq!(
            told(&of_standby(&whole, &reads, &old)).last(),
            Some(&("max_standby_streaming_delay", true, true))
        );
        for conflict_delay in [-1, 30_000] {
            let patient = Seen { conflict_delay, ..whole.clone() };
            assert!(of_standby(&patient, &reads, &old).iter().all(|one| one.remedy.is_none()));
        }
    }
}
