//! Making the source ready, and saying what is in the way.

use rowcast_engine::Kind;
use rowcast_postgres::{Config, Requirement, SnapshotMode, check};
use tokio_postgres::Client;

use super::harness::{Capture, Directory, config, run, sql, until, value};
use crate::support::Server;

/// Starts, and gives the refusal and its remedy.
async fn refusal(config: Config) -> (String, String) {
    let directory = Directory::new();
    let error = Capture::launch(config, directory.path()).fails().await;
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    (error.to_string(), error.remedy().unwrap_or_else(|| panic!("{error} has no remedy")).to_owned())
}

fn as_role(server: &Server, role: &str) -> Config {
    Config { url: server.admin().replace("user=postgres", &format!("user={role}")), ..config(server) }
}

fn find<'a>(requirements: &'a [Requirement], name: &str) -> &'a Requirement {
    requirements.iter().find(|r| r.name == name).unwrap_or_else(|| panic!("no {name} in {requirements:#?}"))
}

/// A publication's tables, in order.
async fn published(client: &Client, name: &str) -> String {
    value(
        client,
        &format!(
            "select string_agg(schemaname || '.' || tablename, ' ' order by tablename) from pg_publication_tables \
             where pubname = '{name}'"
        ),
    )
    .await
}

#[tokio::test]
async fn a_server_that_is_not_ready() {
    let server = Server::start("wal_level = replica");
    let (what, remedy) = refusal(config(&server)).await;
    assert!(what.contains("wal_level is replica"), "{what}");
    for way in
        ["ALTER SYSTEM SET wal_level = logical", "rds.logical", "cloudsql.logical", "Azure", "Supabase"]
    {
        assert!(remedy.contains(way), "{way}: {remedy}");
    }
    let found = check(&config(&server)).await.unwrap();
    assert!(!find(&found, "wal_level").ok && find(&found, "connection").ok);
    assert!(find(&found, "wal_level").remedy.as_ref().unwrap().contains("ALTER SYSTEM"));

    let server = Server::start("max_replication_slots = 1");
    let client = sql(&server).await;
    run(&client, "select pg_create_physical_replication_slot('occupied')").await;
    let (what, remedy) = refusal(config(&server)).await;
    assert!(what.contains("all that the server has are in use"), "{what}");
    assert!(remedy.contains("max_replication_slots"));
    assert!(!find(&check(&config(&server)).await.unwrap(), "replication slots").ok);
    assert!(find(&check(&config(&server)).await.unwrap(), "replication senders").ok);
    // It is as it was before: nothing that would make anybody's writes fail.
    run(&client, "create table t (id int); insert into t values (1); update t set id = 2").await;
}

/// Somebody else has the only place among the senders, and gives it back.
#[tokio::test]
async fn no_sender_is_free() {
    let (server, directory) = (Server::start("max_wal_senders = 1"), Directory::new());
    let others = Config { slot: "others".to_owned(), ..config(&server) };
    let capture = Capture::start(others.clone(), directory.path()).await;
    // Its own makes way for the next one.
    assert!(find(&check(&others).await.unwrap(), "replication senders").ok);
    let found = check(&config(&server)).await.unwrap();
    let senders = find(&found, "replication senders");
    assert!(!senders.ok && senders.found == "1 of 1 in use", "{senders:?}");
    assert_eq!(senders.remedy.as_deref(), Some("Raise max_wal_senders (restart needed)"));
    assert!(found.iter().all(|one| one.name != "replication connection"), "it cannot be tried: {found:?}");
    capture.stop().await;
    until("the place", async || {
        let found = check(&config(&server)).await.unwrap();
        let senders = find(&found, "replication senders");
        senders.ok && senders.remedy.is_none() && find(&found, "replication connection").ok
    })
    .await;
}

