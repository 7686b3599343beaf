//! From a real server's changes to the journal.

mod breaks;
mod harness;
mod hostile;
mod hosts;
mod liveness;
mod network;
mod restored;
mod resume;
mod setup;
mod snapshot;
mod stream;
mod tls;
