//! Reading from a standby, 16 and later: what is needed is said, and it works.

use rowcast_engine::Kind;
use rowcast_postgres::{Config, check};
use tokio_postgres::Client;

use super::harness::{Capture, Directory, config, run, set, sql, until, value};
use crate::support::Server;

/// A primary with a table, and a standby of it.
async fn pair(primary: Server) -> (Server, Server) {
    pair_after(primary, "create table t (id int primary key)").await
}

/// A primary on which this has been run, and a standby of it.
pub(super) async fn pair_after(mut primary: Server, statements: &str) -> (Server, Server) {
    let client = sql(&primary).await;
    run(&client, statements).await;
    run(&client, "select pg_create_physical_replication_slot('standby')").await;
    drop(client);
    let standby = primary.with_standby("", "");
    (primary, standby)
}

pub(super) fn reading(standby: &Server) -> Config {
    Config { manage: false, tables: vec!["public.t".to_owned()], ..config(standby) }
}

async fn refusal(config: Config) -> (String, String) {
    let directory = Directory::new();
    let error = Capture::launch(config, directory.path()).fails().await;
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    (error.to_string(), error.remedy().unwrap().to_owned())
}

/// The standby makes its slot when the primary tells it what is running.
pub(super) async fn make_slot(primary: &Client, standby: &Server) {
    let client = sql(standby).await;
    let made = tokio::spawn(async move {
        client.batch_execute("select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await
    });
    until("the slot", async || {
        run(primary, "select pg_log_standby_snapshot()").await;
        made.is_finished()
    })
    .await;
    made.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_read_from() {
    let Some(server) = Server::start_since(16, "") else { return };
    let (primary, mut standby) = pair(server).await;
    let directory = Directory::new();
    let client = sql(&primary).await;
    let (what, remedy) = refusal(config(&standby)).await;
    assert!(what.contains("a standby, where nothing can be created"), "{what}");
    assert!(remedy.contains("source.manage = false") && remedy.contains("new tables"), "{remedy}");
    let (what, remedy) = refusal(reading(&standby)).await;
    assert!(what.contains("publication rowcast does not exist"), "{what}");
    run(&client, remedy.strip_prefix("On the primary: ").unwrap()).await;
    until("the publication", async || {
        value(&sql(&standby).await, "select count(*) from pg_publication").await == "1"
    })
    .await;
    let (what, remedy) = refusal(reading(&standby)).await;
    assert!(what.contains("slot rowcast does not exist"), "{what}");
    assert!(
        remedy.contains("on a standby it waits") && remedy.contains("pg_log_standby_snapshot()"),
        "{remedy}"
    );
    let found = check(&reading(&standby)).await.unwrap();
    assert!(found.iter().any(|one| one.name == "hot_standby_feedback" && one.remedy.is_none()), "{found:#?}");

    make_slot(&client, &standby).await;
    let capture = Capture::start(reading(&standby), directory.path()).await;
    run(&client, "insert into t values (1)").await;
    assert_eq!(capture.briefs(1).await, ["insert public.t 1"]);
    until("the state", async || capture.report().source.slot_state == "active").await;
    assert!(capture.report().healthy, "{:?}", capture.report().reasons);
    // The standby starts again, and lies behind for a while.
    // Which waits for our answer.
    tokio::task::block_in_place(|| standby.stop_in_order());
    run(&client, "insert into t values (2)").await;
    standby.relaunch();
    run(&client, "insert into t values (3)").await;
    assert_eq!(capture.briefs(3).await[1..], ["insert public.t 2", "insert public.t 3"]);
    // And becomes the primary.
    until("the standby", async || value(&sql(&standby).await, "select count(*) from public.t").await == "3")
        .await;
    standby.promote();
    run(&sql(&standby).await, "insert into t values (4)").await;
    assert_eq!(capture.briefs(4).await[3], "insert public.t 4");
    capture.stop().await;
    let capture = Capture::start(reading(&standby), directory.path()).await;
    assert_eq!(capture.events().len(), 4);
    capture.stop().await;
}

#[tokio::test]
async fn an_older_standby_cannot_be_read_from() {
    let (_primary, standby) = pair(Server::start("")).await;
    let version = value(&sql(&standby).await, "select current_setting('server_version_num')::int").await;
    if version.parse::<u32>().unwrap() >= 160_000 {
        return println!("SKIPPED: the server of this machine is not older than 16");
    }
    let (what, remedy) = refusal(reading(&standby)).await;
    assert!(what.contains("cannot decode on") && remedy.contains("Postgres 16"), "{what}, {remedy}");
}

/// What the primary does can take the slot away: rows that decoding needs, or its wal_level.
#[tokio::test]
async fn a_standbys_slot_that_conflicts_is_named() {
    for (server, removed, level) in [
        (Server::start_version(16, ""), "conflicting", "conflicting"),
        (Server::start_since(17, ""), "rows_removed", "wal_level_insufficient"),
    ] {
        let Some(server) = server else { continue };
        let (mut primary, standby) = pair(server).await;
        let directory = Directory::new();
        let client = sql(&primary).await;
        run(&client, "create publication rowcast for table t").await;
        make_slot(&client, &standby).await;
        Capture::start(reading(&standby), directory.path()).await.stop().await;
        let replica = sql(&standby).await;
        set(&replica, "hot_standby_feedback = off").await;
        let lost = "select coalesce(to_jsonb(s) ->> 'invalidation_reason', s.conflicting::text)
                    from pg_replication_slots s where slot_name = 'rowcast'";
        until("the conflict", async || {
            // In transactions of their own: what comes and goes in one is nobody's conflict.
            run(&client, "create table gone (id int)").await;
            run(&client, "drop table gone").await;
            client.batch_execute("vacuum pg_class").await.unwrap();
            !matches!(&*value(&replica, lost).await, "false" | "NULL")
        })
        .await;
        let capture = Capture::launch(reading(&standby), directory.path());
        let reason = capture.waits("is lost").await;
        assert!(reason.contains("hot_standby_feedback = on"), "{reason}");
        capture.slot_is(removed).await;
        // Nothing may be dropped or made here: it is said how.
        let error = capture.status.adopt().await.unwrap_err();
        let remedy = error.remedy().unwrap();
        assert!(remedy.contains("SELECT pg_drop_replication_slot('rowcast');"), "{error}: {remedy}");
        run(&replica, "select pg_drop_replication_slot('rowcast')").await;
        make_slot(&client, &standby).await;
        assert_eq!(capture.status.adopt().await.unwrap().unwrap().reason, "slot_recreated");
        run(&client, "insert into t values (1)").await;
        assert_eq!(capture.briefs(2).await, ["gap slot_recreated", "insert public.t 1"]);
        capture.stop().await;

        drop(client);
        primary.stop_in_order();
        primary.relaunch_with("wal_level = replica");
        let capture = Capture::launch(reading(&standby), directory.path());
        let reason = capture.waits("is lost").await;
        assert!(reason.contains("wal_level"), "{reason}");
        capture.slot_is(level).await;
        capture.stop().await;
    }
}
