//! Every message of the stream, as it stands in the journal.

use rowcast_engine::Lsn;
use rowcast_engine::event::Op;
use rowcast_engine::schema::{Identity, TypeKind};

use super::harness::{Capture, Directory, config, run, sql, until, value};
use crate::support::Server;

#[tokio::test]
async fn rows_in_commit_order_with_their_transactions() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key, v text); insert into t values (0, 'before')").await;
    let capture = Capture::start(config(&server), directory.path()).await;

    run(&client, "insert into t values (1, 'a'), (2, null)").await;
    run(&client, "begin; update t set v = 'b' where id = 1; update t set id = 3 where id = 2; commit").await;
    run(&client, "begin; insert into t values (9, 'x'); rollback").await;
    run(&client, "delete from t where id = 1").await;

    let events = capture.wait(5).await;
    let briefs: Vec<String> = events.iter().map(|event| event.brief()).collect();
    assert_eq!(
        briefs,
        [
            "insert public.t 1,a",
            "insert public.t 2,NULL",
            "update public.t 1,b",
            "update public.t K:2,NULL 3,NULL",
            "delete public.t K:1,NULL",
        ]
    );
    let places: Vec<_> = events.iter().map(|event| (event.seq, event.last)).collect();
    assert_eq!(places, [(0, false), (1, true), (0, false), (1, true), (0, true)]);
    assert!(events.windows(2).all(|pair| pair[0].id < pair[1].id));
    assert!(events.iter().all(|event| event.final_lsn < event.end_lsn && event.xid > 0));
    assert_eq!(events[0].xid, events[1].xid);
    assert!(events[2].previous_end >= events[1].end_lsn && events[4].previous_end == events[3].end_lsn);

    let schema = capture.schema("public.t");
    assert_eq!((schema.database.as_str(), schema.identity), ("postgres", Identity::Default));
    assert_eq!((&schema.primary_key, &schema.key), (&vec![0], &vec![0]));
    assert!(schema.columns[0].not_null && schema.columns[0].identity && !schema.columns[1].not_null);
    let report = capture.report();
    assert_eq!(report.source.tables.keys().collect::<Vec<_>>(), ["public.t"]);
    assert!(report.source.server_version.parse::<f32>().unwrap() >= 14.0);
    assert!(report.healthy, "{:?}", report.reasons);
    capture.stop().await;
}

#[tokio::test]
async fn truncates_of_several_tables() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table a (id int primary key); create table b (id int primary key references a)")
        .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into a values (1); truncate a, b restart identity").await;
    run(&client, "truncate a cascade").await;
    let mut briefs = capture.briefs(5).await;
    briefs[1..3].sort();
    briefs[3..].sort();
    assert_eq!(
        briefs,
        [
            "insert public.a 1",
            "truncate public.a cascade=false restart=true",
            "truncate public.b cascade=false restart=true",
            "truncate public.a cascade=true restart=false",
            "truncate public.b cascade=true restart=false",
        ]
    );
    let events = capture.events();
    assert_eq!(events[1..].iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 0, 1]);
    capture.stop().await;
}

#[tokio::test]
async fn custom_events_in_commit_order() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let capture = Capture::start(config(&server), directory.path()).await;

    run(
        &client,
        "begin; insert into t values (1); select rowcast.publish('orders.shipped', '{\"id\": 7}');
         insert into t values (2); commit",
    )
    .await;
    run(&client, "begin; select rowcast.publish('orders.shipped', '1'); rollback").await;
    run(&client, "select pg_logical_emit_message(true, 'somebody.else', 'x')").await;
    run(&client, "select rowcast.publish('public.t', '[1]')").await;
    run(&client, "select pg_logical_emit_message(true, 'rowcast.event.raw', E'{\\n\"a\":1}')").await;
    run(&client, "select pg_logical_emit_message(true, 'rowcast.event.raw', 'no json')").await;
    let lsn = value(&client, "pg_logical_emit_message(false, 'rowcast.event.loose', '5')").await;

    let events = capture.wait(7).await;
    let briefs: Vec<String> = events.iter().map(|event| event.brief()).collect();
    assert_eq!(
        briefs[0..3],
        ["insert public.t 1", "message orders.shipped {\"id\": 7}", "insert public.t 2"]
    );
    assert!(briefs[3].starts_with("message rowcast.rejected") && briefs[3].contains("\"payload\":[1]"));
    assert_eq!(briefs[4], "message raw {\"a\":1}");
    assert!(briefs[5].starts_with("message rowcast.rejected") && briefs[5].contains("not JSON"));
    assert_eq!(briefs[6], "message loose 5");
    assert_eq!((events[6].xid, events[6].end_lsn), (0, Lsn::ZERO));

    assert_eq!(events[6].lsn.to_string(), lsn);

    // It is confirmed soon, and not told again.
    let confirmed = format!("select confirmed_flush_lsn >= '{lsn}' from pg_replication_slots");
    until("the message to be confirmed", async || value(&client, &confirmed).await == "true").await;
    capture.stop().await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into t values (3)").await;
    capture.wait(8).await;
    capture.stop().await;

    for wrong in ["'', '1'", "null, '1'", "'a', null", "repeat('x', 201), '1'", "E'a\\nb', '1'"] {
        let error = client.execute(&format!("select rowcast.publish({wrong})"), &[]).await.unwrap_err();
        assert!(error.as_db_error().is_some(), "{wrong}");
    }
}

