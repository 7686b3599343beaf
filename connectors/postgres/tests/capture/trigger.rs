//! The event trigger: tables come, change sides and go in the transaction that changes them; and nothing that goes
//! wrong in it is anybody else's trouble.

use std::time::{Duration, Instant};

use rowcast_postgres::{Config, check};
use tokio_postgres::Client;

use super::harness::{Capture, Directory, config, run, sql, until, value};
use crate::support::Server;

/// All tables that are listed in a publication, in order.
pub(super) async fn listed(client: &Client, name: &str) -> String {
    let query = format!(
        "select string_agg(c.relname, ' ' order by c.relname) from pg_publication_rel r \
         join pg_publication p on p.oid = r.prpubid join pg_catalog.pg_class c on c.oid = r.prrelid where p.pubname = '{name}'"
    );
    value(client, &query).await
}

#[tokio::test]
async fn a_table_is_captured_from_its_first_row_on() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let exclude = vec!["public.secret_*".to_owned()];
    // Who looks before he starts is told whether there will be one.
    let before = check(&config(&server)).await.unwrap();
    let trigger = before.iter().find(|found| found.name == "event trigger").unwrap();
    assert!(trigger.ok && trigger.found.contains("this role may make it"), "{trigger:?}");
    let capture = Capture::start(Config { exclude, ..config(&server) }, directory.path()).await;
    run(&client, "begin; create table t (id int primary key); insert into t values (1); commit").await;
    assert_eq!(listed(&client, "rowcast").await, "t");
    run(
        &client,
        "begin; create table \"Sec.ret\" (id serial, v text); insert into \"Sec.ret\" (v) values ('a'); commit;
         create table secret_x (id int primary key); insert into secret_x values (1);
         create table secretx (id int); insert into secretx values (1);
         create temp table pg_class (oid oid); create schema s create table d (id int); insert into s.d values (1);
         insert into t values (2)",
    )
    .await;
    let expected = [
        "insert public.t 1",
        "insert public.\"Sec.ret\" 1,a",
        "insert public.secretx 1",
        "insert s.d 1",
        "insert public.t 2",
    ];
    assert_eq!(capture.briefs(5).await, expected);
    assert_eq!(listed(&client, "rowcast_inserts").await, "Sec.ret d secretx");

    // Filled before it is there for the stream: that is told where it belongs.
    run(&client, "begin; create table filled as select 1 as id; insert into filled values (2); commit").await;
    run(&client, "select 1 as id into also; create table empty as select 1 as id where false").await;
    run(&client, "insert into empty values (3)").await;
    let told = capture.briefs(9).await;
    let expected = [
        "gap public.filled new_table",
        "insert public.filled 2",
        "gap public.also new_table",
        "insert public.empty 3",
    ];
    assert_eq!(told[5..], expected);
    let found = check(&config(&server)).await.unwrap();
    let trigger = found.iter().find(|found| found.name == "event trigger").unwrap();
    assert!(trigger.ok && trigger.remedy.is_none() && trigger.found.contains("transaction"), "{trigger:?}");
    capture.stop().await;
}

#[tokio::test]
async fn a_table_that_loses_its_key_stays_writable() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table t (id int primary key, v int); insert into t values (1, 1);
         create table i (id int not null, v int); create unique index i_id on i (id);
         alter table i replica identity using index i_id; insert into i values (1, 1);
         create domain number as int; create table d (id number primary key, v int); insert into d values (1, 1);
         create table f (id int, v int); alter table f replica identity full; insert into f values (1, 1)",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    assert_eq!(listed(&client, "rowcast").await, "d f i t");
    for (change, table) in [
        ("alter table t drop constraint t_pkey", "t"),
        ("drop index i_id", "i"),
        ("drop domain number cascade", "d"),
        ("alter table f replica identity default", "f"),
    ] {
        // The next statement, in the same transaction and after it.
        run(&client, &format!("begin; {change}; update {table} set v = 2; commit; update {table} set v = 3"))
            .await;
        run(&client, &format!("delete from {table}; insert into {table} values (4)")).await;
    }
    assert_eq!(listed(&client, "rowcast_inserts").await, "d f i t");
    let told = capture.briefs(4).await;
    assert!(told.iter().all(|event| event.starts_with("insert")), "{told:?}");
    run(&client, "update t set id = 1; alter table t add primary key (id); update t set v = 5").await;
    assert_eq!(listed(&client, "rowcast").await, "t");
    assert_eq!(capture.briefs(5).await[4], "update public.t 1,5");
    // A transaction that rolls back has changed nothing.
    run(&client, "begin; alter table t drop constraint t_pkey; rollback; delete from t").await;
    assert_eq!((listed(&client, "rowcast").await.as_str(), capture.wait(6).await.len()), ("t", 6));
    capture.stop().await;
}

