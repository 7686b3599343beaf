//! The connector against a real Postgres, started by the tests themselves.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod capture;
mod support;
mod wire;
