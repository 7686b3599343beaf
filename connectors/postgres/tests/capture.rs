//! From a real server's changes to the journal.

mod breaks;
mod cut;
mod encodings;
mod generated;
mod harness;
mod interceptor;
mod oracle;
mod origin;
mod partitions;
mod prepared;
mod restored;
mod resume;
mod setup;
mod stream;
mod tls;
mod unknown;
mod wraparound;
