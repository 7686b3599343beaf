//! Transactions that are in the way of a new slot.

use std::time::{Duration, Instant};

use rowcast_postgres::Config;

use super::harness::{Capture, Directory, config, run, sql, until, value};
use crate::support::Server;

#[tokio::test]
async fn who_is_in_the_way_of_a_slot_is_named_and_waited_for() {
    let server = Server::start("max_prepared_transactions = 2");
    let (client, writer, directory) = (sql(&server).await, sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key)").await;
    run(&client, "begin; insert into t values (1); prepare transaction 'left behind'").await;
    let said = "set application_name = 'a batch job'; set search_path = public, pg_catalog";
    writer.batch_execute(said).await.unwrap();
    run(&writer, "begin; insert into t values (2)").await;
    let hasty = Config { lock_timeout: Duration::from_secs(1), ..config(&server) };
    let mut capture = Capture::launch(hasty, directory.path());
    let reason = || capture.report().source.reason.unwrap_or_default();
    until("the reason", async || reason().contains("still running")).await;
    let told = reason();
    for words in [
        "prepared transaction 'left behind' of postgres in database postgres, for ",
        "of postgres, application a batch job (idle in transaction), for ",
        "ROLLBACK PREPARED",
    ] {
        assert!(told.contains(words), "{told}");
    }
    assert!(!told.contains("insert"), "what they do is nobody's business: {told}");
    // It goes on trying, and succeeds when they have ended.
    client.batch_execute("commit prepared 'left behind'").await.unwrap();
    until("the other one alone", async || {
        reason().contains("still running") && !reason().contains("left behind")
    })
    .await;
    run(&writer, "commit").await;
    capture.streams().await;
    run(&client, "insert into t values (3)").await;
    assert_eq!(capture.briefs(1).await, ["insert public.t 3"]);
    capture.stop().await;
}

/// A walsender that nobody listens to would wait on, and keep the log for its slot.
#[tokio::test]
async fn a_slot_that_is_not_wanted_any_more_leaves_nothing_behind() {
    let server = Server::start("");
    let (client, writer, directory) = (sql(&server).await, sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key)").await;
    run(&writer, "begin; insert into t values (1)").await;
    let capture = Capture::launch(config(&server), directory.path());
    let senders = "select count(*) from pg_stat_activity where backend_type = 'walsender'";
    let waiting = "select count(*) from pg_locks where locktype = 'transactionid' and not granted";
    until("the slot to be waited for", async || value(&client, waiting).await == "1").await;
    let started = Instant::now();
    capture.crash().await;
    until("the walsender's end", async || value(&client, senders).await == "0").await;
    assert!(started.elapsed() < Duration::from_secs(10), "it took {:?}", started.elapsed());
    // Version 14 drops it a moment later.
    let slots = "select count(*) from pg_replication_slots";
    until("the slot's end", async || value(&client, slots).await == "0").await;
}
