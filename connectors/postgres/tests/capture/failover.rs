//! A primary that fails and a standby that takes its place, 17 and later: the history goes on there.

use std::time::Duration;

use rowcast_postgres::{Config, OnGap, Requirement, check, uninstall};
use tokio_postgres::Client;

use super::breaks::{gaps, one_row_on};
use super::harness::{Capture, Directory, config, run, set, sql, until, value};
use super::standby::reading;
use crate::support::Server;

const SYNCHRONIZED: &str = "synchronized_standby_slots = 'standby'";

/// A primary with one captured row, and a standby that keeps a copy of the slot.
async fn pair() -> Option<(Server, Server, Directory, Config)> {
    let server = Server::start_since(17, "")?;
    let (mut primary, directory, _) = one_row_on(server, OnGap::Stop).await;
    run(&sql(&primary).await, "select pg_create_physical_replication_slot('standby')").await;
    let standby = primary.with_standby(SYNCHRONIZED, "sync_replication_slots = on");
    let client = sql(&standby).await;
    let copied = "select count(*) from pg_replication_slots where synced and not temporary and failover";
    let writer = sql(&primary).await;
    // The copy is whole once the slot has moved past where the standby began.
    let of_t = |server: &Server| Config { tables: vec!["public.t".to_owned()], ..config(server) };
    let capture = Capture::start(of_t(&primary), directory.path()).await;
    until("the copy of the slot", async || {
        // Else it would be a quarter of a minute before the slot can move.
        run(&writer, "insert into other values (1); select pg_log_standby_snapshot()").await;
        value(&client, copied).await == "1"
    })
    .await;
    capture.stop().await;
    let config = Config { url: url_of(&primary, &standby), ..of_t(&primary) };
    Some((primary, standby, directory, config))
}

/// Both hosts.
fn url_of(primary: &Server, standby: &Server) -> String {
    let (one, other) = (primary.dir().display(), standby.dir().display());
    format!("host={one},{other} port={},{} user=postgres dbname=postgres", primary.port, standby.port)
}

fn find<'a>(found: &'a [Requirement], name: &str) -> &'a Requirement {
    found.iter().find(|one| one.name == name).unwrap_or_else(|| panic!("no {name} in {found:#?}"))
}

