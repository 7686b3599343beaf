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

/// The reason of a gap: the table has another name than when its rows began to be read.
const RENAMED: &str = "renamed";

/// The table that a noted job is of; none where it has ended.
fn relation_of(noted: &[u8]) -> Option<u32> {
    serde_json::from_slice::<Job>(noted).ok().map(|job| job.progress.relation)
}

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
        if self.leave(client, now).await? {
            return Ok(Round::Ended(Ended::Dropped));
        }
        if now.is_some_and(|oid| oid != self.job.progress.relation) {
            return Err(Error::transient("Another table has taken the name of the one that was read"));
        }
        self.drop_it("is gone, not captured any more, or has another name").await.map(Round::Ended)
    }

    /// A table that has been given another name since it was to be read; `now` is the one that has its name now. Where none of
    /// its rows has been told, they are told under the new name. Else those that are still to come are missing in both. Whether
    /// nothing is left to be read under this one, and that has been said.
    ///
    /// # Errors
    ///
    /// The snapshot of another table that had the new name before has not ended.
    pub(super) async fn leave(&mut self, client: &Client, now: Option<u32>) -> Result<bool> {
        let Progress { relation, history, .. } = self.job.progress;
        // The OID of another database is none of this one's tables.
        if relation == 0 || history != self.around.history || now == Some(relation) {
            return Ok(false);
        }
        if now.is_some() && self.noted_relation(&self.job) == now {
            // Another reading has seen to it, and the one that has the name now is read by another.
            return Ok(true);
        }
        let Some((schema, table)) = name_of(client, relation).await? else { return Ok(false) };
        let next = now.map(|relation| Job {
            progress: Progress { relation, history, ..Progress::default() },
            // The first row of the whole is the other one's.
            place: self.job.place.max(1),
            ..self.job.clone()
        });
        let json = next.as_ref().map_or_else(|| Ok(Vec::new()), Job::json)?;
        let notes = vec![(self.job.note(), json)];
        let channel = Schema::channel_of(&schema, &table);
        let what = if self.job.progress.cursor.is_none() && self.job.progress.rows == 0 {
            if self.goes_on_as(client, (schema, table), notes).await? {
                return Ok(true);
            }
            "its rows are told under that name"
        } else {
            self.tell_of_new_name(&channel, notes).await?;
            "its rows that were still to come are missing"
        };
        if next.is_none() && self.job.sinks.is_empty() {
            self.around.status.note_dropped(&self.job.channel(), &format!("is called {channel} now: {what}"));
        }
        let Some(next) = next else { return Ok(true) };
        self.job.place = next.place;
        Ok(false)
    }

    fn noted_relation(&self, job: &Job) -> Option<u32> {
        self.around.journal.note_named(&job.note()).and_then(|noted| relation_of(&noted))
    }

    /// None of its rows has been told: they are read under the name that it has now. Whether others had to get other names with
    /// it: then all of them are read by what is noted now.
    async fn goes_on_as(
        &self,
        client: &Client,
        (schema, table): (String, String),
        mut notes: Vec<(String, Vec<u8>)>,
    ) -> Result<bool> {
        let Progress { relation, history, .. } = self.job.progress;
        let progress = Progress { relation, history, ..Progress::default() };
        let renamed = Job { schema, table, progress, ..self.job.clone() };
        let (before, channel) = (self.job.channel(), renamed.channel());
        let mut is_ring = false;
        match self.noted_relation(&renamed) {
            None => notes.push((renamed.note(), renamed.json()?)),
            // Who is to have its rows has them by that.
            Some(of) if of == 0 || of == relation => {}
            Some(_) => {
                let Some(ring) = self.gone_round(client, renamed).await? else {
                    let what = format!(
                        "{before} is called {channel} now, and the snapshot of the table that was called so before has not ended"
                    );
                    return Err(Error::transient(what)
                        .hint(format!("`rowcast snapshot '{channel}' --cancel` ends that one")));
                };
                notes.retain(|(note, _)| ring.iter().all(|(name, _)| name != note));
                notes.extend(ring);
                is_ring = true;
            }
        }
        if self.job.sinks.is_empty() {
            self.around.status.note_wanted(&channel);
        }
        self.around.note(&notes).await?;
        tracing::info!(table = before, now = channel, "A table is read under the name that it was given");
        Ok(is_ring)
    }

    async fn tell_of_new_name(&self, channel: &str, mut notes: Vec<(String, Vec<u8>)>) -> Result<()> {
        let before = self.job.channel();
        let detail = format!(
            "It was called {before} when its rows began to be read: of those that it had, a part was told under that name, and \
             the rest is not told"
        );
        let (journal, sinks) = (&self.around.journal, &self.job.sinks);
        // After a crash nobody comes here again, to tell it twice.
        notes.extend(self.around.unread(channel, sinks, "was given another name while its rows were read"));
        journal.record_gap_for(sinks, channel, (RENAMED, &detail), &notes, capture::now()).await?;
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
        if let Some(unread) = self.around.unread(&self.job.channel(), &self.job.sinks, why) {
            self.around.note(&[unread]).await?;
        }
        note_unless_replaced(&self.around.journal, &self.job, b"").await?;
        // Whoever hears of it may ask again. A sink's own rows are not what anybody has asked for.
        if self.job.sinks.is_empty() {
            self.around.status.note_dropped(&self.job.channel(), why);
        }
        Ok(Ended::Dropped)
    }
}
