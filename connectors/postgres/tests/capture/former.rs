//! Publications that rowcast kept under another name: nobody looks after them any more.

use rowcast_postgres::{Config, check, uninstall};
use tokio_postgres::Client;

use super::harness::{Capture, Directory, config, run, sql, until, value};
use super::said::logged;
use crate::support::Server;

async fn publications(client: &Client) -> String {
    value(client, "select string_agg(pubname, ' ' order by pubname) from pg_publication").await
}

/// A first start under another name, and uninstalled without that.
#[tokio::test]
async fn uninstall_takes_what_was_kept_under_another_name() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key); create publication theirs for table t").await;
    let other = Config { publication: "cdc".to_owned(), ..config(&server) };
    Capture::start(other, directory.path()).await.stop().await;
    // Somebody may read any of them who says nothing of it: then only what this one is known to have kept goes.
    let slot = "select pg_create_logical_replication_slot('reader', 'pgoutput')";
    run(&client, "create publication older; comment on publication older is 'Made and kept by rowcast'")
        .await;
    run(&client, slot).await;
    let would = uninstall(&config(&server), false).await.unwrap();
    assert!(would.iter().all(|removal| removal.name != "publication older"), "{would:?}");
    assert!(would.iter().any(|removal| removal.name == "publication cdc"), "{would:?}");
    run(&client, "select pg_drop_replication_slot('reader'); drop publication older").await;
    // One of an installation that is gone, with all that says so.
    run(&client, "create publication older; comment on publication older is 'Made and kept by rowcast'")
        .await;
    assert_eq!(publications(&client).await, "cdc cdc_inserts older theirs");
    let removed = uninstall(&config(&server), true).await.unwrap();
    assert!(removed.iter().all(|removal| removal.sql.is_some()), "{removed:?}");
    let left = "select (select count(*) from pg_replication_slots) + (select count(*) from pg_event_trigger)
                + (select count(*) from pg_namespace where nspname = 'rowcast')";
    assert_eq!((publications(&client).await, value(&client, left).await), ("theirs".into(), "0".into()));
    // Nothing says any more whose one is: its mark does.
    run(&client, "create publication older; comment on publication older is 'Made and kept by rowcast'")
        .await;
    let names: Vec<String> =
        uninstall(&config(&server), true).await.unwrap().into_iter().map(|removal| removal.name).collect();
    assert_eq!((names, publications(&client).await), (vec!["publication older".to_owned()], "theirs".into()));
}

/// rowcast is given a person's publication: what it kept before stays, in case the stream cannot go on with that, and is told.
/// When it is gone, what was lent for it comes back.
#[tokio::test]
async fn what_was_kept_stays_and_is_told_when_another_publication_takes_its_place() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, other) = (sql(&server).await, sql(&server).await);
    run(
        &client,
        "create table t (id int primary key, v int); create table u (id int primary key, v int);
         create table w (id int primary key, v int);
         insert into u values (1, 1); insert into w values (1, 1); create publication mine for table t",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&other, "begin; create table m (id int primary key)").await;
    run(&client, "alter table u drop constraint u_pkey; update u set v = 2").await;
    capture.wait(1).await;
    capture.stop().await;
    run(&other, "rollback").await;
    let identity = "select relreplident::text from pg_class where relname = 'u'";
    assert_eq!(value(&client, identity).await, "f");

    let theirs = Config { publication: "mine".to_owned(), ..config(&server) };
    let capture = Capture::start(theirs, directory.path()).await;
    let there = "mine rowcast rowcast_inserts".to_owned();
    assert_eq!((publications(&client).await, value(&client, identity).await), (there, "f".into()));
    assert_eq!(logged(directory.path(), "that nobody looks after any more").len(), 1);
    let checked = check(&Config { publication: "mine".to_owned(), ..config(&server) }).await.unwrap();
    let former: Vec<_> = checked.iter().filter(|line| line.name == "former publications").collect();
    let remedy = former[0].remedy.clone().unwrap();
    run(&client, remedy.split_once(": ").unwrap().1).await;
    let checked = check(&Config { publication: "mine".to_owned(), ..config(&server) }).await.unwrap();
    assert!(checked.iter().all(|line| line.name != "former publications"), "{checked:?}");
    until("what was lent to be back", async || value(&client, identity).await == "d").await;
    run(&client, "alter table w drop constraint w_pkey; update w set v = 2; update u set v = 3").await;
    run(&client, "insert into t values (1, 1)").await;
    assert_eq!(capture.briefs(2).await[1], "insert public.t 1,1");
    capture.stop().await;
}
