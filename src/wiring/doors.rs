//! The doors out. One that fails says so on the board and in the log; the others go on.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rowcast_engine::feed::Feed;
use rowcast_engine::journal::Journal;
use rowcast_engine::sinks::Sinks;
use rowcast_engine::status::Status;
use rowcast_engine::{Error, Result, Stop, Stopper, stop};
use rowcast_http::{Context, Door};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::metrics::Metrics;
use crate::config::{self, Config};

/// The open doors.
pub(crate) struct Doors {
    stopper: Stopper,
    running: JoinSet<()>,
    address: SocketAddr,
    /// Says where the door is, for as long as it is.
    _file: AddressFile,
}

impl Doors {
    /// Opens them.
    pub(crate) async fn open(
        config: &Config,
        journal: &Journal,
        status: &Status,
        metrics: Metrics,
    ) -> Result<Self> {
        let (stopper, stop) = stop();
        let door = Door::bind(config.http.clone(), Some(config::socket(&config.data))).await?;
        let address = door.address();
        let file = AddressFile::write(config.data.join("http.addr"), address)?;
        let feed = Feed::new(journal.clone(), stop.clone());
        let sinks = Sinks::new(config.cursors());
        // Before the source brings anything, and before it asks for their wishes.
        status.expect_sinks(config.sinks.iter().map(|(name, _)| name), journal);
        let (board, metrics) = (status.clone(), metrics.render(status, journal));
        let context = Context { feed, status: board, sinks: sinks.clone(), metrics };
        let mut running = JoinSet::new();
        running.spawn(watched("http".to_owned(), door.run(context, stop.clone())));
        open_sinks(config, journal, status, &sinks, &stop, &mut running);
        tracing::info!(%address, "Listening");
        Ok(Self { stopper, running, address, _file: file })
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends clients away, ends sinks, and waits for both.
    pub(crate) async fn close(mut self, patience: Duration) {
        self.stopper.stop();
        let ended = async { while self.running.join_next().await.is_some() {} };
        if timeout(patience, ended).await.is_err() {
            tracing::warn!("A door has not closed in time");
        }
    }
}

#[cfg(feature = "kafka")]
fn open_sinks(
    config: &Config,
    journal: &Journal,
    status: &Status,
    sinks: &Sinks,
    stop: &Stop,
    running: &mut JoinSet<()>,
) {
    for (name, sink) in config.sinks.iter() {
        let (name, journal, status) = (name.clone(), journal.clone(), status.clone());
        let (sinks, stop) = (sinks.clone(), stop.clone());
        match sink.clone() {
            config::Sink::Kafka(config) => running.spawn(watched(name.clone(), async move {
                let ended = rowcast_kafka::run(name.clone(), *config, journal, status.clone(), sinks, stop);
                let ended = ended.await;
                status.sink_ended(&name);
                ended
            })),
        };
    }
}

#[cfg(not(feature = "kafka"))]
fn open_sinks(config: &Config, _: &Journal, _: &Status, _: &Sinks, _: &Stop, _: &mut JoinSet<()>) {
    debug_assert_eq!(config.sinks.iter().count(), 0, "no other door pushes");
}

async fn watched(name: String, run: impl Future<Output = Result<()>>) {
    if let Err(error) = run.await {
        tracing::error!(door = name, hint = error.remedy(), "The door has ended, the others go on: {error}");
    }
}

/// A file that tells scripts the port that was drawn; gone when the door is.
struct AddressFile(PathBuf);

impl AddressFile {
    fn write(path: PathBuf, address: SocketAddr) -> Result<Self> {
        match write_whole(&path, &format!("{address}\n")) {
            Ok(()) => {}
            // What is stored is served on a full disk too, to those who know where.
            Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                tracing::warn!(%error, path = %path.display(), "Cannot write where the door is");
            }
            Err(error) => {
                return Err(Error::failed(format!("Cannot write {}", path.display())).because(error));
            }
        }
        Ok(Self(path))
    }
}

/// Written beside and renamed, so that nobody reads half of it.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_extension("addr.new");
    fs::write(&beside, text)?;
    fs::rename(&beside, path)
}

impl Drop for AddressFile {
    fn drop(&mut self) {
        // One that stays is replaced at the next start.
        let _ = fs::remove_file(&self.0);
    }
}
