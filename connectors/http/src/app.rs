//! What every request can reach.

use std::sync::Arc;

use rowcast_engine::Stop;
use rowcast_engine::feed::Feed;
use rowcast_engine::journal::Journal;
use rowcast_engine::sinks::Sinks;
use rowcast_engine::status::{Report, Status};

use crate::channels::CustomChannels;
use crate::clients::Clients;
use crate::config::Config;
use crate::unreadable::Unreadable;

/// The open door.
pub(crate) struct App {
    /// Where events come from.
    pub(crate) feed: Feed,
    /// The board.
    pub(crate) status: Status,
    /// The doors that push.
    pub(crate) sinks: Sinks,
    /// Renders the metrics as Prometheus reads them.
    pub(crate) metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// As configured.
    pub(crate) config: Config,
    /// Who is connected.
    pub(crate) clients: Clients,
    /// Custom channels that have been seen.
    pub(crate) channels: CustomChannels,
    /// What has been told of a journal that cannot be read.
    pub(crate) unreadable: Unreadable,
    /// Ends every stream.
    pub(crate) stop: Stop,
}

impl App {
    /// The journal under the feed.
    pub(crate) fn journal(&self) -> &Journal {
        self.feed.journal()
    }

    /// Says on the board how the door is.
    pub(crate) fn show(&self, state: &'static str) {
        self.status.door("http", |door| {
            door.kind = "http";
            door.state = state;
            door.clients = Some(self.clients.connected());
            door.delivered = self.clients.delivered();
        });
    }

    /// The board as it is now.
    pub(crate) fn report(&self) -> Report {
        self.show(if self.stop.is_stopped() { "stopped" } else { "running" });
        self.status.report(self.journal())
    }
}
