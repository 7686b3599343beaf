//! An ordinary database with nothing prepared; and each thing that can be wrong with it, told with its remedy.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::ndjson::Ndjson;
use crate::support::port::free_port;
use crate::support::postgres::{Stop, connect};
use crate::support::rowcast::{Output, command};
use crate::support::sse::Sse;
use crate::support::{Postgres, Rowcast, SOON, own_servers, wait_for};

/// Schemas, publications and event triggers of rowcast in a database.
async fn made(client: &tokio_postgres::Client) -> i64 {
    let sql = "select (select count(*) from pg_namespace where nspname = 'rowcast')
        + (select count(*) from pg_publication) + (select count(*) from pg_event_trigger)";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// `rowcast run`, which is to refuse: with this code, and words of message and remedy on standard error.
async fn refused(arguments: &[&str], code: i32, words: &[&str]) -> Output {
    let output = command(&[&["run", "--listen", "127.0.0.1:0"], arguments].concat()).await;
    assert_eq!(output.code, code, "{output:?}");
    for word in words {
        assert!(output.stderr.contains(word), "{word:?} is missing in {}", output.stderr);
    }
    assert_eq!(output.stdout, "", "standard output is for data");
    output
}

#[tokio::test]
async fn an_ordinary_database_is_prepared_by_itself() {
    let database = Postgres::shared().await.create_database("setup").await;
    database
        .execute("create table orders (id serial primary key, total numeric); insert into orders (total) values (1)")
        .await;
    let rowcast = Rowcast::of(&database).start().await;
    let mut events = Ndjson::open(rowcast.address(), "/v1/events?channel=public.orders").await.unwrap();
    let open = events.expect("open").await;
    assert_eq!((&open["type"], &open["unknown"]), (&json!("open"), &json!([])), "{open}");
    database.execute("insert into orders (total) values (2.50)").await;
    let event = events.expect("the insert").await;
    assert_eq!((&event["op"], &event["after"]), (&json!("insert"), &json!({"id": 2, "total": "2.50"})));

    // What it made lies in a schema of its own; its own tables are no channels.
    let client = database.client().await;
    let sql = "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where relkind = 'r' and nspname not in ('rowcast', 'pg_catalog', 'information_schema')";
    assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 1);
    let channels = rowcast.get("/v1/channels").await.json();
    let expected =
        json!({"channels": [{"channel": "public.orders", "kind": "table", "inserts_only": false}]});
    assert_eq!(channels, expected);
    let flow = rowcast.get("/v1/health/flow").await;
    assert_eq!((flow.status.as_u16(), flow.json()), (200, json!({"healthy": true, "reasons": []})));
}

#[tokio::test]
async fn the_unix_socket_will_do() {
    let database = Postgres::shared().await.create_database("unix").await;
    let Some(url) = database.socket_url() else { return };
    database.execute("create table t (id integer primary key)").await;
    let slot = format!("source.slot={}", database.name());
    let rowcast = Rowcast::on(url).set(&slot).start().await;
    let mut events = Sse::open(rowcast.address(), "/v1/events?channel=public.t").await;
    database.execute("insert into t select generate_series(1, 5000)").await;
    for id in 1..=5000 {
        assert_eq!(events.expect_event("message").await.json()["after"]["id"], id);
    }
}

#[tokio::test]
async fn new_tables_are_captured() {
    let database = Postgres::shared().await.create_database("new").await;
    let rowcast = Rowcast::of(&database).start().await;
    let mut events = Sse::open(rowcast.address(), "/v1/events?channel=public.*").await;
    database.execute("create table late (id integer primary key)").await;
    wait_for("the new table to be captured", SOON * 2, async || {
        let channels = rowcast.get("/v1/channels").await.text();
        if channels.contains("public.late") { Ok(()) } else { Err(channels) }
    })
    .await;
    database.execute("insert into late values (1)").await;
    assert_eq!(events.expect_event("message").await.json()["after"], json!({"id": 1}));
}

