//! What the stream remembers of itself while tables are read.

use std::sync::Arc;
use std::time::Duration;

use rowcast_engine::{Error, Result};
use tokio::task::JoinError;
use tokio::time::sleep;
use tokio_postgres::Client;

use super::{Desk, Surroundings};
use crate::config::Source;
use crate::snapshot::moment;
use crate::snapshot::order::{Gone, Order, Orders, begin};
use crate::snapshot::scan;
use crate::snapshot::visible::{Commit, Visible};
use crate::wire::{answering_client, sql_error};

/// While tables are read, the stream remembers each transaction that a snapshot might not see: 16 bytes. So often it is
/// told which ones all see by now, also while no chunk is read because a sink is behind. Ten thousand transactions a
/// second are 1.6 MB.
const FORGET_EVERY: Duration = Duration::from_secs(10);

impl Desk {
    /// Whether the stream notes what it streams; if not, it is asked to. In the midst of a transaction it begins only
    /// behind that, which may take long: whoever orders something meanwhile is answered.
    pub(super) fn watch(&mut self) -> bool {
        if !self.watching && self.beginning.is_empty() {
            self.beginning.spawn(begin_to_watch(self.around.clone()));
        }
        self.watching
    }

    /// It does from now on, or cannot.
    pub(super) fn watched(&mut self, begun: Result<Result<Client>, JoinError>) -> Result<()> {
        let broken = |error| Error::failed("What begins snapshots has broken off").because(error);
        let client = begun.map_err(broken)??;
        self.watching = true;
        // Apart: a login that hangs must not hold up who pauses or cancels.
        self.forgetting.spawn(forget(client, self.around.source.clone(), self.around.orders.clone()));
        Ok(())
    }
}

/// Has the stream note what it streams, with what it has streamed before and may still be invisible.
async fn begin_to_watch(around: Surroundings) -> Result<Client> {
    let gone = |_| Error::transient("The stream has ended");
    // First: a server that lets nobody in must not have the stream note on and on.
    let client = answering_client(&around.source.info).await?;
    begin(&around.orders, &around.journal, Order::Watch).await.map_err(gone)?;
    let streamed = match streamed(&around, &client).await {
        Ok(streamed) => streamed,
        Err(error) => {
            // The stream may be gone.
            let _ = around.orders.send(Order::Rest).await;
            return Err(error);
        }
    };
    around.orders.send(Order::Seed(streamed)).await.map_err(|_| gone(Gone))?;
    Ok(client)
}

/// What the stream has brought before, and snapshots may not see yet.
async fn streamed(around: &Surroundings, client: &Client) -> Result<Vec<Commit>> {
    let visible = moment::from_now_on(client).await?;
    let waits = commits_may_wait(client).await?;
    scan::streamed(&around.journal, visible, waits).await
}

/// Whether a standby is to confirm commits. That of others a role that may not read statistics cannot see.
async fn commits_may_wait(client: &Client) -> Result<bool> {
    let sql = "select current_setting('synchronous_standby_names') <> ''";
    let row = client.query_one(sql, &[]).await;
    row.map(|row| row.get(0)).map_err(|error| sql_error("Cannot read whether commits wait", error))
}

/// Tells the stream now and then what it need not remember any more.
async fn forget(client: Client, source: Arc<Source>, orders: Orders) {
    let mut session = Some(client);
    loop {
        sleep(FORGET_EVERY).await;
        // What is wrong here is wrong with the readers, too, who say so.
        match seen_by_all(&mut session, &source).await {
            // The stream may be gone; so is this one then.
            Ok(visible) => _ = orders.send(Order::Seen(visible)).await,
            Err(error) => {
                session = None;
                tracing::debug!("Cannot ask what every snapshot sees: {error}");
            }
        }
    }
}

async fn seen_by_all(session: &mut Option<Client>, source: &Source) -> Result<Visible> {
    let client = match session {
        Some(client) => client,
        None => session.insert(answering_client(&source.info).await?),
    };
    moment::from_now_on(client).await
}
