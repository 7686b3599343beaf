//! The source is left as it was, and what is not ours stays.

use rowcast_engine::Kind;
use rowcast_postgres::conninfo::Conninfo;
use rowcast_postgres::wire::sql_client;
use rowcast_postgres::{Config, Removal, check, uninstall};
use tokio_postgres::Client;

use super::definitions::{definitions, differing};
use super::harness::{Capture, Directory, config, run, sql, until, value};
use super::trigger::plain;
use crate::support::Server;

const SCHEMA: &str = "
    create table t (id int primary key, v text); create table keyless (a int);
    create table p (id int) partition by range (id); create table p_1 partition of p for values from (0) to (10);
    create type mood as enum ('sad', 'ok'); create view seen as select * from t;
    create publication theirs for table t; comment on publication theirs is 'not ours';
    create schema shop; create table shop.orders (id int primary key);
    create function watch() returns event_trigger language plpgsql as $$ begin end $$;
    create event trigger watch on ddl_command_end execute function watch();
    create role clerk; grant select, insert on t to clerk; grant update (v) on t to clerk; grant clerk to postgres;
    alter role clerk set work_mem = '5MB'; alter default privileges in schema shop grant select on tables to clerk;
    alter table t add constraint short check (length(v) < 100), alter v set default 'none', enable row level security;
    create policy mine on t using (id > 0); create index by_v on t (v) where v <> ''; comment on column t.v is 'a value';
    create function touch() returns trigger language plpgsql as $$ begin return new; end $$;
    create trigger touched before update on t for each row execute function touch();
    create rule told as on delete to keyless do also notify gone; create sequence numbers";

/// What somebody might leave behind, a sort each.
const LEFT: &[&str] = &[
    "create schema more",
    "create table more ()",
    "alter table t add more int",
    "drop view seen; alter table t drop v",
    "alter table t alter v set default 'other'",
    "alter table t alter v set not null",
    "alter table t alter v set storage external",
    "alter table t alter v set statistics 7",
    "alter table t drop constraint short",
    "alter table t add constraint more check (id > 0) not valid",
    "alter table t replica identity full",
    "alter table t set (fillfactor = 50)",
    "alter table t disable row level security",
    "alter table t owner to clerk",
    "alter table p detach partition p_1",
    "create or replace view seen as select id, v || '' as v from t",
    "create index more on t (id)",
    "drop index by_v",
    "alter sequence numbers cache 5",
    "alter table t disable trigger touched",
    "drop trigger touched on t",
    "drop rule told on keyless",
    "alter policy mine on t using (id > 1)",
    "create or replace function touch() returns trigger language plpgsql as $$ begin return old; end $$",
    "revoke execute on function watch() from public",
    "revoke execute on function pg_catalog.pg_sleep(float8) from public",
    "create type more as enum ('a')",
    "alter type mood add value 'fine'",
    "grant select on shop.orders to clerk",
    "revoke update (v) on t from clerk",
    "grant create on database postgres to clerk",
    "grant usage on schema shop to clerk",
    "alter default privileges in schema shop revoke select on tables from clerk",
    "alter publication theirs add table keyless",
    "alter publication theirs set (publish = 'insert')",
    "alter publication theirs owner to clerk",
    "alter event trigger watch disable",
    "drop event trigger watch",
    "comment on column t.v is 'other'",
    "comment on table keyless is 'more'",
    "comment on publication theirs is null",
    "comment on role clerk is 'more'",
    "create role more",
    "alter role clerk login",
    "revoke clerk from postgres",
    "alter role clerk reset work_mem",
    "alter database postgres set work_mem = '5MB'",
];

/// A dump that shows no difference would show one.
#[tokio::test]
async fn what_is_left_behind_is_seen() {
    let server = Server::start("");
    let client = sql(&server).await;
    run(&client, SCHEMA).await;
    let before = definitions(&client).await;
    for left in LEFT {
        run(&client, &format!("begin; {left}")).await;
        assert!(!differing(&before, &definitions(&client).await).is_empty(), "{left} is not seen");
        client.batch_execute("rollback").await.unwrap();
    }
    client.batch_execute(SLOT).await.unwrap();
    assert!(!differing(&before, &definitions(&client).await).is_empty(), "a slot is not seen");
    run(&client, "select pg_drop_replication_slot('theirs')").await;
    assert_eq!(differing(&before, &definitions(&client).await), Vec::<String>::new());
}

