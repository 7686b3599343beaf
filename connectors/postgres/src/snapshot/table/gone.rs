//! A table that is not there any more under the name under which it is read.

use std::time::{Duration, Instant};

use rowcast_engine::schema::Schema;
use rowcast_engine::{Error, Result};
use tokio::time::sleep;
use tokio_postgres::Client;

use super::{Ended, Reading, Round};
use crate::capture;
use crate::setup::slot;
use crate::snapshot::job::{Job, Progress, note_unless_replaced};
use crate::snapshot::server::{name_of, oid};
use crate::snapshot::task::Surroundings;

/// The reason of a gap: the table has another name than when its rows began to be read.
const RENAMED: &str = "renamed";

/// Whether the server knows no table of a name that was said.
pub(super) fn is_undefined(error: &Error) -> bool {
    slot::sqlstate(error) == Some("42P01")
}

/// A table that is in no publication may be so for a moment: whoever changes what is published of it takes it out and puts
/// it in again. So long that is waited for, and so often looked at.
const UNPUBLISHED_MAX: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl Reading {
    /// What was read under this name is not there any more, or not captured.
    ///
    /// # Errors
    ///
    /// Another table has taken its name: it is read when this one is tried again.
    pub(super) async fn gone(&mut self, client: &Client) -> Result<Round> {
        let now = oid(client, &self.job).await?;
        if now == Some(self.job.progress.relation) {
            let since = *self.unpublished_since.get_or_insert_with(Instant::now);
            if since.elapsed() < UNPUBLISHED_MAX {
                self.say(Some("It is in none of rowcast's publications"));
                sleep(LOOK_AGAIN).await;
                return Ok(Round::Next);
            }
        }
        self.leave(client, now).await?;
        if now.is_some_and(|oid| oid != self.job.progress.relation) {
            return Err(Error::transient("Another table has taken the name of the one that was read"));
        }
        self.drop_it("is gone, not captured any more, or has another name").await.map(Round::Ended)
    }

    /// A table that has been given another name since it was to be read; `now` is the one that has its name now. Where none of
    /// its rows has been told, they are told under the new name. Else those that are still to come are missing in both.
    pub(super) async fn leave(&mut self, client: &Client, now: Option<u32>) -> Result<()> {
        let Progress { relation, history, .. } = self.job.progress;
        // The OID of another database is none of this one's tables.
        if relation == 0 || history != self.around.history || now == Some(relation) {
            return Ok(());
        }
        let Some((schema, table)) = name_of(client, relation).await? else { return Ok(()) };
        let mut notes = vec![(self.job.note(), self.left_to(now)?)];
        let Surroundings { journal, .. } = &self.around;
        let (before, channel) = (self.job.channel(), Schema::channel_of(&schema, &table));
        if self.job.progress.cursor.is_none() && self.job.progress.rows == 0 {
            let progress = Progress { relation, history, ..Progress::default() };
            let renamed = Job { schema, table, progress, ..self.job.clone() };
            // Who is to have them already has them by that.
            if journal.note_named(&renamed.note()).is_none() {
                notes.push((renamed.note(), renamed.json()?));
            }
            self.around.note(&notes).await?;
            tracing::info!(table = before, now = channel, "A table is read under the name that it was given");
            return Ok(());
        }
        let detail = format!(
            "It was called {before} when its rows began to be read: of those that it had, a part was told under that name, and \
             the rest is not told"
        );
        // After a crash nobody comes here again, to tell it twice.
        journal.record_gap_for(&self.job.sinks, &channel, (RENAMED, &detail), &notes, capture::now()).await?;
        tracing::warn!(
            table = before,
            now = channel,
            "A table was given another name while its rows were read"
        );
        Ok(())
    }

    /// What the note says from here on: of the table that has the name now, nothing has been read.
    fn left_to(&self, now: Option<u32>) -> Result<Vec<u8>> {
        let Some(relation) = now else { return Ok(Vec::new()) };
        let progress = Progress { relation, history: self.around.history, ..Progress::default() };
        Job { progress, ..self.job.clone() }.json()
    }

    /// There is nothing to read: the wish is forgotten, and said so.
    pub(super) async fn drop_it(&self, why: &str) -> Result<Ended> {
        tracing::warn!(table = self.job.channel(), "There is no snapshot of a table: it {why}");
        note_unless_replaced(&self.around.journal, &self.job, b"").await?;
        // Whoever hears of it may ask again. A sink's own rows are not what anybody has asked for.
        if self.job.sinks.is_empty() {
            self.around.status.note_dropped(&self.job.channel(), why);
        }
        Ok(Ended::Dropped)
    }
}
