//! The whole program against real Postgres, real Kafka and a real browser: a file a scenario.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod abort;
mod adopt;
mod chaos;
mod commands;
mod confirm;
mod connection;
mod custom;
mod debezium;
mod demo;
mod doors;
mod filling;
mod flow;
mod full;
mod hangup;
mod huge;
mod journal;
mod large;
mod layout;
mod liveness;
mod neighbours;
mod page;
mod readme;
mod resume;
mod setup;
mod sinks;
mod slot;
mod snapshot;
mod support;
mod tables;
mod type_changes;
mod types;
mod unrendered;
mod workload;