#[tokio::test]
async fn refuses_without_logical_wal() {
    if !own_servers("refuses_without_logical_wal") {
        return;
    }
    let server = Postgres::start(&["wal_level=replica"]).await;
    let words = ["wal_level is replica", "ALTER SYSTEM SET wal_level = logical", "restart"];
    refused(&["--source", &server.url("postgres")], 3, &words).await;
}

#[tokio::test]
async fn refuses_without_a_free_slot_and_with_a_wrong_password() {
    if !own_servers("refuses_without_a_free_slot") {
        return;
    }
    let mut server = Postgres::start(&["max_replication_slots=1"]).await;
    let client = server.client("postgres").await;
    let slot = "select pg_create_logical_replication_slot('other', 'pgoutput'); create role app login password 'right'";
    client.batch_execute(slot).await.unwrap();
    let words = ["slot", "max_replication_slots", "pg_drop_replication_slot"];
    refused(&["--source", &server.url("postgres")], 3, &words).await;
    assert_eq!(made(&client).await, 0, "whoever is refused finds the database as it was");

    server
        .write_hba("host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256")
        .await;
    let url = format!("postgres://app:wrong-secret@127.0.0.1:{}/postgres", server.port());
    wait_for("the server to ask for passwords", SOON, async || match connect(&url).await {
        Ok(_) => Err(String::from("it lets anybody in")),
        Err(_) => Ok(()),
    })
    .await;
    let output =
        refused(&["--source", &url], 3, &["refuses the password of user \"app\"", "~/.pgpass"]).await;
    assert!(!output.stderr.contains("wrong-secret"), "{output:?}");
}

#[tokio::test]
async fn refuses_what_it_cannot_reach_or_has_no_right_to() {
    let server = Postgres::shared().await;
    let database = server.create_database("rights").await;
    let nobody = format!("postgres://postgres@127.0.0.1:{}/postgres", free_port());
    refused(&["--source", &nobody], 3, &["unreachable", "Check that Postgres is running"]).await;
    refused(&["--source", &server.url("nowhere")], 3, &["no database \"nowhere\"", "psql -l"]).await;

    let (client, role) = (database.client().await, database.name());
    client.batch_execute(&format!("create role {role} login password 'sesame'")).await.unwrap();
    let (_, rest) = database.url().rsplit_once('@').expect("a URL with a user");
    let url = format!("postgres://{role}:sesame@{rest}");
    let words =
        [format!("User \"{role}\" has no right to replicate"), format!("ALTER ROLE {role} REPLICATION")];
    // Somebody else's rowcast may have the usual one on this server.
    let slot = format!("source.slot={role}");
    refused(&["--source", &url, "--set", &slot], 3, &words.each_ref().map(String::as_str)).await;

    client.batch_execute(&format!("alter role {role} replication")).await.unwrap();
    let grant = format!("GRANT CREATE ON DATABASE {}", database.name());
    refused(&["--source", &url, "--set", &slot], 3, &["may not create", &grant]).await;
    // It may create, and the table is another's.
    let sql = format!(
        "grant create on database {} to {role}; create table theirs (id integer primary key)",
        database.name()
    );
    client.batch_execute(&sql).await.unwrap();
    let words =
        [&format!("User \"{role}\" does not own public.theirs"), "source.exclude", "source.manage = false"];
    refused(&["--source", &url, "--set", &slot], 3, &words).await;
    assert_eq!(made(&client).await, 0);

    // An empty command leaves a slot behind nowhere.
    let slots = "select count(*) from pg_replication_slots where database = $1";
    assert_eq!(client.query_one(slots, &[&database.name()]).await.unwrap().get::<_, i64>(0), 0);
    client.batch_execute(&format!("drop owned by {role}; drop role {role}")).await.unwrap();
}

