//! Rows on their way into the journal, and where they are when their reader ends before they arrive.

use std::sync::Arc;
use std::time::Duration;

use rowcast_engine::Result;
use rowcast_engine::abort::{self, Point};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_postgres::Client;

use super::answer::answer;
use super::{Reading, gone};
use crate::snapshot::order::{Gone, Order, Ready, Written};

/// For so long whoever has stopped a reading waits for rows that are on their way. In the midst of a transaction the
/// stream has no place for them, and that may take long.
const PLACE_PATIENCE: Duration = Duration::from_secs(2);

/// Where they are.
#[derive(Debug)]
pub(super) enum Way {
    /// With the stream.
    Sent(oneshot::Receiver<Written>),
    /// In its hands that write the journal: the note that goes with them, and how many rows that makes.
    Written(Option<Arc<[u8]>>, u64),
}

impl Reading {
    /// Gives rows to the stream.
    pub(super) async fn send_off(&mut self, ready: Ready) -> Result<()> {
        abort::point(Point::SnapshotRead);
        let (sender, answer) = oneshot::channel();
        self.order(Order::Write(Box::new(ready), sender)).await?;
        self.way = Some(Way::Sent(answer));
        Ok(())
    }

    /// Waits until rows have been written, or not. `None`: somebody has stopped the reading, and they are withdrawn; they
    /// are read again when it goes on.
    pub(super) async fn placed(&mut self, client: &Client) -> Result<Option<Written>> {
        let Self { around, job, stopped, way, .. } = &mut *self;
        let Some(Way::Sent(sent)) = way else { return Err(gone(Gone)) };
        let impatient = async {
            stopped.stopped().await;
            sleep(PLACE_PATIENCE).await;
        };
        let written = tokio::select! {
            biased;
            written = answer((around, job), client, sent) => Some(written?),
            () = impatient => {
                let end = Order::End(job.progress.relation);
                around.orders.send(end).await.map_err(|_| gone(Gone))?;
                // They may have been written just before that.
                sent.await.ok()
            }
        };
        self.way = written.as_ref().and_then(Way::of);
        Ok(written)
    }

    /// Waits until the journal has the note of what was written; false when another wish has taken its place.
    pub(super) async fn is_noted(&mut self) -> Result<bool> {
        let Some(Way::Written(json, _)) = &self.way else { return Err(gone(Gone)) };
        let (note, json) = (self.job.note(), json.as_deref());
        // Where there is none any more somebody has given it up.
        let is = |found: Option<&[u8]>| found == json || found.is_none_or(|noted| self.job.is_another(noted));
        self.around.journal.noted(&note, is).await?;
        let is_ours = self.around.journal.note_named(&note).as_deref() == json;
        self.way = None;
        Ok(is_ours)
    }

    /// When the reading has been broken off and the stream told to forget the table: waits until the journal has the rows
    /// that the stream had taken before, however long that takes. Whoever reads on begins where they end, and nobody
    /// changes the note that they bring. All of the table's rows, where those were the last.
    pub(super) async fn read_after_all(&mut self) -> Option<u64> {
        if let Some(Way::Sent(sent)) = &mut self.way {
            // One that has been heard to its end has nothing to say any more.
            let written = if sent.is_terminated() { None } else { sent.await.ok() };
            self.way = written.as_ref().and_then(Way::of);
        }
        let Some(Way::Written(json, rows)) = &self.way else { return None };
        let (is_last, rows) = (json.is_none(), *rows);
        // The journal may be gone.
        let is_ours = self.is_noted().await.is_ok_and(|is_ours| is_ours);
        (is_last && is_ours).then_some(rows)
    }
}

impl Way {
    fn of(written: &Written) -> Option<Self> {
        let Written::Yes(job, rows) = written else { return None };
        Some(Self::Written(job.as_ref().map(|(_, json)| Arc::clone(json)), *rows))
    }
}
