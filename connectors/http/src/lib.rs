//! The HTTP door out: every change event over SSE, WebSocket, NDJSON and JSON pages, custom events in, health,
//! metrics, and the page at `/`; all on one port.
//!
//! ```text
//! GET  /v1/events                     text/event-stream, application/x-ndjson or application/json, by Accept
//! POST /v1/events                     the same, the parameters as a JSON object
//! GET  /v1/ws                         WebSocket, subprotocol rowcast.v1
//! GET  /v1/channels                   what there is to listen to
//! GET  /v1/schemas/{table}            the versions of a table that events name as `schema`; ?version=N for one
//! POST /v1/channels/{name}/events     publishes a custom event
//! GET  /v1/status, /v1/health/flow    how things are
//! POST /v1/source/adopt               goes on behind a gap; on the Unix socket only
//! GET  /v1/sinks                      the doors that push; orders to them on the Unix socket alone
//! GET  /v1/snapshots                  the rows that are being read; orders likewise
//! GET  /healthz, /readyz, /metrics    for machines that watch
//! GET  /                              for people who watch
//! ```
//!
//! A client remembers how far it is, the door remembers nothing: each reader is a place in the journal, read when
//! the client's socket takes more. So a slow reader costs no memory and holds up nobody.

mod admin;
mod adopt;
mod app;
mod channels;
mod clients;
mod config;
mod door;
mod duration;
mod events;
mod guard;
mod ndjson;
mod opening;
mod page;
mod page_json;
mod path;
mod payload;
mod publish;
mod query;
mod reader;
mod refusal;
mod routes;
mod schemas;
mod serve;
mod sinks;
mod snapshots;
mod sse;
mod stream;
mod unix;
mod unreadable;
mod websocket;

pub use config::{Auth, Config};
pub use door::{Context, Door};