#[tokio::test]
async fn no_table_is_wanted() {
    let server = Server::start("");
    run(&sql(&server).await, "create table t (id int primary key)").await;
    let wanting = |pattern: &str| Config { tables: vec![pattern.to_owned()], ..config(&server) };
    let tables = find(&check(&wanting("public.orders")).await.unwrap(), "tables").clone();
    assert!(!tables.ok && tables.found == "0 to capture", "{tables:?}");
    assert!(tables.remedy.as_ref().unwrap().contains("source.tables"), "{tables:?}");
    let tables = find(&check(&wanting("public.*")).await.unwrap(), "tables").clone();
    assert!(tables.ok && tables.found == "1 to capture" && tables.remedy.is_none(), "{tables:?}");
}

#[tokio::test]
async fn a_role_without_the_rights() {
    let server = Server::start("");
    let client = sql(&server).await;
    run(&client, "create role plain login; create role reader login replication; create role owner login")
        .await;
    run(&client, "create table mine (id int primary key); alter table mine owner to owner").await;
    server.admit("local all all trust");
    until("the admission", async || check(&as_role(&server, "plain")).await.unwrap()[0].ok).await;

    let (what, remedy) = refusal(as_role(&server, "plain")).await;
    assert!(what.contains("no right to replicate"), "{what}");
    assert_eq!(remedy, "ALTER ROLE plain REPLICATION; (on RDS: GRANT rds_replication TO plain)");
    assert!(!find(&check(&as_role(&server, "plain")).await.unwrap(), "replication right").ok);

    let (what, remedy) = refusal(as_role(&server, "reader")).await;
    assert!(what.contains("may not create the schema rowcast"), "{what}");
    assert!(remedy.contains("GRANT CREATE ON DATABASE postgres TO reader;"));
    assert!(!find(&check(&as_role(&server, "reader")).await.unwrap(), "create right").ok);

    run(&client, "grant create on database postgres to reader").await;
    let (what, remedy) = refusal(as_role(&server, "reader")).await;
    assert!(what.contains("does not own public.mine"), "{what}");
    assert!(remedy.contains("GRANT owner TO reader;"));
    // As an extension's are, which a superuser has made.
    run(&client, "alter table mine owner to postgres").await;
    let (what, remedy) = refusal(as_role(&server, "reader")).await;
    assert!(what.contains("does not own public.mine"), "{what}");
    assert!(remedy.starts_with("Leave it out (source.exclude = ['public.mine'])"), "{remedy}");
    assert!(!remedy.contains("GRANT"), "{remedy}");
    run(&client, "alter table mine owner to owner").await;

    run(&client, "grant owner to reader").await;
    let directory = Directory::new();
    let capture = Capture::start(as_role(&server, "reader"), directory.path()).await;
    run(&client, "insert into mine values (1)").await;
    assert_eq!(capture.briefs(1).await, ["insert public.mine 1"]);
    // Anybody may publish, and look no further.
    run(&client, "set role plain; select rowcast.publish('x', '1')").await;
    assert!(client.batch_execute("select * from rowcast.installation").await.is_err());
    capture.wait(2).await;
    capture.stop().await;

    // Once all is there the right is not needed any more.
    run(&client, "reset role; revoke create on database postgres from reader").await;
    let right = find(&check(&as_role(&server, "reader")).await.unwrap(), "create right").clone();
    assert!(right.ok && right.found.contains("may not create") && right.remedy.is_none(), "{right:?}");
    Capture::start(as_role(&server, "reader"), directory.path()).await.stop().await;
    run(&client, "drop publication rowcast_inserts").await;
    assert!(!find(&check(&as_role(&server, "reader")).await.unwrap(), "create right").ok);
}

#[tokio::test]
async fn wrong_addresses() {
    let server = Server::start("");
    let directory = Directory::new();
    let wrong =
        Config { url: server.admin().replace("dbname=postgres", "dbname=nothing"), ..config(&server) };
    let (what, remedy) = refusal(wrong.clone()).await;
    assert!(what.contains("has no database \"nothing\"") && !remedy.is_empty(), "{what}");
    assert!(!check(&wrong).await.unwrap()[0].ok);
    let wrong = Config { url: server.admin().replace("host=", "host=/nowhere"), ..config(&server) };
    let error = Capture::launch(wrong, directory.path()).fails().await;
    assert_eq!(error.kind(), Kind::Transient);
    let wrong = Config { tables: vec!["orders".to_owned()], ..config(&server) };
    assert_eq!(check(&wrong).await.unwrap_err().kind(), Kind::Usage);
}

