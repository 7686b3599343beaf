//! A publication FOR ALL TABLES that a subscription reads: it would get rows of rowcast's own tables.

use rowcast_engine::Kind;
use rowcast_postgres::conninfo::Conninfo;
use rowcast_postgres::wire::sql_client;
use rowcast_postgres::{Config, Requirement, check, uninstall};

use super::harness::{Capture, Directory, config, run, sql, until, value};
use crate::support::Server;

async fn told(config: &Config) -> Option<Requirement> {
    check(config).await.unwrap().into_iter().find(|found| found.name == "publications of all tables")
}

#[tokio::test]
async fn nobodys_subscription_is_stopped_unasked() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    assert_eq!(told(&config(&server)).await, None);
    run(&client, "create table t (id int primary key); create publication everything for all tables").await;
    // Nobody reads it.
    assert!(told(&config(&server)).await.is_some_and(|told| told.ok && told.remedy.is_some()));
    client.batch_execute("create database subscriber").await.unwrap();
    client.batch_execute("select pg_create_logical_replication_slot('theirs', 'pgoutput')").await.unwrap();
    let there = server.admin().replace("dbname=postgres", "dbname=subscriber");
    let subscriber = sql_client(&Conninfo::parse(&there).unwrap()).await.unwrap();
    let subscribe = format!(
        "create table t (id int primary key); create subscription theirs connection '{}' publication everything
         with (create_slot = false, slot_name = theirs, copy_data = false)",
        server.admin()
    );
    run(&subscriber, &subscribe).await;
    run(&client, "insert into t values (1)").await;
    let rows = async || value(&subscriber, "select count(*) from public.t").await;
    until("the first row", async || rows().await == "1").await;

    let line = told(&config(&server)).await.unwrap();
    assert!(
        !line.ok && line.found.contains("everything FOR ALL TABLES, which slot theirs may read"),
        "{line:?}"
    );
    let error = Capture::launch(config(&server), directory.path()).fails().await;
    assert!(
        error.kind() == Kind::Refused && error.to_string().contains("everything FOR ALL TABLES"),
        "{error}"
    );
    let remedy = error.remedy().unwrap().to_owned();
    assert_eq!(line.remedy.as_ref(), Some(&remedy));
    let made = "select (select count(*) from pg_publication) + (select count(*) from pg_namespace where nspname = 'rowcast')";
    assert_eq!(value(&client, made).await, "1", "there is nothing but theirs");
    run(&client, "insert into t values (2)").await;
    until("the second row", async || rows().await == "2").await;

    // It is meant, as the remedy says it.
    let consent = remedy.get(remedy.find("CREATE SCHEMA").unwrap()..).unwrap();
    run(&client, consent.get(..consent.find(';').unwrap()).unwrap()).await;
    let capture = Capture::start(config(&server), directory.path()).await;
    assert!(told(&config(&server)).await.is_some_and(|told| told.ok));
    run(&client, "insert into t values (3)").await;
    assert_eq!(capture.briefs(1).await, ["insert public.t 3"]);
    until("the subscription to stop", async || {
        server.log().contains("relation \"rowcast.migrations\" does not exist")
    })
    .await;
    assert_eq!(rows().await, "2");
    if let Some(dump) = server.dump_by("postgres", &["--schema=rowcast"]) {
        let text = String::from_utf8(dump.stdout).unwrap();
        // A pg_dump newer than the server sets what that does not know.
        let foreign = |line: &&str| line.starts_with('\\') || line.starts_with("SET transaction_timeout");
        let sql: Vec<&str> = text.lines().filter(|line| !foreign(line)).collect();
        subscriber.batch_execute(&sql.join("\n")).await.unwrap();
        until("the third row", async || rows().await == "3").await;
        assert_eq!(value(&subscriber, "select count(*) from rowcast.secret").await, "0");
    }
    capture.stop().await;
    uninstall(&config(&server), true).await.unwrap();
    assert_eq!(value(&client, made).await, "1", "the schema goes, whoever has made it");
    // Its own slot goes with it.
    subscriber.batch_execute("drop subscription theirs").await.unwrap();
}

/// What rowcast itself is to capture with is nobody else's trouble.
#[tokio::test]
async fn one_that_is_captured_with_is_not_told() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key); create publication rowcast for all tables").await;
    assert_eq!(told(&config(&server)).await, None);
    Capture::start(config(&server), directory.path()).await.stop().await;
    assert_eq!(told(&config(&server)).await, None);
    assert_eq!(told(&Config { manage: false, ..config(&server) }).await, None);
}
