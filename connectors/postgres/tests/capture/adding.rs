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

/// Whoever swaps the names of tables has their locks, and is who is waited for.
#[tokio::test]
async fn a_name_that_goes_to_another_table_meanwhile_is_not_taken_for_it() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, swaps) = (sql(&server).await, sql(&server).await);
    run(&client, "create table orders (id int, v int); insert into orders values (1, 1)").await;
    let mut capture = Capture::start(config(&server), directory.path()).await;
    capture.streams().await;
    run(&client, "alter event trigger rowcast disable").await;
    run(&swaps, "create table orders_new (id int primary key, v int)").await;
    run(
        &swaps,
        "begin; alter table orders rename to orders_old; alter table orders_new rename to orders;
         alter table orders_old rename to orders_new",
    )
    .await;
    capture.status.look_again();
    let waits = "select count(*) from pg_locks where not granted and relation = (select oid from pg_class where relname = 'orders_new')";
    until("the look to wait", async || value(&client, waits).await != "0").await;
    run(&swaps, "commit").await;
    until("each to be where it belongs", async || {
        // At no time it fails.
        run(&client, "update orders_new set v = v + 1").await;
        capture.status.look_again();
        let places = (listed(&client, "rowcast").await, listed(&client, "rowcast_inserts").await);
        places == ("orders".to_owned(), "orders_new".to_owned())
    })
    .await;
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

/// Who creates a table has the publication until his transaction ends, and writes meanwhile to one that was left for later.
#[tokio::test]
async fn no_transaction_fails_by_a_deadlock_with_it() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, migration, writer) = (sql(&server).await, sql(&server).await, sql(&server).await);
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&migration, "set deadlock_timeout = '500ms'; begin; create table a (id int primary key)").await;
    run(&client, "create table b (id int primary key)").await;
    assert_eq!(listed(&client, "rowcast").await, "NULL", "it is left to the next look");
    run(&writer, "begin; insert into b values (1)").await;
    capture.status.look_again();
    let waits = "select count(*) from pg_locks where not granted";
    until("it to wait", async || value(&client, waits).await == "1").await;
    let inserting =
        tokio::spawn(async move { migration.batch_execute("insert into public.b values (2); commit").await });
    // It is done, or waits behind rowcast.
    until("the other one's turn", async || inserting.is_finished() || value(&client, waits).await == "2")
        .await;
    run(&writer, "commit").await;
    inserting.await.unwrap().unwrap();
    capture.status.look_again();
    until("the table", async || listed(&client, "rowcast").await == "a b").await;
    capture.stop().await;
}

/// Who has the publication by the server's own lock, and wants the table.
#[tokio::test]
async fn with_the_table_in_hand_it_waits_for_nobody() {
    let Some(server) = Server::start_since(15, "") else { return };
    let directory = Directory::new();
    let (client, person) = (sql(&server).await, sql(&server).await);
    run(&client, "create table t (id int primary key)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&person, "set deadlock_timeout = '200ms'; begin; alter publication rowcast drop table t").await;
    run(&client, "alter event trigger rowcast disable; create table b (id int primary key)").await;
    let gave_up =
        |log: &str| log.contains("STATEMENT:  alter publication \"rowcast\" add table only \"public\".\"b\"");
    until("it to give up", async || {
        capture.status.look_again();
        // It gives back its lock.
        run(&person, "savepoint a; insert into b values (1); rollback to a").await;
        gave_up(&server.log())
    })
    .await;
    run(&person, "rollback").await;
    capture.status.look_again();
    until("the tables", async || listed(&client, "rowcast").await == "b t").await;
    capture.stop().await;
}
