//! From a real server's changes to the journal.

mod breaks;
mod harness;
mod restored;
mod resume;
mod setup;
mod stream;
mod streamed;
mod tls;
