//! The door as its clients see it: over sockets, with a real journal behind.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

mod access;
mod board;
mod endings;
mod ndjson;
mod overtaken;
mod pages;
mod publish;
mod rows;
mod schemas;
mod sinks;
mod slow;
mod sse;
mod websocket;
