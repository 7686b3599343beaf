//! What the stream remembers of itself while tables are read.

use std::time::{Duration, Instant};

use rowcast_engine::{Error, Result};

use super::Desk;
use crate::snapshot::moment;
use crate::snapshot::order::{Gone, Order, begin};
use crate::snapshot::scan;
use crate::snapshot::visible::Visible;
use crate::wire::sql_client;

/// While tables are read, the stream remembers each transaction that a snapshot might not see: 16 bytes. So often it is
/// told which ones all see by now, also while no chunk is read because a sink is behind. Ten thousand transactions a
/// second are 1.6 MB.
const FORGET_EVERY: Duration = Duration::from_secs(10);

impl Desk {
    /// Has the stream note what it streams, with what it has streamed before and may still be invisible.
    pub(super) async fn watch(&mut self) -> Result<()> {
        if self.watching {
            return Ok(());
        }
        let gone = |_| Error::transient("The stream has ended");
        begin(&self.around.orders, &self.around.journal, Order::Watch).await.map_err(gone)?;
        let client = sql_client(&self.around.source.info).await?;
        let visible = moment::from_now_on(&client).await?;
        let streamed = scan::streamed(&self.around.journal, visible).await?;
        self.around.orders.send(Order::Seed(streamed)).await.map_err(|_| gone(Gone))?;
        self.watching = true;
        (self.forget_at, self.asking) = (Instant::now() + FORGET_EVERY, Some(client));
        Ok(())
    }

    /// Tells the stream what it need not remember any more.
    pub(super) async fn forget_now_and_then(&mut self) {
        if !self.watching || Instant::now() < self.forget_at {
            return;
        }
        self.forget_at = Instant::now() + FORGET_EVERY;
        // What is wrong here is wrong with the readers, too, who say so.
        match self.seen_by_all().await {
            // The stream may be gone.
            Ok(visible) => _ = self.around.orders.send(Order::Seen(visible)).await,
            Err(error) => {
                self.asking = None;
                tracing::debug!("Cannot ask what every snapshot sees: {error}");
            }
        }
    }

    async fn seen_by_all(&mut self) -> Result<Visible> {
        if self.asking.is_none() {
            self.asking = Some(sql_client(&self.around.source.info).await?);
        }
        let client = self.asking.as_ref().ok_or_else(|| Error::transient("There is no connection"))?;
        moment::from_now_on(client).await
    }
}
