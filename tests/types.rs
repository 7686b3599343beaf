//! Every column type of stock Postgres: stream and snapshot show what Postgres' own `to_jsonb` says.

mod cases;

use std::fmt::Write as _;

use tokio_postgres::Client;

use crate::support::rowcast::command;
use crate::support::sse::{Sse, SseEvent};
use crate::support::{Database, Postgres, Rowcast};
use cases::{CASES, Case};

const SCHEMA: &str = include_str!("data/types.sql");

/// Under these Postgres prints what the stream has to show.
const RENDERING: &str = "set timezone to 'UTC'; set intervalstyle to iso_8601; set datestyle to 'ISO';
    set bytea_output to hex; set lc_monetary to 'C'; set extra_float_digits to 1;";

/// What an administrator may have set for the role, and what must not change a value.
const HOSTILE: &[&str] = &[
    "datestyle = 'German, DMY'",
    "intervalstyle = sql_standard",
    "timezone = 'Asia/Kathmandu'",
    "bytea_output = escape",
    "extra_float_digits = -15",
    "search_path = nowhere",
    "statement_timeout = '1ms'",
    "lock_timeout = '1ms'",
    "idle_in_transaction_session_timeout = '1ms'",
    "idle_session_timeout = '1s'",
    "client_encoding = latin1",
    "xmlbinary = hex",
    "quote_all_identifiers = on",
    "default_transaction_isolation = serializable",
];

fn row_count() -> usize {
    CASES.iter().map(|case| case.values.len()).max().unwrap_or_default()
}

fn table_sql() -> String {
    let mut sql = String::from("create table types (id integer primary key");
    for (number, Case { ty, .. }) in CASES.iter().enumerate() {
        write!(sql, ", c{number} {ty}").unwrap();
    }
    sql + "); alter table types replica identity full"
}

/// A row with the values of this number of all columns, null where there is none.
fn insert_sql(row: usize) -> String {
    let mut sql = format!("insert into types values ({row}");
    for Case { ty, values, .. } in CASES {
        match values.get(row) {
            Some(value) => match value.strip_prefix("sql:") {
                Some(expression) => write!(sql, ", ({expression})::{ty}").unwrap(),
                None => write!(sql, ", $v${value}$v$::{ty}").unwrap(),
            },
            // The one type that knows no null.
            None if *ty == "short_text" => sql += ", 'filler'",
            None => sql += ", null",
        }
    }
    sql + ")"
}

/// Keeps what the stream has to show in a table.
fn expected_sql() -> String {
    let mut members = Vec::new();
    for (number, Case { shown, .. }) in CASES.iter().enumerate() {
        let shown = if shown.is_empty() { "to_jsonb($)" } else { shown };
        let column = format!("t.c{number}");
        members.push(format!("jsonb_build_object('c{number}', {})", shown.replace('$', &column)));
    }
    let members = members.join(" || ");
    format!(
        "create table expected as select id, jsonb_build_object('id', id) || {members} as row from types t"
    )
}

/// Compares a row of an event with what it has to be, both as jsonb in Postgres.
async fn compare(client: &Client, event: &SseEvent, op: &str, member: &str) -> Vec<String> {
    let query = "
        select key, (row -> key)::text, (ours -> key)::text
        from (select $1::text::jsonb -> $2::text as ours) event, expected,
            lateral (select jsonb_object_keys(row || ours) as key) keys
        where id = (ours ->> 'id')::integer and (row -> key) is distinct from (ours -> key)";
    let rows = client.query(query, &[&event.data, &member]).await.expect("jsonb");
    let show = |row: &tokio_postgres::Row| {
        let (column, expected, ours): (&str, Option<&str>, Option<&str>) =
            (row.get(0), row.get(1), row.get(2));
        let ty = column.strip_prefix('c').and_then(|number| CASES.get(number.parse::<usize>().ok()?));
        let ty = ty.map_or("id", |case| case.ty);
        format!(
            "{member} of {op}, {ty}: Postgres says {}, rowcast {}",
            expected.unwrap_or("nothing"),
            ours.unwrap_or("nothing")
        )
    };
    rows.iter().map(show).collect()
}

