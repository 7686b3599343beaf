//! A transaction is sent when it is in the log, which is before anybody sees it: for long where it waits for a standby.

use std::time::{Duration, Instant};

use rowcast_postgres::Config;

use super::harness::{Capture, Directory, config, run, sql, until, value, version};
use crate::support::Server;

/// A table whose description needs the catalog: its key, and a type that somebody has made.
const NEW: &str = "begin; create type mood as enum ('sad', 'ok');
    create table new (id int primary key, m mood not null, v text); insert into new values (1, 'ok', ''); commit";

const DESCRIBED: &str = "id int4, m mood(sad|ok), v text";

/// Whoever asks for it waits at its commits for a standby of this name.
fn waiting_for(name: &str) -> String {
    format!("synchronous_standby_names = '{name}'\nsynchronous_commit = local")
}

const WAITS: &str = "set synchronous_commit = on";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_described_when_it_is_seen() {
    let (server, directory) = (Server::start(&waiting_for("nobody")), Directory::new());
    let (client, writer) = (sql(&server).await, sql(&server).await);
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&writer, WAITS).await;
    let writing = tokio::spawn(async move { run(&writer, NEW).await });
    let waits = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    until("the commit to wait", async || value(&client, waits).await == "1").await;
    // It has been sent to us by now, or will be: nobody sees it.
    assert_eq!(value(&client, "select count(*) from pg_class where relname = 'new'").await, "0");
    client.execute("alter system set synchronous_standby_names = ''", &[]).await.unwrap();
    run(&client, "select pg_reload_conf()").await;
    writing.await.unwrap();
    let event = capture.wait(1).await.remove(0);
    assert_eq!((event.brief().as_str(), event.columns.as_str()), ("insert public.new 1,ok,", DESCRIBED));
    let schema = capture.schema("public.new");
    assert!(schema.primary_key == [0] && schema.columns[1].not_null, "{schema:?}");
    assert_eq!(capture.journal.schemas().len(), 1, "not described before");
    capture.stop().await;
}

/// Commits that wait for rowcast itself, which waits to see them: it goes on, and makes up for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_us_is_not_waited_for() {
    let (server, directory) = (Server::start(&waiting_for("rowcast")), Directory::new());
    let client = sql(&server).await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let synchronous = "select count(*) from pg_stat_replication where sync_state = 'sync'";
    until("it to be synchronous", async || value(&client, synchronous).await == "1").await;
    run(&client, WAITS).await;
    run(&client, NEW).await;
    let first = capture.wait(1).await.remove(0);
    assert_eq!(first.brief(), "insert public.new 1,ok,");
    run(&client, "insert into new values (2, 'sad', '')").await;
    let second = capture.wait(2).await.remove(1);
    assert_eq!((second.brief().as_str(), second.columns.as_str()), ("insert public.new 2,sad,", DESCRIBED));
    let schema = capture.schema("public.new");
    assert!(schema.primary_key == [0] && schema.columns[1].not_null, "{schema:?}");
    // Of a type the stream itself says nothing, later neither.
    let rename =
        "begin; alter type mood rename value 'ok' to 'fine'; insert into new values (3, 'fine', ''); commit";
    run(&client, rename).await;
    run(&client, "insert into new values (4, 'fine', '')").await;
    let fourth = capture.wait(4).await.remove(3);
    assert_eq!(fourth.columns, "id int4, m mood(sad|fine), v text");
    capture.stop().await;
}

/// As soon as it is known that commits wait, each is confirmed when it is durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_commits_wait_for_is_confirmed_at_once() {
    let (server, directory) = (Server::start(&waiting_for("rowcast")), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    until("it to be seen", async || capture.report().source.commits_wait).await;
    assert_eq!(capture.gauge("commits_wait"), 1.0);
    run(&client, WAITS).await;
    let start = Instant::now();
    for id in 0..60 {
        run(&client, &format!("insert into t values ({id})")).await;
    }
    assert!(start.elapsed() < Duration::from_secs(40), "once a second would take 60: {:?}", start.elapsed());
    // Nor is it waited for what has nothing for us: definitions, and tables that are not captured.
    run(&client, "create table rowcast.not_ours (id int)").await;
    let start = Instant::now();
    for id in 0..15 {
        run(&client, &format!("insert into rowcast.not_ours values ({id})")).await;
        run(&client, &format!("comment on table t is '{id}'")).await;
    }
    assert!(start.elapsed() < Duration::from_secs(60), "idle positions take 300 s: {:?}", start.elapsed());
    run(&client, "drop table rowcast.not_ours").await;
    client.execute("alter system set synchronous_standby_names = ''", &[]).await.unwrap();
    run(&client, "select pg_reload_conf()").await;
    until("that to be seen", async || !capture.report().source.commits_wait).await;
    assert_eq!(capture.gauge("commits_wait"), 0.0);
    capture.stop().await;
}

