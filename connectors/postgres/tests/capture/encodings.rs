//! Databases in other encodings: the server recodes, except where it knows none.

use rowcast_engine::format::native::{self, NativeOptions};
use rowcast_engine::journal::Read;
use rowcast_postgres::conninfo::Conninfo;
use rowcast_postgres::wire::sql_client;
use rowcast_postgres::{Config, Streaming};
use serde_json::Value;
use tokio_postgres::Client;

use super::harness::{Capture, Directory, config, run, sql, until};
use crate::support::Server;

/// A database in an encoding of its own: a session in it, and how to capture it.
async fn database(server: &Server, encoding: &str) -> (Client, Config) {
    let create = format!("create database other template template0 encoding '{encoding}' locale 'C'");
    sql(server).await.execute(&create, &[]).await.unwrap();
    let url = server.admin().replace("dbname=postgres", "dbname=other");
    let client = sql_client(&Conninfo::parse(&url).unwrap()).await.unwrap();
    (client, Config { url, ..config(server) })
}

/// The newest event as readers get it.
fn rendered(capture: &Capture) -> Value {
    rendered_of(capture, capture.journal.newest())
}

/// The event of a number likewise.
fn rendered_of(capture: &Capture, id: u64) -> Value {
    let Read::Batches(batches) = capture.journal.read(id - 1).unwrap() else { panic!("no batch") };
    let mut line = Vec::new();
    for batch in &batches {
        for event in batch.events().filter(|event| event.id == id) {
            native::write_event(&mut line, &event, &NativeOptions::default());
        }
    }
    serde_json::from_slice(&line)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&line)))
}

#[tokio::test]
async fn bytes_of_a_database_without_encoding() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, config) = database(&server, "SQL_ASCII").await;
    run(&client, "create table t (id int primary key, v text, w text)").await;
    run(&client, "alter table t replica identity full").await;
    let capture = Capture::start(config, directory.path()).await;
    // Latin-1; UTF-8 that is cut off; UTF-8 that is sound.
    let bytes = |hex: &str| format!("convert_from('\\x{hex}', 'SQL_ASCII')");
    for (id, hex) in [(1, "67e46e7a"), (2, "61c3"), (3, "67c3a46e7a")] {
        run(&client, &format!("insert into t values ({id}, {}, 'plain')", bytes(hex))).await;
        capture.wait(id).await;
        let event = rendered(&capture);
        assert_eq!((&event["after"]["id"], &event["after"]["w"]), (&Value::from(id), &Value::from("plain")));
        match id {
            // What is no text is named; the rest of the row is there, and the stream goes on.
            1 | 2 => {
                assert!(event["after"].get("v").is_none(), "{event}");
                assert_eq!(event["errors"][0]["column"], "v", "{event}");
            }
            _ => assert_eq!((event["after"]["v"].as_str(), event.get("errors")), (Some("gänz"), None)),
        }
    }
    run(&client, "update t set w = 'changed' where id = 1; delete from t where id = 2").await;
    capture.wait(5).await;
    assert_eq!(rendered(&capture)["before"]["id"], 2);
    // A custom event is JSON, which is UTF-8.
    run(&client, &format!("select rowcast.publish('e', ('[\"' || {} || '\"]')::jsonb)", bytes("e4"))).await;
    let briefs = capture.briefs(6).await;
    assert!(briefs[5].starts_with("message rowcast.rejected"), "{}", briefs[5]);
    capture.stop().await;
}

#[tokio::test]
async fn rows_of_a_database_without_encoding_are_read_as_they_are() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, config) = database(&server, "SQL_ASCII").await;
    run(
        &client,
        "create table t (id int primary key, v text);
         insert into t values (1, convert_from('\\x67e46e7a', 'SQL_ASCII')), (2, convert_from('\\x67c3a46e7a', 'SQL_ASCII'))",
    )
    .await;
    let config = Config { snapshot: Some(rowcast_postgres::SnapshotMode::Initial), ..config };
    let capture = Capture::start(config, directory.path()).await;
    let events = capture.wait(2).await;
    assert_eq!(events[1].brief(), "read public.t 2,gänz");
    assert!(events[0].brief().starts_with("read public.t 1,g\u{fffd}"), "{}", events[0].brief());
    // What is no text is named, as in the stream.
    let event = rendered_of(&capture, events[0].id);
    assert_eq!((&event["op"], &event["after"]["id"]), (&Value::from("read"), &Value::from(1)), "{event}");
    assert!(event["after"].get("v").is_none(), "{event}");
    assert_eq!(event["errors"][0]["column"], "v", "{event}");
    let event = rendered(&capture);
    assert_eq!((event["after"]["v"].as_str(), event.get("errors")), (Some("gänz"), None), "{event}");
    capture.stop().await;
}

