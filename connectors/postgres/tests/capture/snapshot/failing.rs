//! A table that cannot be read: it is told, kept, and read when it can be.

use rowcast_engine::snapshots::{Command, State};

use super::load::progress;
use super::*;
use crate::capture::interceptor::Interceptor;

#[tokio::test]
async fn a_right_that_is_missing_is_told_until_it_is_given() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(
        &client,
        "create role cap login replication; grant create on database postgres to cap; grant all on schema public to cap;
         set role cap; create table t (id int primary key, v text); insert into t values (1, 'a'), (2, 'b');
         revoke select on t from cap; create table u (id int primary key); insert into u values (1); reset role",
    )
    .await;
    let url = server.admin().replace("user=postgres", "user=cap");
    let capture =
        Capture::start(rowcast_postgres::Config { url, ..initial(&server) }, directory.path()).await;
    until("it to fail", async || capture.report().snapshots.iter().any(|shown| shown.state == State::Failed))
        .await;
    // The other one is read meanwhile.
    until("the other table", async || capture.status.read_tables().contains_key("public.u")).await;
    let report = capture.report();
    let shown = report.snapshots.iter().find(|shown| shown.channel == "public.t").unwrap();
    let reason = shown.reason.clone().unwrap_or_default();
    assert!(reason.contains("42501") && reason.contains("privilege"), "{reason}");
    assert!(!report.healthy && report.reasons.iter().any(|said| said.contains("public.t has failed")));
    run(&client, "grant select on t to cap").await;
    // Tried again at once when somebody says so, else within a minute.
    capture.status.ask_for_snapshot(Command::Resume(vec!["public.t".to_owned()])).await.unwrap();
    read_whole(&capture).await;
    let report = capture.report();
    assert!(report.healthy && report.snapshots.is_empty(), "{:?}", report.reasons);
    assert_eq!(capture.status.read_tables()["public.t"], 2);
    capture.stop().await;
}

#[tokio::test]
async fn rows_that_a_policy_hides_are_not_left_out_in_silence() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(
        &client,
        "create role cap login replication; grant create on database postgres to cap; grant all on schema public to cap;
         set role cap; create table t (id int primary key); insert into t values (1), (2);
         alter table t enable row level security; alter table t force row level security; reset role",
    )
    .await;
    let url = server.admin().replace("user=postgres", "user=cap");
    let capture =
        Capture::start(rowcast_postgres::Config { url, ..initial(&server) }, directory.path()).await;
    until("it to fail", async || capture.report().snapshots.iter().any(|shown| shown.state == State::Failed))
        .await;
    let reason = capture.report().snapshots[0].reason.clone().unwrap();
    assert!(reason.contains("row-level security"), "{reason}");
    capture.status.ask_for_snapshot(Command::Cancel(vec!["public.t".to_owned()])).await.unwrap();
    read_whole(&capture).await;
    assert!(capture.report().healthy);
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_large_tables_at_a_time_share_one_memory() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    for table in 0..7 {
        run(&client, &format!("create table t{table} (id int primary key, v text); alter table t{table} alter v set storage external;
            insert into t{table} select i, repeat('x', 3000000) from generate_series(1, 12) i")).await;
    }
    let config = rowcast_postgres::Config { snapshot_tables: 16, ..initial(&server) };
    let capture = Capture::start(config, directory.path()).await;
    let mut at_once = 0;
    until("all to be read", async || {
        let shown = capture.report().snapshots;
        at_once = at_once.max(shown.iter().filter(|shown| shown.state == State::Reading).count());
        capture.status.read_tables().len() == 7
    })
    .await;
    println!("{at_once} tables at a time");
    assert!(at_once >= 2, "one after the other");
    read_whole(&capture).await;
    let read = capture.status.read_tables();
    assert_eq!(read.values().copied().collect::<Vec<_>>(), [12; 7]);
    let reads = capture.events().iter().filter(|event| event.op == Op::Read).count();
    assert_eq!(reads, 7 * 12, "none twice");
    capture.stop().await;
}

/// Its note comes before the end of the wish: else the wish would come back with it, or be waited for for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_condition_that_fails_while_a_chunk_is_on_its_way() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, other) = (sql(&server).await, sql(&server).await);
    run(&client, "create table t (id int primary key); insert into t select generate_series(1, 9000)").await;
    let way = Interceptor::start(&server).await;
    let capture = Capture::start(way.config(), directory.path()).await;
    way.hold();
    way.pass_stream();
    capture.status.ask_for_snapshot(rows_of_t(Some("1 / (id - 2001) < 9"))).await.unwrap();
    until("a chunk to be read", async || way.chunks() == 1).await;
    // The second one waits for the table, and the first is written meanwhile.
    run(&other, "begin; lock table t").await;
    way.pass_all_chunks();
    until("the first chunk to be noted", async || {
        caught_up(&client, &capture).await;
        progress(&capture.journal) == Some((2000, 0))
    })
    .await;
    run(&other, "commit").await;
    until("the wish to be given up", async || !capture.status.dropped_tables().is_empty()).await;
    // Nobody is in the way of the next one.
    capture.status.ask_for_snapshot(rows_of_t(Some("id < 10"))).await.unwrap();
    read_whole(&capture).await;
    let read = capture.events().iter().filter(|event| event.op == Op::Read).count();
    assert_eq!(read, 2000 + 9);
    capture.stop().await;
}

