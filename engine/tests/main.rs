//! The engine against a real disk.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so at once")]

mod campaign;
mod cuts;
mod delivery;
mod disk;
mod feed;
mod forgotten;
mod fuzz;
mod journal;
mod model;
mod power;
mod random;
mod support;
