//! SIGTERM and SIGINT: the first one ends the program in order, the second one at once. SIGHUP means two things: from
//! somebody who runs daemons, to look again; from the kernel, that the terminal is gone. `rowcast run` tells them apart
//! by whether the terminal that it was started at is still there.

use std::fs::File;
use std::time::Duration;

use rowcast_engine::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What follows the first signal within this time is the same one.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

/// The terminal of the session that we are in, whatever standard input is.
const TERMINAL: &str = "/dev/tty";

/// The signals that end the program.
pub(crate) struct Signals {
    /// What SIGHUP asks for, unless it is the end.
    look: Option<Box<dyn Fn() + Send>>,
    /// There was a terminal at the start.
    terminal: bool,
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
            look: None,
            terminal: has_terminal(),
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
            hang_up: take(SignalKind::hangup())?,
        })
    }

    /// From here on SIGHUP does this, unless the terminal is gone.
    pub(crate) fn on_hang_up(mut self, look: impl Fn() + Send + 'static) -> Self {
        self.look = Some(Box::new(look));
        self
    }

    /// Waits for one that ends the program.
    pub(crate) async fn first(&mut self) {
        loop {
            let name = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
                _ = self.hang_up.recv() => "SIGHUP",
            };
            let gone = self.terminal && !has_terminal();
            match &self.look {
                Some(look) if name == "SIGHUP" && !gone => {
                    tracing::info!("Received SIGHUP: compares what is captured with what is wanted");
                    look();
                }
                _ => {
                    tracing::info!("Received {name}");
                    return;
                }
            }
        }
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

fn has_terminal() -> bool {
    File::open(TERMINAL).is_ok()
}
