//! Tables that are taken in while capture runs: for how long their writers wait, and for whom.

use super::harness::{Capture, Directory, config, run, sql, until, value};
use super::trigger::listed;
use crate::support::Server;

/// Who inherits from a table is another table: neither its writers nor its rows count.
#[tokio::test]
async fn a_parent_does_not_wait_for_the_writers_of_what_inherits_from_it() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, writer) = (sql(&server).await, sql(&server).await);
    let capture = Capture::start(config(&server), directory.path()).await;
    run(
        &client,
        "alter event trigger rowcast disable; create table parent (id int primary key);
         create table child (primary key (id)) inherits (parent); insert into child values (1)",
    )
    .await;
    run(&writer, "begin; insert into child values (2)").await;
    capture.status.look_again();
    until("the parent", async || listed(&client, "rowcast").await == "parent").await;
    run(&client, "insert into parent values (3)").await;
    assert_eq!(capture.briefs(1).await, ["insert public.parent 3"]);
    run(&writer, "commit").await;
    capture.status.look_again();
    until("the child", async || listed(&client, "rowcast").await == "child parent").await;
    let told = capture.briefs(2).await;
    assert_eq!(told[1], "gap public.child new_table");
    capture.stop().await;
}

/// Whether rows came before may take long to see: with very many dead ones, or where a partition lies elsewhere.
#[tokio::test]
async fn writers_do_not_wait_until_rows_are_found() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    if value(&client, "select count(*) from pg_available_extensions where name = 'postgres_fdw'").await == "0"
    {
        println!("SKIPPED: this server comes without postgres_fdw");
        return;
    }
    let capture = Capture::start(config(&server), directory.path()).await;
    let (dir, port) = (server.dir().display(), server.address().port());
    run(
        &client,
        &format!(
            "alter event trigger rowcast disable; create extension postgres_fdw;
             create server far foreign data wrapper postgres_fdw options (host '{dir}', port '{port}', dbname 'postgres');
             create user mapping for postgres server far options (user 'postgres', password_required 'false');
             create view slow as select 1 as id from pg_sleep(3600);
             create table tree (id int) partition by range (id);
             create table tree_1 partition of tree for values from (0) to (10);
             create foreign table tree_2 partition of tree for values from (10) to (20)
             server far options (schema_name 'public', table_name 'slow')"
        ),
    )
    .await;
    capture.status.look_again();
    until("the tree", async || listed(&client, "rowcast_inserts").await == "tree").await;
    run(&client, "insert into tree values (1)").await;
    assert_eq!(capture.briefs(2).await, ["gap public.tree new_table", "insert public.tree 1"]);
    capture.stop().await;
}
