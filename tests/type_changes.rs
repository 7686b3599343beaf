//! Types go by their OID: what they are called, and what else is called so, changes nothing.

use serde_json::{Value, json};

use crate::support::sse::Sse;
use crate::support::{Postgres, Rowcast};

/// The next event's row without its key, and its schema version.
async fn next(stream: &mut Sse, id: u64) -> (Value, Value) {
    let event = stream.expect_event("message").await.json();
    assert!(event["after"]["id"] == id && event["errors"].is_null(), "row {id}: {event}");
    (event["after"].clone(), event["schema"].clone())
}

#[tokio::test]
async fn names_of_types_change_nothing() {
    let database = Postgres::shared().await.create_database("oids").await;
    database
        .execute(
            "create schema a; create schema b; create type a.mood as enum ('x'); create type b.mood as enum ('y');
             create type pair as (n integer, t text);
             create table t (id integer primary key, m a.mood, n b.mood, ms a.mood[], p pair)",
        )
        .await;
    let rowcast = Rowcast::of(&database).start().await;
    let mut stream = Sse::open(rowcast.address(), "/v1/events?channel=public.t").await;
    stream.expect("open").await;
    database.execute("insert into t values (1, 'x', 'y', '{x,NULL}', (1, 'a'))").await;
    let (row, first) = next(&mut stream, 1).await;
    let expected = json!({"id": 1, "m": "x", "n": "y", "ms": ["x", null], "p": {"n": 1, "t": "a"}});
    assert_eq!(row, expected);

    // Other names, other labels.
    database
        .execute("alter type a.mood rename to feeling; insert into t values (2, 'x', 'y', '{x}', null)")
        .await;
    assert_eq!(next(&mut stream, 2).await.0["ms"], json!(["x"]));
    database.execute("alter type a.feeling add value 'z' before 'x'").await;
    database.execute("insert into t values (3, 'z', 'y', '{z,x}', null)").await;
    assert_eq!(next(&mut stream, 3).await.0["ms"], json!(["z", "x"]));
    database.execute("alter type a.feeling rename value 'x' to 'ex'; alter type b.mood set schema a").await;
    database.execute("insert into t values (4, 'ex', 'y', '{ex}', null)").await;
    let (row, _) = next(&mut stream, 4).await;
    assert_eq!((&row["m"], &row["n"]), (&json!("ex"), &json!("y")));

    // Another type under the old name, of another kind.
    database
        .execute(
            "alter table t drop column m, drop column ms; drop type a.feeling;
             create type a.feeling as (deep integer[]); alter table t add column m a.feeling;
             insert into t values (5, 'y', null, row('{1,2}'))",
        )
        .await;
    let (row, second) = next(&mut stream, 5).await;
    assert_eq!(row, json!({"id": 5, "n": "y", "p": null, "m": {"deep": [1, 2]}}));
    assert_ne!(first, second);

    // A row type changes without a word of the stream.
    database.execute("alter type pair add attribute j jsonb").await;
    database.execute("insert into t values (6, 'y', (2, 'b', '{\"k\": [1]}'), null)").await;
    let (row, third) = next(&mut stream, 6).await;
    assert_eq!(row["p"], json!({"n": 2, "t": "b", "j": {"k": [1]}}));
    assert_ne!(second, third);
    database.execute("alter type pair rename attribute n to number").await;
    database.execute("insert into t values (7, 'y', (3, 'c', null), null)").await;
    let (row, third) = next(&mut stream, 7).await;
    assert_eq!(row["p"], json!({"number": 3, "t": "c", "j": null}));

    // Each version that an event named has been told before it, and is there to be asked for.
    let told: Vec<_> = stream.schemas.iter().map(|told| told["schema"].clone()).collect();
    assert!(
        told.first() == Some(&first) && told.contains(&second) && told.last() == Some(&third),
        "{told:?}"
    );
    for version in &told {
        let answer = rowcast.get(&format!("/v1/schemas/public.t?version={version}")).await.json();
        let names: Vec<_> =
            answer["versions"][0]["columns"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
        assert!(names.len() >= 4 && names[0] == "id", "{version}: {answer}");
    }
    let answer = rowcast.get(&format!("/v1/schemas/public.t?version={third}")).await.json();
    let pair = &answer["versions"][0]["columns"][2];
    assert_eq!(
        (&pair["name"], &pair["type"], &pair["fields"][2]["type"]),
        (&json!("p"), &json!("pair"), &json!("jsonb"))
    );
    let status = rowcast.status().await;
    assert_eq!(status["source"]["reconnects"], 0, "{status}");
    assert!(!rowcast.get("/metrics").await.text().contains("rowcast_unrendered_values_total"));
}

/// A type that is called as one of an extension's, but is somebody's own.
#[tokio::test]
async fn a_type_is_not_taken_for_an_extensions_by_its_name() {
    let database = Postgres::shared().await.create_database("own_hstore").await;
    database
        .execute(
            "create schema own; create type own.hstore;
             create function own.come(cstring) returns own.hstore language internal immutable strict as 'textin';
             create function own.go(own.hstore) returns cstring language internal immutable strict as 'textout';
             create type own.hstore (input = own.come, output = own.go, like = text);
             create extension hstore schema public;
             create table t (id integer primary key, mine own.hstore, mines own.hstore[], theirs public.hstore)",
        )
        .await;
    let rowcast = Rowcast::of(&database).start().await;
    let mut stream = Sse::open(rowcast.address(), "/v1/events?channel=public.t").await;
    stream.expect("open").await;
    database.execute("insert into t values (1, '\"a\"=>\"1\"', '{b}', 'a=>1'), (2, '=>', null, null)").await;
    let (row, _) = next(&mut stream, 1).await;
    assert_eq!(row, json!({"id": 1, "mine": "\"a\"=>\"1\"", "mines": ["b"], "theirs": {"a": "1"}}));
    assert_eq!(next(&mut stream, 2).await.0["mine"], json!("=>"));
}
