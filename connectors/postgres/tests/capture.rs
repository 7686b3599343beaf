//! From a real server's changes to the journal.

mod harness;
mod resume;
mod setup;
mod stream;
mod tls;