/// A slot that is not ours, in a transaction of its own.
const SLOT: &str = "select pg_create_logical_replication_slot('theirs', 'pgoutput')";

/// What a dump does not show, or would on another server.
async fn globals(client: &Client) -> String {
    let all = [
        "select string_agg(slot_name, ' ' order by slot_name) from pg_replication_slots",
        "select string_agg(pubname, ' ' order by pubname) from pg_publication",
        "select string_agg(evtname, ' ' order by evtname) from pg_event_trigger",
        "select string_agg(nspname, ' ' order by nspname) from pg_namespace where nspname !~ '^pg_t'",
        "select string_agg(relreplident::text, '' order by relname) from pg_class where relkind = 'r' and relnamespace::regnamespace::text in ('public', 'shop')",
        "select count(*) from pg_description where objoid > 16000",
        "select count(*) from pg_locks where locktype = 'advisory'",
    ];
    let mut text = String::new();
    for query in all {
        text += &value(client, query).await;
        text.push('\n');
    }
    text
}

fn staying(removals: &[Removal]) -> Vec<&str> {
    removals.iter().filter(|removal| removal.sql.is_none()).map(|removal| removal.name.as_str()).collect()
}

#[tokio::test]
async fn everything_is_as_it_was() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, SCHEMA).await;
    client.batch_execute(SLOT).await.unwrap();
    let (before, dump, defined) = (globals(&client).await, server.dump(), definitions(&client).await);
    let none = uninstall(&config(&server), true).await.unwrap();
    assert_eq!(none, []);

    let ours = Config { ddl: true, ..config(&server) };
    let capture = Capture::start(ours.clone(), directory.path()).await;
    run(&client, "insert into t values (1, 'a'); alter table t replica identity full").await;
    run(&client, "alter table t replica identity default").await;
    let refused = uninstall(&ours, true).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Refused);
    assert!(refused.to_string().contains("is being read by"), "{refused}");
    assert!(refused.remedy().is_some_and(|remedy| remedy.contains("Stop that rowcast")));
    capture.stop().await;

    let made = globals(&client).await;
    let asked = uninstall(&ours, false).await.unwrap();
    assert_eq!(globals(&client).await, made, "only told");
    assert!(differing(&defined, &definitions(&client).await).len() > 50, "what rowcast has made is not seen");
    let names: Vec<&str> = asked.iter().map(|removal| removal.name.as_str()).collect();
    let expected = [
        "replication slot rowcast",
        "event trigger rowcast",
        "event trigger rowcast_types",
        "event trigger rowcast_drop",
        "publication rowcast",
        "publication rowcast_inserts",
        // Which may read one of those.
        "replication slot theirs",
        "schema rowcast",
    ];
    assert_eq!((names.as_slice(), staying(&asked)), (expected.as_slice(), vec!["replication slot theirs"]));
    assert_eq!(uninstall(&ours, true).await.unwrap(), asked);
    assert_eq!(globals(&client).await, before);
    assert_eq!(differing(&defined, &definitions(&client).await), Vec::<String>::new());
    if let Some(dump) = dump {
        assert!(dump.contains("CREATE TABLE shop.orders") && dump.contains("theirs"));
        assert_eq!(server.dump().unwrap(), dump);
    }
    assert_eq!(uninstall(&ours, true).await.unwrap(), []);
    let manual = Config { manage: false, ..ours };
    assert_eq!(uninstall(&manual, true).await.unwrap_err().kind(), Kind::Usage);
}