#[tokio::test]
async fn every_replica_identity_and_values_left_out() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table d (id int primary key, big text, n int);
         alter table d alter big set storage external;
         create table f (id int primary key, big text, n int);
         alter table f alter big set storage external; alter table f replica identity full;
         create table i (a int not null, b int not null, n int, unique (b, a));
         alter table i replica identity using index i_b_a_key;
         create table n (id int primary key, v int); alter table n replica identity nothing;
         create table k (v int);",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into d values (1, repeat('x', 5000), 0); update d set n = 1").await;
    run(&client, "insert into f values (1, repeat('y', 5000), 0); update f set n = 1; delete from f").await;
    run(&client, "insert into i values (1, 2, 0); update i set n = 1; update i set a = 5; delete from i")
        .await;
    // No identity: these must go on working, and only the inserts arrive.
    run(&client, "insert into n values (1, 0); update n set v = 1; delete from n").await;
    run(&client, "insert into k values (1); update k set v = 2; delete from k").await;

    let big = "y".repeat(5000);
    let briefs = capture.briefs(11).await;
    assert_eq!(briefs[1], "update public.d 1,UNCHANGED,1");
    assert_eq!(briefs[3], format!("update public.f O:1,{big},0 1,UNCHANGED,1"));
    assert_eq!(briefs[4], format!("delete public.f O:1,{big},1"));
    assert_eq!(
        briefs[5..],
        [
            "insert public.i 1,2,0",
            "update public.i 1,2,1",
            "update public.i K:1,2,NULL 5,2,1",
            "delete public.i K:5,2,NULL",
            "insert public.n 1,0",
            "insert public.k 1",
        ]
    );
    let schema = capture.schema("public.i");
    assert_eq!((schema.identity, &schema.key), (Identity::Index, &vec![1, 0]));
    assert_eq!((&schema.primary_key, &schema.unique_key), (&vec![], &vec![1, 0]));
    let schema = capture.schema("public.f");
    assert_eq!((schema.identity, &schema.key, schema.inserts_only), (Identity::Full, &vec![0], false));
    assert!(capture.schema("public.n").inserts_only && capture.schema("public.k").inserts_only);
    let tables = capture.report().source.tables;
    assert!(tables["public.k"].inserts_only && !tables["public.d"].inserts_only);
    capture.stop().await;
}

#[tokio::test]
async fn a_schema_that_changes_in_mid_stream() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create type pair as (a int, b text); create table t (id int primary key, p pair)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into t values (1, row(1, 'x'))").await;
    capture.wait(1).await;
    run(
        &client,
        "begin; insert into t values (2, null); alter table t add column extra numeric(10,2) default 3;
         insert into t values (3, null, 4); commit",
    )
    .await;
    run(&client, "alter table t rename column extra to more; insert into t values (4, null, 5)").await;
    run(&client, "alter table t drop column more; insert into t values (5, row(2, 'y'))").await;
    capture.wait(5).await;
    // Without the event trigger no message tells of this; the values do.
    run(&client, "drop event trigger rowcast_types").await;
    run(&client, "alter type pair add attribute c int; insert into t values (6, row(3, 'z', 9))").await;
    let briefs = capture.briefs(6).await;
    assert_eq!(briefs[2], "insert public.t 3,NULL,4.00");
    assert_eq!(briefs[5], "insert public.t 6,(3,z,9)");
    let schema = capture.schema("public.t");
    let TypeKind::Composite(fields) = &schema.columns[1].ty.kind else { panic!("{schema:?}") };
    assert_eq!(fields.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    // Renamed, dropped: each is a version of its own.
    let versions = capture.journal.schemas();
    let names = |name: &str| versions.iter().any(|v| v.columns.iter().any(|c| c.name == name));
    assert!(names("extra") && names("more"));
    let extra = versions.iter().find_map(|v| v.columns.iter().find(|c| c.name == "extra")).unwrap();
    assert_eq!(extra.typmod, 655_366);
    capture.stop().await;
}

