//! The event triggers in transactions that use one snapshot for all their statements, and beside somebody who waits for what
//! they read.

use tokio_postgres::Client;

use super::harness::{Capture, Directory, SENDS_NO_EMPTY, Seen, config, run, sql, until, value, version};
use super::trigger::listed;
use crate::support::Server;
use rowcast_postgres::Config;

/// As the fourteenth migration leaves it.
const OLDER: &str =
    "delete from rowcast.migrations where version > 14; alter function rowcast.on_drop() reset lock_timeout";

pub(super) async fn places(client: &Client) -> (String, String) {
    (listed(client, "rowcast").await, listed(client, "rowcast_inserts").await)
}

/// The server goes by the newest catalog, and such a transaction's queries by an older one.
#[tokio::test]
async fn a_key_that_is_lost_in_a_transaction_with_an_older_snapshot() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table late (id int primary key, v int); insert into late values (1, 1);
         create table keyed (id int not null, v int); insert into keyed values (1, 1);
         create table other (id int not null, v int); insert into other values (1, 1);
         create table indexed (id int not null, v int); insert into indexed values (1, 1);
         create unique index indexed_id on indexed (id); alter table indexed replica identity using index indexed_id",
    )
    .await;
    let narrow = Config { exclude: vec!["public.late".into(), "public.indexed".into()], ..config(&server) };
    let mut capture = Capture::start(narrow, directory.path()).await;
    for isolation in ["repeatable read", "serializable"] {
        let migration = sql(&server).await;
        assert_eq!(places(&client).await, ("NULL".into(), "keyed other".into()));
        run(&migration, &format!("begin isolation level {isolation}; select count(*) from late")).await;
        // What comes in behind the snapshot: by another configuration, or with a key.
        capture.stop().await;
        capture = Capture::start(config(&server), directory.path()).await;
        run(&client, "alter table keyed add primary key (id); alter table other add primary key (id)").await;
        assert_eq!(places(&client).await, ("indexed keyed late other".into(), "NULL".into()));
        run(
            &migration,
            "alter table late drop constraint late_pkey; update late set v = 2;
             alter table keyed drop constraint keyed_pkey; update keyed set v = 2;
             drop index indexed_id; update indexed set v = 2",
        )
        .await;
        // The key that it does not see is there.
        run(&migration, "alter table other add column w int; update other set v = 2; commit").await;
        // What the snapshot has not shown is left where it was, with what it needs there, until the next look.
        run(&client, "update late set v = 3; update keyed set v = 3; update indexed set v = 3").await;
        capture.status.look_again();
        until("each to be where it belongs", async || {
            places(&client).await == ("other".into(), "indexed keyed late".into())
        })
        .await;
        let lent = "select count(*) from pg_class where relname in ('late', 'keyed', 'other', 'indexed') and relreplident = 'f'";
        assert_eq!(value(&client, lent).await, "0");
        run(&client, "update late set v = 4; update keyed set v = 4; update indexed set v = 4").await;
        // As at the beginning.
        capture.stop().await;
        run(
            &client,
            "alter table late add primary key (id); alter table other drop constraint other_pkey, drop column w;
             create unique index indexed_id on indexed (id); alter table indexed replica identity using index indexed_id",
        )
        .await;
        let narrow =
            Config { exclude: vec!["public.late".into(), "public.indexed".into()], ..config(&server) };
        capture = Capture::start(narrow, directory.path()).await;
    }
    capture.stop().await;
}

/// It holds a weaker lock on the table, and its transactions are the server's own.
#[tokio::test]
async fn an_index_that_is_dropped_concurrently_by_default() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table indexed (id int not null, v int); insert into indexed values (1, 1);
         create unique index indexed_id on indexed (id); alter table indexed replica identity using index indexed_id",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    client.batch_execute("set default_transaction_isolation = 'serializable'").await.unwrap();
    client.batch_execute("drop index concurrently public.indexed_id").await.unwrap();
    run(&client, "update indexed set v = 2").await;
    capture.status.look_again();
    until("it to be where it belongs", async || places(&client).await == ("NULL".into(), "indexed".into()))
        .await;
    run(&client, "update indexed set v = 3").await;
    capture.stop().await;
}