#[tokio::test]
async fn nothing_that_goes_wrong_in_it_fails_a_command() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, other) = (sql(&server).await, sql(&server).await);
    run(&client, "create table t (id int primary key, v int); create role app login; grant all on schema public to app")
        .await;
    let capture = Capture::start(config(&server), directory.path()).await;

    // Somebody without any right on the publications; with another meaning of all names.
    let hostile = "create schema evil; grant all on schema evil to app; set role app;
        create function evil.format(text, variadic text[]) returns text language sql as $$ select 'drop table t' $$;
        set search_path = evil, pg_temp, public, pg_catalog; create temp table pg_publication (oid oid);
        create table public.theirs (id int primary key); insert into public.theirs values (1); reset role";
    client.batch_execute(hostile).await.unwrap();
    assert_eq!(listed(&other, "rowcast").await, "t theirs");
    assert_eq!(capture.briefs(1).await, ["insert public.theirs 1"]);

    // The publication is being changed for as long as it takes: nobody waits for that.
    run(&client, "begin; alter publication rowcast drop table t").await;
    let started = Instant::now();
    run(&other, "create table busy (id int primary key); insert into busy values (1)").await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    run(&client, "rollback").await;
    run(&client, "begin; create table first (id int primary key)").await;
    let started = Instant::now();
    run(&other, "create table second (id int primary key)").await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    run(&client, "commit").await;
    capture.status.look_again();
    until("the next look", async || listed(&other, "rowcast").await == "busy first second t theirs").await;
    // From version 15 on it could not be added at once.
    let told = capture.briefs(2).await;
    assert!(["gap public.busy new_table", "insert public.busy 1"].contains(&told[1].as_str()), "{told:?}");

    // What it needs is not there.
    run(
        &other,
        "drop table rowcast.pattern; create table broken (id int); alter table t drop constraint t_pkey",
    )
    .await;
    run(&other, "drop function rowcast.settle; create table broken2 (id int); drop table broken2").await;
    run(&other, "alter event trigger rowcast disable").await;
    let found = check(&config(&server)).await.unwrap();
    let trigger = found.iter().find(|found| found.name == "event trigger").unwrap();
    assert!(trigger.ok && trigger.found.contains("rowcast is disabled"), "{trigger:?}");
    assert_eq!(trigger.remedy.as_deref().map(|remedy| remedy.contains("ENABLE")), Some(true));
    capture.stop().await;
}

/// Somebody who may not make event triggers, `plain`: new tables are found when they are looked for.
pub(super) async fn plain(server: &Server, client: &Client) -> Config {
    run(
        client,
        "create role plain login replication; grant create on database postgres to plain;
         grant all on schema public to plain",
    )
    .await;
    server.admit("local all all trust");
    let config = Config { url: server.admin().replace("user=postgres", "user=plain"), ..config(server) };
    until("the admission", async || check(&config).await.unwrap()[0].ok).await;
    config
}

