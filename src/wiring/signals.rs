//! SIGTERM, SIGINT and SIGHUP: the first one ends the program in order, the second one at once.

use rowcast_engine::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end the program.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Takes them over: from here on they end nothing by themselves.
    pub(crate) fn new() -> Result<Self> {
        let take =
            |kind| signal(kind).map_err(|error| Error::failed("Cannot listen for signals").because(error));
        Ok(Self {
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
            hang_up: take(SignalKind::hangup())?,
        })
    }

    /// Waits for one.
    pub(crate) async fn first(&mut self) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            // The terminal is gone.
            _ = self.hang_up.recv() => "SIGHUP",
        };
        tracing::info!("Received {name}");
    }

    /// Waits for another one.
    pub(crate) async fn second(&mut self) {
        self.first().await;
    }
}