#[tokio::test]
async fn names_and_values_in_latin_1() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, config) = database(&server, "LATIN1").await;
    run(&client, "create table größe (id int primary key, \"Maß\" text)").await;
    let capture = Capture::start(config, directory.path()).await;
    run(&client, "insert into größe values (1, 'gänz')").await;
    // What is not a row the server does not recode: our functions do. Who writes past them in other bytes is told so.
    let named = r#"{"Maß": "\u00fcber", "größe": "ä"}"#;
    run(&client, &format!(r#"select rowcast.publish('e', '"über"'), rowcast.publish('e', '{named}')"#)).await;
    run(&client, r#"select pg_logical_emit_message(true, 'rowcast.event.e', '"über"')"#).await;
    let briefs = capture.briefs(4).await;
    let whole = r#"message e {"Maß": "über", "größe": "ä"}"#;
    assert_eq!(briefs[..3], ["insert public.\"größe\" 1,gänz", r#"message e "über""#, whole]);
    assert!(briefs[3].starts_with("message rowcast.rejected"), "{}", briefs[3]);
    run(&client, r#"select rowcast.snapshot('größe', '"Maß" = ''gänz''')"#).await;
    assert_eq!(capture.briefs(5).await[4], "read public.\"größe\" 1,gänz");
    assert_eq!(capture.schema("public.\"größe\"").columns[1].name, "Maß");
    capture.stop().await;
}

/// Every role may send a message, and the server does not look at what is in its prefix.
#[tokio::test]
async fn a_message_whose_prefix_is_no_text_ends_no_capture() {
    for streaming in [Streaming::Off, Streaming::On] {
        let (server, directory) = (Server::start("logical_decoding_work_mem = '64kB'"), Directory::new());
        let (client, config) = database(&server, "SQL_ASCII").await;
        run(&client, "create table t (id int primary key, v text); create role anybody login").await;
        let capture = Capture::start(Config { streaming, ..config }, directory.path()).await;
        let sent = "set role anybody;
            select pg_logical_emit_message(false, E'\\xe4', ''), pg_logical_emit_message(true, E'\\xe4', '');
            select pg_logical_emit_message(false, E'rowcast.event.\\xe4', '1');
            reset role";
        run(&client, sent).await;
        // In the midst of a transaction that may be sent before it commits.
        run(
            &client,
            "begin; insert into t select 1, repeat('x', 1000000);
             select pg_logical_emit_message(true, E'\\xe4', ''); insert into t values (2); commit",
        )
        .await;
        let events = capture.wait(3).await;
        assert!(events[0].brief().starts_with("message rowcast.rejected"), "{}", events[0].brief());
        assert_eq!(events[2].brief(), "insert public.t 2,NULL");
        assert_eq!(capture.report().source.reconnects, 0);
        capture.stop().await;
    }
}

/// What the server cannot recode it does not send, and it stands in the log: who reads is told how to get past it.
#[tokio::test]
async fn a_character_without_utf_8_is_passed_behind_a_gap() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, config) = database(&server, "WIN1252").await;
    run(&client, "create table t (id int primary key)").await;
    let found = rowcast_postgres::check(&config).await.unwrap();
    let encoding = found.iter().find(|found| found.name == "encoding").unwrap();
    assert!(encoding.ok && encoding.found.contains("WIN1252") && encoding.remedy.is_some(), "{encoding:?}");
    let capture = Capture::start(config.clone(), directory.path()).await;
    run(&client, "insert into t values (1)").await;
    capture.wait(1).await;
    run(&client, "select pg_logical_emit_message(true, chr(129), ''); insert into t values (2)").await;
    let error = capture.fails().await;
    let remedy = error.remedy().unwrap();
    assert!(error.to_string().contains("has no UTF-8") && error.to_string().contains("22P05"), "{error}");
    assert!(remedy.contains("pg_drop_replication_slot") && remedy.contains("rowcast adopt"), "{remedy}");
    // As it says.
    run(&client, "select pg_drop_replication_slot('rowcast')").await;
    let mut capture = Capture::launch(config, directory.path());
    capture.waits("is gone").await;
    capture.status.adopt().await.unwrap().unwrap();
    capture.streams().await;
    run(&client, "insert into t values (3)").await;
    assert_eq!(capture.briefs(3).await, ["insert public.t 1", "gap source_lost", "insert public.t 3"]);
    capture.stop().await;
}

/// Sent before it commits, it ends no capture when it is rolled back: sent whole, it is not met again.
#[tokio::test]
async fn a_character_without_utf_8_that_is_rolled_back_ends_no_capture() {
    let (server, directory) = (Server::start("logical_decoding_work_mem = '64kB'"), Directory::new());
    let (client, config) = database(&server, "WIN1252").await;
    run(&client, "create table t (id int primary key, v text)").await;
    let capture =
        Capture::start(Config { streaming: Streaming::On, ..config.clone() }, directory.path()).await;
    run(&client, "insert into t values (1)").await;
    capture.wait(1).await;
    let large = "insert into t select id, repeat('x', 200) || chr(129) from generate_series(1000, 3000) id";
    run(&client, &format!("begin; {large}")).await;
    let sent = || capture.report().source;
    until("whole transactions", async || {
        assert_ne!(sent().state, "stopped", "{:?}", sent().reason);
        sent().state == "streaming" && sent().large_transactions.contains("up to the next start")
    })
    .await;
    run(&client, "rollback").await;
    run(&client, "insert into t values (2)").await;
    assert_eq!(capture.briefs(2).await, ["insert public.t 1,NULL", "insert public.t 2,NULL"]);
    // One that commits is met, and told.
    run(&client, large).await;
    let error = capture.fails().await;
    assert!(error.to_string().contains("has no UTF-8") && error.remedy().is_some(), "{error}");
}
