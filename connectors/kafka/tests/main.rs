//! The door against a real broker.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod held_up;
mod outage;
mod queue;
mod records;
mod refusals;
mod support;
mod told;