#[tokio::test]
async fn nothing_is_changed_unless_allowed() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key); create table \"K\" (v int)").await;
    let manual = Config { manage: false, ..config(&server) };
    let (what, sql_text) = refusal(manual.clone()).await;
    assert!(what.contains("publication rowcast does not exist"), "{what}");
    let found = check(&manual).await.unwrap();
    assert!(!find(&found, "publication").ok && !find(&found, "slot").ok);
    assert_eq!(find(&found, "publication").remedy.as_deref(), Some(sql_text.as_str()));

    // What it prints is what has to be run.
    run(&client, &sql_text).await;
    let (what, sql_text) = refusal(manual.clone()).await;
    assert!(what.contains("slot rowcast does not exist"), "{what}");
    client.batch_execute(&sql_text).await.unwrap();
    let dump = server.dump();
    let capture = Capture::start(manual.clone(), directory.path()).await;
    run(&client, "insert into t values (1); insert into \"K\" values (1); update \"K\" set v = 2").await;
    assert_eq!(capture.briefs(2).await, ["insert public.t 1", "insert public.\"K\" 1"]);
    assert_eq!(value(&client, "select to_regnamespace('rowcast')").await, "NULL");
    assert!(check(&manual).await.unwrap().iter().all(|requirement| requirement.ok));
    capture.status.look_again();
    capture.stop().await;
    Capture::start(manual.clone(), directory.path()).await.stop().await;
    assert_eq!(server.dump(), dump);

    // Definitions are told once a start that may make it has made what tells of them.
    let telling = Config { ddl: true, ..manual };
    let found = check(&telling).await.unwrap();
    let trigger = find(&found, "event trigger");
    assert!(!trigger.ok && trigger.remedy.as_ref().unwrap().contains("source.manage = true"), "{trigger:?}");
    let managed = Config { manage: true, ..telling.clone() };
    Capture::start(managed, directory.path()).await.stop().await;
    assert!(find(&check(&telling).await.unwrap(), "event trigger").ok);
    // By a role that may read what they are signed with, and by none that may not.
    let url = server.admin().replace("user=postgres", "user=plain");
    run(&client, "create role plain login replication").await;
    let plain = Config { url, ..telling };
    assert!(!find(&check(&plain).await.unwrap(), "event trigger").ok);
    run(&client, "grant select on rowcast.capture, rowcast.secret to plain").await;
    assert!(find(&check(&plain).await.unwrap(), "event trigger").ok);
    let capture = Capture::start(plain, directory.path()).await;
    run(&client, "alter table t add note text").await;
    assert!(capture.briefs(3).await[2].starts_with("message rowcast.ddl"));
    capture.stop().await;
}

/// What somebody may be surprised by is told, with its remedy, and is in nobody's way.
#[tokio::test]
async fn settings_that_surprise_are_told() {
    let server = Server::start("wal_sender_timeout = 0\nsynchronous_standby_names = ''");
    let found = check(&config(&server)).await.unwrap();
    let timeout = find(&found, "wal_sender_timeout");
    assert!(timeout.ok && timeout.found == "none" && timeout.remedy.is_some(), "{timeout:?}");
    assert!(find(&found, "max_slot_wal_keep_size").remedy.is_some());
    let trigger = find(&found, "event trigger");
    assert!(
        trigger.ok && trigger.remedy.as_ref().unwrap().starts_with("`rowcast run` makes it"),
        "{trigger:?}"
    );
    assert!(found.iter().all(|one| one.name != "synchronous_standby_names"), "{found:?}");
    let server = Server::start(
        "wal_sender_timeout = '60s'\nmax_slot_wal_keep_size = '1GB'\nsynchronous_standby_names = 'ANY 1 (*)'",
    );
    let found = check(&config(&server)).await.unwrap();
    assert_eq!(find(&found, "wal_sender_timeout").found, "60000 ms");
    assert!(find(&found, "wal_sender_timeout").remedy.is_none());
    assert!(find(&found, "max_slot_wal_keep_size").remedy.is_none());
    let synchronous = find(&found, "synchronous_standby_names");
    assert!(synchronous.ok && synchronous.found == "ANY 1 (*)", "{synchronous:?}");
    assert!(synchronous.remedy.as_ref().unwrap().starts_with("Name the standbys"), "{synchronous:?}");
}