#[tokio::test]
async fn types_down_to_what_is_built_in() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create type mood as enum ('sad', 'ok'); alter type mood add value 'so-so' before 'ok';
         create domain good_mood as mood check (value <> 'sad');
         create domain short as varchar(7);
         create type inner_row as (m mood, s short[]);
         create type outer_row as (i inner_row, n numeric);
         create table t (id int primary key, m good_mood, o outer_row, rows outer_row[], v int2vector,
                         boxes box[], r int4range, s short, mood_array mood[]);
         insert into t (id) values (0)",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into t (id) values (1)").await;
    capture.wait(1).await;
    let schema = capture.schema("public.t");
    let kind = |name: &str| schema.columns.iter().find(|c| c.name == name).unwrap().ty.clone();
    let TypeKind::Domain { base, .. } = kind("m").kind else { panic!() };
    assert_eq!(base.kind, TypeKind::Enum(vec!["sad".to_owned(), "so-so".to_owned(), "ok".to_owned()]));
    let TypeKind::Composite(outer) = kind("o").kind else { panic!() };
    let TypeKind::Composite(inner) = &outer[0].ty.kind else { panic!() };
    let TypeKind::Array { element, .. } = &inner[1].ty.kind else { panic!() };
    assert_eq!((element.name.as_str(), element.undomained().name.as_str()), ("short", "varchar"));
    let TypeKind::Array { element, .. } = kind("rows").kind else { panic!() };
    assert!(matches!(element.kind, TypeKind::Composite(_)));
    let TypeKind::Vector(element) = kind("v").kind else { panic!() };
    assert_eq!(element.name, "int2");
    assert!(matches!(kind("boxes").kind, TypeKind::Array { delimiter: ';', .. }));
    assert_eq!(kind("r").kind, TypeKind::Range);
    let TypeKind::Domain { typmod, .. } = kind("s").kind else { panic!() };
    assert_eq!(typmod, 11);
    assert!(matches!(kind("mood_array").kind, TypeKind::Array { .. }));
    capture.stop().await;
}

#[tokio::test]
async fn partitions_are_their_root() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table p (id int, region text, v int, primary key (id, region)) partition by list (region);
         create table p_eu partition of p for values in ('eu');
         create table p_us (v int, region text not null, id int not null, primary key (id, region));
         alter table p attach partition p_us for values in ('us');
         create table keyless (id int, region text) partition by list (region);
         create table keyless_eu partition of keyless for values in ('eu')",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into p values (1, 'eu', 10), (2, 'us', 20); update p set v = 21 where id = 2").await;
    run(&client, "update p set region = 'us' where id = 1; truncate p").await;
    run(&client, "insert into keyless values (1, 'eu'); update keyless set id = 2; delete from keyless")
        .await;
    let briefs = capture.briefs(7).await;
    assert_eq!(
        briefs,
        [
            "insert public.p 1,eu,10",
            "insert public.p 2,us,20",
            "update public.p 2,us,21",
            "delete public.p K:1,eu,NULL",
            "insert public.p 1,us,10",
            "truncate public.p cascade=false restart=false",
            "insert public.keyless 1,eu",
        ]
    );
    // The leaves are described by the stream, and nobody needs them.
    assert!(capture.journal.schemas().iter().all(|schema| !schema.table.starts_with("p_")));
    assert!(capture.schema("public.keyless").inserts_only && !capture.schema("public.p").inserts_only);
    capture.stop().await;

    let leaves = Directory::new();
    run(&client, "select pg_drop_replication_slot('rowcast')").await;
    let config = rowcast_postgres::Config {
        via_partition_root: false,
        tables: vec!["public.p".to_owned()],
        ..config(&server)
    };
    let capture = Capture::start(config, leaves.path()).await;
    run(&client, "insert into p values (5, 'eu', 1), (6, 'us', 2)").await;
    assert_eq!(capture.briefs(2).await, ["insert public.p_eu 5,eu,1", "insert public.p_us 2,us,6"]);
    assert_eq!(capture.report().source.tables.keys().collect::<Vec<_>>(), ["public.p_eu", "public.p_us"]);
    capture.stop().await;
}

