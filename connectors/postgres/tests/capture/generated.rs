//! Generated columns, which versions 14 to 17 never send, and 18 where they are stored.

use rowcast_postgres::Config;

use super::harness::{Capture, Directory, config, run, sql, until, value, version};
use crate::support::Server;

/// From here on they can be published, and there are virtual ones.
const PUBLISHED: u32 = 180_000;

fn names(capture: &Capture, channel: &str) -> Vec<String> {
    capture.schema(channel).columns.iter().map(|column| column.name.clone()).collect()
}

#[tokio::test]
async fn stored_ones_are_published_where_that_can_be() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table g (twice int generated always as (a * 2) stored, id int primary key, a int);
         create table f (id int, twice int generated always as (id * 2) stored);
         alter table f replica identity full;
         create table k (a int, next int generated always as (a + 1) stored primary key)",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into g values (default, 1, 5); update g set a = 6; update g set id = 2").await;
    run(&client, "insert into f values (1); update f set id = 2; delete from f").await;
    run(&client, "insert into k values (1); update k set a = 2; delete from k").await;
    let briefs = capture.briefs(9).await;
    if version(&client).await < PUBLISHED {
        let expected = ["insert public.g 1,5", "update public.g 1,6", "update public.g K:1,NULL 2,6"];
        assert_eq!(briefs[..3], expected);
        assert_eq!(briefs[3..6], ["insert public.f 1", "update public.f O:1 2", "delete public.f O:2"]);
        assert_eq!(
            (names(&capture, "public.g"), names(&capture, "public.f")),
            (vec!["id".into(), "a".into()], vec!["id".into()])
        );
        // Its key is in no event. The application's writes go on, which is what counts.
        assert_eq!(names(&capture, "public.k"), ["a"]);
        assert!(capture.schema("public.k").key.is_empty());
    } else {
        let expected =
            ["insert public.g 10,1,5", "update public.g 12,1,6", "update public.g K:NULL,1,NULL 12,2,6"];
        assert_eq!(briefs[..3], expected);
        let expected = ["insert public.f 1,2", "update public.f O:1,2 2,4", "delete public.f O:2,4"];
        assert_eq!(briefs[3..6], expected);
        let expected = ["insert public.k 1,2", "update public.k K:NULL,2 2,3", "delete public.k K:NULL,3"];
        assert_eq!(briefs[6..], expected);
        assert_eq!(names(&capture, "public.g"), ["twice", "id", "a"]);
        assert_eq!(capture.schema("public.k").key, [1]);
    }
    capture.stop().await;
}

#[tokio::test]
async fn virtual_ones_are_never_published_and_nobodys_writes_fail() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    if version(&client).await < PUBLISHED {
        return;
    }
    run(
        &client,
        "create table v (id int primary key, twice int generated always as (id * 2) virtual, a int);
         create table full_v (id int, twice int generated always as (id * 2) virtual);
         alter table full_v replica identity full;
         create table tree (id int, a int, twice int generated always as (a * 2) virtual, primary key (id))
             partition by range (id);
         create table leaf partition of tree for values from (0) to (100);
         create table other partition of tree for values from (100) to (200);
         alter table leaf replica identity full",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into v values (1, default, 7); update v set a = 8; delete from v").await;
    // The identity of these has a column that no publication can hold: only inserts, so that these do not fail.
    run(&client, "insert into full_v values (1); update full_v set id = 2; delete from full_v").await;
    run(&client, "insert into tree values (1, 5), (101, 6); update tree set a = 7; delete from tree").await;
    let briefs = capture.briefs(6).await;
    assert_eq!(briefs[..3], ["insert public.v 1,7", "update public.v 1,8", "delete public.v K:1,NULL"]);
    assert_eq!(briefs[3..], ["insert public.full_v 1", "insert public.tree 1,5", "insert public.tree 101,6"]);
    assert_eq!(names(&capture, "public.v"), ["id", "a"]);
    assert_eq!(
        (names(&capture, "public.full_v"), names(&capture, "public.tree")),
        (vec!["id".into()], vec!["id".into(), "a".into()])
    );
    let tables = capture.report().source.tables;
    assert!(!tables["public.v"].inserts_only);
    assert!(tables["public.full_v"].inserts_only && tables["public.tree"].inserts_only);

    // A table that comes by later is looked at in the same way.
    run(&client, "create table late (id int, twice int generated always as (id * 2) virtual)").await;
    run(&client, "alter table late replica identity full").await;
    until("the new table", async || capture.report().source.tables.contains_key("public.late")).await;
    run(&client, "insert into late values (1); update late set id = 2; delete from late").await;
    assert_eq!(capture.briefs(7).await[6], "insert public.late 1");
    capture.stop().await;
}

/// Somebody's own publication leaves them out. Then their values are in no event, whatever ours would do.
#[tokio::test]
async fn a_publication_of_somebody_elses_making_decides_for_itself() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table g (id int primary key, a int, twice int generated always as (a * 2) stored);
         create publication rowcast for table g",
    )
    .await;
    run(&client, "select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await;
    let manual = Config { manage: false, ..config(&server) };
    let capture = Capture::start(manual, directory.path()).await;
    run(&client, "insert into g values (1, 5); update g set a = 6; delete from g").await;
    let briefs = capture.briefs(3).await;
    assert_eq!(briefs, ["insert public.g 1,5", "update public.g 1,6", "delete public.g K:1,NULL"]);
    assert_eq!(names(&capture, "public.g"), ["id", "a"]);
    let kept = "select coalesce(to_jsonb(p) ->> 'pubgencols', 'n') from pg_publication p";
    assert_eq!(value(&client, kept).await, "n");
    capture.stop().await;
}