/// A schema of the first migration alone.
#[tokio::test]
async fn an_older_schema_is_brought_up_to_date() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table a (id int primary key)").await;
    Capture::start(config(&server), directory.path()).await.stop().await;
    let older = "drop event trigger rowcast; drop event trigger rowcast_types; delete from rowcast.migrations where version > 1;
        drop table rowcast.capture, rowcast.pattern, rowcast.secret, rowcast.lent, rowcast.identifying,
        rowcast.chosen cascade;
        drop view rowcast.identity;
        do $$ declare f regprocedure; begin
            for f in select oid::regprocedure from pg_proc
                     where pronamespace = 'rowcast'::regnamespace and proname <> 'publish'
            loop execute format('drop function %s', f); end loop; end $$";
    run(&client, older).await;
    run(&client, "create table b (id int primary key)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    assert_eq!(published(&client, "rowcast").await, "public.a public.b");
    run(&client, "begin; create table c (id int primary key); insert into c values (1); commit").await;
    assert_eq!(capture.briefs(1).await, ["insert public.c 1"]);
    capture.stop().await;
}

#[tokio::test]
async fn tables_come_and_change_sides() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table keyed (id int primary key); create table keyless (id int);
         create table secret (id int primary key);
         create table deferred (id int primary key deferrable);
         create unlogged table quick (id int primary key);
         create view seen as select * from keyed",
    )
    .await;
    let config = Config { exclude: vec!["public.secret".to_owned()], ..config(&server) };
    Capture::start(config.clone(), directory.path()).await.stop().await;
    assert_eq!(published(&client, "rowcast").await, "public.keyed");
    assert_eq!(published(&client, "rowcast_inserts").await, "public.deferred public.keyless");
    run(&client, "insert into deferred values (1); update deferred set id = 2; delete from deferred").await;

    let found = check(&config).await.unwrap();
    let keyless = find(&found, "table public.keyless");
    assert!(keyless.ok && keyless.found.contains("only inserts"));
    assert!(keyless.remedy.as_ref().unwrap().contains("REPLICA IDENTITY FULL"));
    assert!(find(&found, "slot").found.contains("owned by installation"));

    // While it is away: one loses its key, one gets one, one is new with rows, one is new without.
    // Without the trigger, which needs nobody to be there.
    run(&client, "alter event trigger rowcast disable").await;
    run(
        &client,
        "alter table keyed drop constraint keyed_pkey; alter table keyless add primary key (id);
         create table late (id int primary key); insert into late values (1);
         create table empty (id int primary key)",
    )
    .await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    assert_eq!(published(&client, "rowcast").await, "public.empty public.keyless public.late");
    assert_eq!(published(&client, "rowcast_inserts").await, "public.deferred public.keyed");
    run(&client, "insert into keyed values (1); update keyed set id = 2; insert into late values (2)").await;
    run(&client, "insert into keyless values (7); update keyless set id = 8").await;
    let briefs = capture.briefs(6).await;
    assert_eq!(briefs[..2], ["insert public.deferred 1", "gap public.late new_table"]);
    assert_eq!(briefs[2..4], ["insert public.keyed 1", "insert public.late 2"]);
    assert_eq!(briefs[5], "update public.keyless K:7 8");
    assert!(capture.report().source.tables["public.keyed"].inserts_only);
    capture.stop().await;

    // No longer wanted.
    let fewer = Config { tables: vec!["public.late".to_owned(), "public.nothing".to_owned()], ..config };
    let capture = Capture::start(fewer, directory.path()).await;
    assert_eq!(published(&client, "rowcast").await, "public.late");
    assert_eq!(published(&client, "rowcast_inserts").await, "NULL");
    capture.stop().await;
}

