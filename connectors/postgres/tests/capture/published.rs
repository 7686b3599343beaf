//! The publications that the stream reads: a wrong name loses nothing, one that was made anew does.

use std::time::Duration;

use rowcast_engine::Kind;
use rowcast_postgres::{Config, OnGap};

use super::breaks::{POLICIES, gaps, goes_on, make_anew, one_row, stays};
use super::harness::{Capture, Directory, config, run, sql, until};
use super::left_out::renew_slot;
use crate::log::logged;
use crate::support::Server;

/// It is refused like any other mistake in the configuration, and nothing of it is left.
#[tokio::test]
async fn a_wrong_name_is_no_lost_history() {
    for policy in POLICIES {
        let (server, directory, config) = one_row("", policy).await;
        let client = sql(&server).await;
        let wrong = Config { publication: "another".to_owned(), ..config.clone() };
        for _ in 0..2 {
            let error = Capture::launch(wrong.clone(), directory.path()).fails().await;
            assert_eq!(error.kind(), Kind::Refused);
            let words =
                "publication another does not exist; the journal's stream reads rowcast and rowcast_inserts";
            assert!(error.to_string().contains(words), "{error}");
            assert!(error.remedy().unwrap().contains("source.publication"), "{:?}", error.remedy());
        }
        run(&client, "insert into t values (2)").await;
        let capture = Capture::start(config.clone(), directory.path()).await;
        let expected = ["insert public.t 1", "insert public.t 2"];
        stays(config, capture, &directory, &expected).await;
        // Somebody who means it.
        let capture = Capture::start(Config { adopt: true, ..wrong.clone() }, directory.path()).await;
        assert_eq!(gaps(&capture).len(), 1);
        run(&client, "insert into t values (3)").await;
        let expected = [&expected[..], &["gap source_lost", "insert public.t 3"]].concat();
        stays(Config { on_gap: OnGap::Stop, ..wrong }, capture, &directory, &expected).await;
    }
}

/// Under the same name, with the same tables: from version 18 on the server says nothing of it.
#[tokio::test]
async fn one_that_was_made_anew_while_nobody_looked_is_noticed() {
    for policy in POLICIES {
        for name in ["rowcast", "rowcast_inserts"] {
            let (server, directory, config) = one_row("", policy).await;
            let client = sql(&server).await;
            let tables = if name == "rowcast" { "for table t" } else { "" };
            run(&client, &format!("drop publication {name}")).await;
            run(&client, "insert into t values (2)").await;
            run(&client, &format!("create publication {name} {tables}")).await;
            run(&client, "insert into t values (3)").await;
            let words = format!("The publication {name} was dropped");
            let capture = goes_on(config.clone(), &directory, &words, "source_lost").await;
            run(&client, "insert into t values (4)").await;
            let expected = ["insert public.t 1", "gap source_lost", "insert public.t 4"];
            stays(config, capture, &directory, &expected).await;
        }
    }
}

