//! Kafka records as Debezium's Postgres connector writes them, for consumers that were written against it.
//!
//! The shape is that of [`DEBEZIUM_VERSION`] with its default options, Kafka's JsonConverter with schemas off and
//! `replace.null.with.default=false`: an envelope of `before`, `after`, `source`, `transaction`, `op` and clocks. A
//! delete is followed by a tombstone; an update of the key is a delete, a tombstone and a create, tied together
//! by headers. Columns of types that Debezium does not know are left out of the row.
//!
//! Where Debezium is wrong, this is right instead: `before` has null, not an invented value, for what Postgres did
//! not send; a key that the old row does not hold, or that was not sent whole, is replaced by the replica identity's columns (the
//! records of such a row may have either key, then); bit strings in keys keep their length, and values that cannot be
//! written are there as their bytes; columns of type
//! `name` have their value; arrays of several dimensions are nested; a numeric NaN or infinity, an infinite date and
//! an interval beyond 64 bits of microseconds are strings, where Debezium has null or an arbitrary number.

mod binary;
mod decimal;
mod envelope;
mod geometry;
mod key;
mod map;
mod placeholder;
mod records;
mod shape;
mod temporal;
mod topic;
mod value;

pub use envelope::{DEBEZIUM_VERSION, Debezium, DebeziumOptions};
pub use records::{Header, Record, Records};
pub use topic::topic_name;

#[cfg(test)]
mod tests;
