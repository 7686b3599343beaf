//! Whether commits on the server wait for whoever reads our slot.

/// An SQL condition; `$1` is the slot's name. False at a standby: nobody commits there.
///
/// Who may not read statistics is not told who is synchronous: then the setting is compared with our name, as the server
/// does (`SyncRepGetStandbyPriority`, replication/syncrep.c).
pub(crate) const COMMITS_WAIT: &str = r#"
    not pg_is_in_recovery() and
    exists (select from pg_replication_slots s join pg_stat_replication r on r.pid = s.active_pid
            where s.slot_name = $1 and coalesce(r.sync_state in ('sync', 'quorum', 'potential'), exists (
                select from regexp_split_to_table(regexp_replace(current_setting('synchronous_standby_names'),
                                                                 '^[^("]*\(|\)\s*$|"', '', 'g'), '\s*,\s*') name
                where lower(btrim(name)) in ('*', lower(r.application_name)))))"#;
