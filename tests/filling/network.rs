//! A network in which rows take their time, and changes do not.

use std::thread;

use tokio::net::lookup_host;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::support::{Database, Proxy};

/// What comes of a table in a second, in bytes: its first chunk takes as long, and those behind it are small.
const PACE: f64 = 2e6;

/// Between rowcast and the database's server.
pub(super) struct Network {
    proxy: Proxy,
    /// Its thread ends when this does.
    _end: oneshot::Sender<()>,
}

impl Network {
    /// With the database's URL there.
    pub(super) async fn before(database: &Database) -> (Self, String) {
        let (user, place) = database.url().split_once('@').expect("a URL with a user");
        let (server, name) = place.split_once('/').expect("a URL with a database");
        let target = lookup_host(server).await.expect("an address").next().expect("an address");
        let (sender, started) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        // The threads of the test are busy with what everybody is told.
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let proxy = Proxy::start(target).await;
                proxy.slow(PACE);
                let _ = sender.send(proxy);
                let _ = ended.await;
            });
        });
        let proxy = started.await.expect("a proxy");
        // It sees from the first words what a connection is for.
        let url = format!("{user}@{}/{name}?sslmode=disable", proxy.address());
        (Self { proxy, _end: end }, url)
    }

    /// So much comes from here on, in bytes, and what is behind it waits.
    pub(super) fn grant(&self, bytes: u64) {
        self.proxy.grant(bytes);
    }

    /// From here on rows come as fast as they can.
    pub(super) fn mend(&self) {
        self.proxy.mend();
    }
}
