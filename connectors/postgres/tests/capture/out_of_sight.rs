//! A slot that cannot be looked at: what was seen of it before is told no more.

use rowcast_postgres::Config;

use super::harness::{Capture, Directory, SLOT_STATES, run, sql, until};
use super::measured::one_of;
use crate::support::Server;

/// The database lets nobody in for a while, and the server's other ones go on writing.
#[tokio::test]
async fn what_was_seen_last_is_not_told_of_a_slot_that_is_out_of_sight() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    client.batch_execute("create database shop").await.unwrap();
    let url = server.admin().replace("dbname=postgres", "dbname=shop");
    let config = Config { url, wal_budget: Some(64 << 20), ..Config::default() };
    let capture = Capture::start(config, directory.path()).await;
    capture.slot_is("active").await;
    assert!(capture.gauge("wal_retained_bytes").is_finite());

    run(&client, "alter database shop allow_connections false").await;
    run(&client, "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'shop'").await;
    until("the word of it", async || capture.report().source.concern.is_some()).await;
    let report = capture.report();
    let told = report.source.concern.unwrap();
    for words in ["replication slot rowcast was last seen", "source.wal_budget is of no effect", "accepting"]
    {
        assert!(told.contains(words), "{told}");
    }
    assert!(report.reasons.contains(&told), "{:?}", report.reasons);
    assert_eq!((report.source.slot_state, report.source.wal_retained_bytes), ("", None));
    assert_eq!(one_of("rowcast_source_slot_state", "state", &SLOT_STATES), None);
    for gauge in ["wal_retained_bytes", "wal_safe_bytes"] {
        assert!(capture.gauge(gauge).is_nan(), "{gauge}");
    }

    run(&client, "alter database shop allow_connections true").await;
    capture.slot_is("active").await;
    until("health", async || capture.report().healthy).await;
    assert!(capture.report().source.concern.is_none() && capture.gauge("wal_retained_bytes").is_finite());
    assert!(capture.gauge("wal_safe_bytes").is_infinite());
    capture.stop().await;
}