#[tokio::test]
async fn a_table_that_is_gone_and_origins() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create type mood as enum ('ok'); create table gone (id int primary key, m mood, a int[])")
        .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    capture.stop().await;
    run(&client, "insert into gone values (1, 'ok', '{1,2}'); drop table gone; drop type mood").await;
    run(&client, "select pg_replication_origin_create('elsewhere')").await;
    run(&client, "create table t (id int primary key)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "select pg_replication_origin_session_setup('elsewhere'); insert into t values (1)").await;
    let events = capture.wait(2).await;
    assert_eq!(events[0].brief(), "insert public.gone 1,ok,{1,2}");
    assert_eq!((events[1].brief(), events[1].origin.as_str()), ("insert public.t 1".to_owned(), "elsewhere"));
    let schema = capture.schema("public.gone");
    assert_eq!((&schema.key, schema.columns[1].ty.name.as_str()), (&vec![0], "unknown"));
    assert!(matches!(schema.columns[2].ty.kind, TypeKind::Array { .. }));
    assert!(!schema.inserts_only);
    capture.stop().await;
}

#[tokio::test]
async fn a_huge_transaction_arrives_whole() {
    const ROWS: u64 = 300_000;
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key, v text)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into t values (0, 'small')").await;
    run(&client, &format!("insert into t select g, repeat('x', 100) from generate_series(1, {ROWS}) g"))
        .await;
    run(&client, "update t set v = 'after' where id = 0").await;
    let first = capture.journal.oldest();
    until("all rows", async || capture.journal.newest() > first + ROWS).await;
    let events = capture.wait(usize::try_from(ROWS).unwrap() + 2).await;
    assert!(events.windows(2).all(|pair| pair[0].id + 1 == pair[1].id));
    let huge = &events[1..=usize::try_from(ROWS).unwrap()];
    assert!(huge.iter().zip(0..).all(|(event, seq)| event.seq == seq && event.op == Op::Insert));
    let text = format!("1,{}", "x".repeat(100));
    assert_eq!((huge[0].new.as_str(), huge[0].previous_end), (text.as_str(), events[0].end_lsn));
    assert!(huge.iter().all(|event| event.end_lsn == huge[0].end_lsn && event.xid == huge[0].xid));
    assert_eq!(huge.iter().filter(|event| event.last).count(), 1);
    assert!(huge.last().unwrap().last);
    let after = events.last().unwrap();
    assert_eq!((after.brief(), after.previous_end), ("update public.t 0,after".to_owned(), huge[0].end_lsn));
    // It went through a file of its own, which is a segment now.
    let spilled = std::fs::read_dir(directory.path()).unwrap().flatten();
    assert!(spilled.into_iter().all(|file| !file.file_name().to_string_lossy().starts_with("spill")));
    assert!(capture.journal.summary().segments >= 3);
    capture.stop().await;
}

#[tokio::test]
async fn generated_columns_never_make_writes_fail() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table stored (id int, twice int generated always as (id * 2) stored);
         alter table stored replica identity full",
    )
    .await;
    // From 18 on FULL includes generated columns, and virtual ones cannot be published.
    let has_virtual = value(&client, "current_setting('server_version_num')::int >= 180000").await == "true";
    if has_virtual {
        run(&client, "create table virt (id int, twice int generated always as (id * 2) virtual)").await;
        run(&client, "alter table virt replica identity full").await;
    }
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into stored values (1); update stored set id = 2; delete from stored").await;
    let briefs = if has_virtual {
        run(&client, "insert into virt values (1); update virt set id = 2; delete from virt").await;
        assert!(capture.report().source.tables["public.virt"].inserts_only);
        capture.briefs(4).await
    } else {
        capture.briefs(3).await
    };
    let update = if has_virtual { "update public.stored O:1,2 2,4" } else { "update public.stored O:1 2" };
    assert_eq!(briefs[1], update);
    capture.stop().await;
}
