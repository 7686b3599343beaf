//! Keys that go with a column or a constraint of a table above.

use rowcast_postgres::Config;

use super::harness::{Capture, Directory, config, run, sql};
use super::trigger::listed;
use crate::support::Server;

#[tokio::test]
async fn a_key_that_goes_with_a_parents_column() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table p (id int not null, v int); create table c (primary key (id)) inherits (p);
         create table d (primary key (id)) inherits (c); create table e (primary key (v)) inherits (p);
         insert into c values (1, 1); insert into d values (1, 1); insert into e values (1, 1)",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    assert_eq!(listed(&client, "rowcast").await, "c d e");
    run(&client, "begin; alter table p drop column id; update c set v = 2; update d set v = 2; commit").await;
    run(&client, "update c set v = 3; update e set v = 3").await;
    assert_eq!(
        (listed(&client, "rowcast").await, listed(&client, "rowcast_inserts").await),
        ("e".into(), "c d p".into())
    );
    assert_eq!(capture.briefs(1).await, ["update public.e K:1 3"]);
    capture.stop().await;
}

/// Where neither the root nor what lies between is captured.
#[tokio::test]
async fn a_key_that_goes_with_a_roots() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table root (id int primary key, v int) partition by range (id);
         create table leaf_1 partition of root for values from (0) to (10);
         create table middle partition of root for values from (10) to (20) partition by range (id);
         create table leaf_2 partition of middle for values from (10) to (20); insert into root values (1, 1), (11, 1)",
    )
    .await;
    let tables = vec!["public.leaf_*".to_owned()];
    let capture = Capture::start(Config { tables, ..config(&server) }, directory.path()).await;
    assert_eq!(listed(&client, "rowcast").await, "leaf_1 leaf_2");
    run(&client, "begin; alter table root drop constraint root_pkey; update root set v = 2; commit").await;
    assert_eq!(listed(&client, "rowcast_inserts").await, "leaf_1 leaf_2");
    // And come back with it.
    run(&client, "alter table root add primary key (id); update root set v = 3 where id = 11").await;
    assert_eq!(listed(&client, "rowcast").await, "leaf_1 leaf_2");
    assert_eq!(capture.briefs(1).await, ["update public.leaf_2 11,3"]);
    capture.stop().await;
}
