//! Generated columns, which versions 14 to 17 never send, and 18 where they are stored.

use rowcast_postgres::{Config, Requirement, check};
use tokio_postgres::Client;

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
    let old = version(&client).await < PUBLISHED;
    let briefs = capture.briefs(if old { 7 } else { 9 }).await;
    if old {
        let expected = ["insert public.g 1,5", "update public.g 1,6", "update public.g K:1,NULL 2,6"];
        assert_eq!(briefs[..3], expected);
        assert_eq!(briefs[3..6], ["insert public.f 1", "update public.f O:1 2", "delete public.f O:2"]);
        assert_eq!(
            (names(&capture, "public.g"), names(&capture, "public.f")),
            (vec!["id".into(), "a".into()], vec!["id".into()])
        );
        // Its key is in no event, so that nothing could say which row was changed.
        assert_eq!(briefs[6], "insert public.k 1");
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
        println!("SKIPPED: before version 18 no generated column is published");
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

/// `gp3` has a part of its key published, `gpk` nothing of it; `by_index` has what `check` advises.
const PARTS: &str = "
create table gp3 (a int, c int, b int generated always as (c % 10) stored, primary key (a, b));
create table gpk (a int, b int generated always as (a * 2) stored primary key);
create table whole (like gp3 including generated, primary key (a, b));
alter table whole replica identity full;
create table by_index (a int not null unique, c int, b int generated always as (c % 10) stored, primary key (a, b));
alter table by_index replica identity using index by_index_a_key;
create table beside (id int primary key, a int);";

async fn found(config: &Config, table: &str) -> Option<Requirement> {
    check(config).await.unwrap().into_iter().find(|found| found.name == format!("table public.{table}"))
}

fn has_key(capture: &Capture, channel: &str) -> (bool, bool) {
    let schema = capture.schema(channel);
    let has = !schema.key.is_empty();
    assert_eq!(has, !schema.primary_key.is_empty() || channel == "public.by_index");
    (has, schema.columns.iter().any(|column| column.identity))
}

async fn tells_of_parts(config: &Config, old: bool) {
    for (table, what) in [("gp3", "only inserts"), ("gpk", "only inserts"), ("whole", "no key")] {
        let found = found(config, table).await;
        assert_eq!(found.is_some(), old, "{table}: {found:?}");
        let Some(found) = found else { continue };
        assert!(
            found.ok && found.found.starts_with(what) && found.found.contains("no key: b of"),
            "{found:?}"
        );
        let remedy = found.remedy.unwrap();
        assert!(remedy.contains("REPLICA IDENTITY USING INDEX"), "{remedy}");
        assert_eq!(remedy.contains("REPLICA IDENTITY FULL"), table != "whole", "{remedy}");
    }
    for table in ["by_index", "beside"] {
        assert_eq!(found(config, table).await, None);
    }
}

/// What `check` says to do.
async fn advice_helps(client: &Client, capture: &Capture) {
    run(client, "create unique index late_c on late (c); alter table late alter c set not null").await;
    run(client, "alter table late replica identity using index late_c").await;
    let before = capture.events().len();
    run(client, "insert into late values (1, 5); delete from late").await;
    let briefs = capture.briefs(before + 2).await;
    assert!(briefs[before + 1].starts_with("delete public.late K:NULL,5"), "{briefs:?}");
    assert_eq!(capture.schema("public.late").key, [1]);
}

#[tokio::test]
async fn a_part_of_a_key_is_no_key() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, PARTS).await;
    let old = version(&client).await < PUBLISHED;
    let config = config(&server);
    tells_of_parts(&config, old).await;
    let capture = Capture::start(config, directory.path()).await;
    run(&client, "insert into gp3 values (1, 1), (1, 2); update gp3 set c = 3 where c = 2; delete from gp3")
        .await;
    run(&client, "insert into gpk values (1); update gpk set a = 2; delete from gpk").await;
    run(&client, "insert into whole values (1, 1); update whole set c = 2; delete from whole").await;
    run(&client, "insert into by_index values (1, 1); update by_index set a = 2; delete from by_index").await;
    run(&client, "insert into beside values (1, 1); update beside set id = 2; delete from beside").await;
    // The event trigger decides in the same way.
    run(
        &client,
        "create table late (like gp3 including all); insert into late values (1, 1); delete from late",
    )
    .await;
    let of = |table: &str, briefs: &[String]| -> Vec<String> {
        let name = format!(" public.{table} ");
        briefs.iter().filter(|brief| brief.contains(&name)).cloned().collect()
    };
    if old {
        let briefs = capture.briefs(13).await;
        assert_eq!(of("gp3", &briefs), ["insert public.gp3 1,1", "insert public.gp3 1,2"]);
        assert_eq!(of("gpk", &briefs), ["insert public.gpk 1"]);
        let whole = ["insert public.whole 1,1", "update public.whole O:1,1 1,2", "delete public.whole O:1,2"];
        assert_eq!(of("whole", &briefs), whole);
        assert_eq!(of("late", &briefs), ["insert public.late 1,1"]);
    } else {
        let briefs = capture.briefs(19).await;
        assert_eq!(
            of("gp3", &briefs)[2..4],
            ["update public.gp3 K:1,NULL,2 1,3,3", "delete public.gp3 K:1,NULL,1"]
        );
        assert_eq!(of("late", &briefs), ["insert public.late 1,1,1", "delete public.late K:1,NULL,1"]);
    }
    let briefs = capture.events().iter().map(|seen| seen.brief()).collect::<Vec<_>>();
    let beside =
        ["insert public.beside 1,1", "update public.beside K:1,NULL 2,1", "delete public.beside K:2,NULL"];
    assert_eq!(of("beside", &briefs), beside);
    assert!(of("by_index", &briefs)[1].starts_with("update public.by_index K:1,NULL"), "{briefs:?}");
    for table in ["gp3", "gpk", "late"] {
        assert_eq!(has_key(&capture, &format!("public.{table}")), (!old, !old), "{table}");
        assert_eq!(capture.schema(&format!("public.{table}")).inserts_only, old, "{table}");
    }
    assert_eq!(has_key(&capture, "public.whole"), (!old, true));
    assert_eq!(
        (has_key(&capture, "public.by_index"), has_key(&capture, "public.beside")),
        ((true, true), (true, true))
    );
    advice_helps(&client, &capture).await;
    capture.stop().await;
}

