//! Prepared transactions: they arrive when they are committed, or never.

use rowcast_postgres::{Config, Streaming};

use super::harness::{Capture, Directory, config, run, sql, until, value};
use crate::support::Server;

/// Prepared transactions are off unless asked for.
const ALLOWED: &str = "max_prepared_transactions = 10";

#[tokio::test]
async fn they_arrive_at_commit_prepared_in_commit_order() {
    let (server, directory) = (Server::start(ALLOWED), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key, v text)").await;
    let capture = Capture::start(config(&server), directory.path()).await;

    run(
        &client,
        "begin; insert into t values (1, 'first'); select rowcast.publish('orders', '{\"id\": 1}');
         update t set v = 'changed' where id = 1; prepare transaction 'first'",
    )
    .await;
    run(&client, "begin; insert into t values (2, 'never'); prepare transaction 'never'").await;
    run(&client, "insert into t values (3, 'between')").await;
    // Nothing of what is only prepared: the one that is committed came alone.
    assert_eq!(capture.briefs(1).await, ["insert public.t 3,between"]);
    // One command a query: neither may stand in a transaction.
    client.execute("rollback prepared 'never'", &[]).await.unwrap();
    run(&client, "insert into t values (4, 'before')").await;
    client.execute("commit prepared 'first'", &[]).await.unwrap();
    run(&client, "insert into t values (5, 'after')").await;

    let events = capture.wait(6).await;
    let briefs: Vec<String> = events.iter().map(|event| event.brief()).collect();
    assert_eq!(
        briefs,
        [
            "insert public.t 3,between",
            "insert public.t 4,before",
            "insert public.t 1,first",
            "message orders {\"id\": 1}",
            "update public.t 1,changed",
            "insert public.t 5,after",
        ]
    );
    let places: Vec<_> = events[2..5].iter().map(|event| (event.seq, event.last)).collect();
    assert_eq!(places, [(0, false), (1, false), (2, true)]);
    // The xid is that of the prepared transaction, the positions are those of its commit.
    assert!(events[2].xid < events[0].xid && events[2].final_lsn >= events[1].end_lsn, "{events:#?}");
    assert_eq!(events[5].previous_end, events[2].end_lsn);
    capture.stop().await;
}

#[tokio::test]
async fn a_crash_between_the_two_steps_changes_nothing() {
    let (server, directory) = (Server::start(ALLOWED), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "begin; insert into t select generate_series(1, 100); prepare transaction 'kept'").await;
    run(&client, "begin; insert into t values (500); prepare transaction 'dropped'").await;
    run(&client, "insert into t values (1000)").await;
    let first = capture.wait(1).await.remove(0);
    // Confirmed beyond where both were prepared, and the server is started anew: it must tell them all the same.
    until("the confirmation", async || super::harness::confirmed(&client).await >= first.end_lsn).await;
    capture.crash().await;
    run(&client, "checkpoint").await;

    let capture = Capture::start(config(&server), directory.path()).await;
    client.execute("commit prepared 'kept'", &[]).await.unwrap();
    client.execute("rollback prepared 'dropped'", &[]).await.unwrap();
    let killed = "select count(pg_terminate_backend(pid)) from pg_stat_replication";
    assert_eq!(value(&client, killed).await, "1");
    run(&client, "insert into t values (1001)").await;
    let events = capture.wait(102).await;
    let rows: Vec<&str> = events.iter().map(|event| event.new.as_str()).collect();
    let kept: Vec<String> = (1..=100).map(|id: u32| id.to_string()).collect();
    assert_eq!(
        (rows[0], &rows[1..101], rows[101]),
        ("1000", &kept.iter().map(String::as_str).collect::<Vec<_>>()[..], "1001")
    );
    assert!(events[1..101].iter().all(|event| event.end_lsn == events[1].end_lsn));
    capture.crash().await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into t values (1002)").await;
    capture.wait(103).await;
    capture.stop().await;
}

/// Those that the server sends while they are open are not whole when they are prepared, either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_ones_that_are_sent_before_arrive_likewise() {
    let server = Server::start(&format!("{ALLOWED}\nlogical_decoding_work_mem = 64kB"));
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key, v text)").await;
    let config = Config { streaming: Streaming::On, ..config(&server) };
    let capture = Capture::start(config.clone(), directory.path()).await;
    let rows = |first: u32| {
        let last = first + 1999;
        format!("insert into t select g, repeat('x', 150) from generate_series({first}, {last}) g")
    };
    run(&client, &format!("begin; {}; prepare transaction 'kept'", rows(1))).await;
    run(&client, &format!("begin; {}; prepare transaction 'dropped'", rows(10_000))).await;
    let sent = "select stream_txns from pg_stat_replication_slots where slot_name = 'rowcast'";
    until("both are sent", async || value(&client, sent).await.parse::<u32>().unwrap() >= 2).await;
    run(&client, "insert into t values (5000, '')").await;
    assert_eq!(capture.briefs(1).await, ["insert public.t 5000,"]);
    // What has been sent of them is forgotten, and comes again.
    capture.crash().await;
    let capture = Capture::start(config, directory.path()).await;
    client.execute("rollback prepared 'dropped'", &[]).await.unwrap();
    client.execute("commit prepared 'kept'", &[]).await.unwrap();
    run(&client, "insert into t values (5001, '')").await;
    let events = capture.wait(2002).await;
    let ids: Vec<u32> =
        events.iter().map(|event| event.new.split(',').next().unwrap().parse().unwrap()).collect();
    let expected: Vec<u32> = [5000].into_iter().chain(1..=2000).chain([5001]).collect();
    assert_eq!(ids, expected);
    assert!(
        events[1..2001].iter().zip(0..).all(|(event, seq)| event.seq == seq && event.last == (seq == 1999))
    );
    assert_eq!(capture.report().source.reconnects, 0);
    capture.stop().await;
}
