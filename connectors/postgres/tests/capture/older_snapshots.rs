//! What the event triggers do where a transaction's snapshot is older than what is there: trees, column lists, and what is
//! somebody else's.

use super::harness::{Capture, Directory, SENDS_NO_EMPTY, Seen, config, run, sql, until, value, version};
use super::isolated::places;
use crate::support::Server;
use rowcast_postgres::Config;

/// A tree whose rows nothing names any more, of which an event would not say which row it means.
#[tokio::test]
async fn a_tree_that_loses_its_key_leaves_the_publication_of_updates() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table root (id int primary key, v int) partition by range (id);
         create table part partition of root for values from (0) to (10);
         create table own (id int primary key, v int not null) partition by range (id);
         create table own_part partition of own for values from (0) to (10);
         create unique index own_v on own_part (v);
         create table still (id int primary key, v int) partition by range (id);
         create table still_part partition of still for values from (0) to (10)",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    for isolation in ["repeatable read", "serializable"] {
        assert_eq!(places(&client).await, ("own root still".into(), "NULL".into()));
        run(
            &client,
            "insert into root values (1, 1); insert into own values (1, 1); insert into still values (1, 1)",
        )
        .await;
        run(
            &client,
            &format!("begin isolation level {isolation}; alter table root drop constraint root_pkey"),
        )
        .await;
        run(
            &client,
            "delete from root; alter table own_part replica identity using index own_v; delete from own",
        )
        .await;
        run(&client, "alter table still add column w int; delete from still").await;
        assert_eq!(places(&client).await.0, "still", "no later look has done it");
        run(&client, "commit").await;
        capture.status.look_again();
        until("each to be where it belongs", async || {
            places(&client).await == ("still".into(), "own root".into())
        })
        .await;
        assert_eq!(
            value(&client, "select count(*) from pg_class where relreplident = 'f' and relname = 'part'")
                .await,
            "0"
        );
        run(
            &client,
            "alter table root add primary key (id); alter table own_part replica identity default;
             alter table still drop column w",
        )
        .await;
    }
    run(&client, "insert into still (id, v) values (7, 7)").await;
    until("the last one", async || capture.events().iter().any(|event| event.new.starts_with("7,7"))).await;
    let told: Vec<String> = capture.events().iter().map(Seen::brief).collect();
    let deleted: Vec<&String> = told.iter().filter(|event| event.starts_with("delete ")).collect();
    assert_eq!(deleted, ["delete public.still K:1,NULL,NULL"; 2], "{told:?}");
    capture.stop().await;
}

/// What else is in the database may be gone since the snapshot, or somebody else's.
#[tokio::test]
async fn an_index_that_is_dropped_beside_what_is_gone_and_what_is_held() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, other) = (sql(&server).await, sql(&server).await);
    run(
        &client,
        "create table gone (v int); create table held (v int);
         create table indexed (id int not null, v int); insert into indexed values (1, 1);
         create unique index indexed_id on indexed (id); alter table indexed replica identity using index indexed_id",
    )
    .await;
    let narrow = Config { exclude: vec!["public.gone".into(), "public.held".into()], ..config(&server) };
    let capture = Capture::start(narrow, directory.path()).await;
    run(&client, "begin isolation level repeatable read; select count(*) from pg_class").await;
    run(&other, "drop table gone; begin; lock table held").await;
    run(&client, "drop index indexed_id; update indexed set v = 2; commit; update indexed set v = 3").await;
    run(&other, "commit").await;
    capture.status.look_again();
    until("it to be where it belongs", async || places(&client).await == ("NULL".into(), "indexed".into()))
        .await;
    capture.stop().await;
}

/// What a look has not noted is noted by whoever takes the table out.
#[tokio::test]
async fn a_column_list_that_no_look_has_seen_is_not_lost() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, other) = (sql(&server).await, sql(&server).await);
    if version(&client).await < SENDS_NO_EMPTY {
        println!("SKIPPED: before version 15 there are no column lists");
        return;
    }
    run(
        &client,
        "create table narrow (id int primary key, v int, secret text);
         create table later (id int primary key, v int, secret text); create table other (id int primary key)",
    )
    .await;
    let mut capture = Capture::start(config(&server), directory.path()).await;
    capture.streams().await;
    capture.stop().await;
    let list = |table: &str| {
        format!(
            "alter publication rowcast drop table {table}; alter publication rowcast add table only {table} (id, v)"
        )
    };
    run(&client, &list("narrow")).await;
    run(&client, "begin isolation level repeatable read; select count(*) from pg_class").await;
    run(&other, &list("later")).await;
    // From version 16 on what is in the publication by the newest catalog cannot be asked for beside this.
    run(&other, "begin; truncate other").await;
    let lost = |table: &str| {
        format!(
            "alter table {table} drop constraint {table}_pkey; insert into {table} values (1, 1, 'hushed'); update {table} set v = 2"
        )
    };
    run(&client, &lost("narrow")).await;
    run(&client, &lost("later")).await;
    run(&client, "commit; update narrow set v = 3; update later set v = 3").await;
    run(&other, "commit").await;
    capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into other values (7)").await;
    for table in ["public.narrow", "public.later"] {
        until("it to be told", async || capture.report().source.uncaptured.contains_key(table)).await;
    }
    assert_eq!(places(&client).await, ("other".into(), "NULL".into()));
    until("the last one", async || capture.events().iter().any(|event| event.new == "7")).await;
    let told: Vec<String> = capture.events().iter().map(Seen::brief).collect();
    assert!(told.iter().all(|event| !event.contains("hushed")), "{told:?}");
    capture.stop().await;
}

/// A tree may have parts by now that the snapshot does not show.
#[tokio::test]
async fn a_tree_comes_into_the_publication_of_updates_by_a_later_look() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, other) = (sql(&server).await, sql(&server).await);
    run(
        &client,
        "create table root (id int not null, v int) partition by range (id);
         create table one partition of root for values from (0) to (10);
         create table alone (id int not null, v int)",
    )
    .await;
    let leaves = Config { via_partition_root: false, ..config(&server) };
    let capture = Capture::start(leaves, directory.path()).await;
    assert_eq!(places(&client).await, ("NULL".into(), "alone root".into()));
    run(&client, "begin isolation level repeatable read; select count(*) from pg_class").await;
    run(
        &other,
        "create table two partition of root for values from (10) to (20); insert into root values (11, 1)",
    )
    .await;
    run(&client, "alter table one add primary key (id); alter table alone add primary key (id); commit")
        .await;
    run(&other, "update root set v = 2; delete from root").await;
    // Of a table that is none nothing is left to be seen.
    assert_eq!(places(&client).await, ("alone".into(), "root".into()));
    capture.stop().await;
}