/// What somebody else publishes is captured, but no part of a key is shown as one.
#[tokio::test]
async fn a_publication_of_somebody_elses_making_shows_a_part_of_a_key() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let version = version(&client).await;
    if !(150_000..PUBLISHED).contains(&version) {
        println!("SKIPPED: it is so from version 15 to 17");
        return;
    }
    run(
        &client,
        &format!(
            "{PARTS} create table listed (a int, b int, c int, primary key (a, b));
             create publication rowcast for table gp3, beside;
             create publication rowcast_inserts for table listed (a, c) with (publish = 'insert, truncate')"
        ),
    )
    .await;
    run(&client, "select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await;
    let manual = Config { manage: false, ..config(&server) };
    let told = found(&manual, "gp3").await.unwrap();
    assert!(
        !told.ok && told.found.contains("do not tell which row") && told.found.contains(" b of"),
        "{told:?}"
    );
    let told = found(&manual, "listed").await.unwrap();
    assert!(told.ok && told.found.contains("no key: b of its key"), "{told:?}");
    let capture = Capture::start(manual, directory.path()).await;
    run(&client, "insert into gp3 values (1, 1), (1, 2); delete from gp3 where c = 2").await;
    run(&client, "insert into listed values (1, 1, 1), (1, 2, 1); delete from listed").await;
    run(&client, "insert into beside values (1, 1); delete from beside").await;
    assert_eq!(capture.briefs(7).await[2], "delete public.gp3 K:1,NULL");
    assert_eq!(has_key(&capture, "public.gp3"), (false, false));
    assert_eq!(has_key(&capture, "public.listed"), (false, false));
    assert_eq!(has_key(&capture, "public.beside"), (true, true));
    capture.stop().await;
}

/// Its rows so far are read as those of any table without a key.
#[tokio::test]
async fn there_is_no_snapshot_by_a_part_of_a_key() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, &format!("{PARTS} insert into gp3 values (1, 1), (1, 2); insert into beside values (1, 1)"))
        .await;
    let capture = Capture::start_for(config(&server), directory.path(), &[("kafka", Some(1))]).await;
    let of_gp3 = || {
        let events = capture.events_for("kafka").into_iter();
        events.filter(|event| event.channel == "public.gp3").map(|event| event.brief()).collect::<Vec<_>>()
    };
    until("the rows beside", async || {
        capture.events_for("kafka").iter().any(|event| event.brief() == "read public.beside 1,1")
    })
    .await;
    let expected: &[&str] = if version(&client).await < PUBLISHED {
        &["read public.gp3 1,1", "read public.gp3 1,2"]
    } else {
        &["read public.gp3 1,1,1", "read public.gp3 1,2,2"]
    };
    until("what there is of gp3", async || of_gp3() == expected).await;
    capture.stop().await;
}

/// A tree that is shown as its root has such a key with its partitions.
#[tokio::test]
async fn nor_is_a_part_of_a_trees_key() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let old = version(&client).await < PUBLISHED;
    run(
        &client,
        "create table tree (a int, g int generated always as (a * 2) stored, id int, primary key (id));
         create table parts (a int, c int, g int generated always as (c % 10) stored, primary key (a, g))
             partition by range (a);
         create table part partition of parts for values from (0) to (100)",
    )
    .await;
    let config = config(&server);
    assert_eq!(found(&config, "parts").await.is_some_and(|found| found.found.contains("no key: g of")), old);
    let capture = Capture::start(config, directory.path()).await;
    run(
        &client,
        "insert into parts values (1, 1), (1, 2); update parts set c = 3 where c = 2; delete from parts",
    )
    .await;
    run(&client, "insert into tree (a, id) values (1, 1); delete from tree").await;
    let briefs = capture.briefs(if old { 4 } else { 7 }).await;
    assert_eq!(has_key(&capture, "public.parts"), (!old, !old), "{briefs:?}");
    // A generated column beside the key is no matter.
    assert_eq!(has_key(&capture, "public.tree"), (true, true));
    assert!(briefs.last().is_some_and(|brief| brief.starts_with("delete public.tree K:")), "{briefs:?}");
    capture.stop().await;
}
