//! A transaction too large for memory goes to a file of its own while it arrives.

use std::future::Future;
use std::pin::Pin;

use rowcast_engine::ingest::{finish_spill, spill_parts};
use rowcast_engine::journal::{Journal, Spill};
use rowcast_engine::record::{Builder, Part};
use rowcast_engine::{Error, Result};

/// An open transaction of which more than this is in memory and can be written gets a file, and is written on whenever it
/// is so again.
pub(super) const MAX_OPEN: usize = 16 << 20;

/// While one write is in flight so much more may come; then reading waits. Bounds the memory of one transaction, but for a
/// row that is larger.
const MAX_WAITING: usize = 2 * MAX_OPEN;

type Writing = Pin<Box<dyn Future<Output = Result<Spill>> + Send>>;

/// The file of the open transaction, if it has one.
#[derive(Default)]
pub(super) enum Large {
    /// It fits into memory.
    #[default]
    None,
    /// Nothing is being written.
    Ready(Box<Spill>),
    /// A write is in flight.
    Writing(Writing),
}

impl Large {
    pub(super) fn is_writing(&self) -> bool {
        matches!(self, Self::Writing(_))
    }

    pub(super) fn is_there(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Whether more of the open transaction may be read. What cannot be written before more has come, a large row that is
    /// the last one so far, must not be waited for.
    pub(super) fn has_room(builder: &Builder) -> bool {
        builder.open_parts_bytes() < MAX_WAITING
    }

    /// Starts a write when there is enough to write and none is in flight. What was finished before the transaction
    /// must have been taken from the builder. Gives whether the open transaction has a file now.
    pub(super) fn relieve(&mut self, journal: &Journal, builder: &mut Builder) -> Result<bool> {
        if builder.open_parts_bytes() < MAX_OPEN || builder.ready_bytes() > 0 {
            return Ok(!matches!(self, Self::None));
        }
        if !self.is_writing() {
            self.start(journal, builder.take_open_parts())?;
        }
        Ok(true)
    }

    /// Starts a write. None must be in flight.
    pub(super) fn start(&mut self, journal: &Journal, parts: Vec<Part>) -> Result<()> {
        debug_assert!(!self.is_writing());
        let spill = match std::mem::take(self) {
            Self::Ready(spill) => *spill,
            Self::None | Self::Writing(_) => {
                metrics::counter!("rowcast_source_spilled_transactions_total").increment(1);
                tracing::debug!("A large transaction is arriving: it goes to a file of its own");
                journal.spill()?
            }
        };
        *self = Self::write(spill, parts);
        Ok(())
    }

    fn write(spill: Spill, parts: Vec<Part>) -> Self {
        Self::Writing(Box::pin(spill_parts(spill, parts)))
    }

    /// Waits until nothing is being written. Cancel safe.
    pub(super) async fn written(&mut self) -> Result<()> {
        if let Self::Writing(writing) = self {
            let result = writing.await;
            // The future is done and must not be polled again, however it ended.
            *self = Self::None;
            *self = Self::Ready(Box::new(result?));
        }
        Ok(())
    }

    /// Gives the file, if there is one.
    pub(super) async fn take(&mut self) -> Result<Option<Spill>> {
        self.written().await?;
        Ok(match std::mem::take(self) {
            Self::Ready(spill) => Some(*spill),
            Self::None | Self::Writing(_) => None,
        })
    }

    /// Writes the last parts and gives the file.
    pub(super) async fn finish(&mut self, parts: Vec<Part>) -> Result<Spill> {
        self.written().await?;
        let Self::Ready(spill) = std::mem::take(self) else {
            return Err(Error::failed("A large transaction has lost its file"));
        };
        finish_spill(*spill, parts).await
    }
}
