//! Capture waits for a person: what it keeps in the source stands in no application's way meanwhile.

use super::harness::{Capture, Directory, config, run, sql, until};
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