/// Whoever waits for us waits for no longer than the disk takes, whatever it does, one after the other: of tables that are
/// new to this connection, of many that are made at once, and of those that are locked until we have them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_wait_for_us_come_one_after_the_other() {
    let (server, directory) = (Server::start(&waiting_for("rowcast")), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key); create table other (id int primary key)").await;
    run(&client, "insert into other values (1)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, WAITS).await;
    let start = Instant::now();
    for id in 0..8 {
        run(&client, &format!("insert into t values ({id})")).await;
    }
    let many: String = (0..20)
        .map(|at| format!("create table many{at} (id int primary key); insert into many{at} values (1);"))
        .collect();
    run(&client, &format!("begin; {many} commit")).await;
    run(&client, "begin; alter table t add c int default 7; insert into t values (100); commit").await;
    run(&client, "begin; truncate other; insert into t values (101); commit").await;
    run(&client, "insert into t values (102)").await;
    let events = capture.wait(8 + 20 + 1 + 2 + 1).await;
    // Each of them would be waited for for 5 s, and those that are locked for 20.
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert_eq!(events.last().unwrap().brief(), "insert public.t 102,7");
    let schema = capture.schema("public.t");
    assert!(schema.primary_key == [0] && schema.columns.len() == 2, "{schema:?}");
    capture.stop().await;
}

/// The locks of a commit that waits for us are its own until we have it: neither is a table looked up behind them, nor a
/// connection made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_of_commits_that_wait_for_us_are_not_waited_for() {
    let (server, directory) = (Server::start(&waiting_for("rowcast")), Directory::new());
    let client = sql(&server).await;
    let tables = "create table t (id int primary key); create table u (id int primary key);
                  create table p (id int primary key) partition by range (id);
                  create table p_one partition of p for values from (0) to (10)";
    run(&client, tables).await;
    let filtered = version(&client).await >= 150_000;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, WAITS).await;
    // Of t it is known what it is after the first, and has to be looked up in the others: it was not seen.
    for id in 0..3 {
        run(&client, &format!("begin; truncate u; insert into t values ({id}); truncate p; commit")).await;
    }
    capture.wait(9).await;
    if filtered {
        // Its text cannot be had while somebody has the table.
        let chosen = "alter publication rowcast drop table u; alter publication rowcast add table only u where (id > 0)";
        run(&client, &format!("begin; {chosen}; commit")).await;
    }
    capture.stop().await;

    let writer = sql(&server).await;
    run(&writer, WAITS).await;
    let emptied =
        "begin; truncate u; alter table t add column v int; truncate p; insert into t values (3); commit";
    let writing = tokio::spawn(async move { run(&writer, emptied).await });
    let waits = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    until("the commit to wait", async || value(&client, waits).await == "1").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    writing.await.unwrap();
    // A look may tell the gap of `u` beside it.
    until("the row", async || capture.events().iter().any(|event| event.brief() == "insert public.t 3,NULL"))
        .await;
    capture.stop().await;
}

/// A role that may not read statistics is not told whether it is synchronous.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_is_it_by_a_role_with_few_rights() {
    let (server, directory) =
        (Server::start(&waiting_for(r#"ANY 1 ( other, "Rowcast" )"#)), Directory::new());
    let client = sql(&server).await;
    run(&client, "create role reader login replication; create publication rowcast for all tables").await;
    run(&client, "select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await;
    server.admit("local all all trust\nlocal replication all trust");
    let url = server.admin().replace("user=postgres", "user=reader");
    let capture = Capture::start(Config { url, manage: false, ..config(&server) }, directory.path()).await;
    until("it to be seen", async || capture.report().source.commits_wait).await;
    run(&client, WAITS).await;
    let start = Instant::now();
    run(&client, NEW).await;
    run(&client, "insert into new values (2, 'sad', '')").await;
    let events = capture.wait(2).await;
    // Otherwise the first commit would be waited for for 5 s.
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(events[1].columns, DESCRIBED);
    assert_eq!(capture.schema("public.new").primary_key, [0]);
    capture.stop().await;
}

/// Likewise of one that there was before. Somebody else chooses the tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_table_that_becomes_a_partition_unseen_are_not_left_out() {
    let (server, directory) = (Server::start(&waiting_for("rowcast")), Directory::new());
    let client = sql(&server).await;
    let tables =
        "create table p (id int primary key) partition by range (id); create table x (id int primary key);
                  create table other (id int primary key); create publication rowcast for table p, other";
    run(&client, tables).await;
    run(&client, "select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await;
    let tables = vec!["public.p".to_owned()];
    let config = Config { via_partition_root: false, manage: false, tables, ..config(&server) };
    let capture = Capture::start(config, directory.path()).await;
    run(&client, WAITS).await;
    let made = "alter table p attach partition x for values from (0) to (10)";
    run(&client, &format!("begin; {made}; insert into p values (1); insert into other values (1); commit"))
        .await;
    run(&client, "insert into other values (2); insert into p values (2)").await;
    assert_eq!(capture.briefs(2).await, ["insert public.x 1", "insert public.x 2"], "and no other one");
    capture.stop().await;
}

/// Nobody sees yet that it is a part of a table that is captured.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_partition_that_nobody_sees_are_not_left_out() {
    let (server, directory) = (Server::start(&waiting_for("rowcast")), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table p (id int primary key) partition by range (id)").await;
    let tables = vec!["public.p".to_owned()];
    let config = Config { via_partition_root: false, tables, ..config(&server) };
    let capture = Capture::start(config, directory.path()).await;
    run(&client, WAITS).await;
    let made = "create table p_one partition of p for values from (0) to (10)";
    run(&client, &format!("begin; {made}; insert into p values (1); commit")).await;
    run(&client, "insert into p values (2)").await;
    assert_eq!(capture.briefs(2).await, ["insert public.p_one 1", "insert public.p_one 2"]);
    capture.stop().await;
}
