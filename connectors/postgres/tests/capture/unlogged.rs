//! The server refuses to make a published table UNLOGGED; what ARCHITECTURE says to do instead works.

use super::harness::{Capture, Directory, Seen, config, run, sql, until};
use super::trigger::listed;
use crate::support::Server;

#[tokio::test]
async fn a_captured_table_becomes_unlogged_behind_its_publication() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key); create table u (id int primary key)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let refused = client.batch_execute("alter table public.t set unlogged").await.unwrap_err();
    assert_eq!(refused.code().map(|code| code.code()), Some("55000"));
    run(&client, "begin; alter publication rowcast drop table t; alter table t set unlogged; commit").await;
    // A look takes up what is new, and nothing that is not in the log.
    run(
        &client,
        "insert into t values (1); alter event trigger rowcast disable; create table v (id int primary key)",
    )
    .await;
    capture.status.look_again();
    until("a look", async || listed(&client, "rowcast").await == "u v").await;
    run(&client, "alter table t set logged").await;
    capture.status.look_again();
    until("the table", async || listed(&client, "rowcast").await == "t u v").await;
    run(&client, "insert into t values (2)").await;
    until("the row", async || capture.events().iter().any(|event| event.brief() == "insert public.t 2"))
        .await;
    let is_gap = |event: &Seen| event.brief() == "gap public.t not_published";
    until("the gap", async || capture.events().iter().any(is_gap)).await;
    assert!(capture.events().iter().all(|event| event.new != "1"));
    capture.stop().await;
}
