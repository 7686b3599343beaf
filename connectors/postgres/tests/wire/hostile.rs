//! A role with every setting turned against us. Values come out the same, and statements do what they should.

use std::time::Duration;

use rowcast_postgres::conninfo::Conninfo;
use rowcast_postgres::wire::{Connection, Purpose};

use super::{login, one};
use crate::support::Server;

/// What is neither a switch nor a choice, and would change what values look like or end what we do.
const SETTINGS: &[&str] = &[
    "DateStyle = 'SQL, DMY'",
    "TimeZone = 'Asia/Kathmandu'",
    "extra_float_digits = -15",
    "search_path = 'hostile, public'",
    "lc_monetary = 'POSIX'",
    "client_encoding = 'LATIN1'",
    "statement_timeout = 1",
    "lock_timeout = 1",
    "idle_in_transaction_session_timeout = 1",
    "idle_session_timeout = '1s'",
    "transaction_timeout = '1s'",
    "work_mem = 64",
    "logical_decoding_work_mem = 64",
    "wal_sender_timeout = '4s'",
    "from_collapse_limit = 1",
    "join_collapse_limit = 1",
    "default_statistics_target = 1",
    "default_tablespace = 'nowhere'",
    "temp_tablespaces = 'nowhere'",
    "geqo_threshold = 2",
];

/// Those that would end a session before it begins, fill the log, or concern the machine.
const LEFT_ALONE: &str = "^(log_|debug_|trace_|zero_|ignore_|allow_|jit|wal_|wal_compression|default_toast|ssl|\
                          track_|compute_query_id|in_hot_standby|transaction_|session_authorization|is_superuser|\
                          event_triggers|update_process_title|default_transaction_deferrable$)";

/// Than any of the timeouts.
const LONGER: Duration = Duration::from_millis(1_200);

/// Makes the role: each switch the other way round, each choice the last that it is not.
pub(crate) async fn make(server: &Server) -> usize {
    let mut admin = login(&server.admin()).await;
    admin.simple_query("CREATE ROLE hostile SUPERUSER LOGIN; CREATE SCHEMA hostile").await.unwrap();
    let flips = format!(
        "SELECT pg_catalog.format('ALTER ROLE hostile SET %I = %L', name, CASE vartype WHEN 'bool' THEN \
         CASE setting WHEN 'on' THEN 'off' ELSE 'on' END ELSE (SELECT pg_catalog.max(v) FROM \
         pg_catalog.unnest(enumvals) v WHERE v <> setting) END) FROM pg_catalog.pg_settings \
         WHERE context IN ('user', 'superuser') AND vartype IN ('bool', 'enum') AND name !~ '{LEFT_ALONE}'"
    );
    let flips = admin.simple_query(&flips).await.unwrap();
    let settings = SETTINGS.iter().map(|setting| format!("ALTER ROLE hostile SET {setting}"));
    let mut made = 0;
    for statement in flips.into_iter().filter_map(|mut row| row[0].take()).chain(settings) {
        // A newer server's setting, or a choice that this build lacks, is no setting here.
        made += usize::from(admin.simple_query(&statement).await.is_ok());
    }
    // The same for the database, and functions and types in front of the built-in ones.
    admin
        .simple_query(
            "ALTER DATABASE postgres SET bytea_output = 'escape'; ALTER DATABASE postgres SET DateStyle = 'German'; \
             CREATE FUNCTION hostile.pg_is_in_recovery() RETURNS bool LANGUAGE sql AS 'SELECT true'; \
             CREATE FUNCTION hostile.format(text) RETURNS text LANGUAGE sql AS $$SELECT 'x'$$; \
             CREATE TABLE hostile.pg_class (); CREATE TABLE hostile.pg_settings ()",
        )
        .await
        .unwrap();
    server.admit("local all hostile trust\nhost all hostile all trust");
    made
}

/// One value of each sort whose text depends on a setting.
pub(crate) const VALUES: &str = "timestamptz '2020-03-01 12:00+00', timestamp '2020-03-01 12:00', date '2020-03-01', \
     timetz '12:00+02', interval '1 year -2 days 3.5 seconds', 0.1::float8 + 0.2, 1.1::float4, '1234.5'::money, \
     '\\x00ff5c'::bytea, 'public.quoted \"Name'::text, array['a,b', null, 'x y'], '<a>é</a>'::xml, \
     numrange(1.5, 2.5), tstzrange('2020-01-01 00:00+00', null), 'infinity'::timestamptz, \
     '{\"a\": 1e2}'::jsonb, 'é'::text, true, point(0.1, 2)";

#[tokio::test]
async fn values_and_behaviour_are_the_same() {
    let server = Server::start("");
    let plain = server.admin();
    let made = make(&server).await;
    assert!(made > 60, "only {made} settings");
    let mut unpinned = login(&plain).await;
    let of_role =
        "SELECT setconfig::text FROM pg_catalog.pg_db_role_setting WHERE setrole = 'hostile'::regrole";
    assert!(one(&mut unpinned, of_role).await.contains("lc_monetary=POSIX"), "it was not taken");
    let hostile = plain.replace(
        "user=postgres",
        "user=hostile options='-c DateStyle=German -c IntervalStyle=postgres -c work_mem=5MB'",
    );
    let query = format!(
        "SELECT {VALUES}, row(1, date '2020-03-01', interval '1 hour'), pg_catalog.pg_is_in_recovery()"
    );
    let expected = login(&plain).await.simple_query(&query).await.unwrap();
    assert_eq!(expected[0][0].as_deref(), Some("2020-03-01 12:00:00+00"));
    for purpose in [Purpose::Replication, Purpose::Query] {
        let info = Conninfo::parse(&hostile).unwrap();
        let mut session = Connection::connect(&info, purpose).await.unwrap();
        assert_eq!(session.simple_query(&query).await.unwrap(), expected, "{purpose:?}");
        // What is not pinned is as it was made: the settings are there.
        assert_eq!(one(&mut session, "SHOW enable_hashjoin").await, "off");
        assert_eq!(one(&mut session, "SHOW work_mem").await, "5MB");
        // An error is not the end, nor is a pause; writing is possible, and sees what others have committed.
        session.simple_query("SELECT * FROM nowhere").await.unwrap_err();
        session.simple_query("BEGIN; SELECT pg_catalog.pg_sleep(0.05)").await.unwrap();
        tokio::time::sleep(LONGER).await;
        session
            .simple_query("CREATE TABLE public.written (); DROP TABLE public.written; COMMIT")
            .await
            .unwrap();
        for (setting, value) in [
            ("transaction_isolation", "read committed"),
            ("synchronous_commit", "local"),
            ("lock_timeout", if purpose == Purpose::Query { "20s" } else { "0" }),
            ("standard_conforming_strings", "on"),
            ("search_path", "pg_catalog"),
            // POSIX writes money as C does, and other locales are not everywhere: no value shows this one.
            ("lc_monetary", "C"),
        ] {
            assert_eq!(one(&mut session, &format!("SHOW {setting}")).await, value, "{setting}");
        }
    }
}