/// At the first start a name is a wish, unless nothing may be changed. (Later it may be a mistake: `published.rs`.)
#[tokio::test]
async fn a_publication_that_is_named_is_made() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let named = Config { publication: "named".to_owned(), ..config(&server) };
    let (what, _) = refusal(Config { manage: false, ..named.clone() }).await;
    assert!(what.contains("publication named does not exist"), "{what}");
    let made = "select string_agg(pubname, ' ' order by pubname) from pg_publication";
    assert_eq!(value(&client, made).await, "NULL");
    let capture = Capture::start(named, directory.path()).await;
    assert_eq!(value(&client, made).await, "named named_inserts");
    run(&client, "insert into t values (1)").await;
    assert_eq!(capture.briefs(1).await, ["insert public.t 1"]);
    capture.stop().await;
}

#[tokio::test]
async fn a_publication_of_somebody_elses_making_is_left_alone() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table t (id int primary key, a int, b int); create publication rowcast for all tables",
    )
    .await;
    let config = Config { tables: vec!["public.t".to_owned()], ..config(&server) };
    let capture = Capture::start(config, directory.path()).await;
    run(&client, "create table other (id int primary key); insert into other values (1)").await;
    run(&client, "insert into t values (1, 2, 3)").await;
    assert_eq!(capture.briefs(1).await, ["insert public.t 1,2,3"]);
    assert_eq!(capture.report().source.tables.len(), 1);
    assert_eq!(
        value(&client, "select puballtables from pg_publication where pubname = 'rowcast'").await,
        "true"
    );
    capture.stop().await;
}

/// The stream needs no right on a table, and a snapshot does; and both need sessions.
#[tokio::test]
async fn what_snapshots_need_is_checked() {
    let server = Server::start("");
    let client = sql(&server).await;
    run(
        &client,
        "create role plain login replication connection limit 6; grant create on database postgres to plain;
         create schema hidden; create table hidden.h (id int primary key); create table t (id int primary key);
         create table p (id int primary key); alter table p enable row level security; grant select on p to plain",
    )
    .await;
    let config = Config {
        url: server.admin().replace("user=postgres", "user=plain"),
        tables: vec!["public.*".to_owned(), "hidden.*".to_owned()],
        snapshot: Some(SnapshotMode::Initial),
        ..Config::default()
    };
    let of_rights = |found: Vec<Requirement>| -> Vec<Requirement> {
        found.into_iter().filter(|one| one.name.starts_with("snapshot of ")).collect()
    };
    let connections =
        |found: &[Requirement]| found.iter().find(|one| one.name == "connections").cloned().unwrap();
    let found = check(&config).await.unwrap();
    let narrow = connections(&found);
    assert!(
        !narrow.ok && narrow.found.contains("7 needed, 6 free (CONNECTION LIMIT of the role"),
        "{narrow:?}"
    );
    let rights = of_rights(found);
    let told: Vec<_> = rights.iter().map(|one| (one.name.as_str(), one.ok)).collect();
    let expected = ["snapshot of hidden.h", "snapshot of public.p", "snapshot of public.t"];
    assert_eq!(told, expected.map(|name| (name, false)));
    assert!(rights[1].found.contains("row-level security"), "{rights:?}");
    // Where no rows are wanted it is advice.
    let never = Config { snapshot: Some(SnapshotMode::Never), ..config.clone() };
    assert!(of_rights(check(&never).await.unwrap()).iter().all(|one| one.ok && one.remedy.is_some()));

    for one in &rights {
        run(&client, one.remedy.as_deref().unwrap()).await;
    }
    run(&client, "alter role plain connection limit -1").await;
    let found = check(&config).await.unwrap();
    assert!(connections(&found).ok, "{found:?}");
    assert_eq!(of_rights(found), []);
}
