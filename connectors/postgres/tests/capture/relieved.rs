//! Capture waits for a person: what it keeps in the source stands in no application's way meanwhile.

use std::sync::Arc;

use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{Broken, Options, StreamPosition, open};

use super::harness::{Capture, Directory, config, run, sql, until};
use super::interceptor::Interceptor;
use super::trigger::listed;
use crate::support::Server;

#[tokio::test]
async fn a_table_that_loses_its_key_stays_writable_while_capture_waits() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table t (id int primary key, v int); create table u (id int primary key, v int);
         insert into t values (1, 1); insert into u values (1, 1)",
    )
    .await;
    Capture::start(config(&server), directory.path()).await.stop().await;
    run(&client, "alter event trigger rowcast disable").await;
    client.batch_execute("select pg_drop_replication_slot('rowcast')").await.unwrap();
    let mut capture = Capture::launch(config(&server), directory.path());
    capture.waits("is gone").await;
    run(&client, "alter table t drop constraint t_pkey; create table new (id int primary key)").await;
    let update = "update public.t set v = 2";
    assert!(client.batch_execute(update).await.is_err(), "nothing looks after it yet");
    until("it to be written", async || client.batch_execute(update).await.is_ok()).await;
    // Nothing else is changed before somebody has said that this is the right source.
    assert_eq!(
        (listed(&client, "rowcast").await, listed(&client, "rowcast_inserts").await),
        ("u".into(), "t".into())
    );
    assert_eq!(capture.report().source.state, "waiting");

    capture.status.adopt().await.unwrap();
    capture.streams().await;
    assert_eq!(
        (listed(&client, "rowcast").await, listed(&client, "rowcast_inserts").await),
        ("new u".into(), "t".into())
    );
    capture.stop().await;
}

/// A break is remembered, the server is the right one again, and what it repeats takes its time to be compared.
#[tokio::test]
async fn tables_are_looked_after_while_what_is_repeated_is_compared() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key, v int)").await;
    let way = Interceptor::start(&server).await;
    let journal = || open(Options::new(directory.path()), Arc::new(RealDisk)).unwrap();
    // Nothing is confirmed, since a sink has nothing.
    let launch = |journal| {
        Capture::launch_into(Ingest::new(journal).required(vec!["sink".to_owned()]), way.config(), &[])
    };
    let mut capture = launch(journal());
    capture.streams().await;
    run(&client, "insert into t values (1, 1)").await;
    capture.wait(1).await;
    capture.stop().await;
    let known = journal();
    let position = known.position();
    let (reason, detail, at) =
        ("source_restored".to_owned(), "It was another server".to_owned(), position.lsn);
    let position = StreamPosition { broken: Some(Broken { reason, detail, at }), ..position };
    Ingest::new(known.clone()).identify(position, &[]).await.unwrap();
    known.close().await;

    run(&client, "alter event trigger rowcast disable").await;
    way.hold();
    let mut capture = launch(journal());
    capture.waits("It was another server").await;
    until("the stream", async || way.has_message()).await;
    run(&client, "alter table t drop constraint t_pkey").await;
    let update = "update public.t set v = 2";
    assert!(client.batch_execute(update).await.is_err(), "nothing looks after it yet");
    until("it to be written", async || client.batch_execute(update).await.is_ok()).await;
    run(&client, "create table later (id int primary key)").await;
    until("the new table", async || capture.report().source.tables.contains_key("public.later")).await;
    assert_eq!(capture.report().source.state, "waiting");
    way.pass_stream();
    capture.streams().await;
    assert!(capture.report().source.reason.is_none());
    capture.stop().await;
}
