//! A first start puts all tables into the publications while applications alter some of them.

use super::harness::{Capture, Directory, config, run, sql, until, value};
use super::trigger::listed;
use crate::support::Server;

/// An application that has one table waits for another one: whoever holds that must not wait for the first.
#[tokio::test]
async fn no_migration_fails_by_a_deadlock_with_it() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, migration) = (sql(&server).await, sql(&server).await);
    run(
        &client,
        "create table a (id int primary key); create table b (id int primary key); create table c (id int)",
    )
    .await;
    run(&migration, "begin; alter table b add column v int").await;
    let mut capture = Capture::launch(config(&server), directory.path());
    let waits = "select count(*) from pg_locks where not granted and relation = 'public.b'::regclass";
    until("it to come to the one in use", async || {
        listed(&client, "rowcast").await == "a" && value(&client, waits).await == "1"
    })
    .await;
    // It looks for deadlocks as soon as it waits.
    run(&migration, "set deadlock_timeout = '1ms'; alter table a add column v int; commit").await;
    capture.streams().await;
    assert_eq!(
        (listed(&client, "rowcast").await, listed(&client, "rowcast_inserts").await),
        ("a b".into(), "c".into())
    );
    run(&client, "insert into b values (1, 2)").await;
    assert_eq!(capture.briefs(1).await, ["insert public.b 1,2"]);
    capture.stop().await;
}

/// Where it holds many tables at once it gives way before the server looks for deadlocks.
#[tokio::test]
async fn it_gives_way_to_a_migration() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, migration) = (sql(&server).await, sql(&server).await);
    run(&client, "create table a (id int primary key); create table b (id int primary key)").await;
    run(&migration, "begin; alter table b add column v int").await;
    let mut capture = Capture::launch(config(&server), directory.path());
    let waits = "select count(*) from pg_locks where not granted and relation = 'public.b'::regclass";
    until("it to come to the one in use", async || value(&client, waits).await == "1").await;
    run(&migration, "alter table a add column v int; commit").await;
    capture.streams().await;
    assert_eq!(listed(&client, "rowcast").await, "a b");
    capture.stop().await;
}

/// Many tables come in few transactions.
#[tokio::test]
async fn many_tables_are_put_in_together() {
    let (server, directory) = (Server::start("deadlock_timeout = '60s'"), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "do $$ begin for i in 1..450 loop execute format('create table t%s (id int primary key)', i); end loop; end $$",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let members =
        "from pg_publication_rel r join pg_publication p on p.oid = r.prpubid where p.pubname = 'rowcast'";
    assert_eq!(value(&client, &format!("select count(*) {members}")).await, "450");
    let transactions = value(&client, &format!("select count(distinct r.xmin::text) {members}")).await;
    assert_eq!(transactions, "3");
    capture.stop().await;
}
