//! What takes a table's key with it, whatever the command names: the table's own UPDATE goes on.

use rowcast_postgres::check;

use super::harness::{Capture, Directory, config, run, sql, value, version};
use super::trigger::listed;
use crate::support::Server;

/// A table whose identity is an index with an operator class of its own, of its name.
fn ordered(name: &str) -> String {
    format!(
        "create function {name}_compare(int, int) returns int language sql immutable as 'select btint4cmp($1, $2)';
         create operator family {name} using btree;
         create operator class {name}_ops for type int using btree family {name} as
             operator 1 <<<, operator 2 <=, operator 3 =, operator 4 >=, operator 5 >, function 1 {name}_compare(int, int);
         create table {name} (k int not null, v int); create unique index {name}_k on {name} (k {name}_ops);
         alter table {name} replica identity using index {name}_k; insert into {name} values (1, 1);"
    )
}

const TABLES: &str = "
    create collation mine from \"C\"; create table collated (k text collate mine primary key, v int);
    insert into collated values ('a', 1);
    create type pair as (k int, v int); create table typed of pair (primary key (k)); insert into typed values (1, 1);
    create function before(int, int) returns bool language sql immutable as 'select $1 < $2';
    create operator <<< (function = before, leftarg = int, rightarg = int);";

/// From version 18 on a generated column may be a key.
const GENERATED: &str = "
    create text search configuration words (copy = simple);
    create table found (t text, v int, k tsvector generated always as (to_tsvector('words', t)) stored primary key);
    insert into found (t, v) values ('a', 1)";

#[tokio::test]
async fn the_next_update_goes_on() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let mut changes = vec![
        ("drop collation mine cascade", "collated"),
        ("alter type pair drop attribute k cascade", "typed"),
        ("drop operator class by_class_ops using btree cascade", "by_class"),
        ("drop operator family by_family using btree cascade", "by_family"),
        ("drop function by_function_compare(int, int) cascade", "by_function"),
        ("drop routine by_routine_compare(int, int) cascade", "by_routine"),
        ("drop operator <<< (int, int) cascade", "by_operator"),
    ];
    let with_classes: String = changes[2..].iter().map(|(_, table)| ordered(table)).collect();
    run(&client, &format!("{TABLES} {with_classes}")).await;
    if version(&client).await >= 180_000 {
        run(&client, GENERATED).await;
        changes.push(("drop text search configuration words cascade", "found"));
    }
    let capture = Capture::start(config(&server), directory.path()).await;
    let all = listed(&client, "rowcast").await;
    assert_eq!(all.split(' ').count(), changes.len(), "{all}");
    for (change, table) in changes {
        run(&client, &format!("begin; {change}; update {table} set v = 2; commit; update {table} set v = 3"))
            .await;
    }
    assert_eq!(listed(&client, "rowcast").await, "NULL");
    assert_eq!(listed(&client, "rowcast_inserts").await, all);
    capture.stop().await;
}

#[tokio::test]
async fn a_trigger_of_an_older_rowcast_is_made_anew() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    Capture::start(config(&server), directory.path()).await.stop().await;
    let older = "drop event trigger rowcast;
        create event trigger rowcast on ddl_command_end when tag in ('CREATE TABLE') execute function rowcast.on_ddl()";
    run(&client, older).await;
    let said = async || {
        let found = check(&config(&server)).await.unwrap();
        found.into_iter().find(|found| found.name == "event trigger").unwrap()
    };
    let trigger = said().await;
    assert!(trigger.ok && trigger.found.contains("an older rowcast"), "{trigger:?}");
    assert!(trigger.remedy.unwrap().contains("DROP EVENT TRIGGER rowcast; CREATE EVENT TRIGGER rowcast ON"));
    let capture = Capture::start(config(&server), directory.path()).await;
    let hears = "select 'DROP COLLATION' = any(evttags) from pg_event_trigger where evtname = 'rowcast'";
    assert_eq!((value(&client, hears).await.as_str(), said().await.remedy), ("true", None));
    // A newer one's stays.
    let newer = "select string_agg(format('%L', tag), ', ') from pg_event_trigger, unnest(evttags || '{CREATE VIEW}') tag
                 where evtname = 'rowcast'";
    let tags = value(&client, newer).await;
    run(
        &client,
        &format!(
            "drop event trigger rowcast;
             create event trigger rowcast on ddl_command_end when tag in ({tags}) execute function rowcast.on_ddl();
             alter event trigger rowcast enable always"
        ),
    )
    .await;
    assert_eq!(said().await.remedy, None);
    capture.stop().await;
}
