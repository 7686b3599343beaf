//! From a real server's changes to the journal.

mod blockers;
mod breaks;
mod budget;
mod failover;
mod harness;
mod restored;
mod resume;
mod setup;
mod slots;
mod standby;
mod stream;
mod tls;
