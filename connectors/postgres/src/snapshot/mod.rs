//! Snapshots: the rows as they are, read beside the stream, so that whoever follows both ends with the table.
//!
//! Nothing is written to the source, nothing waits: neither the stream for a snapshot, nor an application for either.
//! A table is read in chunks in the order of its key, each in a short transaction of its own. A chunk is written where
//! the stream has passed its position, without the rows that a newer event has replaced; rows whose newer event lacks
//! values (TOASTed ones that did not change) are read again. How far it has come stands in the journal beside the rows,
//! so that a crash at any moment repeats at most one chunk.
//!
//! A table without a key is read in one piece, since nothing tells its rows apart: what is done to it meanwhile is added to
//! its rows before they are written, and what events have told is taken from them (`tracker/whole.rs`).
//!
//! `order` is what readers and stream say to each other, `tracker` the stream's side, `task` the readers'.

mod command;
mod condition;
pub(crate) mod group;
pub(crate) mod job;
mod keyless;
#[cfg(test)]
mod model;
mod moment;
pub(crate) mod order;
mod pace;
mod read;
mod room;
mod rowless;
pub(crate) mod rows;
pub(crate) mod scan;
mod server;
mod size;
mod table;
mod task;
pub(crate) mod told;
pub(crate) mod tracker;
pub(crate) mod unread;
pub(crate) mod visible;
mod wishes;

pub(crate) use moment::lsn_of;
pub(crate) use rowless::rows_last;
pub(crate) use task::Snapshots;
pub use task::show_left;
pub use unread::not_all_read;