/// Version 14 knows no scale below zero or above the precision.
fn as_known(sql: &str, version: i32) -> String {
    let sql = sql.to_owned();
    if version >= 150_000 {
        return sql;
    }
    sql.replace("numeric(5,-2)", "numeric").replace("numeric(3,5)", "numeric")
}

/// Inserts all rows, has them read, and deletes them, while the program, logged in at `url`, is watching; then compares.
async fn judge(database: &Database, url: &str) {
    let client = database.client().await;
    let version = database.version().await;
    database.execute(SCHEMA).await;
    database.execute(&as_known(&table_sql(), version)).await;
    let slot = format!("source.slot={}", database.name());
    let rowcast = Rowcast::on(url).with(&["--tables", "public.types"]).set(&slot).start().await;
    let mut stream = Sse::open(rowcast.address(), "/v1/events?channel=public.types&from=earliest").await;

    client.batch_execute(RENDERING).await.unwrap();
    for row in 0..row_count() {
        let sql = as_known(&insert_sql(row), version);
        client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{error:?}\nin: {sql}"));
    }
    client.batch_execute(&expected_sql()).await.unwrap();
    let data = rowcast.data().display().to_string();
    let asked = command(&["snapshot", "public.types", "--detach", "--data", &data]).await;
    assert_eq!(asked.code, 0, "{asked:?}");

    let mut wrong = Vec::new();
    for (op, member) in [("insert", "after"), ("read", "after"), ("delete", "before")] {
        if op == "delete" {
            client.batch_execute("delete from types").await.unwrap();
        }
        for _ in 0..row_count() {
            let event = stream.expect_event("message").await;
            // As text: no number of Rust holds 1e400, which a JSON value may be.
            let right =
                event.data.contains(&format!("\"op\":\"{op}\"")) && !event.data.contains("\"errors\":");
            assert!(right, "{op}, and all values rendered: {}", event.data);
            wrong.extend(compare(&client, &event, op, member).await);
        }
    }
    assert!(wrong.is_empty(), "{} values are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn every_type_is_shown_as_postgres_says() {
    let database = Postgres::shared().await.create_database("types").await;
    judge(&database, database.url()).await;
}

#[tokio::test]
async fn settings_of_the_role_change_nothing() {
    let database = Postgres::shared().await.create_database("hostile").await;
    let (client, role) = (database.client().await, database.name());
    client
        .batch_execute(&format!("create role {role} superuser login replication password 'sesame'"))
        .await
        .unwrap();
    for setting in HOSTILE {
        client.batch_execute(&format!("alter role {role} set {setting}")).await.unwrap();
    }
    // Not every machine has the locale.
    let _ = client.batch_execute(&format!("alter role {role} set lc_monetary = 'en_US.UTF-8'")).await;
    let (_, server) = database.url().rsplit_once('@').expect("a URL with a user");
    judge(&database, &format!("postgres://{role}:sesame@{server}")).await;
}

#[tokio::test]
async fn numbers_come_as_strings_when_asked_for() {
    let database = Postgres::shared().await.create_database("numbers").await;
    database
        .execute("create table t (i integer primary key, b bigint, n numeric, bs bigint[], f float8)")
        .await;
    let rowcast = Rowcast::of(&database).start().await;
    database
        .execute("insert into t values (7, 9007199254740993, 1.50, '{9007199254740993,null}', 0.5)")
        .await;
    for (numbers, b, n, list) in [
        ("mixed", "9007199254740993", "\"1.50\"", "[9007199254740993,null]"),
        ("string", "\"9007199254740993\"", "\"1.50\"", "[\"9007199254740993\",null]"),
        ("number", "9007199254740993", "1.50", "[9007199254740993,null]"),
    ] {
        let path = format!("/v1/events?channel=public.t&from=earliest&numbers={numbers}");
        let event = Sse::open(rowcast.address(), &path).await.expect_event("message").await;
        let after = format!("\"after\":{{\"i\":7,\"b\":{b},\"n\":{n},\"bs\":{list},\"f\":0.5}}");
        assert!(event.data.contains(&after), "{numbers}: {after} in {}", event.data);
    }
}
