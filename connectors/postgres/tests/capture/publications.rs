//! What a person made of the publications counts; partitions; and nobody's writes fail.

use rowcast_postgres::{Config, check};
use tokio_postgres::Client;

use super::harness::{Capture, Directory, config, run, sql, until, value, version};
use super::trigger::listed;
use crate::support::Server;

/// Tables with every kind of replica identity, each with a row, without and with a usable one.
const ZOO: &str = "
    create table keyed (id int primary key, v int); create table keyless (id int, v int);
    create table full_one (id int, v int); alter table full_one replica identity full;
    create table silent (id int primary key, v int); alter table silent replica identity nothing;
    create table deferred (id int primary key deferrable, v int);
    create table indexed (id int not null, v int); create unique index indexed_id on indexed (id);
    alter table indexed replica identity using index indexed_id;
    create table lost (id int not null, v int); create unique index lost_id on lost (id);
    alter table lost replica identity using index lost_id; drop index lost_id;
    create table stored (id int primary key, v int, g int generated always as (id * 2) stored);
    create table full_stored (id int, v int, g int generated always as (id * 2) stored);
    alter table full_stored replica identity full;
    create table stored_key (id int, v int, g int generated always as (id * 2) stored primary key);
    create table covering (id int, v int, primary key (id) include (v));
    create table tree (id int primary key, v int) partition by range (id);
    create table tree_1 partition of tree for values from (0) to (10);
    create table tree_2 partition of tree for values from (10) to (20) partition by range (id);
    create table tree_2_1 partition of tree_2 for values from (10) to (20);
    create table holed (id int primary key, v int) partition by range (id);
    create table holed_1 partition of holed for values from (0) to (10);
    alter table holed_1 replica identity nothing;
    create table mixed (id int primary key, v int not null) partition by range (id);
    create table mixed_1 partition of mixed for values from (0) to (10);
    create unique index mixed_v on mixed_1 (v); alter table mixed_1 replica identity using index mixed_v;
    create table upper (id int primary key, v int) partition by range (id); alter table upper replica identity full;
    create table upper_1 partition of upper for values from (0) to (10);
    create table rootless (id int, v int) partition by range (id);
    create table rootless_1 partition of rootless (primary key (id)) for values from (0) to (10);
    create table half (id int not null, v int) partition by range (id);
    create table half_1 partition of half for values from (0) to (10); alter table only half add primary key (id);";

const ZOO_18: &str = "
    create table virtual_key (id int primary key, v int, g int generated always as (id * 2) virtual);
    create table full_virtual (id int, v int, g int generated always as (id * 2) virtual);
    alter table full_virtual replica identity full;";

const TABLES: &[&str] = &[
    "keyed",
    "keyless",
    "full_one",
    "silent",
    "deferred",
    "indexed",
    "lost",
    "stored",
    "full_stored",
    "stored_key",
    "covering",
    "tree",
    "tree_1",
    "holed",
    "mixed",
    "upper",
    "rootless",
    "half",
];

/// The application's own statements go on working on every table.
async fn write(client: &Client, tables: &[&str]) {
    for table in tables {
        run(
            client,
            &format!(
                "insert into {table} (id, v) values (1, 1); update {table} set v = 2; delete from {table}"
            ),
        )
        .await;
    }
}

#[tokio::test]
async fn nobodys_writes_fail_whatever_identifies_the_rows() {
    let (server, one, two) = (Server::start(""), Directory::new(), Directory::new());
    let client = sql(&server).await;
    // The trigger makes its choice while the tables are made, the start of another rowcast looks at all of them.
    let capture = Capture::start(config(&server), one.path()).await;
    let new = version(&client).await >= 180_000;
    run(&client, ZOO).await;
    write(&client, TABLES).await;
    if new {
        run(&client, ZOO_18).await;
        write(&client, &["virtual_key", "full_virtual"]).await;
    }
    let later = Config { slot: "later".to_owned(), ..config(&server) };
    let other = Capture::start(later, two.path()).await;
    write(&client, TABLES).await;
    let expected = "covering full_one full_stored indexed keyed stored stored_key tree upper";
    // Before version 18 that key is not published.
    let expected = if new { format!("{expected} virtual_key") } else { expected.replace(" stored_key", "") };
    assert_eq!(listed(&client, "later").await, expected);
    let expected = "deferred half holed keyless lost mixed rootless silent";
    let expected =
        if new { expected.replace(" half", " full_virtual half") } else { format!("{expected} stored_key") };
    assert_eq!(listed(&client, "later_inserts").await, expected);
    assert_eq!(listed(&client, "rowcast").await, listed(&client, "later").await);
    assert_eq!(listed(&client, "rowcast_inserts").await, listed(&client, "later_inserts").await);
    let identities =
        "select string_agg(relreplident::text, '' order by oid) from pg_class where relkind in ('r', 'p')";
    let before = value(&client, identities).await;
    capture.status.look_again();
    other.stop().await;
    capture.stop().await;
    assert_eq!(value(&client, identities).await, before, "no identity is changed");
}

