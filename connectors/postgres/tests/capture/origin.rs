//! Changes that came to the server from elsewhere, and leaving them out.

use rowcast_engine::Kind;
use rowcast_postgres::{Config, Origin, Streaming, check};
use tokio_postgres::Client;

use super::harness::{Capture, Directory, config, confirmed, run, sql, until, value, version};
use crate::support::Server;

/// The first version that knows the filter.
const FILTERS: u32 = 160_000;

/// A crash has to come sooner than a confirmation, of which there is one a second.
const TRIES: u32 = 20;

fn local(server: &Server) -> Config {
    Config { origin: Origin::None, ..config(server) }
}

/// A session whose transactions come from elsewhere.
async fn foreign(server: &Server, client: &Client) -> Client {
    run(client, "select pg_replication_origin_create('elsewhere')").await;
    let session = sql(server).await;
    run(&session, "select pg_replication_origin_session_setup('elsewhere')").await;
    session
}

#[tokio::test]
async fn what_came_from_elsewhere_is_left_out() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    if version(&client).await < FILTERS {
        return refused(&server).await;
    }
    let foreign = foreign(&server, &client).await;
    let capture = Capture::start(local(&server), directory.path()).await;
    run(&client, "insert into t values (1); select rowcast.publish('here', '1')").await;
    run(&foreign, "begin; insert into t values (2); select rowcast.publish('there', '2'); commit").await;
    run(&foreign, "begin; insert into t values (3); savepoint s; delete from t where id = 1; commit").await;
    run(&client, "insert into t values (4)").await;
    let briefs = capture.briefs(3).await;
    assert_eq!(briefs, ["insert public.t 1", "message here 1", "insert public.t 4"]);
    assert!(check(&local(&server)).await.unwrap().iter().all(|requirement| requirement.ok));
    capture.stop().await;

    let capture = Capture::start(config(&server), directory.path()).await;
    run(&foreign, "insert into t values (5)").await;
    let newest = capture.wait(4).await.remove(3);
    assert_eq!((newest.brief().as_str(), newest.origin.as_str()), ("insert public.t 5", "elsewhere"));
    capture.stop().await;
}

/// An older server would not know the option, and would say so in words that help nobody.
async fn refused(server: &Server) {
    let directory = Directory::new();
    let error = Capture::launch(local(server), directory.path()).fails().await;
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains("source.origin is \"none\""), "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("Postgres 16")), "{:?}", error.remedy());
    let found = check(&local(server)).await.unwrap();
    let origin = found.iter().find(|requirement| requirement.name == "origin").unwrap();
    assert!(!origin.ok && origin.found.contains("cannot leave out"), "{origin:?}");
    assert!(check(&config(server)).await.unwrap().iter().all(|requirement| requirement.name != "origin"));
}

/// What the server repeats after a crash is compared with the journal. Asked for other transactions than before, it
/// would repeat others: that is no other history.
#[tokio::test]
async fn the_choice_may_change_between_a_crash_and_the_next_start() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    if version(&client).await < FILTERS {
        println!("SKIPPED: before version 16 the server leaves nothing out by its origin");
        return;
    }
    run(&client, "create table t (id int primary key)").await;
    let foreign = foreign(&server, &client).await;
    let (mut id, mut stored) = (0, Vec::new());
    for (before, after) in [(config(&server), local(&server)), (local(&server), config(&server))] {
        let mut unconfirmed = false;
        for _ in 0..TRIES {
            let capture = Capture::start(before.clone(), directory.path()).await;
            run(&foreign, &format!("insert into t values ({})", id + 1)).await;
            run(&client, &format!("insert into t values ({})", id + 2)).await;
            if before.origin == Origin::Any {
                stored.push(id + 1);
            }
            stored.push(id + 2);
            id += 2;
            let newest = capture.wait(stored.len()).await.pop().unwrap();
            capture.crash().await;
            unconfirmed = confirmed(&client).await < newest.end_lsn;
            if unconfirmed {
                break;
            }
        }
        assert!(unconfirmed, "every crash came after a confirmation");
        let capture = Capture::start(after, directory.path()).await;
        id += 1;
        run(&client, &format!("insert into t values ({id})")).await;
        stored.push(id);
        let events = capture.wait(stored.len()).await;
        let rows: Vec<i32> = events.iter().map(|event| event.new.parse().unwrap()).collect();
        assert_eq!(rows, stored);
        capture.stop().await;
    }
}

/// Large ones, which the server sends while they are open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_ones_are_told_and_left_out_likewise() {
    let server = Server::start("logical_decoding_work_mem = 64kB");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key, v text)").await;
    let foreign = foreign(&server, &client).await;
    let rows = |first: u32| {
        let last = first + 1999;
        format!(
            "begin; insert into t select g, repeat('x', 150) from generate_series({first}, {last}) g;
             select rowcast.publish('note', '{first}'); commit"
        )
    };
    let early = |config| Config { streaming: Streaming::On, ..config };
    let capture = Capture::start(early(config(&server)), directory.path()).await;
    run(&foreign, &rows(1)).await;
    run(&client, &rows(10_000)).await;
    let events = capture.wait(4002).await;
    assert!(events[..2001].iter().all(|event| event.origin == "elsewhere"));
    assert!(events[2001..].iter().all(|event| event.origin.is_empty()));
    let sent = "select stream_txns from pg_stat_replication_slots where slot_name = 'rowcast'";
    until("the server's count", async || value(&client, sent).await != "0").await;
    capture.stop().await;
    if version(&client).await < FILTERS {
        println!("SKIPPED: before version 16 the server leaves nothing out by its origin");
        return;
    }
    let capture = Capture::start(early(local(&server)), directory.path()).await;
    run(&foreign, &rows(20_000)).await;
    run(&client, &rows(30_000)).await;
    let events = capture.wait(6003).await;
    assert_eq!((events.len(), events[4002].new.split(',').next()), (6003, Some("30000")));
    assert!(events[4002..].iter().all(|event| event.origin.is_empty()));
    capture.stop().await;
}
