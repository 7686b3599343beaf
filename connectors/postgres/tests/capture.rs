//! From a real server's changes to the journal.

mod breaks;
mod cut;
mod encodings;
mod generated;
mod harness;
mod hostile;
mod hosts;
mod interceptor;
mod liveness;
mod network;
mod oracle;
mod origin;
mod partitions;
mod prepared;
mod publications;
mod restored;
mod resume;
mod setup;
mod snapshot;
mod stream;
mod tls;
mod trigger;
mod uninstall;
mod unknown;
mod wraparound;
