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
            && report.reasons[0].contains("GRANT postgres TO plain")
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