#[tokio::test]
async fn a_limit_of_connections_is_whose_it_is() {
    let database = Postgres::shared().await.create_database("limits").await;
    let (client, name) = (database.client().await, database.name());
    let role = format!("create role {name} login replication password 'sesame' connection limit 0");
    client.batch_execute(&role).await.unwrap();
    let (_, rest) = database.url().rsplit_once('@').expect("a URL with a user");
    let (url, slot) = (format!("postgres://{name}:sesame@{rest}"), format!("source.slot={name}"));
    let run = ["--source", &url, "--set", &slot];
    let words =
        [format!("lets user \"{name}\" have no more"), format!("ALTER ROLE \"{name}\" CONNECTION LIMIT")];
    refused(&run, 3, &words.each_ref().map(String::as_str)).await;
    let limits = format!("alter role {name} connection limit -1; alter database {name} connection limit 0");
    client.batch_execute(&limits).await.unwrap();
    let words = [
        format!("lets nobody else connect to database \"{name}\""),
        format!("ALTER DATABASE \"{name}\" CONNECTION LIMIT"),
    ];
    refused(&run, 3, &words.each_ref().map(String::as_str)).await;
    client.batch_execute(&format!("drop role {name}")).await.unwrap();
}

/// Only before the first success of a journal is there nothing to serve.
#[tokio::test]
async fn a_journal_that_has_streamed_is_served_whatever_the_source_says() {
    let database = Postgres::shared().await.create_database("barred").await;
    let (client, role) = (database.client().await, database.name());
    let sql = format!(
        "create table t (id integer primary key); create role {role} login superuser password 'sesame'"
    );
    client.batch_execute(&sql).await.unwrap();
    let (_, rest) = database.url().rsplit_once('@').expect("a URL with a user");
    let slot = format!("source.slot={role}");
    let mut rowcast = Rowcast::on(&format!("postgres://{role}:sesame@{rest}")).set(&slot).start().await;
    database.execute("insert into t values (1)").await;
    let mut events = Sse::open(rowcast.address(), "/v1/events?from=earliest").await;
    let first = events.expect_event("message").await;
    assert_eq!(rowcast.terminate().await, 0);

    // With a budget for the slot and without, somebody has to serve.
    for budget in [None, Some("source.wal_budget=1GB")] {
        client.batch_execute(&format!("alter role {role} nologin")).await.unwrap();
        if let Some(budget) = budget {
            rowcast = rowcast.set(budget);
        }
        rowcast.resume().await;
        wait_for("the refusal to be told", SOON, async || {
            let status = rowcast.status().await;
            let (state, reasons) = (&status["source"]["state"], status["reasons"].to_string());
            // It is tried again: what is mended in the database needs no restart here.
            let told = state == "reconnecting" && reasons.contains("LOGIN");
            if told { Ok(()) } else { Err(status["source"].to_string()) }
        })
        .await;
        assert_eq!(rowcast.get("/v1/health/flow").await.status, 503);
        let mut events = Sse::open(rowcast.address(), "/v1/events?from=earliest").await;
        assert_eq!(events.expect_event("message").await.id, first.id);
        wait_for("the log to say so", SOON, async || {
            let log = rowcast.log();
            if log.contains("the doors go on serving") { Ok(()) } else { Err(log) }
        })
        .await;
        assert_eq!(rowcast.terminate().await, 0);
    }

    // What it says to do helps.
    client.batch_execute(&format!("alter role {role} login; insert into t values (2)")).await.unwrap();
    rowcast.resume().await;
    let mut events = Sse::resume(rowcast.address(), "/v1/events", first.id.as_deref()).await.unwrap();
    assert_eq!(events.expect_event("message").await.json()["after"]["id"], 2);
    assert_eq!(rowcast.terminate().await, 0);
    let slot = format!("select pg_drop_replication_slot('{role}')");
    client.batch_execute(&slot).await.unwrap();
    client
        .batch_execute(&format!("reassign owned by {role} to current_user; drop role {role}"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_run_that_captures_nothing_says_so() {
    let database = Postgres::shared().await.create_database("nothing").await;
    let rowcast = Rowcast::of(&database).start().await;
    let log = rowcast.log();
    let warned = log.lines().filter(|line| line.contains("No table is captured")).collect::<Vec<_>>();
    assert!(warned.len() == 1 && warned[0].contains("WARN") && warned[0].contains("--tables"), "{log}");
}

#[tokio::test]
async fn refuses_wrong_usage_and_a_second_process() {
    let database = Postgres::shared().await.create_database("usage").await;
    let source = ["--source", database.url()];
    let words = ["http.lisen", "Did you mean http.listen?"];
    refused(&[&source[..], &["--set", "http.lisen=127.0.0.1:0"]].concat(), 2, &words).await;
    refused(&[&source[..], &["--tabels", "x"]].concat(), 2, &["--tabels", "--tables"]).await;
    refused(&[], 2, &["--source"]).await;
    refused(&["--source", "mysql://x"], 2, &["postgres://"]).await;
    let open = ["--set", "http.listen=0.0.0.0:0"];
    refused(&[&source[..], &open].concat(), 2, &["open to other machines", "auth = \"none\""]).await;

    let rowcast = Rowcast::of(&database).start().await;
    let data = rowcast.data().display().to_string();
    refused(&[&source[..], &["--data", &data]].concat(), 4, &[&data, "process"]).await;
    assert_eq!(rowcast.status().await["healthy"], true);
    // Another installation would take the first one's changes away.
    let slot = format!("source.slot={}", database.name());
    refused(&[&source[..], &["--set", &slot]].concat(), 3, &["another installation", "rowcast adopt"]).await;
}

#[tokio::test]
async fn an_idle_database_lets_its_slot_advance() {
    let server = Postgres::shared().await;
    let (idle, busy) = (server.create_database("idle").await, server.create_database("busy").await);
    idle.execute("create table t (id integer primary key)").await;
    let _rowcast = Rowcast::of(&idle).start().await;
    busy.execute("create table t as select generate_series(1, 50000) as n").await;
    let client = idle.client().await;
    let goal: String = client.query_one("select pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    let sql = "select confirmed_flush_lsn::text, confirmed_flush_lsn >= $1::text::pg_lsn and restart_lsn is not null
        from pg_replication_slots where slot_name = $2";
    wait_for("the idle database's slot to advance", SOON * 2, async || {
        let row = client.query_one(sql, &[&goal, &idle.name()]).await.map_err(|error| error.to_string())?;
        let confirmed: String = row.get(0);
        if row.get(1) { Ok(()) } else { Err(format!("{confirmed} of {goal}")) }
    })
    .await;
}

#[tokio::test]
async fn postgres_stops_fast_and_is_found_again() {
    if !own_servers("postgres_stops_fast_and_is_found_again") {
        return;
    }
    let mut server = Postgres::start(&[]).await;
    let database = server.create_database("stop").await;
    database.execute("create table t (id serial primary key, v text)").await;
    let mut rowcast = Rowcast::of(&database).start().await;
    let mut events = Sse::open(rowcast.address(), "/v1/events?channel=public.t").await;
    database.execute("insert into t (v) select 'x' from generate_series(1, 20000)").await;

    // The server waits for the stream's end, whose reader cannot even ask the catalog for the new table any more.
    let start = Instant::now();
    server.stop(Stop::Fast).await;
    assert!(start.elapsed() < Duration::from_secs(5), "It took {:?}", start.elapsed());
    wait_for("the loss to be told", SOON, async || {
        let flow = rowcast.get("/v1/health/flow").await;
        if flow.status == 503 { Ok(()) } else { Err(flow.text()) }
    })
    .await;
    assert_eq!(rowcast.get("/readyz").await.status, 200, "clients are served all the same");

    server.resume().await;
    rowcast.wait_streaming().await;
    database.execute("insert into t (v) values ('back')").await;
    for id in 1..=20_001 {
        assert_eq!(events.expect_event("message").await.json()["after"]["id"], id);
    }

    // Now that it knows the table, it has everything before the server is gone.
    database.execute("insert into t (v) select 'y' from generate_series(1, 20000)").await;
    let start = Instant::now();
    server.stop(Stop::Fast).await;
    assert!(start.elapsed() < Duration::from_secs(5), "It took {:?}", start.elapsed());
    for id in 20_002..=40_001 {
        assert_eq!(events.expect_event("message").await.json()["after"]["id"], id);
    }
    assert_eq!(rowcast.terminate().await, 0);
}
