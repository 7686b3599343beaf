//! What the stream has answered of a chunk.

use std::time::{Duration, Instant};

use rowcast_engine::Result;
use rowcast_engine::abort::{self, Point};
use tokio::time::sleep;
use tokio_postgres::Client;

use super::{Ended, Reading, Round, Sent, gone};
use crate::snapshot::job::note_unless_replaced;
use crate::snapshot::order::{Gone, Order, Why, Written, ask};
use crate::snapshot::read::no_text;

/// Before a chunk is read again because a transaction was not visible yet; for how long that is not worth a word.
const UNSEEN_PAUSE: Duration = Duration::from_millis(20);
const UNSEEN_SILENT: Duration = Duration::from_secs(10);

const UNSEEN: &str = "What was streamed is not visible yet: a commit waits for a synchronous standby, or the standby that \
                      is read has not replayed it since it was started";

impl Reading {
    /// A window: the one that is open still, since a snapshot in it did not see what was streamed before it, or a new one,
    /// before which there is always something that was streamed a moment ago.
    pub(super) async fn open(&mut self, relation: u32) -> Result<u64> {
        match self.window.take().or_else(|| self.early.take()) {
            Some(window) => Ok(window),
            None => self.ask_for_window(relation).await,
        }
    }

    /// That of the next chunk.
    pub(super) async fn open_early(&mut self, relation: u32) -> Result<()> {
        self.early = Some(self.ask_for_window(relation).await?);
        Ok(())
    }

    /// Whoever waits for long keeps none open: all that is changed meanwhile would be noted.
    pub(super) async fn close_early(&mut self) -> Result<()> {
        match self.early.take() {
            Some(window) => self.order(Order::Close(self.job.progress.relation, window)).await,
            None => Ok(()),
        }
    }

    async fn ask_for_window(&self, relation: u32) -> Result<u64> {
        let window = ask(&self.around.orders, |answer| Order::Open(relation, answer)).await.map_err(gone)?;
        window.ok_or_else(|| gone(Gone))
    }

    /// Waits until a chunk has been written, or not.
    pub(super) async fn hear(&mut self, client: &Client, sent: Sent) -> Result<Round> {
        let Sent { window, before } = sent;
        let Some(written) = self.placed(client).await? else {
            return Ok(Round::Ended(Ended::Stopped));
        };
        match written {
            Written::Yes(job, rows) => {
                abort::point(Point::SnapshotHeard);
                self.note(rows);
                // Whoever looks at the notes, or changes them, finds them as they are.
                if !self.is_noted().await? {
                    return Ok(Round::Ended(Ended::Stopped));
                }
                abort::point(Point::SnapshotNoted);
                let Some((job, _)) = job else {
                    self.finish(rows);
                    return Ok(Round::Ended(Ended::Done));
                };
                // The cursor may be further by now; keys and rows are as of the chunk.
                self.job.progress.again = job.progress.again;
                self.job.progress.rows = rows;
                self.note_waiting();
            }
            Written::Repeat(why) => {
                self.close_early().await?;
                self.job = before;
                self.window = (why == Why::Unseen).then_some(window);
                self.wait_for(why).await;
                self.behind = why == Why::TooMuch;
            }
            Written::NoText => return Err(no_text(&self.job.channel())),
            // The second is said of tables that are read in one piece.
            Written::Void | Written::Flawed(_) => {
                self.too_much_changed();
                self.begin_anew().await?;
            }
        }
        Ok(Round::Next)
    }

    /// From the table's first row, since the key is another one, or its values stand in another order.
    pub(super) async fn begin_with_key(&mut self, key: Vec<String>, order: String) -> Result<()> {
        if self.job.progress.rows > 0 {
            tracing::warn!(
                table = self.job.channel(),
                "The snapshot of a table begins anew: its key is another one, or has another type or order"
            );
        }
        (self.job.progress.key, self.job.progress.order) = (key, order);
        self.begin_anew().await
    }

    /// From the table's first row, also after a crash from now on.
    pub(super) async fn begin_anew(&mut self) -> Result<()> {
        let relation = self.job.progress.relation;
        self.restart(relation);
        (self.window, self.early) = (None, None);
        note_unless_replaced(&self.around.journal, &self.job, &self.job.json()?).await?;
        self.order(Order::End(relation)).await?;
        // Whoever has stopped it is heard before the next chunk.
        self.follow(relation).await.map(drop)
    }

    pub(super) async fn wait_for(&mut self, why: Why) {
        metrics::counter!("rowcast_snapshot_chunks_repeated_total").increment(1);
        self.around.status.snapshots(|board| {
            board.entry(self.job.note()).or_default().chunks_repeated += 1;
        });
        match why {
            Why::Unseen => {
                let since = *self.unseen_since.get_or_insert_with(Instant::now);
                if since.elapsed() > UNSEEN_SILENT {
                    self.say(Some(UNSEEN));
                    self.stands_still(since, UNSEEN);
                }
                sleep(UNSEEN_PAUSE).await;
            }
            Why::Changed => {}
            Why::TooMuch => self.size.limit(self.size.rows() / 2),
        }
    }
}
