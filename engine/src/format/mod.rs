//! Views of stored events: how an event is written for a reader.
//!
//! A stored event holds what Postgres said: raw tuples and the schema version with its type tree. A view turns
//! them into bytes that a client reads; each appends to a buffer that its caller owns and reuses.
//!
//! - [`native`]: rowcast's own JSON. Values are equal, as jsonb, to what `to_jsonb(row)` prints in a session with
//!   TimeZone UTC and IntervalStyle iso_8601, with numeric as a string at every depth. Exceptions: money is a plain
//!   decimal string, and json keeps its own text without newlines between its tokens.
//! - [`debezium`]: Kafka records as Debezium's Postgres connector writes them with JSON and schemas off.
//!
//! Both read Postgres' text form under the session settings that capture pins: DateStyle ISO, TimeZone UTC,
//! IntervalStyle iso_8601, bytea_output hex, lc_monetary C, extra_float_digits at least 1. No value can break a
//! reader: what does not fit its type is left out and named ([`ValueError`]).

mod array;
mod composite;
pub mod debezium;
mod hstore;
pub mod json;
mod json_text;
pub mod native;
mod number;
mod oid;
#[cfg(test)]
pub(crate) mod sample;
mod schema;
mod time;
mod unrendered;
mod value;

pub use native::{NativeOptions, write_event};
pub use schema::Described;
pub use time::write_rfc3339;
pub use value::{Numbers, ValueError, write_value};
