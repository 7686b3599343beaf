//! What a publication did not publish for a while is told, whoever altered it, and nothing else is.

use rowcast_postgres::Config;
use tokio_postgres::Client;

use super::harness::{Capture, Directory, config, run, sql, until, value, version};
use crate::support::Server;

/// Gaps that there are when nothing more is owed.
async fn gaps(capture: &Capture, count: usize) -> Vec<String> {
    let told = || -> Vec<String> {
        let events = capture.events().into_iter();
        events.map(|event| event.brief()).filter(|brief| brief.starts_with("gap")).collect()
    };
    until("the gaps", async || {
        // Asked to, it looks at once.
        capture.status.look_again();
        told().len() >= count
    })
    .await;
    assert_eq!(told().len(), count, "{:?}", told());
    told()
}

/// Nothing is owed, as far as it was noted when it looked last.
fn nothing_is_owed(capture: &Capture) {
    let note: serde_json::Value =
        serde_json::from_slice(&capture.journal.note_named("contents").unwrap()).unwrap();
    assert_eq!(note["owed"], serde_json::json!({}));
}

/// The event of a change that is made now comes, and no gap before it.
async fn goes_on(capture: &Capture, client: &Client, id: i32) {
    run(client, &format!("insert into t values ({id}, 0)")).await;
    let brief = format!("insert public.t {id},0");
    until("the change", async || capture.events().iter().any(|event| event.brief() == brief)).await;
}

const ALL: &str = "insert, update, delete, truncate";

#[tokio::test]
async fn operations_that_were_not_published_are_a_gap() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key, v int); create table u (id int primary key)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    goes_on(&capture, &client, 1).await;
    run(&client, "alter publication rowcast set (publish = 'insert')").await;
    run(&client, "update t set v = 1").await;
    let told = gaps(&capture, 2).await;
    assert_eq!(told, ["gap public.t not_published", "gap public.u not_published"]);
    let operations =
        "select concat_ws(', ', case when pubinsert then 'insert' end, case when pubupdate then 'update' end,
        case when pubdelete then 'delete' end, case when pubtruncate then 'truncate' end)
        from pg_publication where pubname = 'rowcast'";
    assert_eq!(value(&client, operations).await, ALL);
    // Altered and altered back while nobody looked; from version 15 on that is seen.
    capture.stop().await;
    run(&client, "alter publication rowcast set (publish = 'insert')").await;
    run(&client, &format!("update t set v = 2; alter publication rowcast set (publish = '{ALL}')")).await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let count = if version(&client).await >= 150_000 { 4 } else { 2 };
    gaps(&capture, count).await;
    // Neither another owner nor a start changes anything.
    run(&client, "create role other superuser; alter publication rowcast owner to other").await;
    capture.stop().await;
    let capture = Capture::start(config(&server), directory.path()).await;
    nothing_is_owed(&capture);
    goes_on(&capture, &client, 2).await;
    gaps(&capture, count).await;
    capture.stop().await;
}

#[tokio::test]
async fn a_table_that_left_its_publication_and_came_back_is_a_gap() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key, v int); create table u (id int primary key)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    goes_on(&capture, &client, 1).await;
    // By hand, between two looks.
    run(&client, "alter publication rowcast drop table t").await;
    run(&client, "update t set v = 1; alter publication rowcast add table only t").await;
    assert_eq!(gaps(&capture, 1).await, ["gap public.t not_published"]);
    // While it does not run; and by the next look, without a row that is left.
    capture.stop().await;
    run(&client, "alter publication rowcast drop table t").await;
    run(&client, "delete from t").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    gaps(&capture, 2).await;
    // Left out, and taken in again.
    capture.stop().await;
    let without = Config { exclude: vec!["public.t".to_owned()], ..config(&server) };
    let capture = Capture::start(without, directory.path()).await;
    run(&client, "insert into t values (5, 5); delete from t").await;
    capture.stop().await;
    let capture = Capture::start(config(&server), directory.path()).await;
    gaps(&capture, 3).await;
    goes_on(&capture, &client, 2).await;
    // A key that goes and comes moves the table; that is no gap, and neither is a table that is dropped and made again.
    run(&client, "alter table t drop constraint t_pkey; drop table u").await;
    capture.status.look_again();
    until("the move", async || capture.report().source.tables["public.t"].inserts_only).await;
    run(&client, "alter table t add primary key (id); create table u (id int primary key)").await;
    capture.status.look_again();
    until("the move back", async || !capture.report().source.tables["public.t"].inserts_only).await;
    goes_on(&capture, &client, 3).await;
    capture.crash().await;
    let capture = Capture::start(config(&server), directory.path()).await;
    nothing_is_owed(&capture);
    goes_on(&capture, &client, 4).await;
    gaps(&capture, 3).await;
    capture.stop().await;
}

#[tokio::test]
async fn somebody_elses_publication_is_looked_at_too() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let all = "create table t (id int primary key, v int);
        create table r (id int primary key) partition by range (id);
        create table r_1 partition of r for values from (0) to (10);
        create publication rowcast for table t, r";
    run(&client, all).await;
    run(&client, "select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await;
    let config = Config { manage: false, ..config(&server) };
    let capture = Capture::start(config.clone(), directory.path()).await;
    goes_on(&capture, &client, 1).await;
    run(&client, "alter publication rowcast drop table t").await;
    capture.status.look_again();
    until("the look", async || !capture.report().source.tables.contains_key("public.t")).await;
    run(&client, "update t set v = 1; alter publication rowcast add table t").await;
    assert_eq!(gaps(&capture, 1).await, ["gap public.t not_published"]);
    // Partitions come and go.
    run(
        &client,
        "create table r_2 partition of r for values from (10) to (20); insert into r values (1), (11)",
    )
    .await;
    goes_on(&capture, &client, 2).await;
    if version(&client).await >= 150_000 {
        run(&client, "alter publication rowcast set table t (id), r").await;
        run(&client, "update t set v = 2").await;
        gaps(&capture, 2).await;
    }
    capture.stop().await;
}
