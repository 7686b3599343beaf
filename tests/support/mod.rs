//! What the scenarios stand on: real servers, the real program, and clients written apart from the program's
//! own code, so that they judge it independently.
//!
//! With `ROWCAST_TEST_POSTGRES_URL` and `ROWCAST_TEST_KAFKA` set, the tests use those servers in place of their
//! own; scenarios that must start, stop or configure a server then skip themselves (see [`own_servers`]).
#![allow(dead_code, unused_imports, reason = "each scenario uses what it needs")]

pub(crate) mod browser;
pub(crate) mod database;
pub(crate) mod debezium;
pub(crate) mod failing_disk;
pub(crate) mod follow;
pub(crate) mod http;
pub(crate) mod kafka;
pub(crate) mod ndjson;
pub(crate) mod port;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod rebuild;
pub(crate) mod rowcast;
pub(crate) mod small_disk;
pub(crate) mod sse;
pub(crate) mod terminal;
pub(crate) mod wait;
pub(crate) mod websocket;
pub(crate) mod witness;

mod works;

pub(crate) use database::Database;
pub(crate) use follow::{Door, Follower};
pub(crate) use kafka::{Kafka, KafkaReader};
pub(crate) use postgres::Postgres;
pub(crate) use proxy::Proxy;
pub(crate) use rebuild::Tables;
pub(crate) use rowcast::Rowcast;
pub(crate) use wait::{SOON, random, soon, wait_for};

/// Where a test looks for the servers of the compose file.
pub(crate) const POSTGRES_URL: &str = "ROWCAST_TEST_POSTGRES_URL";
/// Likewise, `HOST:PORT`.
pub(crate) const KAFKA: &str = "ROWCAST_TEST_KAFKA";

/// Whether the tests may start servers of their own; says so when not.
///
/// Scenarios that restart or configure servers begin with `if !own_servers("name") { return; }`.
pub(crate) fn own_servers(test: &str) -> bool {
    let given = [POSTGRES_URL, KAFKA].into_iter().find(|name| std::env::var_os(name).is_some());
    if let Some(name) = given {
        println!("{test}: skipped, since it restarts or configures servers and {name} names somebody else's");
    }
    given.is_none()
}
