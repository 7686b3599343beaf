//! What tables do to their changes: replica identities, TOAST, changes of their shape, truncates.

use serde_json::{Value, json};

use crate::support::rowcast::command;
use crate::support::sse::Sse;
use crate::support::{Database, Postgres, Rowcast};

/// A database with these tables, captured, and a stream of its changes.
async fn captured(name: &str, sql: &str) -> (Database, Rowcast, Sse) {
    let database = Postgres::shared().await.create_database(name).await;
    database.execute(sql).await;
    let rowcast = Rowcast::of(&database).start().await;
    let events = Sse::open(rowcast.address(), "/v1/events?channel=*").await;
    (database, rowcast, events)
}

/// The next events.
async fn next(events: &mut Sse, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    for _ in 0..count {
        found.push(events.expect_event("message").await.json());
    }
    found
}

/// Members of events.
fn members(events: &[Value], names: &[&str]) -> Vec<Value> {
    events.iter().map(|event| names.iter().map(|name| event[name].clone()).collect()).collect()
}

#[tokio::test]
async fn tables_without_identity_stay_writable() {
    let sql = "create table plain (a integer, b text); create table silent (id integer primary key);
        alter table silent replica identity nothing; insert into plain values (1, 'old');
        create table keyed (id integer primary key)";
    let (database, rowcast, mut events) = captured("plain", sql).await;
    let changes =
        "insert into plain values (2, 'new'); update plain set b = 'newer'; delete from plain where a = 1;
        insert into silent values (1); update silent set id = 2; delete from silent; truncate plain;
        insert into keyed values (1)";
    database.execute(changes).await;
    let found = next(&mut events, 4).await;
    let expected = [
        json!(["public.plain", "insert", null, {"a": 2, "b": "new"}]),
        json!(["public.silent", "insert", null, {"id": 1}]),
        json!(["public.plain", "truncate", null, null]),
        json!(["public.keyed", "insert", {"id": 1}, {"id": 1}]),
    ];
    let found = members(&found, &["channel", "op", "key", "after"]);
    // The key of a table whose identity is nothing is known from its primary key, or not at all.
    assert_eq!(found[0], expected[0]);
    assert_eq!((&found[1][0], &found[1][3]), (&expected[1][0], &expected[1][3]));
    assert_eq!(found[2..], expected[2..]);

    let inserts_only = json!(["public.plain", "public.silent"]);
    let open = Sse::open(rowcast.address(), "/v1/events?channel=*").await.expect_event("open").await.json();
    assert_eq!(open["inserts_only"], inserts_only, "{open}");
    let channels = rowcast.get("/v1/channels").await.json();
    let marked =
        channels["channels"].as_array().unwrap().iter().filter(|channel| channel["inserts_only"] == true);
    assert_eq!(marked.map(|channel| channel["channel"].clone()).collect::<Value>(), inserts_only);
    let slot = format!("source.slot={}", database.name());
    let check = command(&["check", "--source", database.url(), "--set", &slot]).await;
    assert!(check.code == 0 && check.stdout.contains("public.plain"), "{check:?}");
}

