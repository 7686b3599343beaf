//! The doors that push: we remember how far the target is.

use std::future::Future;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::journal::Gone;
use crate::record::Batch;

/// What a failed delivery means.
#[derive(Debug)]
pub enum SinkError {
    /// May pass: everything since the last commit is sent again, after a pause.
    Retry(Error),
    /// Will not pass without a person: the sink stops, its position stays.
    Stop(Error),
}

/// A target that events are pushed to.
pub trait Sink: Send {
    /// The name in status, metrics and cursor.
    fn name(&self) -> &str;

    /// Connects, and says where the target stands if the target knows. Called before the first batch and after
    /// each failure.
    fn resume(&mut self) -> impl Future<Output = Result<Option<u64>, SinkError>> + Send;

    /// Takes the events of a batch that come after `after`, in order. They may still be on their way when this
    /// returns.
    fn send(&mut self, batch: &Arc<Batch>, after: u64) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Retention has taken events that the target never got. `Ok` goes on behind the gap.
    fn gap(&mut self, gone: Gone) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Returns once the target has everything sent before.
    fn commit(&mut self) -> impl Future<Output = Result<(), SinkError>> + Send;
}
