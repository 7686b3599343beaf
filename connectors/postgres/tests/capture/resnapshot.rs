//! `on_gap = "resnapshot"`: behind the gap all tables are read anew, whatever it was that broke the history. Who forgets
//! at the gap what he had, and follows, ends with the table.

use rowcast_engine::event::Op;
use rowcast_postgres::{Config, OnGap, SnapshotMode};

use super::breaks::{gaps, one_row};
use super::harness::{Capture, Directory, config, run, sql, until};
use super::restored::{promoted_too_early, put_back};
use super::snapshot::{actual, caught_up, read_whole, rebuilt};
use crate::support::Server;

const POLICY: OnGap = OnGap::Resnapshot;

/// Captures a history that is broken, while the table goes on changing.
async fn reads_anew(server: &Server, config: Config, directory: &Directory, reason: &str) {
    let client = sql(server).await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    run(&client, "insert into t values (101), (102), (103); update t set id = 104 where id = 101").await;
    run(&client, "delete from t where id = 102").await;
    read_whole(&capture).await;
    caught_up(&client, &capture).await;
    let told = gaps(&capture);
    assert_eq!(told.iter().map(|gap| &*gap.new).collect::<Vec<_>>(), [reason]);
    let events = capture.events();
    let behind: Vec<_> = events.iter().filter(|event| event.id > told[0].id).cloned().collect();
    let table = actual(&client, "t", &["id"]).await;
    assert_eq!(rebuilt(&behind, "public.t", 1), table, "{reason}");
    let read = behind.iter().filter(|event| event.op == Op::Read).count();
    assert!(read > 0, "{reason}: nothing was read anew");
    assert!(events.iter().all(|event| event.op != Op::Read || event.id > told[0].id));
    capture.stop().await;
    // Once: another start reads nothing.
    let capture = Capture::start(config, directory.path()).await;
    run(&client, "insert into t values (105)").await;
    let events = capture.wait(events.len() + 1).await;
    assert_eq!(events.last().map(|event| event.brief()).as_deref(), Some("insert public.t 105"));
    capture.stop().await;
}

#[tokio::test]
async fn a_slot_that_is_gone() {
    let (server, directory, config) = one_row("", POLICY).await;
    let client = sql(&server).await;
    let lost = "select pg_drop_replication_slot('rowcast'); insert into t values (2), (3); delete from t where id = 1";
    run(&client, lost).await;
    reads_anew(&server, config, &directory, "source_lost").await;
}

/// `snapshot = "when_needed"` reads behind a gap, whatever lets the history go on.
#[tokio::test]
async fn when_needed_is_behind_a_gap() {
    let (server, directory, config) = one_row("", OnGap::Continue).await;
    let client = sql(&server).await;
    let lost = "select pg_drop_replication_slot('rowcast'); insert into t values (2), (3); delete from t where id = 1";
    run(&client, lost).await;
    let config = Config { snapshot: Some(SnapshotMode::WhenNeeded), ..config };
    reads_anew(&server, config, &directory, "source_lost").await;
}

/// It is at the very first start, too: nobody has any of the rows, and no gap says so.
#[tokio::test]
async fn when_needed_is_at_the_first_start() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key); insert into t values (1), (2)").await;
    run(&client, "create table keyless (id int); insert into keyless values (3)").await;
    let config = Config { snapshot: Some(SnapshotMode::WhenNeeded), ..config(&server) };
    let capture = Capture::start(config.clone(), directory.path()).await;
    read_whole(&capture).await;
    let mut told = capture.briefs(3).await;
    told.sort();
    assert_eq!(told, ["read public.keyless 3", "read public.t 1", "read public.t 2"]);
    capture.stop().await;
    // Once: another start needs nothing.
    let capture = Capture::start(config, directory.path()).await;
    read_whole(&capture).await;
    run(&client, "insert into t values (4)").await;
    assert_eq!(capture.briefs(4).await[3], "insert public.t 4");
    capture.stop().await;
}

