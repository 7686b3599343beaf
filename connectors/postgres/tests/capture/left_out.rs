//! What the server does not send because a publication is younger than the place in the log that it reads. Before version
//! 18 that is an error; from then on it goes on without, and only says so.

use rowcast_postgres::{Config, OnGap};
use tokio_postgres::Client;

use super::breaks::{POLICIES, gaps, goes_on, make_anew, one_row_on, stays};
use super::harness::{Capture, Directory, config, run, sql, until, value};
use super::restored::at;
use crate::support::Server;

/// From here on the server goes on without a publication.
const GOES_ON_WITHOUT: u32 = 18;

/// Rows of a first history, beside the first one.
const ROWS: usize = 300;

/// The server under test, and one that goes on without.
fn servers() -> impl Iterator<Item = Server> {
    let both = [Some(Server::start("")), Server::start_since(GOES_ON_WITHOUT, "")];
    both.into_iter().flatten()
}

/// The slot by hand, and nobody reads it.
pub(super) async fn renew_slot(client: &Client) {
    until("the slot to be free", async || {
        client.batch_execute("select pg_drop_replication_slot('rowcast')").await.is_ok()
    })
    .await;
    make_anew(client).await;
}

#[tokio::test]
async fn a_first_stream_below_its_publication_waits() {
    for server in servers() {
        let (client, directory) = (sql(&server).await, Directory::new());
        run(&client, "create table t (id int primary key)").await;
        run(&client, "select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await;
        run(&client, "insert into t values (1)").await;
        run(&client, "create publication rowcast for table t").await;
        run(&client, "insert into t values (2)").await;
        let config = Config { manage: false, ..config(&server) };
        let capture = Capture::launch(config.clone(), directory.path());
        let reason = capture.waits("is younger than the changes").await;
        assert!(reason.contains("rowcast\""), "which one: {reason}");
        assert!(capture.events().is_empty());
        // The slot is not rowcast's to make anew.
        let error = capture.status.adopt().await.unwrap_err();
        assert!(error.remedy().unwrap().contains("pg_drop_replication_slot('rowcast')"), "{error}");
        renew_slot(&client).await;
        until("the adoption", async || capture.status.adopt().await.is_ok()).await;
        run(&client, "insert into t values (3)").await;
        stays(config, capture, &directory, &["gap slot_recreated", "insert public.t 3"]).await;
    }
}

/// A server that has been put back with its slot and publication to when it had one captured row, which a capture has seen.
async fn put_back(server: Server) -> (Server, Directory, Config) {
    let (mut server, directory, config) = one_row_on(server, OnGap::Stop).await;
    server.stop_in_order();
    let backup = server.copy();
    server.launch("");
    let client = sql(&server).await;
    let capture = Capture::start(at(&server, &config), directory.path()).await;
    run(&client, &format!("insert into t select generate_series(2, {})", ROWS + 1)).await;
    capture.wait(ROWS + 1).await;
    capture.stop().await;
    drop(client);
    server.stop_in_order();
    server.restore(&backup);
    server.launch("");
    let config = at(&server, &config);
    let capture = Capture::launch(config.clone(), directory.path());
    capture.waits("restored from a backup").await;
    capture.stop().await;
    (server, directory, config)
}

/// Somebody's script sets the publication up anew, between two rows.
async fn set_up_anew(client: &Client) {
    run(client, "drop publication rowcast").await;
    run(client, "insert into t values (1002)").await;
    run(client, "create publication rowcast for table t").await;
    run(client, "insert into t values (1003)").await;
}

/// A slot that another break leaves sound cannot show what was not published: one adoption is enough, and its gap tells.
#[tokio::test]
async fn a_publication_made_anew_beside_another_break_has_the_slot_made_anew() {
    for policy in POLICIES {
        for server in servers() {
            let (server, directory, config) = put_back(server).await;
            let client = sql(&server).await;
            set_up_anew(&client).await;
            let written = value(&client, "pg_current_wal_lsn()").await.parse().unwrap();
            let config = Config { on_gap: policy, ..config };
            let words = "The publication rowcast was dropped";
            let capture = goes_on(config.clone(), &directory, words, "source_restored").await;
            assert!(capture.journal.position().lsn >= written, "it goes on behind what was not published");
            run(&client, "insert into t values (1004)").await;
            let events = capture.briefs(ROWS + 3).await;
            assert_eq!(events[ROWS + 1..], ["gap source_restored", "insert public.t 1004"]);
            capture.stop().await;
        }
    }
}

/// Whose slot it is not to make anew is told by the server, and what to do.
#[tokio::test]
async fn what_the_slot_cannot_show_is_told_to_whoever_makes_it() {
    for server in servers() {
        let (server, directory, config) = put_back(server).await;
        let client = sql(&server).await;
        set_up_anew(&client).await;
        let config = Config { manage: false, ..config };
        let capture = Capture::launch(config.clone(), directory.path());
        capture.waits("restored from a backup").await;
        for _ in 0..2 {
            let error = capture.status.adopt().await.unwrap_err();
            assert!(error.to_string().contains("is younger than the changes"), "{error}");
            let remedy = error.remedy().unwrap();
            assert!(
                remedy.contains("pg_drop_replication_slot") && remedy.contains("rowcast adopt"),
                "{remedy}"
            );
            capture.waits("rowcast").await;
            assert!(gaps(&capture).is_empty());
        }
        renew_slot(&client).await;
        until("the adoption", async || capture.status.adopt().await.is_ok()).await;
        run(&client, "insert into t values (1004)").await;
        let events = capture.briefs(ROWS + 3).await;
        assert!(events[ROWS + 1].starts_with("gap s"), "{}", events[ROWS + 1]);
        assert_eq!(events[ROWS + 2], "insert public.t 1004");
        capture.stop().await;
    }
}

/// With nobody to ask it goes on by itself, also where only the server's word tells.
#[tokio::test]
async fn what_the_server_tells_of_a_break_ends_no_capture() {
    for server in servers() {
        let (server, directory, config) = put_back(server).await;
        let client = sql(&server).await;
        set_up_anew(&client).await;
        let config = Config { manage: false, on_gap: OnGap::Continue, ..config };
        let mut capture = Capture::launch(config.clone(), directory.path());
        until("the word of it", async || {
            let source = capture.report().source;
            assert_ne!(source.state, "stopped", "{source:?}");
            source.reason.is_some_and(|reason| reason.contains("pg_drop_replication_slot"))
        })
        .await;
        renew_slot(&client).await;
        capture.streams().await;
        assert_eq!(gaps(&capture).len(), 1);
        capture.stop().await;
    }
}

/// The publication is dropped, and then somebody makes the slot anew, or moves it: what is written before the publication is
/// there again lies behind the slot's place, and is in no event.
#[tokio::test]
async fn a_slot_made_anew_without_its_publication_is_not_read() {
    for moved in [false, true] {
        for server in servers() {
            let (server, directory, config) = one_row_on(server, OnGap::Stop).await;
            let client = sql(&server).await;
            run(&client, "drop publication rowcast").await;
            let capture = Capture::launch(config.clone(), directory.path());
            capture.waits("The publication rowcast was dropped").await;
            capture.stop().await;
            let reason = if moved {
                run(&client, "insert into t values (2)").await;
                let here = "select pg_replication_slot_advance('rowcast', pg_current_wal_insert_lsn())";
                run(&client, here).await;
                "journal_behind"
            } else {
                renew_slot(&client).await;
                "slot_recreated"
            };
            run(&client, "insert into t values (3)").await;
            run(&client, "delete from t").await;
            let written = value(&client, "pg_current_wal_lsn()").await.parse().unwrap();
            let words = "The publication rowcast was dropped";
            let capture = goes_on(config.clone(), &directory, words, reason).await;
            assert!(capture.journal.position().lsn >= written, "it goes on behind what was not published");
            run(&client, "insert into t values (4)").await;
            let gap = format!("gap {reason}");
            stays(config, capture, &directory, &["insert public.t 1", &gap, "insert public.t 4"]).await;
        }
    }
}
