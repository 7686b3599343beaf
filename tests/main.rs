//! The whole program against real Postgres, real Kafka and a real browser: a file a scenario.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod abort;
mod adopt;
mod chaos;
mod commands;
mod custom;
mod debezium;
mod demo;
mod doors;
mod flow;
mod full;
mod huge;
mod journal;
mod large;
mod layout;
mod neighbours;
mod page;
mod readme;
mod resume;
mod setup;
mod sinks;
mod slot;
mod support;
mod tables;
mod types;
mod workload;
