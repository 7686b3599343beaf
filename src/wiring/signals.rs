//! SIGTERM and SIGINT: the first one ends the program in order, the second one at once. SIGHUP means two things: from
//! somebody who runs daemons, to look again; from the kernel, that the terminal is gone. `rowcast run` tells them apart
//! by whether the terminal that it was started at is still there, unless it was started to outlive that (`nohup`).

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
    /// There was a terminal at the start, and its end is ours.
    terminal: bool,
    /// Whoever started it wants it to go on when the terminal is gone.
    outlives: bool,
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Takes them over: from here on they end nothing by themselves.
    pub(crate) fn new() -> Result<Self> {
        let take =
            |kind| signal(kind).map_err(|error| Error::failed("Cannot listen for signals").because(error));
        // Before the signal is taken over: it is caught from there on.
        let outlives = ignores_hang_up();
        Ok(Self {
            look: None,
            terminal: !outlives && has_terminal(),
            outlives,
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
                    tracing::info!(
                        "Received SIGHUP: compares what is captured with what is wanted (settings are read at the start alone)"
                    );
                    look();
                }
                None if name == "SIGHUP" && self.outlives => {}
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

/// Whether SIGHUP was ignored when the program began, by the kernel's mask of the signals that are.
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Signal 1 is the lowest bit.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

fn has_terminal() -> bool {
    File::open(TERMINAL).is_ok()
}
