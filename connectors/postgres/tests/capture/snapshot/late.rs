//! Wishes of transactions that are not sent, or not stored, like others: large ones, and those that are sent early.

use rowcast_postgres::{Config, Streaming};

use super::*;

/// Above the size at which a transaction gets a file of its own.
const LARGE: &str = "insert into large select i, repeat(md5(i::text), 2000) from generate_series(1, 500) i";

async fn setting(server: &Server) -> Client {
    let client = sql(server).await;
    run(
        &client,
        "create table large (id int primary key, v text); create table t (id int primary key, v text);
         alter table large alter v set storage external; insert into t select i, 'old' from generate_series(1, 50) i;
         create schema hidden; create table hidden.n (id int primary key, v text); insert into hidden.n values (1, 'a')",
    )
    .await;
    client
}

async fn is_wanted_as_soon_as_it_is_seen(streaming: Streaming) {
    let server = Server::start("logical_decoding_work_mem = 64kB");
    let (client, directory) = (setting(&server).await, Directory::new());
    let snapshot = Some(SnapshotMode::Never);
    let config = Config { streaming, snapshot, tables: vec!["public.*".to_owned()], ..config(&server) };
    let capture = Capture::start(config, directory.path()).await;
    let (journal, status) = (capture.journal.clone(), capture.status.clone());
    let seen = tokio::task::spawn_blocking(move || {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        // Whoever sees the transaction finds what it wants: a crash from here on forgets nothing.
        while journal.newest() == 0
            || matches!(journal.read(0).unwrap(), rowcast_engine::journal::Read::AtHead)
        {
            assert!(std::time::Instant::now() < deadline, "the transaction does not come");
            // The others need the processor, too.
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        is_wished(&journal) || status.read_tables().contains_key("public.t")
    });
    run(&client, &format!("begin; {LARGE}; select rowcast.snapshot('t'); commit")).await;
    assert!(seen.await.unwrap(), "the wish comes after its transaction");
    until("the rows", async || capture.status.read_tables().get("public.t") == Some(&50)).await;
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_a_transaction_with_a_file_of_its_own() {
    is_wanted_as_soon_as_it_is_seen(Streaming::Off).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_a_transaction_that_is_sent_before_it_commits() {
    is_wanted_as_soon_as_it_is_seen(Streaming::On).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_such_a_transaction_brings_is_read_in_place_of_a_gap() {
    for streaming in [Streaming::Off, Streaming::On] {
        let server = Server::start("logical_decoding_work_mem = 64kB");
        let (client, directory) = (setting(&server).await, Directory::new());
        let config = Config { streaming, tables: vec!["public.*".to_owned()], ..initial(&server) };
        let capture = Capture::start(config.clone(), directory.path()).await;
        read_whole(&capture).await;
        capture.stop().await;
        // Again, since the first snapshot has transactions sent whole.
        let capture = Capture::start(config, directory.path()).await;
        run(&client, &format!("begin; {LARGE}; create table n as select * from hidden.n; alter table n add primary key (id); commit")).await;
        until("the row", async || rebuilt(&capture.events(), "public.n", 2).len() == 1).await;
        read_whole(&capture).await;
        assert!(capture.events().iter().all(|event| event.op != Op::Gap), "{streaming:?}");
        capture.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_rolled_back_with_a_savepoint_is_none() {
    let server = Server::start("logical_decoding_work_mem = 64kB");
    let (client, directory) = (setting(&server).await, Directory::new());
    let capture =
        Capture::start(Config { streaming: Streaming::On, ..config(&server) }, directory.path()).await;
    let rows = |from: u32| {
        format!("insert into large select i, repeat('x', 500) from generate_series({from}, {}) i", from + 999)
    };
    let wish = "select rowcast.snapshot('t')";
    // Behind an event of the savepoint, before any of it, and with none of it.
    for (round, within) in [
        (0, format!("{}; {wish}; {}", rows(1001), rows(2001))),
        (1, format!("{wish}; {}", rows(1001))),
        (2, wish.to_owned()),
    ] {
        run(&client, "truncate large").await;
        run(
            &client,
            &format!("begin; {}; savepoint s; {within}; rollback to s; {}; commit", rows(1), rows(3001)),
        )
        .await;
        run(&client, &format!("insert into t values ({}, 'end')", 100 + round)).await;
        let end = format!("insert public.t {},end", 100 + round);
        until("the end", async || capture.events().last().is_some_and(|event| event.brief() == end)).await;
        assert!(capture.report().snapshots.is_empty() && capture.status.read_tables().is_empty());
        let large = rebuilt(&capture.events(), "public.large", 2);
        assert_eq!(large, actual(&client, "large", &["id", "v"]).await);
    }
    assert!(capture.events().iter().all(|event| event.op != Op::Read));
    capture.stop().await;
}
