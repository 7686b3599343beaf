//! What comes after an idle time is not late.

use super::harness::{Capture, Directory, run, sql, until, value};
use super::interceptor::{Fate, Interceptor};
use crate::support::Server;
use rowcast_engine::Lsn;

/// Nobody has committed a message of no transaction: how old the last commit is says nothing of it.
#[tokio::test]
async fn a_message_of_no_transaction_is_not_late() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let way = Interceptor::start(&server).await;
    let capture = Capture::start(way.config(), directory.path()).await;
    run(&client, "insert into t values (1)").await;
    let commit = capture.wait(1).await.remove(0);
    let passed = |lsn: Lsn| capture.report().source.received_lsn >= lsn;
    until("the server to have nothing more", async || passed(commit.end_lsn)).await;
    let idle = format!("extract(epoch from clock_timestamp()) * 1e6 > {} + 3e6", commit.at);
    until("an idle time", async || value(&client, &idle).await == "true").await;
    assert!(capture.report().source.lag_seconds < 1.0);
    // Behind the message nothing is heard, so that it stays the newest.
    way.hold_behind(b'M');
    let sent = value(&client, "pg_logical_emit_message(false, 'elsewhere', '')").await.parse().unwrap();
    until("the message", async || passed(sent)).await;
    let lag = capture.report().source.lag_seconds;
    assert!(lag < 1.0, "{lag} s");
    way.rule(|_| Fate::Pass);
    way.pass_stream();
    capture.stop().await;
}
