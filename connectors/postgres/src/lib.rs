//! Postgres: the door in. Turns committed changes of a database into events in the journal.
//!
//! What it promises:
//! - **Order.** Transactions arrive in commit order, whole, each change with its place (`seq`) in its transaction.
//!   Custom events (`rowcast.publish`) stand among the row changes of their transaction; one that rolls back leaves
//!   nothing. A message sent outside transactions stands where it was written.
//! - **Nothing lost.** A position is confirmed to the server only when the journal holds all that was committed
//!   below it on its disk, idle positions included. What can break that (a slot that is gone or read by others, a
//!   server restored from a backup, a lost data directory) stops capture and is named; only `adopt` goes on, behind
//!   a gap that every reader is told of.
//! - **Nothing twice.** After a reconnect or a crash the server repeats what it does not know to be stored. Whole
//!   transactions below the journal's position are dropped, each compared with the stored one by end LSN, xid and
//!   commit time. Positions of single changes play no part: rows of one statement can share theirs.
//! - **Nobody's writes fail.** A table is published for UPDATE and DELETE only if its replica identity allows that;
//!   of others the inserts and truncates are captured.
//! - **The server is never held up.** It is told where we stand whatever the disk, the catalog or a huge transaction
//!   make capture wait for. Memory is bounded: 4 MB per group of transactions, 32 MB of an open one; more goes to a
//!   file.
//!
//! [`Postgres`] implements the engine's `Source`; [`check()`] tells what is missing before it is started.

pub mod capture;
mod catalog;
mod check;
mod config;
pub mod conninfo;
pub mod pgoutput;
mod setup;
mod snapshot;
mod tables;
mod uninstall;
pub mod wire;

pub use capture::Postgres;
pub use check::{Requirement, check};
pub use config::{Config, OnGap, Origin, SnapshotMode, Streaming};
pub use snapshot::{not_all_read, show_left};
pub use uninstall::{Removal, uninstall};