#[tokio::test]
async fn a_slot_that_was_moved() {
    let (server, directory, config) = one_row("", POLICY).await;
    let client = sql(&server).await;
    run(&client, "insert into t values (2); delete from t where id = 1").await;
    run(&client, "select pg_replication_slot_advance('rowcast', pg_current_wal_insert_lsn())").await;
    reads_anew(&server, config, &directory, "journal_behind").await;
}

#[tokio::test]
async fn a_slot_made_anew() {
    let (server, directory, config) = one_row("", POLICY).await;
    let client = sql(&server).await;
    run(&client, "select pg_drop_replication_slot('rowcast'); insert into t values (2)").await;
    run(&client, "update rowcast.installation set slot_birth = null").await;
    run(&client, "select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await;
    reads_anew(&server, config, &directory, "slot_recreated").await;
}

#[tokio::test]
async fn another_cluster() {
    let (_first, directory, _) = one_row("", POLICY).await;
    let (server, _elsewhere, config) = one_row("", POLICY).await;
    let client = sql(&server).await;
    run(&client, "insert into t values (7)").await;
    run(&client, "select pg_drop_replication_slot('rowcast'); drop schema rowcast cascade").await;
    reads_anew(&server, config, &directory, "another_cluster").await;
}

#[tokio::test]
async fn a_wiped_directory_and_a_lost_journal() {
    let (server, _directory, config) = one_row("", POLICY).await;
    let client = sql(&server).await;
    run(&client, "insert into t values (2); delete from t where id = 1").await;
    let wiped = Directory::new();
    reads_anew(&server, config.clone(), &wiped, "taken_over").await;
    // The name of the installation was kept, the journal was not.
    let named = Directory::new();
    std::fs::create_dir(named.path()).unwrap();
    std::fs::copy(wiped.path().join("installation"), named.path().join("installation")).unwrap();
    run(&client, "delete from t where id >= 100").await;
    reads_anew(&server, config, &named, "journal_lost").await;
}

/// What was captured of the time that never was is told to be forgotten.
#[tokio::test]
async fn a_restored_server() {
    let (server, directory, config) = put_back(POLICY).await;
    run(&sql(&server).await, "insert into t values (4); insert into t values (5)").await;
    reads_anew(&server, config, &directory, "source_restored").await;
}

#[tokio::test]
async fn a_standby_that_was_promoted_too_early() {
    let (_primary, standby, directory, config) = promoted_too_early(POLICY).await;
    reads_anew(&standby, config, &directory, "timeline").await;
}

/// Killed while it reads: the rest is read, and nothing is told twice as a gap.
#[tokio::test]
async fn a_crash_while_the_tables_are_read() {
    let (server, directory, config) = one_row("", POLICY).await;
    let client = sql(&server).await;
    run(&client, "insert into t select generate_series(1000, 60000)").await;
    run(&client, "select pg_drop_replication_slot('rowcast')").await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    until("some rows", async || capture.events().iter().any(|event| event.op == Op::Read)).await;
    capture.crash().await;
    run(&client, "delete from t where id between 2000 and 3000").await;
    let capture = Capture::start(config, directory.path()).await;
    read_whole(&capture).await;
    caught_up(&client, &capture).await;
    let told = gaps(&capture);
    assert_eq!(told.len(), 1);
    let behind: Vec<_> = capture.events().into_iter().filter(|event| event.id > told[0].id).collect();
    assert!(rebuilt(&behind, "public.t", 1) == actual(&client, "t", &["id"]).await);
    capture.stop().await;
}

/// The one that no other test continues by itself.
#[tokio::test]
async fn continuing_reads_nothing() {
    let (server, directory, config) = one_row("", OnGap::Continue).await;
    let client = sql(&server).await;
    run(&client, "select pg_drop_replication_slot('rowcast'); insert into t values (2)").await;
    run(&client, "update rowcast.installation set slot_birth = null").await;
    run(&client, "select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await;
    let capture = Capture::start(config, directory.path()).await;
    run(&client, "insert into t values (3)").await;
    assert_eq!(capture.briefs(3).await, ["insert public.t 1", "gap slot_recreated", "insert public.t 3"]);
    capture.stop().await;
}