/// Where somebody has the publication it is lent an identity there, too.
#[tokio::test]
async fn it_is_lent_one_there_too() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, other, migration) = (sql(&server).await, sql(&server).await, sql(&server).await);
    run(&client, "create table t (id int not null, v int); insert into t values (1, 1)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&migration, "begin isolation level repeatable read; select count(*) from pg_class").await;
    run(&client, "alter table t add primary key (id)").await;
    run(&other, "begin; create table m (id int primary key)").await;
    run(&migration, "alter table t drop constraint t_pkey; update t set v = 2; commit").await;
    assert_eq!(value(&client, "select relreplident from pg_class where relname = 't'").await, "f");
    run(&other, "commit").await;
    capture.status.look_again();
    until("it to be given back", async || listed(&client, "rowcast_inserts").await == "t").await;
    capture.stop().await;
}

/// One application has what the trigger reads, somebody waits for that, and another application is behind him.
#[tokio::test]
async fn a_drop_waits_for_nobody_who_waits_for_what_it_reads() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, application, cleaner) = (sql(&server).await, sql(&server).await, sql(&server).await);
    run(&client, "create table one (id int primary key); create table two (id int primary key)").await;
    let ours = Config { ddl: true, ..config(&server) };
    Capture::start(ours.clone(), directory.path()).await.stop().await;
    // What is there already is brought up to date.
    run(&client, OLDER).await;
    let capture = Capture::start(ours, directory.path()).await;
    run(&application, "begin; create table mine (id int primary key)").await;
    let cleaning = tokio::spawn(async move { cleaner.batch_execute("vacuum full rowcast.capture").await });
    let waits =
        "select count(*) from pg_locks where not granted and relation = 'rowcast.capture'::regclass and pid in
                 (select pid from pg_stat_activity where query like 'vacuum full%')";
    until("it to wait", async || value(&client, waits).await == "1").await;
    run(&client, "set statement_timeout = '60s'; drop table one; reset statement_timeout").await;
    assert_eq!(value(&client, waits).await, "1", "it has waited all the time");
    run(&application, "commit").await;
    cleaning.await.unwrap().unwrap();
    run(&client, "drop table two").await;
    // That of the first one is left out, and the log has it.
    until("the second one to be told", async || {
        capture
            .events()
            .iter()
            .any(|event| event.new.contains("DROP TABLE") && event.new.contains("public.two"))
    })
    .await;
    assert!(server.log().contains("rowcast: DROP TABLE is not told"), "{}", server.log());
    capture.stop().await;
}

