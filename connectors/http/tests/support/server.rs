use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rowcast_engine::feed::Feed;
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{Journal, Options, open};
use rowcast_engine::sinks::Sinks;
use rowcast_engine::status::{Captured, Status};
use rowcast_engine::{Result, Stopper, stop};
use rowcast_http::{Config, Context, Door};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::client::{Answer, request};
use super::soon;

/// How the server is to be.
#[derive(Default)]
pub(crate) struct Setup {
    /// The door's configuration; it listens on a free port of loopback.
    pub(crate) config: Config,
    /// Segments of this many bytes, and no more than three times as much in all.
    pub(crate) small: Option<u64>,
    /// With a Unix socket.
    pub(crate) admin: bool,
    /// Next to nothing of the journal is kept in memory.
    pub(crate) uncached: bool,
}

/// A running door with a journal of its own.
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What it serves.
    pub(crate) journal: Journal,
    /// The board.
    pub(crate) status: Status,
    /// The doors that push: none.
    pub(crate) sinks: Sinks,
    /// The Unix socket.
    pub(crate) admin: PathBuf,
    stopper: Stopper,
    run: JoinHandle<Result<()>>,
    _dir: TempDir,
}

impl Server {
    /// As people start it.
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    /// As a test wants it.
    pub(crate) async fn with(setup: Setup) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut options = Options::new(dir.path().join("journal"));
        if let Some(bytes) = setup.small {
            options.segment_bytes = bytes;
            options.max_size = Some(3 * bytes);
        }
        options.min_free = 0;
        if setup.uncached {
            options.cache_bytes = 100;
        }
        let journal = open(options, Arc::new(RealDisk)).expect("a journal");
        let (stopper, stop) = stop();
        let status = Status::default();
        status.source(|source| {
            source.state = "streaming";
            source.tables.insert("public.orders".to_owned(), Captured::default());
            source.tables.insert("public.log".to_owned(), Captured { inserts_only: true });
        });
        let admin = dir.path().join("admin.sock");
        let config = Config { listen: "127.0.0.1:0".to_owned(), ..setup.config };
        let door = Door::bind(config, setup.admin.then(|| admin.clone())).await.expect("a door");
        let address = door.address();
        let sinks = Sinks::new(dir.path().join("cursors"));
        let context = Context {
            feed: Feed::new(journal.clone(), stop.clone()),
            status: status.clone(),
            sinks: sinks.clone(),
            metrics: Arc::new(|| "rowcast_healthy 1\n".to_owned()),
        };
        let run = tokio::spawn(door.run(context, stop));
        Self { address, journal, status, sinks, admin, stopper, run, _dir: dir }
    }

    /// Appends custom events to `channel`, each with its place in the list as payload; gives their numbers.
    pub(crate) async fn publish(&self, channel: &str, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        for place in 0..count {
            let payload = place.to_string();
            let id = self.journal.publish(&[(channel, payload.as_bytes())], 1_700_000_000_000_000).await;
            ids.push(id.expect("an id"));
        }
        ids
    }

    /// GET to the end.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        request(self.address, "GET", path, &[], "").await
    }

    /// Tells the door to stop, without waiting.
    pub(crate) fn stop(&self) {
        self.stopper.stop();
    }

    /// Waits until the door has stopped.
    pub(crate) async fn stopped(self) {
        soon("the door to stop", self.run).await.expect("no panic").expect("no error");
    }
}