#[tokio::test]
async fn without_the_right_it_looks_by_itself() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let config = plain(&server, &client).await;
    let table =
        "set role plain; create table t (id int primary key, v int); insert into t values (1, 1); reset role";
    run(&client, table).await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    assert_eq!(value(&client, "select count(*) from pg_event_trigger").await, "0");
    let found = check(&config).await.unwrap();
    let trigger = found.iter().find(|found| found.name == "event trigger").unwrap();
    let remedy = trigger.remedy.as_deref().unwrap();
    assert!(trigger.ok && trigger.found.contains("some seconds later"), "{trigger:?}");
    assert!(trigger.found.contains("loses its primary key fail"), "{trigger:?}");
    assert!(remedy.contains("can become superuser"), "{remedy}");

    run(
        &client,
        "set role plain; create table late (id int primary key); alter table t drop constraint t_pkey",
    )
    .await;
    run(&client, "insert into late values (1)").await;
    assert!(client.batch_execute("update public.t set v = 2").await.is_err(), "nothing looks after it yet");
    until("a round", async || client.batch_execute("update public.t set v = 2").await.is_ok()).await;
    // The same round adds it, one step later.
    until("the new table", async || listed(&client, "rowcast").await == "late").await;
    assert_eq!(capture.briefs(1).await, ["gap public.late new_table"]);

    // What is printed can be run by somebody who may; it then works with no more rights than rowcast has.
    let statement = remedy.get(remedy.find("CREATE EVENT").unwrap()..).unwrap();
    run(&client, &format!("reset role; {statement}")).await;
    run(
        &client,
        "set role plain; begin; create table now (id int primary key); insert into now values (1); commit",
    )
    .await;
    assert_eq!(capture.briefs(2).await[1], "insert public.now 1");
    run(
        &client,
        "reset role; create table foreign_one (id int primary key); insert into foreign_one values (1)",
    )
    .await;
    until("it to be told", async || {
        let report = capture.report();
        report.source.uncaptured.keys().eq(["public.foreign_one"])
            && report.reasons[0].contains("source.exclude = ['public.foreign_one']")
    })
    .await;
    assert_eq!(listed(&client, "rowcast").await, "late now");
    run(&client, "drop table foreign_one").await;
    until("that to be over", async || capture.report().healthy).await;
    capture.stop().await;
}

/// Bulk loads and migrations switch triggers off so; what they do to a table is to be known all the same.
#[tokio::test]
async fn a_session_without_triggers_has_these() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table loaded (id int primary key, v int); insert into loaded values (1, 1)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let load = "begin; set local session_replication_role = replica; alter table loaded drop constraint loaded_pkey;
                update loaded set v = 2; create table made (id int primary key); insert into made values (1); commit";
    run(&client, load).await;
    until("the row of the new one", async || {
        capture.events().iter().any(|event| event.brief() == "insert public.made 1")
    })
    .await;
    assert_eq!(
        (listed(&client, "rowcast").await, listed(&client, "rowcast_inserts").await),
        ("made".into(), "loaded".into())
    );
    // One that an older rowcast has made is made anew.
    capture.stop().await;
    run(&client, "alter event trigger rowcast enable").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let enabled = "select evtenabled from pg_event_trigger where evtname = 'rowcast'";
    assert_eq!(value(&client, enabled).await, "A");
    capture.stop().await;
}

#[tokio::test]
async fn a_table_that_is_never_free_is_told() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, writer) = (sql(&server).await, sql(&server).await);
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "alter event trigger rowcast disable; create table held (id int primary key)").await;
    run(&writer, "begin; insert into held values (1)").await;
    until("it to be told", async || {
        // Whoever asks has it tried again at once.
        capture.status.look_again();
        let reasons = capture.report().reasons;
        reasons
            .iter()
            .any(|reason| reason.contains("public.held is wanted and not captured: it could not be added"))
    })
    .await;
    run(&writer, "commit").await;
    capture.status.look_again();
    until("the table", async || listed(&client, "rowcast").await == "held").await;
    until("that to be over", async || capture.report().healthy).await;
    capture.stop().await;
}

/// A DROP holds its lock meanwhile.
#[tokio::test]
async fn a_drop_looks_only_at_tables_that_may_have_lost_a_key() {
    let (server, directory) = (Server::start("track_functions = all"), Directory::new());
    let client = sql(&server).await;
    let tables = "do $$ begin for i in 1..40 loop
        execute format('create table t%s (id int primary key, v int); create index t%s_v on t%s (v)', i, i, i);
        end loop; end $$";
    run(&client, tables).await;
    run(
        &client,
        "create table whole (id int, v int); create index whole_v on whole (v); alter table whole replica identity full;
         create table tree (id int primary key, v int) partition by range (id);
         create table tree_1 (id int not null, v int); create unique index tree_key on tree_1 (id);
         alter table tree_1 replica identity using index tree_key;
         alter table tree attach partition tree_1 for values from (0) to (10)",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let calls = async || -> u64 {
        let sql = "select coalesce(sum(calls), 0) from pg_stat_user_functions where funcname = 'settle'";
        value(&client, sql).await.parse().unwrap()
    };
    run(&client, "drop index t1_v").await;
    run(&client, "drop index whole_v").await;
    run(&client, "alter table t1 add column w int").await;
    // Calls are counted by and by: the last statement's is the only one that looks at a table.
    until("the count", async || calls().await > 0).await;
    assert_eq!(calls().await, 1);
    assert!(listed(&client, "rowcast").await.contains("whole"));
    // A key that goes with its column's type, and a partition's.
    run(
        &client,
        "create type color as enum ('red'); alter table t2 drop constraint t2_pkey, add column c color",
    )
    .await;
    run(&client, "alter table t2 alter column c set not null, add primary key (c)").await;
    run(&client, "alter table t3 add column c color not null default 'red'").await;
    run(&client, "create unique index t3_c on t3 (c, id); alter table t3 replica identity using index t3_c")
        .await;
    run(&client, "drop type color cascade; drop index tree_key").await;
    run(&client, "update t2 set v = 1; update t3 set v = 1; update tree set v = 1").await;
    assert_eq!(listed(&client, "rowcast_inserts").await, "t2 t3 tree");
    capture.stop().await;
}

