//! The door in.

use std::future::Future;

use crate::error::Result;
use crate::ingest::Ingest;
use crate::status::Status;
use crate::stop::Stop;

/// Turns what happens in an outside system into events.
pub trait Source {
    /// Runs until told to stop. Owns reconnecting; an error is for good: capture has ended, the doors go on serving.
    fn run(self, ingest: Ingest, status: Status, stop: Stop) -> impl Future<Output = Result<()>>;
}
