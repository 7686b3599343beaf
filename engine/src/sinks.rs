//! The push doors of a program as commands see them: by name, to be paused, resumed and moved while they run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::answer::answered;
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::quotes::in_quotes;

/// Orders on their way to one sink: people give them, one at a time.
const ORDERS: usize = 4;

/// All push doors. Clones are the same.
#[derive(Clone, Debug)]
pub struct Sinks {
    cursors: PathBuf,
    seats: Arc<Mutex<BTreeMap<String, mpsc::Sender<Order>>>>,
}

/// What a sink's delivery needs of the house: where its position is kept, and the orders that it is given.
#[derive(Debug)]
pub struct Seat {
    pub(crate) cursor: Cursor,
    pub(crate) orders: mpsc::Receiver<Order>,
}

/// What a person wants of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Deliver nothing more, over restarts, too.
    Pause,
    /// Go on after a pause, behind a gap, or try again what needed a person.
    Resume,
    /// Go on behind this event: what comes after it is delivered (again), what lies before it is not.
    Move(u64),
}

#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) wish: Wish,
    pub(crate) reply: oneshot::Sender<Result<Obeyed>>,
}

/// What has become of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obeyed {
    /// The sink's position before.
    pub before: u64,
    /// And now.
    pub position: u64,
}

impl Sinks {
    /// None yet. Their positions lie in the directory `cursors`, a file each.
    pub fn new(cursors: impl Into<PathBuf>) -> Self {
        Self { cursors: cursors.into(), seats: Arc::default() }
    }

    /// A place for the sink `name`, which commands find from now on.
    pub fn seat(&self, name: &str, installation: Uuid) -> Seat {
        let (sender, orders) = mpsc::channel(ORDERS);
        self.seats().insert(name.to_owned(), sender);
        Seat { cursor: Cursor::new(&self.cursors, name, installation), orders }
    }

    /// All names, in order.
    pub fn names(&self) -> Vec<String> {
        self.seats().keys().cloned().collect()
    }

    /// Gives an order and waits until the sink has obeyed.
    ///
    /// # Errors
    /// A usage error for a name that no sink has; a failure when the sink has ended or cannot store what is ordered.
    pub async fn order(&self, name: &str, wish: Wish) -> Result<Obeyed> {
        let seat = self.seats().get(name).cloned();
        let seat = seat.ok_or_else(|| self.unknown(name))?;
        let ended = || {
            Error::failed(format!("The sink {name} has ended"))
                .hint("The log says why; mend that, and restart rowcast.")
        };
        let (reply, answer) = oneshot::channel();
        seat.send(Order { wish, reply }).await.map_err(|_| ended())?;
        answered(&seat, answer).await.ok_or_else(ended)?
    }

    /// No sink has this name.
    pub fn unknown(&self, name: &str) -> Error {
        let names = self.names();
        let hint = if names.is_empty() {
            "This rowcast has no sinks: one is made with --kafka HOST:PORT, or [kafka] in the configuration."
                .to_owned()
        } else {
            format!("There is {}.", names.join(", "))
        };
        Error::usage(format!("There is no sink {}", in_quotes(name))).hint(hint)
    }

    fn seats(&self) -> MutexGuard<'_, BTreeMap<String, mpsc::Sender<Order>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
