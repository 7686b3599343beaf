//! The engine: events, journal, feed, and the traits of the doors. Knows no outside system.

pub mod abort;
pub mod adoption;
mod answer;
pub mod beginnings;
pub mod channel;
mod confirm;
pub mod cursor;
pub mod deliver;
mod error;
pub mod event;
pub mod feed;
pub mod format;
pub mod ingest;
pub mod journal;
mod lsn;
mod quotes;
pub mod record;
pub mod schema;
pub mod sink;
pub mod sinks;
pub mod snapshots;
mod source;
pub mod status;
mod stop;
pub mod units;

pub use answer::answered;
pub use confirm::Confirm;
pub use error::{Error, Kind, Result};
pub use lsn::Lsn;
pub use quotes::in_quotes;
pub use source::Source;
pub use stop::{Stop, Stopper, stop};
