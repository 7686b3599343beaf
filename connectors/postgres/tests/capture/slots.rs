//! Each state that a slot can be in: named, with what to do about it.

use std::time::{Duration, Instant};

use rowcast_engine::Kind;
use rowcast_postgres::{Config, OnGap, check};

use super::breaks::{POLICIES, goes_on, one_row, one_row_on, stays};
use super::harness::{Capture, Directory, config, run, sql, until, value};
use super::said::logged;
use crate::support::Server;

/// Fresh: it ends, and says why; with a history: it waits, and says why. Nothing of somebody else's is dropped.
#[tokio::test]
async fn a_slot_of_another_kind() {
    let drop = "select pg_drop_replication_slot('rowcast')";
    let kinds = [
        ("select pg_create_physical_replication_slot('rowcast')", "is a physical one"),
        (
            "select pg_create_logical_replication_slot('rowcast', 'test_decoding')",
            "\"test_decoding\", not pgoutput",
        ),
        ("select pg_create_logical_replication_slot('rowcast', 'pgoutput', true)", "is a temporary one"),
        ("select pg_create_logical_replication_slot('rowcast', 'pgoutput', false, true)", "(two_phase)"),
    ];
    let (server, directory, config) = one_row("", OnGap::Stop).await;
    let client = sql(&server).await;
    for (create, words) in kinds {
        run(&client, &format!("{drop}; {create}")).await;
        let elsewhere = Directory::new();
        let error = Capture::launch(config.clone(), elsewhere.path()).fails().await;
        assert!(error.to_string().contains(words) && error.kind() == Kind::Refused, "{error}");
        assert!(error.remedy().unwrap().contains("source.slot"), "{:?}", error.remedy());

        let capture = Capture::launch(config.clone(), directory.path());
        let reason = capture.waits(words).await;
        assert!(reason.contains("another one has its name"), "{reason}");
        capture.slot_is("other").await;
        let error = capture.status.adopt().await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        capture.waits(words).await;
        capture.stop().await;
        let there = "select count(*) from pg_replication_slots where slot_name = 'rowcast'";
        assert_eq!(value(&client, there).await, "1", "somebody else's slot was dropped");
    }
    // Of another database.
    run(&client, drop).await;
    client.batch_execute("create database elsewhere").await.unwrap();
    let other = Config { url: config.url.replace("dbname=postgres", "dbname=elsewhere"), ..config.clone() };
    let there = rowcast_postgres::conninfo::Conninfo::parse(&other.url).unwrap();
    let foreign = rowcast_postgres::wire::sql_client(&there).await.unwrap();
    run(&foreign, "select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await;
    let capture = Capture::launch(config.clone(), directory.path());
    capture.waits("belongs to database \"elsewhere\"").await;
    // The remedy: it is dropped, and the gap is told.
    run(&foreign, drop).await;
    let adopted = capture.status.adopt().await.unwrap().unwrap();
    assert_eq!(adopted.reason, "source_lost");
    run(&client, "insert into t values (2)").await;
    let expected = ["insert public.t 1", "gap source_lost", "insert public.t 2"];
    stays(config, capture, &directory, &expected).await;
}

#[tokio::test]
async fn the_state_is_shown_while_it_streams_and_after() {
    let (server, directory, config) = one_row("", OnGap::Stop).await;
    let mut capture = Capture::launch(config, directory.path());
    capture.streams().await;
    capture.slot_is("active").await;
    let report = capture.report();
    assert!(report.source.wal_retained_bytes.is_some() && report.healthy, "{report:?}");
    assert_eq!(report.source.wal_status.as_deref(), Some("reserved"));
    let client = sql(&server).await;
    until("the slot's end", async || {
        let dropped = "select pg_terminate_backend(active_pid), pg_drop_replication_slot(slot_name)
                       from pg_replication_slots where slot_name = 'rowcast'";
        client.execute(dropped, &[]).await.is_ok_and(|slots| slots == 1)
    })
    .await;
    capture.slot_is("missing").await;
    assert_eq!(capture.report().source.wal_retained_bytes, None);
    capture.stop().await;
}

/// 18: the server gives up slots that nobody reads.
#[tokio::test]
async fn a_slot_that_was_idle_for_too_long() {
    for policy in POLICIES {
        let Some(server) = Server::start_since(18, "idle_replication_slot_timeout = 1s") else { return };
        let (server, directory, config) = one_row_on(server, policy).await;
        let client = sql(&server).await;
        let reason = "select invalidation_reason from pg_replication_slots";
        until("the slot to be given up", async || {
            run(&client, "insert into other values (1); checkpoint").await;
            value(&client, reason).await == "idle_timeout"
        })
        .await;
        let found = check(&config).await.unwrap();
        let advice = found.iter().find(|one| one.name == "idle_replication_slot_timeout").unwrap();
        assert!(
            advice.ok && advice.found == "1s" && advice.remedy.as_ref().unwrap().contains("its slot is lost")
        );
        let slot = found.iter().find(|one| one.name == "slot").unwrap();
        assert!(
            !slot.ok && slot.remedy.as_ref().unwrap().contains("idle_replication_slot_timeout"),
            "{slot:?}"
        );
        if policy == OnGap::Stop {
            let capture = Capture::launch(config.clone(), directory.path());
            let reason = capture.waits("idle_replication_slot_timeout").await;
            assert!(reason.contains("ALTER SYSTEM SET idle_replication_slot_timeout"), "{reason}");
            capture.slot_is("idle_timeout").await;
            capture.stop().await;
        }
        let capture = goes_on(config.clone(), &directory, "it was idle for longer", "source_lost").await;
        run(&client, "insert into t values (2)").await;
        let expected = ["insert public.t 1", "gap source_lost", "insert public.t 2"];
        stays(config, capture, &directory, &expected).await;
    }
}

/// In place of what the server says of its slots: it has invalidated them for a reason of its own.
const GIVEN_UP: &str = "
    do $$ declare
        shown text := (
            select string_agg(quote_ident(attname), ', ') filter (where attname <> 'invalidation_reason')
            from pg_attribute where attrelid = 'pg_catalog.pg_replication_slots'::regclass and attnum > 0);
        slots text := rtrim(pg_get_viewdef('pg_catalog.pg_replication_slots'::regclass), ';');
    begin
        execute format('create view public.given_up as select %s, ''solar_flare'' as invalidation_reason from (%s) s',
            shown, slots);
        set local allow_system_table_mods = on;
        alter view pg_catalog.pg_replication_slots rename to pg_replication_slots_as_they_are;
        alter view public.given_up rename to pg_replication_slots;
        alter view public.pg_replication_slots set schema pg_catalog;
    end $$";

/// As a server does that is newer than rowcast.
#[tokio::test]
async fn a_slot_that_was_given_up_for_a_reason_that_is_not_known() {
    let (server, directory, config) = one_row("", OnGap::Stop).await;
    run(&sql(&server).await, GIVEN_UP).await;
    let capture = Capture::launch(config, directory.path());
    let reason = capture.waits("the server has given it up for the reason \"solar_flare\"").await;
    assert!(reason.contains("pg_replication_slots.invalidation_reason"), "{reason}");
    capture.slot_is("invalidated").await;
    capture.stop().await;
}

/// Whoever takes over a dead reader's slot waits for as long as the server takes to notice, and says for whom.
#[tokio::test]
async fn who_reads_the_slot_is_named_meanwhile() {
    let (server, directory, config) = one_row("", OnGap::Stop).await;
    let reader = Capture::start(config.clone(), directory.path()).await;
    let elsewhere = Directory::new();
    elsewhere.copy_from(directory.path());
    let second = Capture::launch(config, elsewhere.path());
    until("the reader's name", async || {
        let reason = second.report().source.reason.unwrap_or_default();
        reason.contains("is being read by process") && reason.contains("application rowcast")
    })
    .await;
    assert!(!second.report().healthy);
    reader.stop().await;
    until("the slot", async || second.report().source.state == "streaming").await;
    second.stop().await;
    drop(server);
}

/// 18 sends nothing then and says so only in its own log; earlier versions end the stream at the next change.
#[tokio::test]
async fn a_publication_that_is_dropped_is_told() {
    for version in [None, Some(18)] {
        for policy in POLICIES {
            let server = match version {
                None => Server::start(""),
                Some(version) => match Server::start_since(version, "") {
                    Some(server) => server,
                    None => return,
                },
            };
            let (server, directory, config) = one_row_on(server, policy).await;
            let client = sql(&server).await;
            let capture = Capture::start(config.clone(), directory.path()).await;
            // Made again at once, as if nothing had happened.
            run(
                &client,
                "drop publication rowcast; insert into t values (2); create publication rowcast for table t",
            )
            .await;
            if policy == OnGap::Stop {
                capture.waits("ublication").await;
                assert_eq!(capture.status.adopt().await.unwrap().unwrap().reason, "source_lost");
            }
            until("the gap", async || capture.status.adopted().is_some()).await;
            until("the stream", async || capture.report().source.state == "streaming").await;
            run(&client, "insert into t values (3)").await;
            let expected = ["insert public.t 1", "gap source_lost", "insert public.t 3"];
            stays(config, capture, &directory, &expected).await;
        }
    }
}

/// Longer than the guard takes for two more looks.
const OPEN_FOR: Duration = Duration::from_secs(12);

/// A new slot waits for every transaction that is open: nothing of what is known begins that anew meanwhile.
async fn goes_on_once(server: Server) {
    let (server, directory, config) = one_row_on(server, OnGap::Continue).await;
    let (client, writer) = (sql(&server).await, sql(&server).await);
    let capture = Capture::start(config.clone(), directory.path()).await;
    run(&writer, "begin; insert into other values (1)").await;
    // Without a change no version's stream says so: the guard has to see it.
    run(&client, "drop publication rowcast").await;
    until("the stream to be left", async || capture.report().source.state != "streaming").await;
    run(&client, "insert into t values (2)").await;
    let start = Instant::now();
    while start.elapsed() < OPEN_FOR {
        let report = capture.report();
        assert_ne!(report.source.state, "streaming", "after {:?}", start.elapsed());
        assert!(!report.healthy && capture.status.adopted().is_none(), "{:?}", report.reasons);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    run(&writer, "commit").await;
    until("the gap", async || capture.status.adopted().is_some()).await;
    until("the stream", async || capture.report().source.state == "streaming").await;
    let begun = logged(directory.path(), "Goes on behind a gap");
    assert_eq!(begun.len(), 1, "{begun:?}");
    run(&client, "insert into t values (3)").await;
    let expected = ["insert public.t 1", "gap source_lost", "insert public.t 3"];
    stays(config, capture, &directory, &expected).await;
}

#[tokio::test]
async fn a_dropped_publication_beside_an_open_transaction_is_one_gap() {
    goes_on_once(Server::start("")).await;
}

#[tokio::test]
async fn so_it_is_where_the_server_says_nothing() {
    let Some(server) = Server::start_since(18, "") else { return };
    goes_on_once(server).await;
}

/// It is remembered: what was lost does not come back with the publication.
#[tokio::test]
async fn a_dropped_publication_is_not_forgotten() {
    let (server, directory, config) = one_row("", OnGap::Stop).await;
    let client = sql(&server).await;
    run(&client, "drop publication rowcast").await;
    let capture = Capture::launch(config.clone(), directory.path());
    capture.waits("The publication rowcast was dropped").await;
    capture.stop().await;
    run(&client, "create publication rowcast for table t").await;
    let capture = Capture::launch(config.clone(), directory.path());
    capture.waits("The publication rowcast was dropped").await;
    capture.status.adopt().await.unwrap().unwrap();
    run(&client, "insert into t values (2)").await;
    let expected = ["insert public.t 1", "gap source_lost", "insert public.t 2"];
    stays(config, capture, &directory, &expected).await;
}

#[tokio::test]
async fn a_slot_is_kept_on_standbys_as_configured() {
    let Some(server) = Server::start_since(17, "") else { return };
    let directory = Directory::new();
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let failover = "select failover from pg_replication_slots where slot_name = 'rowcast'";
    let without = Config { failover: false, ..config(&server) };
    for (config, expected) in [(without.clone(), "false"), (config(&server), "true"), (without, "false")] {
        let found = check(&config).await.unwrap();
        let advised = found.iter().any(|one| one.name == "fail-over");
        let there = value(&client, "select count(*) from pg_replication_slots").await == "1";
        assert_eq!(advised, there && expected == "true", "{found:?}");
        Capture::start(config, directory.path()).await.stop().await;
        assert_eq!(value(&client, failover).await, expected);
    }
    // Nobody else's: a slot made by hand where nothing may be changed stays as it is.
    Capture::start(Config { manage: false, ..config(&server) }, directory.path()).await.stop().await;
    assert_eq!(value(&client, failover).await, "false");
}