#[tokio::test]
async fn what_is_not_ours_stays() {
    let (server, one, two) = (Server::start(""), Directory::new(), Directory::new());
    let client = sql(&server).await;
    run(&client, SCHEMA).await;
    client.batch_execute(SLOT).await.unwrap();
    let second = Config { slot: "second".to_owned(), ..config(&server) };
    Capture::start(config(&server), one.path()).await.stop().await;
    Capture::start(second.clone(), two.path()).await.stop().await;
    let removed = uninstall(&second, true).await.unwrap();
    let stays =
        ["event trigger rowcast", "event trigger rowcast_types", "replication slot theirs", "schema rowcast"];
    assert_eq!(staying(&removed), stays);
    assert!(removed.iter().any(|r| r.stays.as_deref() == Some("another rowcast uses it, on slot rowcast")));
    assert_eq!(value(&client, "select string_agg(slot, ' ') from rowcast.capture").await, "rowcast");
    let publications =
        value(&client, "select string_agg(pubname, ' ' order by pubname) from pg_publication").await;
    assert_eq!(publications, "rowcast rowcast_inserts theirs");
    // The other one goes on, its trigger too.
    let capture = Capture::start(config(&server), one.path()).await;
    run(&client, "begin; create table new (id int primary key); insert into new values (1); commit").await;
    assert_eq!(capture.briefs(1).await, ["insert public.new 1"]);
    capture.stop().await;

    // A slot and a publication of those names that a person made, and things in the schema and upon it.
    run(
        &client,
        "drop publication rowcast; create publication rowcast for all tables;
         create view uses as select * from rowcast.installation; create table rowcast.mine (a int);
         create function rowcast.my_function() returns int language sql as 'select 1';
         create type rowcast.my_pair as (a int, b int); create type rowcast.my_mood as enum ('sad');
         create domain rowcast.my_domain as int",
    )
    .await;
    let removed = uninstall(&config(&server), true).await.unwrap();
    assert_eq!(staying(&removed), ["publication rowcast", "replication slot theirs", "schema rowcast"]);
    let why =
        removed.iter().find_map(|r| r.stays.as_deref().filter(|why| why.contains("rowcast.mine"))).unwrap();
    for name in ["uses", "my_function", "my_pair", "my_mood", "my_domain"] {
        assert!(why.contains(name), "{why}");
    }
    run(
        &client,
        "drop view uses; drop table rowcast.mine; drop function rowcast.my_function(); drop type rowcast.my_pair;
         drop type rowcast.my_mood; drop domain rowcast.my_domain",
    )
    .await;
    client.batch_execute(&SLOT.replace("theirs", "rowcast")).await.unwrap();
    let removed = uninstall(&config(&server), true).await.unwrap();
    assert_eq!(staying(&removed), ["replication slot rowcast", "publication rowcast"]);
    assert_eq!(value(&client, "select to_regnamespace('rowcast')").await, "NULL");
}

/// A table lost its key while somebody held the publication, and capture ended before the identity that it was lent could
/// be given back.
#[tokio::test]
async fn what_was_lent_is_given_back() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, other) = (sql(&server).await, sql(&server).await);
    run(&client, "create table t (id int primary key, v int); insert into t values (1, 1)").await;
    let before = globals(&client).await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&other, "begin; create table m (id int primary key)").await;
    run(&client, "alter table t drop constraint t_pkey; update t set v = 2").await;
    capture.wait(1).await;
    capture.stop().await;
    run(&other, "rollback").await;
    let identity = "select relreplident::text from pg_class where relname = 't'";
    assert_eq!(value(&client, identity).await, "f");
    let removed = uninstall(&config(&server), true).await.unwrap();
    assert_eq!(staying(&removed), Vec::<&str>::new());
    let repaid = removed.iter().filter(|removal| removal.name.contains("public.t"));
    assert!(repaid.clone().count() == 1, "{removed:?}");
    assert_eq!(value(&client, identity).await, "d");
    assert_eq!(globals(&client).await, before);
}