#[tokio::test]
async fn partitions_are_their_root_or_tables_of_their_own() {
    for root in [true, false] {
        let (server, directory) = (Server::start(""), Directory::new());
        let client = sql(&server).await;
        run(
            &client,
            "create table r (id int primary key, v text) partition by range (id);
             create table r_1 partition of r for values from (0) to (10);
             create table r_2 (v text, gone int, id int not null); alter table r_2 drop column gone;
             alter table r attach partition r_2 for values from (10) to (20)",
        )
        .await;
        let exclude = vec!["public.r_old".to_owned()];
        let config = Config { via_partition_root: root, exclude, ..config(&server) };
        let capture = Capture::start(config, directory.path()).await;
        run(&client, "insert into r values (1, 'a'), (11, 'b'); update r set v = 'c' where id = 11").await;
        // Version 14 may garble what it decodes meanwhile: ARCHITECTURE, known limits.
        capture.wait(3).await;
        run(
            &client,
            "create table r_3 partition of r for values from (20) to (30); insert into r values (21, 'd')",
        )
        .await;
        run(&client, "create table r_4 (id int primary key, v text)").await;
        run(
            &client,
            "alter table r attach partition r_4 for values from (30) to (40); insert into r values (31, 'e')",
        )
        .await;
        run(
            &client,
            "create table r_old partition of r for values from (40) to (50); insert into r values (41, 'f')",
        )
        .await;
        run(&client, "update r set v = 'g' where id = 31; insert into r_1 values (2, 'h')").await;
        let expected: &[&str] = if root {
            &[
                "insert public.r 1,a",
                "insert public.r 11,b",
                "update public.r 11,c",
                "insert public.r 21,d",
                "insert public.r 31,e",
                "insert public.r 41,f",
                "update public.r 31,g",
                "insert public.r 2,h",
            ]
        } else {
            &[
                "insert public.r_1 1,a",
                "insert public.r_2 b,11",
                "update public.r_2 c,11",
                "insert public.r_3 21,d",
                "insert public.r_4 31,e",
                "update public.r_4 31,g",
                "insert public.r_1 2,h",
            ]
        };
        assert_eq!(capture.briefs(expected.len()).await, expected);
        capture.status.look_again();
        let shown = if root {
            vec!["public.r"]
        } else {
            vec!["public.r_1", "public.r_2", "public.r_3", "public.r_4"]
        };
        until("the board", async || capture.report().source.tables.keys().eq(shown.iter())).await;
        // A partition that nothing identifies: the tree moves before the next statement.
        run(&client, "alter table r_1 replica identity nothing; update r set v = 'i' where id = 1").await;
        assert_eq!(listed(&client, "rowcast_inserts").await, "r");
        capture.stop().await;
    }
}

