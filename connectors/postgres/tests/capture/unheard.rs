//! What the event trigger cannot do: a line in the server's log, without anything else that the client has sent, and
//! nothing to the client.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};

use rowcast_postgres::{Config, check};
use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::harness::{Capture, Directory, config, run, sql, value};
use super::trigger::{listed, plain};
use crate::support::Server;

type Notices = Arc<Mutex<Vec<String>>>;

/// A session of the superuser's, and what the server says to it.
async fn listening(server: &Server) -> (Client, Notices) {
    let (client, mut connection) = tokio_postgres::connect(&server.admin(), NoTls).await.unwrap();
    let notices = Notices::default();
    let heard = notices.clone();
    tokio::spawn(async move {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            if let Ok(AsyncMessage::Notice(notice)) = message {
                heard.lock().unwrap().push(notice.message().to_owned());
            }
        }
    });
    (client, notices)
}

#[tokio::test]
async fn no_statement_of_a_client_is_logged() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (other, (client, notices)) = (sql(&server).await, listening(&server).await);
    let config = Config { ddl: true, ..config(&server) };
    let capture = Capture::start(config, directory.path()).await;
    run(&client, "create type color as enum ('red'); create table gone (id int primary key)").await;
    // Somebody else holds the publications.
    run(&other, "begin; create table held (id int primary key)").await;
    run(&client, "create role one password 'sesame'; create table busy (id int primary key)").await;
    run(&other, "rollback").await;
    // Nothing can be said, and then not even be looked at.
    run(&other, "alter table rowcast.secret rename to hidden").await;
    run(&client, "alter role one password 'sesame'; alter table busy add column v int").await;
    run(&client, "alter role one password 'sesame'; alter type color add value 'green'").await;
    run(&client, "alter role one password 'sesame'; drop table gone").await;
    run(&other, "alter table rowcast.pattern rename to hidden_too").await;
    run(&client, "alter role one password 'sesame'; alter table busy add column w int").await;
    let log = server.log();
    for told in [
        "CREATE TABLE of public.busy is left to the next look",
        "ALTER TABLE of public.busy is not told",
        "what ALTER TYPE has changed of a type is seen at the next connection",
        "DROP TABLE is not told",
        "ALTER TABLE is left to the next look",
    ] {
        assert!(log.contains(told), "no {told}: {log}");
    }
    assert!(!log.contains("sesame"), "{log}");
    // The session hears as before, but nothing of this.
    run(&client, "do $$ begin raise notice 'heard'; end $$").await;
    assert_eq!(*notices.lock().unwrap(), ["heard"]);
    run(
        &other,
        "alter table rowcast.hidden rename to secret; alter table rowcast.hidden_too rename to pattern",
    )
    .await;
    capture.stop().await;
}

/// Whoever runs the command can make up for what version 14 does not see, and nobody else.
#[tokio::test]
async fn what_only_the_client_can_mend_is_told_it() {
    let Some(server) = Server::start_version(14, "") else { return };
    let directory = Directory::new();
    let (client, notices) = listening(&server).await;
    let config = plain(&server, &client).await;
    run(
        &client,
        "create table p (id int primary key) partition by range (id); create table p1 (id int primary key);
         alter table p owner to plain; alter table p1 owner to plain",
    )
    .await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    let found = check(&config).await.unwrap();
    let remedy =
        found.into_iter().find(|found| found.name == "event trigger").and_then(|found| found.remedy).unwrap();
    run(&client, remedy.get(remedy.find("CREATE EVENT").unwrap()..).unwrap()).await;
    run(&client, "alter publication rowcast owner to postgres").await;
    run(&client, "alter table p attach partition p1 for values from (0) to (9)").await;
    let told = notices.lock().unwrap().clone();
    assert!(
        told.len() == 1 && told[0].contains("may not see that the partitions of public.p have changed"),
        "{told:?}"
    );
    run(&client, "alter publication rowcast owner to plain").await;
    capture.stop().await;
}

/// Strings in the text of a function mean what the session's settings say.
#[tokio::test]
async fn a_session_with_old_strings_is_understood() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, other) = (sql(&server).await, sql(&server).await);
    run(&client, "create table t (id int primary key); create table \"W (1)\" (id int primary key)").await;
    let capture = Capture::start(Config { ddl: true, ..config(&server) }, directory.path()).await;
    run(&client, "set standard_conforming_strings = off; alter table t add column v text").await;
    run(&client, "create table filled as select 1 as id").await;
    let told = capture.briefs(3).await;
    assert!(told[0].contains("\"statement\" : null") && told[0].contains("ALTER TABLE"), "{told:?}");
    assert_eq!(told[1], "gap public.filled new_table");
    assert!(told[2].contains("CREATE TABLE AS"), "{told:?}");
    run(&other, "begin; create table m (id int primary key)").await;
    run(&client, "alter table \"W (1)\" drop constraint \"W (1)_pkey\"").await;
    let lent = "select count(*) from rowcast.lent";
    assert_eq!(value(&client, lent).await, "1");
    run(&client, "alter table \"W (1)\" replica identity full").await;
    assert_eq!(value(&client, lent).await, "0");
    run(&other, "rollback").await;
    capture.stop().await;
}

#[tokio::test]
async fn what_cannot_be_told_leaves_tables_as_they_were_settled() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key, v int); insert into t values (1, 1)").await;
    let capture = Capture::start(Config { ddl: true, ..config(&server) }, directory.path()).await;
    run(&client, "alter table rowcast.secret rename to hidden").await;
    run(&client, "alter table t drop constraint t_pkey; update t set v = 2").await;
    assert_eq!(listed(&client, "rowcast_inserts").await, "t");
    run(&client, "alter table rowcast.hidden rename to secret").await;
    capture.stop().await;
}
