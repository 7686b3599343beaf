//! A table that is not there any more under the name under which it is read.

use rowcast_engine::schema::Schema;
use rowcast_engine::{Error, Result};
use tokio_postgres::Client;

use super::{Ended, Reading, Round};
use crate::capture::now;
use crate::setup::slot;
use crate::snapshot::job::note_unless_replaced;
use crate::snapshot::server::{name_of, oid};
use crate::snapshot::task::Surroundings;

/// The reason of a gap: the table has another name than when its rows began to be read.
const RENAMED: &str = "renamed";

/// Whether the server knows no table of a name that was said.
pub(super) fn is_undefined(error: &Error) -> bool {
    slot::sqlstate(error) == Some("42P01")
}

impl Reading {
    /// What was read under this name is not there any more.
    ///
    /// # Errors
    ///
    /// Another table has taken its name: it is read when this one is tried again.
    pub(super) async fn gone(&mut self, client: &Client) -> Result<Round> {
        let other = oid(client, &self.job).await?.filter(|oid| *oid != self.job.progress.relation);
        if other.is_some() {
            return Err(Error::transient("Another table has taken the name of the one that was read"));
        }
        self.tell_of_new_name(client).await?;
        self.drop_it("is gone, not captured any more, or has another name").await.map(Round::Ended)
    }

    /// A table that was given another name while it was read: its rows that are still to come are missing in both.
    pub(super) async fn tell_of_new_name(&self, client: &Client) -> Result<()> {
        // The OID of another database is none of this one's tables.
        if self.job.progress.history != self.around.history {
            return Ok(());
        }
        let Some((schema, table)) = name_of(client, self.job.progress.relation).await? else {
            return Ok(());
        };
        if (&schema, &table) == (&self.job.schema, &self.job.table) {
            return Ok(());
        }
        let (before, channel) = (self.job.channel(), Schema::channel_of(&schema, &table));
        let detail = format!(
            "It was called {before} when its rows began to be read: of those that it had, a part was told under that name, and \
             the rest is not told"
        );
        let Surroundings { journal, .. } = &self.around;
        // After a crash nobody comes here again, to tell it twice.
        let gone = [(self.job.note(), Vec::new())];
        journal.record_gap_for(&self.job.sinks, &channel, (RENAMED, &detail), &gone, now()).await?;
        tracing::warn!(
            table = before,
            now = channel,
            "A table was given another name while its rows were read"
        );
        Ok(())
    }

    /// There is nothing to read: the wish is forgotten, and said so.
    pub(super) async fn drop_it(&self, why: &str) -> Result<Ended> {
        tracing::warn!(table = self.job.channel(), "There is no snapshot of a table: it {why}");
        note_unless_replaced(&self.around.journal, &self.job, b"").await?;
        // Whoever hears of it may ask again.
        self.around.status.note_dropped(&self.job.channel(), why);
        Ok(Ended::Dropped)
    }
}
