//! From a real server's changes to the journal.

mod breaks;
mod harness;
mod publications;
mod restored;
mod resume;
mod setup;
mod stream;
mod tls;
mod trigger;
mod uninstall;
