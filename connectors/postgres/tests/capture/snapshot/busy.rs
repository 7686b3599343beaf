//! Orders while the stream is in the midst of a transaction, where it has no place for rows.

use rowcast_engine::snapshots::{Command, State};

use super::*;
use crate::capture::harness::DEADLINE;
use crate::capture::interceptor::Interceptor;

fn of(table: &str) -> Vec<String> {
    vec![table.to_owned()]
}

fn start(table: &str) -> Command {
    Command::Start { tables: of(table), condition: None }
}

/// Is answered, whatever the stream is at.
async fn ask(capture: &Capture, command: Command) {
    let answer = tokio::time::timeout(DEADLINE, capture.status.ask_for_snapshot(command.clone())).await;
    answer.unwrap_or_else(|_| panic!("{command:?} is not answered")).unwrap();
}

fn state(capture: &Capture, channel: &str) -> Option<State> {
    capture.report().snapshots.iter().find(|shown| shown.channel == channel).map(|shown| shown.state)
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_answered_in_the_midst_of_a_transaction() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key); insert into t select generate_series(1, 10)").await;
    run(&client, "create table u (id int primary key); insert into u values (1)").await;
    let way = Interceptor::start(&server).await;
    let capture = Capture::start(way.config(), directory.path()).await;
    way.hold_within();
    run(&client, "insert into t select generate_series(11, 20)").await;
    until("the stream to stand still", async || way.has_message()).await;
    ask(&capture, start("public.t")).await;
    ask(&capture, start("public.u")).await;
    ask(&capture, Command::Cancel(of("public.u"))).await;
    ask(&capture, Command::Pause(of("public.t"))).await;
    assert_eq!((state(&capture, "public.t"), state(&capture, "public.u")), (Some(State::Paused), None));
    ask(&capture, Command::Resume(of("public.t"))).await;
    assert!(way.has_message() && capture.events().is_empty(), "the transaction has not arrived");
    way.pass_stream();
    read_whole(&capture).await;
    caught_up(&client, &capture).await;
    assert_eq!(rebuilt(&capture.events(), "public.t", 1), actual(&client, "t", &["id"]).await);
    assert_eq!(capture.status.read_tables().keys().collect::<Vec<_>>(), ["public.t"]);
    capture.stop().await;
}

/// A table that is being read: its rows wait for their place in the stream.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_wait_for_their_place_do_not_hold_up_who_pauses() {
    let server = Server::start("autovacuum = off");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key); insert into t select generate_series(1, 10000)").await;
    run(&client, "create table u (id int primary key); insert into u values (1)").await;
    let (way, locker) = (Interceptor::start(&server).await, sql(&server).await);
    run(&locker, "select pg_advisory_lock(7)").await;
    let capture = Capture::start(way.config(), directory.path()).await;
    let slow = "pg_advisory_xact_lock_shared(7) is not null";
    ask(&capture, rows_of_t(Some(slow))).await;
    let reads = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
    until("the chunk to be read", async || value(&client, reads).await == "1").await;
    way.hold_within();
    run(&client, "insert into u values (2), (3)").await;
    until("the stream to stand still", async || way.has_message()).await;
    run(&locker, "select pg_advisory_unlock(7)").await;
    until("the chunk", async || way.chunks() > 0).await;
    // The one begins to be read, and the rows of the other have been.
    ask(&capture, start("public.u")).await;
    ask(&capture, Command::Pause(of("public.u"))).await;
    ask(&capture, Command::Pause(of("public.t"))).await;
    assert_eq!(state(&capture, "public.t"), Some(State::Paused));
    assert!(way.has_message() && capture.events().is_empty(), "the transaction has not arrived");
    ask(&capture, Command::Resume(vec!["*".to_owned()])).await;
    way.pass_stream();
    read_whole(&capture).await;
    caught_up(&client, &capture).await;
    for table in ["t", "u"] {
        let told = rebuilt(&capture.events(), &format!("public.{table}"), 1);
        assert_eq!(told, actual(&client, table, &["id"]).await);
    }
    let reads = capture.events().iter().filter(|event| event.op == Op::Read).count();
    assert_eq!(reads, 10_000 + 3, "none twice");
    capture.stop().await;
}
