//! A snapshot that is asked for while transactions are sent before they commit.

use rowcast_postgres::{Config, Streaming};

use super::super::said::logged;
use super::*;

/// Each has the stream begin anew twice, by rowcast's own wish: who orders the next one meanwhile is not refused, and
/// nobody is warned of it.
#[tokio::test]
async fn orders_one_behind_the_other_are_taken() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key); insert into t select generate_series(1, 30)").await;
    let capture =
        Capture::start(Config { streaming: Streaming::On, ..config(&server) }, directory.path()).await;
    for round in 1..=4 {
        let ordered = capture.status.ask_for_snapshot(rows_of_t(None)).await;
        assert_eq!(ordered.unwrap().tables, ["public.t"], "{round}");
        until("the rows", async || capture.status.read_tables().contains_key("public.t")).await;
        // The next order comes as soon as the stream has been left.
        until("the other way again", async || capture.report().source.reconnects >= 2 * round).await;
    }
    let logged = |words: &str| logged(directory.path(), words);
    assert!(!logged("a snapshot is wanted: it begins anew").is_empty());
    assert!(logged("Capture is interrupted").is_empty(), "{:?}", logged("Capture is interrupted"));
    capture.stop().await;
}

#[tokio::test]
async fn one_that_is_asked_for_has_transactions_sent_whole() {
    let server = Server::start("logical_decoding_work_mem = 64kB");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key, v text); insert into t select i, 'old' from generate_series(1, 3000) i").await;
    let capture =
        Capture::start(Config { streaming: Streaming::On, ..config(&server) }, directory.path()).await;
    let large = "insert into t select i, repeat('x', 500) from generate_series(4001, 6000) i; update t set v = 'new' where id < 100";
    let other = sql(&server).await;
    run(&other, &format!("begin; {large}")).await;
    let wanted = rows_of_t(None);
    assert_eq!(capture.status.ask_for_snapshot(wanted).await.unwrap().tables, ["public.t"]);
    run(&other, "commit").await;
    until("the snapshot to be done", async || capture.status.read_tables().contains_key("public.t")).await;
    read_whole(&capture).await;
    caught_up(&client, &capture).await;
    let table = rebuilt(&capture.events(), "public.t", 2);
    assert_eq!(table, actual(&client, "t", &["id", "v"]).await);
    assert!(capture.report().source.reconnects > 0);
    // And when it is done, the connection is made as it was wished for.
    until("another connection", async || capture.report().source.reconnects > 1).await;
    run(&client, "insert into t values (7000, 'behind')").await;
    until("the row", async || capture.events().iter().any(|event| event.new == "7000,behind")).await;
    capture.stop().await;
}