#[tokio::test]
async fn each_replica_identity_tells_what_it_can() {
    let sql = "create table usual (id integer primary key, v text, w integer);
        create table whole (id integer primary key, v text); alter table whole replica identity full;
        create table indexed (id integer primary key, code text not null unique, v text);
        alter table indexed replica identity using index indexed_code_key;
        create table rows (a integer, b text); alter table rows replica identity full;
        create table \"Odd.Name\" (\"a b\" integer, \"C\" text, primary key (\"C\", \"a b\"))";
    let (database, _rowcast, mut events) = captured("identity", sql).await;
    for statement in [
        "insert into usual values (1, 'a', 1)",
        "update usual set v = 'b'",
        "update usual set id = 2",
        "delete from usual",
        "insert into whole values (1, 'a')",
        "update whole set v = 'b'",
        "update whole set id = 2",
        "delete from whole",
        "insert into indexed values (1, 'c', 'a')",
        "update indexed set v = 'b'",
        "update indexed set code = 'd'",
        "delete from indexed",
        "insert into rows values (1, null)",
        "update rows set b = 'x'",
        "delete from rows",
        "insert into \"Odd.Name\" values (1, 'x')",
        "delete from \"Odd.Name\"",
    ] {
        database.execute(statement).await;
    }
    let found = members(&next(&mut events, 17).await, &["op", "key", "before", "after", "changed"]);
    let expected = [
        json!(["insert", {"id": 1}, null, {"id": 1, "v": "a", "w": 1}, null]),
        json!(["update", {"id": 1}, null, {"id": 1, "v": "b", "w": 1}, null]),
        json!(["update", {"id": 2}, {"id": 1}, {"id": 2, "v": "b", "w": 1}, null]),
        json!(["delete", {"id": 2}, {"id": 2}, null, null]),
        json!(["insert", {"id": 1}, null, {"id": 1, "v": "a"}, null]),
        json!(["update", {"id": 1}, {"id": 1, "v": "a"}, {"id": 1, "v": "b"}, ["v"]]),
        json!(["update", {"id": 2}, {"id": 1, "v": "b"}, {"id": 2, "v": "b"}, ["id"]]),
        json!(["delete", {"id": 2}, {"id": 2, "v": "b"}, null, null]),
        json!(["insert", {"code": "c"}, null, {"id": 1, "code": "c", "v": "a"}, null]),
        json!(["update", {"code": "c"}, null, {"id": 1, "code": "c", "v": "b"}, null]),
        json!(["update", {"code": "d"}, {"code": "c"}, {"id": 1, "code": "d", "v": "b"}, null]),
        json!(["delete", {"code": "d"}, {"code": "d"}, null, null]),
        json!(["insert", null, null, {"a": 1, "b": null}, null]),
        json!(["update", null, {"a": 1, "b": null}, {"a": 1, "b": "x"}, ["b"]]),
        json!(["delete", null, {"a": 1, "b": "x"}, null, null]),
        json!(["insert", {"C": "x", "a b": 1}, null, {"a b": 1, "C": "x"}, null]),
        json!(["delete", {"C": "x", "a b": 1}, {"a b": 1, "C": "x"}, null, null]),
    ];
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn toasted_values_that_did_not_change_are_named() {
    let sql = "create table t (id integer primary key, n integer, long text, other text);
        create table f (id integer primary key, n integer, long text); alter table f replica identity full;
        alter table t alter long set storage external, alter other set storage external;
        alter table f alter long set storage external;
        insert into t values (1, 1, repeat('l', 5000), repeat('o', 5000)); insert into f values (1, 1, repeat('l', 5000))";
    let (database, _rowcast, mut events) = captured("toast", sql).await;
    for statement in [
        "update t set n = 2",
        "update t set other = 'short'",
        "update t set id = 7",
        "update t set long = null",
        "update f set n = 2",
    ] {
        database.execute(statement).await;
    }
    let found = members(&next(&mut events, 5).await, &["after", "unchanged", "changed"]);
    let long = "l".repeat(5000);
    let expected = [
        json!([{"id": 1, "n": 2}, ["long", "other"], null]),
        json!([{"id": 1, "n": 2, "other": "short"}, ["long"], null]),
        json!([{"id": 7, "n": 2, "other": "short"}, ["long"], null]),
        json!([{"id": 7, "n": 2, "long": null, "other": "short"}, [], null]),
        json!([{"id": 1, "n": 2, "long": long}, [], ["n"]]),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn rows_are_shown_in_the_shape_they_had() {
    let sql = "create type pair as (x integer, y text);
        create table t (id serial primary key, a text, p pair); alter table t replica identity full";
    let (database, rowcast, mut events) = captured("shape", sql).await;
    // All at once, so that most of it is read when the catalog is far ahead.
    let changes = "insert into t (a, p) values ('1', (1, 'y'));
        alter table t add c integer default 5; insert into t (a) values ('2'); update t set a = '2b' where id = 2;
        alter table t rename a to b; insert into t (b) values ('3');
        alter table t drop c; insert into t (b) values ('4');
        alter table t alter b type integer using 42; insert into t (b) values (5);
        alter table t rename to u; insert into u (b) values (6);";
    for change in changes.split_inclusive(';') {
        database.execute(change).await;
    }
    database.execute("begin; insert into u (b) values (7); alter table u add d numeric; insert into u (b, d) values (8, 1.50); commit").await;
    let found = next(&mut events, 9).await;
    let expected = [
        json!(["public.t", null, {"id": 1, "a": "1", "p": {"x": 1, "y": "y"}}]),
        json!(["public.t", null, {"id": 2, "a": "2", "p": null, "c": 5}]),
        json!(["public.t", {"id": 2, "a": "2", "p": null, "c": 5}, {"id": 2, "a": "2b", "p": null, "c": 5}]),
        json!(["public.t", null, {"id": 3, "b": "3", "p": null, "c": 5}]),
        json!(["public.t", null, {"id": 4, "b": "4", "p": null}]),
        json!(["public.t", null, {"id": 5, "b": 5, "p": null}]),
        json!(["public.u", null, {"id": 6, "b": 6, "p": null}]),
        json!(["public.u", null, {"id": 7, "b": 7, "p": null}]),
        json!(["public.u", null, {"id": 8, "b": 8, "p": null, "d": "1.50"}]),
    ];
    assert_eq!(members(&found, &["channel", "before", "after"]), expected);
    // And again from the journal, whose events keep their shape.
    let path = format!("/v1/events?channel=*&from={}", found[0]["id"].as_u64().unwrap() - 1);
    let again = next(&mut Sse::open(rowcast.address(), &path).await, 9).await;
    assert_eq!(again, found);
}

#[tokio::test]
async fn composites_keep_the_shape_that_their_table_was_seen_with() {
    let sql = "create type pair as (x integer, y text); create table t (id integer primary key, p pair)";
    let (database, _rowcast, mut events) = captured("composite", sql).await;
    database.execute("insert into t values (1, (1, 'y'))").await;
    assert_eq!(next(&mut events, 1).await[0]["after"], json!({"id": 1, "p": {"x": 1, "y": "y"}}));
    database.execute("alter type pair add attribute z boolean").await;
    database.execute("insert into t values (2, (2, 'y', true))").await;
    assert_eq!(next(&mut events, 1).await[0]["after"], json!({"id": 2, "p": {"x": 2, "y": "y", "z": true}}));
}

#[tokio::test]
async fn one_truncate_of_several_tables_is_an_event_of_each() {
    let sql = "create table a (id serial primary key); create table b (id integer primary key, a integer references a);
        create table c (x integer)";
    let (database, _rowcast, mut events) = captured("truncate", sql).await;
    database.execute("begin; insert into c values (1); truncate a, c restart identity cascade; commit").await;
    database.execute("truncate c").await;
    let found = next(&mut events, 5).await;
    let told: Vec<_> = found[1..4].iter().map(|event| event["channel"].as_str().unwrap()).collect();
    let mut sorted = told.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["public.a", "public.b", "public.c"]);
    for (seq, event) in (1..4).zip(&found[1..4]) {
        assert_eq!(event["op"], "truncate");
        assert_eq!(
            (&event["key"], &event["before"], &event["after"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );
        assert_eq!(event["truncate"], json!({"cascade": true, "restart_identity": true}));
        assert_eq!((&event["tx"]["seq"], &event["tx"]["last"]), (&json!(seq), &json!(seq == 3)));
        assert_eq!(event["tx"]["lsn"], found[0]["tx"]["lsn"]);
    }
    let last = json!({"cascade": false, "restart_identity": false});
    assert_eq!((&found[4]["channel"], &found[4]["truncate"]), (&json!("public.c"), &last));
}
