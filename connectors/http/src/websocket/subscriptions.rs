//! The subscriptions of one connection. Each waits for its own next events, and all that are ready take turns:
//! one that replays a long history does not hold up the others. Nothing is read ahead of the socket.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::{AbortHandle, Abortable, BoxFuture, abortable};
use futures_util::stream::{FuturesUnordered, StreamExt};
use rowcast_engine::Result;

use crate::reader::{Reader, Step};
use crate::websocket::messages::Prefix;

/// One subscription whose turn it is.
pub(super) struct Turn {
    /// The client's name for it.
    pub(super) id: Arc<str>,
    /// What comes next for it.
    pub(super) step: Result<Step>,
    /// What stands before its events.
    pub(super) prefix: Arc<Prefix>,
    reader: Reader,
}

impl Turn {
    /// All up to this number has been given out or filtered away, this step included.
    pub(super) fn position(&self) -> u64 {
        self.reader.position()
    }
}

struct Held {
    abort: AbortHandle,
    position: u64,
}

/// All of one connection.
#[derive(Default)]
pub(super) struct Subscriptions {
    waiting: FuturesUnordered<Abortable<BoxFuture<'static, Turn>>>,
    held: HashMap<Arc<str>, Held>,
    /// For subscriptions that come without a name.
    named: u64,
}

impl Subscriptions {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether the name is taken.
    pub(super) fn contains(&self, id: &str) -> bool {
        self.held.contains_key(id)
    }

    /// A name that is free: `1`, `2`, …
    pub(super) fn free_name(&mut self) -> String {
        loop {
            self.named += 1;
            let name = self.named.to_string();
            if !self.contains(&name) {
                return name;
            }
        }
    }

    /// Adds one.
    pub(super) fn add(&mut self, id: &str, reader: Reader) {
        let prefix = Arc::new(Prefix::new(id));
        self.wait(id.into(), prefix, reader);
    }

    /// Takes one away, and says how far it was.
    pub(super) fn remove(&mut self, id: &str) -> Option<u64> {
        let held = self.held.remove(id)?;
        held.abort.abort();
        Some(held.position)
    }

    /// Waits for the next turn; for ever when there is no subscription. Cancel safe.
    pub(super) async fn next(&mut self) -> Turn {
        loop {
            match self.waiting.next().await {
                Some(Ok(turn)) => return turn,
                Some(Err(_aborted)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Lets a subscription wait again after its turn.
    pub(super) fn again(&mut self, turn: Turn) {
        self.wait(turn.id, turn.prefix, turn.reader);
    }

    fn wait(&mut self, id: Arc<str>, prefix: Arc<Prefix>, mut reader: Reader) {
        let position = reader.position();
        let name = Arc::clone(&id);
        let turn: BoxFuture<'static, Turn> = Box::pin(async move {
            let step = reader.step().await;
            Turn { id, step, prefix, reader }
        });
        let (turn, abort) = abortable(turn);
        self.waiting.push(turn);
        self.held.insert(name, Held { abort, position });
    }
}