#[tokio::test]
async fn chosen_columns_and_rows_stay_chosen() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    if version(&client).await < 150_000 {
        println!("SKIPPED: before version 15 there are no column lists");
        return;
    }
    run(&client, "create table t (id int primary key, shown text, \"Hidden\" text); create table u (id int primary key)")
        .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let chosen = "alter publication rowcast drop table t; alter publication rowcast add table only t (id, shown) \
                  where (id > 10)";
    run(&client, &format!("begin; {chosen}; commit")).await;
    run(
        &client,
        "insert into t values (1, 'a', 'x'), (11, 'b', 'x'); update t set shown = 'c' where id = 11",
    )
    .await;
    assert_eq!(capture.briefs(2).await, ["insert public.t 11,b", "update public.t 11,c"]);
    // Events of before have other columns, and rows that are not published now: that is told.
    capture.status.look_again();
    let gap = "gap public.t not_published";
    until("the gap", async || capture.events().iter().any(|event| event.brief() == gap)).await;
    // It goes with the table to the other publication and back, by the trigger and by the look.
    let list = "select string_agg(pubname || ': ' || array_to_string(attnames, ',') || ' ' || rowfilter, ' ')
        from pg_publication_tables where tablename = 't'";
    run(&client, "alter table t drop constraint t_pkey; update t set \"Hidden\" = 'y'").await;
    assert_eq!(value(&client, list).await, "rowcast_inserts: id,shown (id > 10)");
    run(&client, "alter event trigger rowcast disable; alter table t add primary key (id)").await;
    capture.status.look_again();
    until("the look", async || value(&client, list).await == "rowcast: id,shown (id > 10)").await;
    run(&client, "alter event trigger rowcast enable; insert into t values (12, 'd', 'x')").await;
    assert_eq!(capture.briefs(4).await[3], "insert public.t 12,d");

    // A list without the key, or a filter of what is no key: its updates cannot be published.
    run(&client, "alter table t drop constraint t_pkey, add primary key (\"Hidden\", id)").await;
    run(&client, "update t set shown = 'z' where id = 12").await;
    assert_eq!(value(&client, list).await, "rowcast_inserts: id,shown (id > 10)");
    run(
        &client,
        "alter publication rowcast drop table u; alter publication rowcast add table only u where (id > 3)",
    )
    .await;
    run(&client, "alter table u add column v int; update u set v = 1").await;
    assert_eq!(listed(&client, "rowcast").await, "u");

    // Differently in both: the server could not send it.
    run(&client, "alter publication rowcast add table only t (id, \"Hidden\")").await;
    let found = check(&config(&server)).await.unwrap();
    let lists = found.iter().find(|found| found.name == "column lists").unwrap();
    assert!(!lists.ok && lists.found.contains("public.t has other columns"), "{lists:?}");
    assert!(lists.remedy.as_deref().unwrap().contains("ALTER PUBLICATION \"rowcast_inserts\" DROP TABLE"));
    capture.stop().await;
}

#[tokio::test]
async fn what_somebody_else_made_is_left_as_it_is() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let new = version(&client).await >= 150_000;
    let list = if new { " (id, shown)" } else { "" };
    let made = format!(
        "create table t (id int primary key, shown text, hidden text); create table other (id int primary key);
         create table keyless (id int); create publication rowcast for table t{list}, keyless
         with (publish = 'insert, update')"
    );
    run(&client, &made).await;
    let about = "select (select jsonb_agg(p order by pubname) from pg_publication p)::text
        || (select jsonb_agg(r order by prrelid) from pg_publication_rel r)::text";
    let before = value(&client, about).await;
    for _ in 0..2 {
        let capture = Capture::start(config(&server), directory.path()).await;
        run(&client, "insert into t values (1, 'a', 'b'); delete from t; insert into other values (1); delete from other")
            .await;
        run(&client, "create table new (id int primary key)").await;
        run(&client, "drop table new").await;
        capture.status.look_again();
        until("a look", async || capture.report().source.tables.len() == 2).await;
        let expected = if new { "insert public.t 1,a" } else { "insert public.t 1,a,b" };
        until("the insert", async || capture.events().last().is_some_and(|event| event.brief() == expected))
            .await;
        capture.stop().await;
    }
    assert_eq!(value(&client, about).await, before);
    let found = check(&config(&server)).await.unwrap();
    let publication = found.iter().find(|found| found.name == "publication").unwrap();
    assert!(publication.ok && publication.found.contains("made by somebody else"), "{publication:?}");
    // It breaks the application by itself, which is said.
    assert!(
        client
            .batch_execute("insert into public.keyless values (1); update public.keyless set id = 2")
            .await
            .is_err()
    );
    let keyless = found.iter().find(|found| found.name == "table public.keyless").unwrap();
    assert!(!keyless.ok && keyless.found.contains("its UPDATE and DELETE fail"), "{keyless:?}");
}

#[tokio::test]
async fn unpublished_generated_columns_of_an_identity_are_told() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table g (id int, v int generated always as (id * 2) stored); alter table g replica identity full;
         insert into g values (1); create publication rowcast for table g",
    )
    .await;
    let fails = client.batch_execute("update public.g set id = 2").await.is_err();
    assert_eq!(fails, version(&client).await >= 180_000, "only from version 18 on");
    let manual = Config { manage: false, ..config(&server) };
    let found = check(&manual).await.unwrap();
    let told = found
        .iter()
        .any(|found| found.name == "table public.g" && !found.ok && found.found.contains("generated"));
    assert_eq!(told, fails, "{found:#?}");
    // Made by rowcast, they are published where they can be.
    run(&client, "drop publication rowcast").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "update g set id = 3").await;
    assert_eq!((listed(&client, "rowcast").await, capture.wait(1).await.len()), ("g".to_owned(), 1));
    capture.stop().await;
}
