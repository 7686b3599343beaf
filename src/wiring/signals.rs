//! SIGTERM, SIGINT and SIGHUP: the first one ends the program in order, the second one at once.

use std::time::Duration;

use rowcast_engine::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What follows the first signal within this time is the same one.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

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

    /// Waits for another one that a person means: `timeout` and terminals give the first one twice, to the process
    /// and to its group.
    pub(crate) async fn second(&mut self) {
        let soon = tokio::time::Instant::now() + SAME_SIGNAL;
        loop {
            self.first().await;
            if tokio::time::Instant::now() >= soon {
                return;
            }
        }
    }
}
