//! Who is connected, and how much they have been given.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{Counter, counter, gauge};
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::app::App;

/// In what shape a client is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `text/event-stream`.
    Sse,
    /// `application/x-ndjson`.
    Ndjson,
    /// A JSON page, waiting or not.
    Page,
    /// A WebSocket.
    WebSocket,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Sse, Self::Ndjson, Self::Page, Self::WebSocket];

    fn name(self) -> &'static str {
        match self {
            Self::Sse => "sse",
            Self::Ndjson => "ndjson",
            Self::Page => "page",
            Self::WebSocket => "websocket",
        }
    }
}

/// What is counted of one kind.
struct Tally {
    connected: AtomicU64,
    events: Counter,
    bytes: Counter,
}

/// All clients of the door.
pub(crate) struct Clients {
    max: usize,
    total: watch::Sender<usize>,
    delivered: AtomicU64,
    kinds: [Tally; 4],
}

/// A client that counts until it is dropped.
pub(crate) struct Client {
    app: Arc<App>,
    kind: Kind,
}

impl Clients {
    /// Nobody yet, and at most `max`.
    pub(crate) fn new(max: usize) -> Self {
        let kinds = Kind::ALL.map(|kind| Tally {
            connected: AtomicU64::new(0),
            events: counter!("rowcast_http_events_total", "kind" => kind.name()),
            bytes: counter!("rowcast_http_bytes_total", "kind" => kind.name()),
        });
        Self { max, total: watch::Sender::new(0), delivered: AtomicU64::new(0), kinds }
    }

    /// How many are connected.
    pub(crate) fn connected(&self) -> u64 {
        *self.total.borrow() as u64
    }

    /// Events given out since the start, to all clients together.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// How many are connected, by kind.
    pub(crate) fn by_kind(&self) -> Map<String, Value> {
        let count =
            |kind: Kind| (kind.name().to_owned(), self.tally(kind).connected.load(Ordering::Relaxed).into());
        Kind::ALL.into_iter().map(count).collect()
    }

    /// Sets the gauges that `/metrics` shows.
    pub(crate) fn record(&self) {
        for kind in Kind::ALL {
            let connected = self.tally(kind).connected.load(Ordering::Relaxed);
            gauge!("rowcast_http_clients", "kind" => kind.name()).set(connected as f64);
        }
    }

    /// Waits until the last one is gone, but no longer than `deadline`.
    pub(crate) async fn gone(&self, deadline: Duration) {
        let mut total = self.total.subscribe();
        // Whoever is still there then is cut off by the end of the program.
        let _ = tokio::time::timeout(deadline, total.wait_for(|total| *total == 0)).await;
    }

    fn tally(&self, kind: Kind) -> &Tally {
        let [sse, ndjson, page, websocket] = &self.kinds;
        match kind {
            Kind::Sse => sse,
            Kind::Ndjson => ndjson,
            Kind::Page => page,
            Kind::WebSocket => websocket,
        }
    }
}

impl Client {
    /// Lets a client in, unless there are too many.
    pub(crate) fn enter(app: &Arc<App>, kind: Kind) -> Option<Self> {
        let clients = &app.clients;
        let entered = clients.total.send_if_modified(|total| {
            let room = *total < clients.max;
            *total += usize::from(room);
            room
        });
        entered.then(|| {
            clients.tally(kind).connected.fetch_add(1, Ordering::Relaxed);
            Self { app: Arc::clone(app), kind }
        })
    }

    /// Counts what it has been given.
    pub(crate) fn given(&self, events: usize, bytes: usize) {
        let tally = self.app.clients.tally(self.kind);
        self.app.clients.delivered.fetch_add(events as u64, Ordering::Relaxed);
        tally.events.increment(events as u64);
        tally.bytes.increment(bytes as u64);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let clients = &self.app.clients;
        clients.tally(self.kind).connected.fetch_sub(1, Ordering::Relaxed);
        clients.total.send_modify(|total| *total -= 1);
    }
}
