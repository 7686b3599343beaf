//! The engine against a real disk.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so at once")]

mod compression;
mod cuts;
mod delivery;
mod feed;
mod journal;
mod power;
mod quick;
mod seam;
mod support;