/// A table of a role that may not read it, once that has failed.
async fn unreadable(server: &Server, client: &Client, mode: SnapshotMode, directory: &Directory) -> Capture {
    run(
        client,
        "create role cap login replication; grant create on database postgres to cap; grant all on schema public to cap;
         set role cap; create table t (id int primary key); insert into t values (1); revoke select on t from cap;
         create table u (id int primary key); insert into u values (1); reset role",
    )
    .await;
    let url = server.admin().replace("user=postgres", "user=cap");
    let config = rowcast_postgres::Config { url, snapshot: Some(mode), ..config(server) };
    let capture = Capture::start(config, directory.path()).await;
    until("it to fail", async || capture.report().snapshots.iter().any(|shown| shown.state == State::Failed))
        .await;
    capture
}

/// Since when a table fails is not forgotten with every order about another one.
#[tokio::test]
async fn an_order_does_not_make_well_what_has_failed() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let capture = unreadable(&server, &client, SnapshotMode::Initial, &directory).await;
    until("the other table", async || capture.status.read_tables().contains_key("public.u")).await;
    let failing = || capture.status.unfinished_snapshots().into_iter().find_map(|shown| shown.failing);
    let first = failing().unwrap();
    let refused = Command::Start { tables: vec!["public.*".to_owned()], condition: None };
    capture.status.ask_for_snapshot(refused).await.unwrap_err();
    // What is refused for one table leaves alone what is known of others.
    assert!(capture.status.read_tables().contains_key("public.u"));
    let order = Command::Start { tables: vec!["public.u".to_owned()], condition: None };
    capture.status.ask_for_snapshot(order).await.unwrap();
    // It is tried again at once, and fails again.
    until("another try", async || failing().is_some_and(|failing| failing.last > first.last)).await;
    assert_eq!(failing().unwrap().first, first.first);
    assert!(!capture.report().healthy);
    capture.stop().await;
}

/// Where reading is all that is wanted, what could not be read is told at the end, behind a restart, too.
#[tokio::test]
async fn not_all_is_read_where_a_table_was_given_up() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let capture = unreadable(&server, &client, SnapshotMode::Only, &directory).await;
    run(&client, "drop table t").await;
    capture.status.ask_for_snapshot(Command::Resume(vec!["public.t".to_owned()])).await.unwrap();
    until("the end", async || capture.report().source.state == "stopped").await;
    let missing = rowcast_postgres::not_all_read(&capture.journal).unwrap().to_string();
    assert!(missing.starts_with("Not all was read: public.t "), "{missing}");
    assert!(capture.report().source.reason.is_some_and(|reason| reason.starts_with(&missing)));
    capture.stop().await;

    let url = server.admin().replace("user=postgres", "user=cap");
    let only = rowcast_postgres::Config { url, snapshot: Some(SnapshotMode::Only), ..config(&server) };
    let capture = Capture::launch(only, directory.path());
    until("the end", async || capture.report().source.state == "stopped").await;
    assert_eq!(rowcast_postgres::not_all_read(&capture.journal).unwrap().to_string(), missing);
    capture.stop().await;
}

/// It is, until the table is read: an order for its rows that was cancelled, or was for some of them, has not brought them.
#[tokio::test]
async fn an_order_that_was_cancelled_has_read_nothing() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let capture = unreadable(&server, &client, SnapshotMode::Initial, &directory).await;
    // As it was noted where reading was all that was wanted.
    capture.journal.note(&[("not read public.t", b"\"was given up\"")]).await.unwrap();
    let missing = || rowcast_postgres::not_all_read(&capture.journal).map(|error| error.to_string());
    let order = |condition| capture.status.ask_for_snapshot(rows_of_t(condition));
    let cancel = || capture.status.ask_for_snapshot(Command::Cancel(vec!["public.t".to_owned()]));
    cancel().await.unwrap();
    order(None).await.unwrap();
    until("it to fail", async || capture.report().snapshots.iter().any(|shown| shown.state == State::Failed))
        .await;
    cancel().await.unwrap();
    read_whole(&capture).await;
    assert!(missing().is_some(), "it was cancelled");
    run(&client, "grant select on t to cap").await;
    order(Some("id = 1")).await.unwrap();
    read_whole(&capture).await;
    assert!(missing().is_some(), "a part of it was read");
    order(None).await.unwrap();
    read_whole(&capture).await;
    assert_eq!(missing(), None);
    capture.stop().await;
}
