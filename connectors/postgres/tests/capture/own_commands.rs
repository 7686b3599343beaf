//! What rowcast itself runs in an application's transaction is told from the application's own commands by what is written
//! down of it, and not by words: they are in the server's language, and an application may use any.

use super::harness::{Capture, Directory, config, run, sql, until, value};
use super::trigger::listed;
use crate::support::Server;
use tokio_postgres::Client;

#[tokio::test]
async fn no_word_of_an_application_is_taken_for_ours() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key, v int); insert into t values (1, 1)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let words = "do $$ begin
        execute 'alter table public.t drop constraint t_pkey /* PL/pgSQL function rowcast.lend(oid) line 1 */'; end $$";
    run(&client, &format!("{words}; update t set v = 2")).await;
    assert_eq!(listed(&client, "rowcast_inserts").await, "t");
    capture.stop().await;
}

/// Whether sessions from now on hear another language than English.
async fn speaks_german(client: &Client, server: &Server) -> bool {
    let german = client.batch_execute("alter role postgres set lc_messages = 'C.UTF-8'").await.is_ok() && {
        let error = sql(server).await.batch_execute("select 1 / 0").await.unwrap_err();
        !error.as_db_error().unwrap().message().contains("division")
    };
    if !german {
        println!("SKIPPED in part: the server has no other messages than English ones");
    }
    german
}

#[tokio::test]
async fn what_is_lent_is_not_settled_again_in_any_language() {
    let (server, directory) = (Server::start(""), Directory::new());
    let other = sql(&server).await;
    speaks_german(&other, &server).await;
    let client = sql(&server).await;
    run(
        &client,
        "create table p (id int primary key, v int) partition by range (id);
         create table p1 partition of p for values from (0) to (10);
         create table p2 partition of p for values from (10) to (20); insert into p values (1, 1)",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&other, "begin; create table m (id int primary key)").await;
    run(&client, "set track_functions = 'all'; begin; alter table p drop constraint p_pkey").await;
    let calls =
        "select string_agg(funcname || ' ' || calls, ', ' order by funcname) from pg_stat_xact_user_functions
                 where funcname in ('identify', 'lend')";
    assert_eq!(value(&client, calls).await, "identify 3, lend 1");
    assert!(!server.log().contains("left to the next look"), "{}", server.log());
    // What a savepoint takes back is written down no more.
    run(
        &client,
        "savepoint a; alter table p1 replica identity nothing; rollback to a; commit; update p set v = 2",
    )
    .await;
    let identities = "select string_agg(relname || relreplident::text, ' ' order by relname) from pg_class
                      where relname in ('p', 'p1', 'p2')";
    assert_eq!(value(&client, identities).await, "pf p1f p2f");
    run(&other, "commit").await;
    capture.status.look_again();
    until("all to be given back", async || value(&client, identities).await == "pd p1d p2d").await;
    until("the table to move", async || listed(&client, "rowcast_inserts").await == "p").await;
    let left = "select (select count(*) from rowcast.lent) + (select count(*) from rowcast.identifying)";
    assert_eq!(value(&client, left).await, "0");
    capture.stop().await;
}