/// What a snapshot does not show any more is not believed: neither that a table has no identity, nor that it has no list.
#[tokio::test]
async fn what_has_changed_since_an_older_snapshot_stays() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let listed_columns = version(&client).await >= SENDS_NO_EMPTY;
    run(
        &client,
        "create table whole (id int, v int); insert into whole values (1, 1);
         create table swap (id int, v int); create table swap_new (id int primary key, v int);
         create table narrow (id int primary key, v int, secret text);
         create table filled (id int primary key, v int); insert into filled values (1, 1);
         create table renewed (id int primary key, v int); insert into renewed values (1, 1);
         create function useless() returns int language sql as 'select 1'",
    )
    .await;
    let mut capture = Capture::start(config(&server), directory.path()).await;
    capture.streams().await;
    let migration = sql(&server).await;
    for isolation in ["repeatable read", "serializable"] {
        run(&client, "create or replace function useless() returns int language sql as 'select 1'").await;
        run(&migration, &format!("begin isolation level {isolation}; select count(*) from pg_class")).await;
        run(
            &client,
            "alter table whole replica identity full; alter table filled replica identity full;
             alter table renewed drop constraint renewed_pkey, add constraint renewed_pkey primary key (id);
             alter table swap rename to swap_old; alter table swap_new rename to swap; insert into swap values (1, 1)",
        )
        .await;
        assert_eq!(places(&client).await, ("filled narrow renewed swap whole".into(), "swap_old".into()));
        if listed_columns {
            run(&client, "alter publication rowcast drop table narrow").await;
            run(&client, "alter publication rowcast add table only narrow (id, v)").await;
            capture.status.look_again();
            let noted = "select count(*) from rowcast.chosen";
            until("its list to be noted", async || value(&client, noted).await == "1").await;
        }
        run(&migration, "drop function useless()").await;
        run(&migration, "alter table filled drop constraint filled_pkey; update filled set v = 2").await;
        run(&migration, "alter table renewed drop constraint renewed_pkey; update renewed set v = 2").await;
        if listed_columns {
            run(
                &migration,
                "alter table narrow drop constraint narrow_pkey; insert into narrow values (1, 1, 'hushed')",
            )
            .await;
            run(&migration, "update narrow set v = 2").await;
        }
        // Of another one's rows it has had as well.
        run(&migration, "alter table whole add column w int; update whole set v = 2; commit").await;
        run(&client, "update whole set v = 3; update swap set v = 2; delete from swap; delete from whole")
            .await;
        run(&client, "insert into whole values (1, 1)").await;
        capture.status.look_again();
        until("all to be as it was", async || {
            let (all, inserts) = places(&client).await;
            all.starts_with("filled") && all.ends_with("swap whole") && inserts == "renewed swap_old"
        })
        .await;
        if listed_columns {
            // Its list is known, and a person's to give again: it is told, and shown to nobody without.
            until("it to be told", async || capture.report().source.uncaptured.contains_key("public.narrow"))
                .await;
        }
        as_at_the_beginning(&client, listed_columns).await;
    }
    run(&client, "insert into whole values (7, 7)").await;
    until("the last one", async || capture.events().iter().any(|event| event.new.starts_with("7,7"))).await;
    let told: Vec<String> = capture.events().iter().map(Seen::brief).collect();
    assert!(told.iter().all(|event| !event.contains("hushed")), "{told:?}");
    let deleted =
        |channel: &str| told.iter().filter(|event| event.starts_with(&format!("delete {channel}"))).count();
    assert_eq!((deleted("public.whole"), deleted("public.swap ")), (2, 2), "{told:?}");
    capture.stop().await;
}

async fn as_at_the_beginning(client: &Client, listed_columns: bool) {
    run(
        client,
        "alter table filled add primary key (id); alter table filled replica identity default;
         alter table renewed add primary key (id);
         alter table whole replica identity default; alter table whole drop column w;
         alter table swap rename to swap_new; alter table swap_old rename to swap",
    )
    .await;
    if listed_columns {
        run(client, "delete from narrow; alter table narrow add primary key (id)").await;
        run(client, "alter publication rowcast add table only narrow").await;
    }
}

/// Whoever drops something looks at no table that it does not hold, and keeps none from others.
#[tokio::test]
async fn a_drop_keeps_no_table_from_others() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, stranger) = (sql(&server).await, sql(&server).await);
    run(
        &client,
        "create table one (v int); create table two (v int); create table keyed (id int primary key);
         create table aside_1 (v int); create table aside_2 (v int);
         create function useless() returns int language sql as 'select 1'",
    )
    .await;
    let narrow = Config { exclude: vec!["public.aside*".into()], ..config(&server) };
    let capture = Capture::start(narrow, directory.path()).await;
    assert_eq!(places(&client).await, ("keyed".into(), "one two".into()));
    run(
        &client,
        "set track_functions = 'all'; begin isolation level repeatable read; drop function useless()",
    )
    .await;
    let calls =
        "select string_agg(funcname || ' ' || calls, ', ' order by funcname) from pg_stat_xact_user_functions
                 where schemaname = 'rowcast' and funcname in ('listed', 'member', 'settle')";
    assert_eq!(value(&client, calls).await, "NULL", "it has taken no key");
    let locks = "select count(*) from pg_locks
                 where pid = pg_backend_pid() and classid = 'pg_publication_rel'::regclass";
    assert_eq!(value(&client, locks).await, "0");
    // One that loses its key, and one that never had it.
    run(&client, "alter table keyed drop constraint keyed_pkey; alter table two add column w int").await;
    run(&stranger, "set lock_timeout = '60s'; drop table one").await;
    run(&client, "commit; update keyed set id = 2").await;
    capture.status.look_again();
    until("each to be where it belongs", async || {
        places(&stranger).await == ("NULL".into(), "keyed two".into())
    })
    .await;
    capture.stop().await;
}
