//! The connector against a real Postgres, started by the tests themselves.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../../engine/tests/campaign.rs"]
mod campaign;
mod capture;
mod fuzz;
#[path = "../../../engine/tests/log.rs"]
mod log;
#[path = "../../../engine/tests/random.rs"]
mod random;
mod support;
mod wire;