/// A superuser has made the event triggers, so rowcast's role may not drop them: they go with its schema. What cannot be
/// removed is told, and the rest goes.
#[tokio::test]
async fn a_role_without_rights_on_the_triggers_gets_through() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let config = plain(&server, &client).await;
    Capture::start(config.clone(), directory.path()).await.stop().await;
    let found = check(&config).await.unwrap();
    let trigger = found.into_iter().find(|found| found.name == "event trigger").unwrap().remedy.unwrap();
    run(&client, trigger.get(trigger.find("CREATE EVENT").unwrap()..).unwrap()).await;
    run(&client, "alter publication rowcast_inserts owner to postgres").await;
    let removed = uninstall(&config, true).await.unwrap();
    let failed: Vec<&Removal> = removed.iter().filter(|removal| removal.failed.is_some()).collect();
    assert_eq!(
        failed.iter().map(|removal| &*removal.name).collect::<Vec<_>>(),
        ["publication rowcast_inserts"]
    );
    assert!(failed[0].failed.as_ref().unwrap().contains("must be owner"), "{failed:?}");
    let last = removed.last().unwrap();
    assert_eq!(last.name, "schema rowcast, and with it the event triggers rowcast, rowcast_types");
    let left = "select concat_ws(' ', (select count(*) from pg_event_trigger), to_regnamespace('rowcast'),
                (select string_agg(pubname, ' ') from pg_publication), (select count(*) from pg_replication_slots))";
    assert_eq!(value(&client, left).await, "0 rowcast_inserts 0");
    run(&client, "alter publication rowcast_inserts owner to plain").await;
    let names: Vec<String> =
        uninstall(&config, true).await.unwrap().into_iter().map(|removal| removal.name).collect();
    assert_eq!(
        (names, value(&client, left).await),
        (vec!["publication rowcast_inserts".to_owned()], "0 0".into())
    );
}

/// The table is in use, so that its identity cannot be given back: what is known of it stays with the schema.
#[tokio::test]
async fn what_is_still_lent_keeps_the_schema() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, other) = (sql(&server).await, sql(&server).await);
    run(&client, "create table t (id int primary key, v int); insert into t values (1, 1)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&other, "begin; create table m (id int primary key)").await;
    run(&client, "alter table t drop constraint t_pkey; update t set v = 2").await;
    capture.wait(1).await;
    capture.stop().await;
    run(&other, "rollback; begin; select * from public.t").await;
    let removed = uninstall(&config(&server), true).await.unwrap();
    let failed: Vec<(&str, &str)> = removed
        .iter()
        .filter_map(|removal| Some((removal.name.as_str(), removal.failed.as_deref()?)))
        .collect();
    assert_eq!(
        failed.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        ["REPLICA IDENTITY FULL of public.t", "schema rowcast"]
    );
    assert!(failed[1].1.contains("public.t is to go first"), "{failed:?}");
    run(&other, "rollback").await;
    let removed = uninstall(&config(&server), true).await.unwrap();
    assert!(removed.iter().all(|removal| removal.failed.is_none()), "{removed:?}");
    assert_eq!(value(&client, "select relreplident::text from pg_class where relname = 't'").await, "d");
    assert_eq!(value(&client, "select to_regnamespace('rowcast')").await, "NULL");
}

/// The slot of that name belongs to the database that this one was copied from, where rowcast goes on.
#[tokio::test]
async fn a_copy_of_the_database_is_freed_while_the_original_is_captured() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    Capture::start(config(&server), directory.path()).await.stop().await;
    drop(client);
    let aside = server.admin().replace("dbname=postgres", "dbname=template1");
    let aside = sql_client(&Conninfo::parse(&aside).unwrap()).await.unwrap();
    until("the copy", async || aside.batch_execute("create database shop2 template postgres").await.is_ok())
        .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let copy = Config { url: server.admin().replace("dbname=postgres", "dbname=shop2"), ..config(&server) };
    let removed = uninstall(&copy, true).await.unwrap();
    assert_eq!(staying(&removed), ["replication slot rowcast"]);
    assert_eq!(removed[0].stays.as_deref(), Some("it belongs to database \"postgres\""));
    let client = sql_client(&Conninfo::parse(&copy.url).unwrap()).await.unwrap();
    let left = "select (select count(*) from pg_publication) + (select count(*) from pg_event_trigger)
                + (select count(*) from pg_namespace where nspname = 'rowcast')";
    assert_eq!(value(&client, left).await, "0");
    let original = sql(&server).await;
    run(&original, "insert into t values (1)").await;
    assert_eq!(capture.briefs(1).await, ["insert public.t 1"]);
    capture.stop().await;
}