/// Rows, one transaction each, until the server is gone.
async fn write(client: Client, from: u32) {
    for id in from.. {
        if client.execute(&format!("insert into public.t values ({id})"), &[]).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whoever is to read from the standby, where a slot of this name is the copy, waits for the promotion.
async fn copy_is_named(standby: &Server, directory: &Directory) {
    let capture = Capture::launch(reading(standby), directory.path());
    capture.slot_is("synced").await;
    until("the word", async || {
        let reason = capture.report().source.reason.unwrap_or_default();
        reason.contains("slot rowcast is a copy of the primary's") && reason.contains("pg_promote()")
    })
    .await;
    assert_eq!(capture.report().source.state, "reconnecting");
    assert_eq!(capture.events().len(), 1, "what the primary told before");
    capture.stop().await;
}

#[tokio::test]
async fn a_fail_over_loses_and_doubles_nothing() {
    let Some((primary, standby, directory, both)) = pair().await else { return };
    let at_primary = check(&config(&primary)).await.unwrap();
    assert!(find(&at_primary, "synchronized_standby_slots").remedy.is_none(), "{at_primary:#?}");
    let at_standby = check(&config(&standby)).await.unwrap();
    for name in ["hot_standby_feedback", "primary_slot_name", "sync_replication_slots", "primary_conninfo"] {
        assert!(find(&at_standby, name).remedy.is_none(), "{name}: {at_standby:#?}");
    }
    assert!(
        !find(&at_standby, "primary").ok && find(&at_standby, "slot").found.contains("copy of the primary's")
    );

    copy_is_named(&standby, &directory).await;
    let capture = Capture::start(both.clone(), directory.path()).await;
    let writer = tokio::spawn(write(sql(&primary).await, 100));
    until("rows", async || capture.events().len() > 200).await;
    // In the middle of it.
    primary.stop();
    writer.await.unwrap();
    until("the word", async || {
        let reason = capture.report().source.reason.unwrap_or_default();
        reason.contains("standby, and not promoted")
    })
    .await;
    assert_eq!(capture.report().source.state, "reconnecting");
    capture.slot_is("synced").await;
    standby.promote();
    until("the stream", async || capture.report().source.state == "streaming").await;
    let client = sql(&standby).await;
    run(&client, "insert into t values (-1)").await;
    until("the last row", async || capture.events().last().is_some_and(|event| event.new == "-1")).await;

    // What the new primary has is what was captured, each once; what only the old one had was not told.
    let mut rows: Vec<i64> = capture.events().iter().map(|event| event.new.parse().unwrap()).collect();
    let count = rows.len();
    rows.sort_unstable();
    rows.dedup();
    assert_eq!(rows.len(), count, "told twice");
    let there: Vec<i64> = client
        .query("select id::int8 from public.t order by 1", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(rows, there);
    assert!(gaps(&capture).is_empty());
    capture.slot_is("active").await;
    capture.stop().await;
    // It is a slot like any other there: `synced` is still set.
    let capture = Capture::start(config(&standby), directory.path()).await;
    run(&client, "insert into t values (-2)").await;
    until("the row", async || capture.events().last().is_some_and(|event| event.new == "-2")).await;
    capture.stop().await;
}

/// The old primary comes back as a standby, with the slot that it had: that is in the way of the copy, and keeps its log.
#[tokio::test]
async fn what_an_old_primary_brings_along_is_named() {
    let Some((mut primary, standby, _directory, both)) = pair().await else { return };
    primary.stop_in_order();
    standby.promote();
    run(&sql(&standby).await, "select pg_create_physical_replication_slot('standby')").await;
    primary.write("standby.signal", "");
    primary.launch(&format!(
        "primary_conninfo = 'host={} port={} user=postgres dbname=postgres'\nprimary_slot_name = 'standby'\n\
         hot_standby_feedback = on\nsync_replication_slots = on",
        standby.dir().display(),
        standby.port
    ));
    let url = format!("{} target_session_attrs=primary", url_of(&primary, &standby));
    let both = Config { url, ..both };
    let there =
        format!("slot at {}", rowcast_postgres::conninfo::Conninfo::parse(&both.url).unwrap().hosts[0]);
    let from_both = check(&both).await.unwrap();
    let at_old = check(&config(&primary)).await.unwrap();
    for slot in [find(&from_both, &there), find(&at_old, "slot")] {
        assert!(!slot.ok && slot.found.contains("this standby's own"), "{slot:?}");
        assert!(slot.found.contains("no slot is copied here"), "{slot:?}");
    }
    let remedy = find(&from_both, &there).remedy.clone().unwrap();
    assert!(find(&from_both, "slot").ok, "at the primary all is well: {from_both:#?}");
    let (client, writer) = (sql(&primary).await, sql(&standby).await);
    run(&client, remedy.strip_prefix("On this standby: ").unwrap()).await;
    until("the copy", async || {
        run(&writer, "insert into other values (1); select pg_log_standby_snapshot()").await;
        let found = check(&both).await.unwrap();
        let slot = find(&found, &there);
        assert!(slot.ok, "{slot:?}");
        slot.found.contains("a copy of the primary's")
    })
    .await;
}

/// Until the primary's slot has moved the copy is a temporary one, which a promotion takes away.
#[tokio::test]
async fn a_copy_that_is_not_ready_is_none() {
    let Some(server) = Server::start_since(17, "") else { return };
    let (mut primary, directory, _) = one_row_on(server, OnGap::Stop).await;
    let writer = sql(&primary).await;
    run(&writer, "select pg_create_physical_replication_slot('standby')").await;
    // What the slot needs of the log is older than what the standby has.
    run(&writer, "insert into other values (1); select pg_switch_wal()").await;
    run(&writer, "checkpoint; insert into other values (2)").await;
    let standby = primary.with_standby(SYNCHRONIZED, "sync_replication_slots = on");
    let client = sql(&standby).await;
    let copied = "select count(*) from pg_replication_slots where synced and temporary";
    until("the copy of the slot", async || value(&client, copied).await == "1").await;
    let url = format!("{} target_session_attrs=primary", url_of(&primary, &standby));
    let there = format!("slot at {}", rowcast_postgres::conninfo::Conninfo::parse(&url).unwrap().hosts[1]);
    let both = check(&Config { url, ..config(&primary) }).await.unwrap();
    let slot = find(&both, &there);
    assert!(slot.found.contains("not ready") && slot.remedy.as_ref().unwrap().contains("gap"), "{slot:?}");
    let here = check(&config(&standby)).await.unwrap();
    let slot = find(&here, "slot");
    assert!(slot.found.contains("a copy of the primary's that is not ready"), "{slot:?}");
    assert!(!slot.remedy.as_ref().unwrap().contains("pg_promote"), "{slot:?}");
    let refused = uninstall(&config(&standby), true).await.unwrap_err();
    assert!(refused.to_string().contains("is a copy of the primary's"), "{refused}");
    let capture = Capture::launch(reading(&standby), directory.path());
    capture.slot_is("synced").await;
    capture.stop().await;
    assert_eq!(value(&client, copied).await, "1", "all the while");
}

/// What is named and not there holds up all decoding: `check` says so, from the primary.
#[tokio::test]
async fn a_standby_that_is_missing_is_named() {
    let Some((primary, mut standby, directory, both)) = pair().await else { return };
    standby.stop_in_order();
    until("the slot's reader to go", async || {
        let found = check(&config(&primary)).await.unwrap();
        let synchronized = find(&found, "synchronized_standby_slots");
        !synchronized.ok && synchronized.found.contains("standby is named there, and no standby reads it")
    })
    .await;
    let capture = Capture::start(both, directory.path()).await;
    let client = sql(&primary).await;
    run(&client, "insert into t values (2)").await;
    set(&client, "synchronized_standby_slots = ''").await;
    assert_eq!(capture.briefs(2).await, ["insert public.t 1", "insert public.t 2"]);
    capture.stop().await;
}