/// The server shows a stream the publications that it was begun with, and none before it was made: also not what a
/// transaction wrote that was running as it was made.
#[tokio::test]
async fn one_that_appears_is_read_from_a_gap_on() {
    let (mut server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table t (id int primary key); create table nokey (id int); create publication appears for table t",
    )
    .await;
    run(&client, "select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await;
    let config = Config { manage: false, publication: "appears".to_owned(), ..config(&server) };
    let capture = Capture::start(config.clone(), directory.path()).await;
    run(&client, "insert into t values (1)").await;
    capture.wait(1).await;

    let runs = sql(&server).await;
    run(&runs, "begin; insert into nokey values (1)").await;
    let publication =
        "create publication appears_inserts for table nokey with (publish = 'insert, truncate')";
    run(&client, publication).await;
    run(&client, "insert into nokey values (2)").await;
    let told = || logged("publication=\"appears_inserts\"", "the stream does not read it yet");
    until("the word of it", async || !told().is_empty()).await;
    // Not as long as a transaction runs that began before.
    capture.status.look_again();
    run(&client, "insert into t values (2)").await;
    capture.wait(2).await;
    assert_eq!(capture.report().source.tables.keys().collect::<Vec<_>>(), ["public.t"]);
    run(&runs, "commit").await;
    until("the gap", async || !gaps(&capture).is_empty()).await;
    assert_eq!(told().len(), 1);
    // Shown a moment later.
    until("the table", async || capture.report().source.tables.contains_key("public.nokey")).await;
    run(&client, "insert into nokey values (3); insert into t values (3)").await;
    let expected = [
        "insert public.t 1",
        "insert public.t 2",
        "gap public.nokey not_published",
        "insert public.nokey 3",
        "insert public.t 3",
    ];
    assert_eq!(capture.briefs(5).await, expected);

    // What the server repeats of before was asked for in another way: that is no lost history.
    capture.crash().await;
    drop((client, runs));
    server.stop();
    server.relaunch();
    let capture = Capture::start(config.clone(), directory.path()).await;
    stays(config, capture, &directory, &expected).await;
}

/// Rows are missed meanwhile: whoever looks after rowcast hears of it, and what ends it.
#[tokio::test]
async fn what_one_waits_for_is_named_where_that_lasts() {
    let (server, directory) = (Server::start("max_prepared_transactions = 2"), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key); create table late (id int)").await;
    run(&client, "create publication awaited for table t").await;
    run(&client, "select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await;
    let config = Config { manage: false, publication: "awaited".to_owned(), ..config(&server) };
    let mut capture = Capture::start(config, directory.path()).await;
    capture.streams().await;
    run(&client, "begin; insert into late values (1); prepare transaction 'it''s long'").await;
    run(&client, "create publication awaited_inserts for table late with (publish = 'insert, truncate')")
        .await;
    // A minute is no trouble yet.
    let lasts = async {
        while capture.report().source.unread.is_none() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(180), lasts).await.expect("nobody is told");
    let report = capture.report();
    let told = report.source.unread.unwrap();
    for words in ["publication awaited_inserts was made", "'it''s long' of postgres", "ROLLBACK PREPARED"] {
        assert!(told.contains(words), "{told}");
    }
    assert!(!report.healthy && report.reasons.contains(&told), "{:?}", report.reasons);
    client.batch_execute("rollback prepared 'it''s long'").await.unwrap();
    until("the table", async || capture.report().source.tables.contains_key("public.late")).await;
    until("health", async || capture.report().source.unread.is_none()).await;
    capture.stop().await;
}

/// Made while nobody looked, it is read likewise.
#[tokio::test]
async fn one_that_has_appeared_while_nobody_looked_is_read_from_a_gap_on() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table t (id int primary key); create table late (id int primary key);
         create publication unseen for table t",
    )
    .await;
    run(&client, "select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await;
    let config = Config { manage: false, publication: "unseen".to_owned(), ..config(&server) };
    let capture = Capture::start(config.clone(), directory.path()).await;
    run(&client, "insert into t values (1)").await;
    capture.wait(1).await;
    capture.stop().await;
    run(&client, "insert into late values (1); insert into t values (2)").await;
    run(&client, "create publication unseen_inserts for table late with (publish = 'insert, truncate')")
        .await;
    run(&client, "insert into late values (2); insert into t values (3)").await;
    // A capture that is cut off as it begins anew says all the same what it lacks.
    let capture = Capture::start(config.clone(), directory.path()).await;
    until("the publication", async || {
        let noted = capture.journal.note_named("publications").unwrap();
        String::from_utf8_lossy(&noted).contains("unseen_inserts")
    })
    .await;
    capture.crash().await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    until("the gap", async || !gaps(&capture).is_empty()).await;
    run(&client, "insert into late values (3)").await;
    let expected = [
        "insert public.t 1",
        "insert public.t 2",
        "insert public.t 3",
        "gap public.late not_published",
        "insert public.late 3",
    ];
    stays(config, capture, &directory, &expected).await;
}

/// A person does what is said: the publication is made anew, then the slot, which is younger. Where another slot keeps the
/// catalog from before, nobody can know that: it is read later, which the gap says.
#[tokio::test]
async fn one_that_is_older_than_a_slot_made_by_hand_is_read_at_once() {
    for known in [true, false] {
        let (server, directory) = (Server::start(""), Directory::new());
        let client = sql(&server).await;
        run(&client, "create table t (id int primary key); create table nokey (id int)").await;
        let inserts = "create publication older_inserts for table nokey with (publish = 'insert, truncate')";
        run(&client, &format!("create publication older for table t; {inserts}")).await;
        if !known {
            run(&client, "select pg_create_logical_replication_slot('another', 'pgoutput')").await;
        }
        make_anew(&client).await;
        let config = Config { manage: false, publication: "older".to_owned(), ..config(&server) };
        let capture = Capture::start(config.clone(), directory.path()).await;
        run(&client, "insert into t values (1)").await;
        capture.wait(1).await;
        run(&client, "drop publication older_inserts").await;
        run(&client, "insert into nokey values (2)").await;
        let reason = capture.waits("ublication").await;
        assert!(reason.contains("dropped"), "{reason}");
        run(&client, inserts).await;
        renew_slot(&client).await;
        let adopted = capture.status.adopt().await.unwrap().unwrap();
        assert_eq!(adopted.reason, "slot_recreated");
        let told = adopted.detail.contains("The publication older_inserts is not read yet");
        assert_eq!(told, !known, "{}", adopted.detail);
        run(&client, "insert into nokey values (3)").await;
        if !known {
            until("the gap", async || gaps(&capture).len() == 2).await;
            run(&client, "insert into nokey values (4)").await;
        }
        let rest = if known {
            &["insert public.nokey 3"][..]
        } else {
            &["gap public.nokey not_published", "insert public.nokey 4"]
        };
        let expected = [&["insert public.t 1", "gap slot_recreated"], rest].concat();
        stays(config, capture, &directory, &expected).await;
    }
}
