//! A table of another role's, which a superuser has put into the publication: rowcast may take it out, and not put it into
//! the other one.

use rowcast_postgres::{Config, Requirement, check};

use super::harness::{Capture, Directory, run, sql, until, value};
use super::said::logged;
use super::trigger::{listed, plain};
use crate::support::Server;

#[tokio::test]
async fn a_table_of_somebody_elses_that_loses_its_key_stays_writable() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let config = plain(&server, &client).await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    let make = |name: &str| {
        format!(
            "create table {name} (id int primary key, v int); insert into {name} values (1, 1);
             alter publication rowcast add table only {name}"
        )
    };
    run(&client, &make("orders")).await;
    run(&client, "update orders set v = 2").await;
    assert_eq!(capture.briefs(1).await, ["update public.orders 1,2"]);
    capture.status.look_again();
    until("the board", async || capture.report().source.tables.len() == 1).await;

    // Found by the next look.
    run(&client, "alter table orders drop constraint orders_pkey").await;
    capture.status.look_again();
    until("it to be written", async || client.batch_execute("update public.orders set v = 3").await.is_ok())
        .await;
    until("it to be told", async || {
        let report = capture.report();
        report.source.uncaptured.keys().eq(["public.orders"])
            && report.reasons[0].contains("source.exclude = ['public.orders']")
    })
    .await;

    // Seen by the trigger, which has no more rights.
    let found = check(&config).await.unwrap();
    let trigger = found.iter().find(|found| found.name == "event trigger").unwrap();
    let remedy = trigger.remedy.as_deref().unwrap();
    run(&client, remedy.get(remedy.find("CREATE EVENT").unwrap()..).unwrap()).await;
    run(&client, &make("items")).await;
    let lost = "begin; alter table items drop constraint items_pkey; update items set v = 2; commit; update items set v = 3";
    run(&client, lost).await;
    let members = (listed(&client, "rowcast").await, listed(&client, "rowcast_inserts").await);
    assert_eq!(members, ("NULL".to_owned(), "NULL".to_owned()));
    capture.status.look_again();
    let both = ["public.items", "public.orders"];
    until("both to be told", async || capture.report().source.uncaptured.keys().eq(both)).await;

    // What does not fail stays as it is.
    run(&client, &make("kept")).await;
    run(&client, "alter table kept add column w int; alter table kept replica identity full").await;
    run(&client, "alter table kept drop constraint kept_pkey; update kept set v = 5").await;
    assert_eq!(listed(&client, "rowcast").await, "kept");
    assert_eq!(value(&client, "select count(*) from rowcast.lent").await, "0");
    capture.stop().await;
}

async fn named(config: &Config, name: &str) -> Option<Requirement> {
    check(config).await.unwrap().into_iter().find(|found| found.name == name)
}

/// Nobody can take a table out of a publication whose schema he may not use.
#[tokio::test]
async fn a_table_in_a_schema_that_may_not_be_used_is_told() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let config = plain(&server, &client).await;
    Capture::start(config.clone(), directory.path()).await.stop().await;
    run(
        &client,
        "create schema fin; create table fin.t (id int primary key, v int); insert into fin.t values (1, 1)",
    )
    .await;
    let remedy = named(&config, "table fin.t").await.unwrap().remedy.unwrap();
    let from = remedy.find("GRANT USAGE ON SCHEMA \"fin\" TO plain; ALTER PUBLICATION").unwrap();
    let (grant, add) = remedy.get(from..).unwrap().split_once("; ").unwrap();

    // Only the half of it.
    assert_eq!(named(&config, "schema fin").await, None);
    run(&client, add).await;
    let schema = named(&config, "schema fin").await.unwrap();
    assert!(!schema.ok && schema.remedy.as_deref() == Some(&format!("{grant};")), "{schema:?}");
    let capture = Capture::start(config.clone(), directory.path()).await;
    assert_eq!(logged(directory.path(), "may not use the schemas").len(), 1);
    run(&client, "alter table fin.t drop constraint t_pkey").await;
    let unwritable = named(&config, "table fin.t").await.unwrap();
    assert!(!unwritable.ok && unwritable.found.contains("its UPDATE and DELETE fail"), "{unwritable:?}");
    // Which would be set back.
    assert!(!unwritable.remedy.unwrap().contains("SET (publish"));
    assert!(client.batch_execute("update fin.t set v = 2").await.is_err());
    run(&client, grant).await;
    capture.status.look_again();
    until("it to be written", async || client.batch_execute("update fin.t set v = 2").await.is_ok()).await;
    assert_eq!(named(&config, "schema fin").await, None);
    capture.stop().await;
}

/// Its schema is somebody else's: it cannot be named in a publication, and a first start says so before it makes anything.
#[tokio::test]
async fn a_table_of_ours_in_a_schema_that_may_not_be_used_is_no_table_of_ours() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let config = plain(&server, &client).await;
    let make = |name: &str| {
        format!("create table fin.{name} (id int primary key); alter table fin.{name} owner to plain")
    };
    run(&client, &format!("create schema fin; {}", make("one"))).await;
    let told = named(&config, "table fin.one").await.unwrap();
    let grant = "GRANT USAGE ON SCHEMA \"fin\" TO plain;";
    assert!(!told.ok && told.found.contains("may not use its schema"), "{told:?}");
    assert!(told.remedy.is_some_and(|remedy| remedy.starts_with(grant)), "{}", told.found);
    let error = Capture::launch(config.clone(), directory.path()).fails().await;
    assert!(error.to_string().contains("may not use the schema of fin.one"), "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.starts_with(grant)), "{error:?}");
    let made = "select concat_ws(' ', to_regnamespace('rowcast'), (select count(*) from pg_publication))";
    assert_eq!(value(&client, made).await, "0", "before anything is made");

    run(&client, grant).await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    run(&client, &format!("revoke usage on schema fin from plain; {}", make("two"))).await;
    capture.status.look_again();
    until("it to be told", async || {
        let uncaptured = capture.report().source.uncaptured;
        uncaptured.keys().eq(["fin.two"]) && uncaptured["fin.two"].contains(grant)
    })
    .await;
    assert!(!capture.report().source.uncaptured["fin.two"].contains("writers"));
    capture.stop().await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    assert_eq!(logged(directory.path(), "in schemas that rowcast's role may not use").len(), 1);
    run(&client, grant).await;
    capture.status.look_again();
    until("it to be captured", async || {
        let source = capture.report().source;
        source.uncaptured.is_empty() && source.tables.contains_key("fin.two")
    })
    .await;
    capture.stop().await;
}

/// A member of the owner's role that does not have its rights by itself: what helps is not the GRANT that it has.
#[tokio::test]
async fn a_member_without_the_rights_is_told_how_to_have_them() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let config = plain(&server, &client).await;
    run(
        &client,
        "create role app; alter role plain noinherit; grant app to plain; create table t (id int primary key);
         alter table t owner to app",
    )
    .await;
    let told = named(&config, "table public.t").await.unwrap();
    assert!(told.found.contains("NOINHERIT"), "{told:?}");
    let error = Capture::launch(config.clone(), directory.path()).fails().await;
    let remedy = error.remedy().unwrap();
    let (sql, _) = remedy.split_once(';').unwrap();
    assert!(told.remedy.unwrap().starts_with(&format!("{sql};")), "{remedy}");
    run(&client, sql).await;
    assert_eq!(named(&config, "table public.t").await, None);
    let capture = Capture::start(config, directory.path()).await;
    run(&client, "insert into t values (1)").await;
    assert_eq!(capture.briefs(1).await, ["insert public.t 1"]);
    capture.stop().await;
}