#[tokio::test]
async fn tables_are_looked_at_whole_only_when_a_definition_has_changed() {
    let (server, directory) = (Server::start("log_statement = 'all'"), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key, v int)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let count = |words: &str| server.log().matches(words).count();
    let (asked, looks) = ("hashint8extended((inhrelid", "order by 1) as hidden");
    until("two questions", async || count(asked) >= 2).await;
    let before = count(looks);
    run(&client, "insert into t values (1, 1); analyze t").await;
    client.batch_execute("vacuum public.t").await.unwrap();
    let questions = count(asked);
    until("two more", async || count(asked) >= questions + 2).await;
    assert_eq!(count(looks), before, "nothing has changed");
    run(&client, "alter event trigger rowcast disable; create table late (id int primary key)").await;
    until("the table", async || listed(&client, "rowcast").await == "late t").await;
    capture.stop().await;
}

#[tokio::test]
async fn two_on_one_database_do_not_disturb_each_other() {
    let (server, one, two) = (Server::start(""), Directory::new(), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table a (id int primary key); insert into a values (1)").await;
    let first = Capture::start(config(&server), one.path()).await;
    let second = Config {
        slot: "second".to_owned(),
        tables: vec!["public.b*".to_owned()],
        via_partition_root: false,
        ddl: true,
        ..config(&server)
    };
    let other = Capture::start(second.clone(), two.path()).await;
    run(
        &client,
        "create table b as select 1 as id; create table c as select 1 as id; insert into b values (2)",
    )
    .await;
    let told = ["gap public.b new_table", "gap public.c new_table", "insert public.b 2"];
    assert_eq!(first.briefs(3).await, told);
    let told = other.briefs(3).await;
    assert_eq!((told[0].as_str(), told[2].as_str()), ("gap public.b new_table", "insert public.b 2"));
    assert!(told[1].starts_with("message rowcast.ddl {\"command\" : \"CREATE TABLE AS\""), "{told:?}");
    // A table that only one of them starts to capture later is a gap for that one alone.
    other.stop().await;
    let more = Config { tables: vec!["public.b*".to_owned(), "public.a".to_owned()], ..second };
    let other = Capture::start(more, two.path()).await;
    run(&client, "insert into a values (2)").await;
    assert_eq!(other.briefs(5).await[3..], ["gap public.a new_table", "insert public.a 2"]);
    assert_eq!(first.briefs(4).await[3], "insert public.a 2");
    first.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn definitions_are_told_in_their_place() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key); create table secret (id int)").await;
    let exclude = vec!["public.secret".to_owned()];
    let capture = Capture::start(Config { ddl: true, exclude, ..config(&server) }, directory.path()).await;
    for statement in [
        "insert into public.t values (1)",
        "alter table public.t add column \"N\" text default 'x''y'",
        "insert into public.t values (2)",
        "alter table public.secret add column v int",
        "create index on public.t (id)",
        "begin; alter table public.t rename to u; rollback",
        "create role somebody password 'sesame'; alter table public.t alter \"N\" set statistics 7",
        "do $$ begin perform 'sesame'; execute 'alter table public.t alter \"N\" set statistics 8'; end $$",
        "-- sesame;\nalter table public.t alter \"N\" set statistics 9",
        " /* one * ** */ -- two\n Alter table public.t alter \"N\" set statistics 9 ;\n ",
        "create temp table t (id int)",
        "drop table pg_temp.t",
        "drop table public.t",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    let told = capture.briefs(9).await;
    assert_eq!((told[0].as_str(), told[2].as_str()), ("insert public.t 1", "insert public.t 2,x'y"));
    // What was sent beside it, or around it, is nobody's business.
    assert!(!told.concat().contains("sesame"), "{told:?}");
    let payload = |at: usize| {
        let text = told[at].strip_prefix("message rowcast.ddl ").unwrap();
        serde_json::from_str::<serde_json::Value>(text).unwrap()
    };
    let statement = "alter table public.t add column \"N\" text default 'x''y'";
    let expected = serde_json::json!({"command": "ALTER TABLE", "object": "table", "table": "public.t", "statement": statement});
    assert_eq!(payload(1), expected);
    assert_eq!(
        (payload(3)["command"].as_str(), payload(3)["object"].as_str()),
        (Some("CREATE INDEX"), Some("index"))
    );
    for at in 4..7 {
        let expected = serde_json::json!({"command": "ALTER TABLE", "object": "table", "table": "public.t", "statement": null});
        assert_eq!(payload(at), expected);
    }
    assert!(payload(7)["statement"].as_str().is_some_and(|said| said.contains("statistics 9 ;")), "{told:?}");
    assert_eq!(
        (payload(8)["command"].as_str(), payload(8)["table"].as_str(), payload(8)["statement"].as_str()),
        (Some("DROP TABLE"), Some("public.t"), Some("drop table public.t"))
    );
    capture.stop().await;
}

/// Whoever creates a table holds the publication until his transaction ends, and somebody else loses a key meanwhile.
#[tokio::test]
async fn a_key_that_is_lost_while_somebody_holds_the_publication() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, other) = (sql(&server).await, sql(&server).await);
    run(
        &client,
        "create table t (id int primary key, v int); insert into t values (1, 1);
         create table u (id int primary key, v int); insert into u values (1, 1);
         create table i (id int not null, v int); create unique index i_id on i (id);
         alter table i replica identity using index i_id; insert into i values (1, 1);
         create table p (id int primary key, v int) partition by range (id);
         create table p1 partition of p for values from (0) to (9); insert into p values (1, 1)",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let before = server.dump();
    run(&other, "begin; create table m (id int primary key)").await;
    let changes = [
        ("alter table t drop constraint t_pkey", "t"),
        ("alter table u drop constraint u_pkey", "u"),
        ("drop index i_id", "i"),
        ("alter table p drop constraint p_pkey", "p"),
    ];
    for (change, table) in changes {
        run(&client, &format!("begin; {change}; update {table} set v = 2; commit; update {table} set v = 3"))
            .await;
    }
    run(&client, "alter table u add primary key (id)").await;
    let identities = "select string_agg(relname || relreplident::text, ' ' order by relname) from pg_class
                      where relname in ('i', 'p', 'p1', 't', 'u')";
    assert_eq!(value(&client, identities).await, "if pf p1f tf uf");
    // For longer than between two looks, neither the application nor capture has any trouble.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(7) {
        run(&client, "update t set v = 4; update i set v = 4; update p set v = 4; update u set v = 4").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(capture.report().source.state, "streaming");
    let told: Vec<String> = capture.events().iter().map(|event| event.brief()).collect();
    assert!(told.contains(&"update public.t O:1,2 1,3".to_owned()), "{told:?}");

    run(&other, "commit").await;
    capture.status.look_again();
    until("all to be given back", async || value(&client, identities).await == "in pd p1d td ud").await;
    assert_eq!(listed(&client, "rowcast").await, "m u");
    assert_eq!(listed(&client, "rowcast_inserts").await, "i p t");
    assert_eq!(value(&client, "select count(*) from rowcast.lent").await, "0");
    run(&client, "update t set v = 5; insert into t values (2, 2); update u set v = 5").await;
    until("the row", async || capture.events().iter().any(|event| event.brief() == "insert public.t 2,2"))
        .await;
    assert!(capture.events().iter().all(|event| event.new != "1,5" || event.channel == "public.u"));
    run(
        &client,
        "drop table m; alter table t add primary key (id); alter table p add primary key (id);
         create unique index i_id on i (id); alter table i replica identity using index i_id",
    )
    .await;
    assert_eq!(server.dump(), before, "everything is as it was");
    capture.stop().await;
}
