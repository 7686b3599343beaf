//! The commit of a transaction that was sent before it: from here on it is one like any other.
//!
//! It becomes visible as a whole, in one of three ways. What fits into memory is copied behind what has committed
//! before it. What has a file, of which nothing was rolled back and whose tables are what they were taken for, keeps it:
//! the file becomes a segment. The rest is copied from its file to another one.

use rowcast_engine::ingest::{finish_spill, recast_spill, settle_spill};
use rowcast_engine::journal::Spill;
use rowcast_engine::record::{Builder, Recast, TxStart};
use rowcast_engine::{Error, Result};

use super::Session;
use crate::capture::assembly::StreamCommit;
use crate::capture::explain::{explain, may_be_of_uncommitted};
use crate::capture::feedback::meanwhile;
use crate::capture::spill::MAX_OPEN;
use crate::capture::starting::Sent;
use crate::capture::streamed::{Doubtful, Found, Streamed};
use crate::pgoutput::{Message, decode};
use crate::snapshot::job::{Job, Since};
use crate::snapshot::visible::Commit;

impl Session {
    /// What an error says that ended the stream. Where the server failed while it sent transactions that had not
    /// committed, they are sent whole from now on: what it cannot send of one that is rolled back is nothing that is wanted,
    /// and 18.4 was seen to fail for ever over some that it can decode when they have committed (`could not map
    /// filenumber`).
    pub(in crate::capture) fn explain(&mut self, error: Error) -> Error {
        let early = self.sent == Sent::Early && may_be_of_uncommitted(&error);
        let error = explain(error);
        if early { self.assembly.streams.give_up("the server failed over it").because(error) } else { error }
    }

    pub(super) async fn finish_streamed(&mut self, commit: StreamCommit) -> Result<()> {
        let mut streamed = self.assembly.streams.take(commit.xid)?;
        let at = Commit { xid: commit.xid, at: commit.final_lsn };
        if streamed.types_changed {
            self.assembly.note_altered(at);
        }
        let (found, seen) = self.look_up_all(streamed.doubtful(), at).await?;
        let since = Since::Commit(commit.final_lsn);
        self.assembly.late.extend(streamed.take_wishes().map(|job| Job { since, ..job }));
        self.assembly.note_late()?;
        let is_live = streamed.live() > 0;
        let recast = streamed.recast(&found);
        let file = streamed.file.take();
        let file = meanwhile(&mut self.stream, &mut self.feedback, file).await?;
        match file {
            None => self.copy(&mut streamed, &recast, &commit)?,
            Some(file) if recast.changes_nothing() && is_large(&file, &streamed.builder) => {
                self.keep(&mut streamed, file, &commit).await?;
            }
            Some(file) => self.recast(&mut streamed, file, recast, &commit).await?,
        }
        streamed.tell(&mut self.assembly.relations, &found, at);
        if !seen {
            self.assembly.relations.doubt_all_later();
        }
        if is_live {
            self.assembly.snapshots.delivered_untold(at);
        }
        self.assembly.stream_ended(commit.end, is_live);
        self.assembly.finished = commit.end;
        Ok(())
    }

    /// The schema versions of tables that the catalog has to be asked for now: before, it did not show what the
    /// transaction itself has changed. And whether it shows that now.
    async fn look_up_all(&mut self, doubtful: Vec<Doubtful>, commit: Commit) -> Result<(Found, bool)> {
        let (mut found, mut all_seen) = (Found::new(), true);
        for Doubtful { schema, message, attributes, keyed } in doubtful {
            let (described, seen) = self.look_up((&message, keyed), Some(commit)).await?;
            all_seen &= seen;
            found.insert(schema, self.register(described, seen, &attributes)?);
        }
        Ok((found, all_seen))
    }

    /// Asks the catalog for a table that an open transaction is the first to change. What it says is mostly what it will
    /// say at the commit, and then the transaction's file can stay as it is; but not while the transaction itself changes it.
    pub(super) async fn describe_early(&mut self, table: u32) -> Result<()> {
        let within = self.assembly.streams.within();
        let Some(message) = within.and_then(|open| open.description(table)) else { return Ok(()) };
        let catalog = &mut self.catalog;
        let work = Box::pin(async {
            // That it cannot be read now is no matter: it is asked at the commit.
            Ok(match decode(&message) {
                Ok(Message::Relation(relation)) => {
                    catalog.describe_unchanging(&relation).await.ok().flatten()
                }
                _ => None,
            })
        });
        let described = meanwhile(&mut self.stream, &mut self.feedback, work).await?;
        let Some(described) = described else { return Ok(()) };
        if let (Some(schema), Some(open)) =
            (self.register(described, true, &[])?, self.assembly.streams.within())
        {
            open.settle(table, &schema);
        }
        Ok(())
    }

    /// Behind what is in memory already.
    fn copy(&mut self, streamed: &mut Streamed, recast: &Recast, commit: &StreamCommit) -> Result<()> {
        let parts = streamed.builder.take_open();
        let start = self.assembly.start_of(streamed, commit);
        let builder = &mut self.assembly.builder;
        builder.begin(start);
        for part in parts {
            recast.copy(&part, builder)?;
        }
        builder.commit(commit.end);
        Ok(())
    }

    /// Its file as it is.
    async fn keep(&mut self, streamed: &mut Streamed, file: Spill, commit: &StreamCommit) -> Result<()> {
        let TxStart { xid, final_lsn, previous_end_lsn, committed, .. } =
            self.assembly.start_of(streamed, commit);
        // Its origin is in the file.
        let start = TxStart { xid, final_lsn, previous_end_lsn, committed, origin: "" };
        streamed.builder.know(&start);
        let parts = streamed.builder.finish_open(commit.end);
        let work = settle_spill(file, start, commit.end, parts);
        let file = meanwhile(&mut self.stream, &mut self.feedback, work).await?;
        self.adopt(file, commit).await
    }

    /// What stays of it in another file, or in none when that is little.
    async fn recast(
        &mut self,
        streamed: &mut Streamed,
        file: Spill,
        recast: Recast,
        commit: &StreamCommit,
    ) -> Result<()> {
        let parts = streamed.builder.take_open();
        let mut builder = Builder::new();
        builder.begin(self.assembly.start_of(streamed, commit));
        let into = self.ingest.journal().spill()?;
        let work = recast_spill(file, parts, recast, builder, into);
        let (mut builder, into) = meanwhile(&mut self.stream, &mut self.feedback, work).await?;
        if into.is_empty() {
            builder.commit(commit.end);
            self.hand_over_ready().await?;
            let ingest = &self.ingest;
            let room = meanwhile(&mut self.stream, &mut self.feedback, ingest.room()).await?;
            room.append(self.ingest.journal(), builder.take(), commit.end);
            self.note_submitted(commit.end);
            return Ok(());
        }
        let parts = builder.finish_open(commit.end);
        if parts.is_empty() {
            return Err(Error::failed("A large transaction has lost its end"));
        }
        let work = finish_spill(into, parts);
        let file = meanwhile(&mut self.stream, &mut self.feedback, work).await?;
        self.adopt(file, commit).await
    }

    /// The file becomes a part of the journal.
    async fn adopt(&mut self, file: Spill, commit: &StreamCommit) -> Result<()> {
        self.hand_over_ready().await?;
        let ingest = &self.ingest;
        let room = meanwhile(&mut self.stream, &mut self.feedback, ingest.room()).await?;
        room.adopt(self.ingest.journal(), file, commit.end, commit.committed);
        self.note_submitted(commit.end);
        Ok(())
    }

    /// What has committed before goes before it.
    pub(super) async fn hand_over_ready(&mut self) -> Result<()> {
        if self.assembly.builder.ready_bytes() > 0 {
            let ingest = &self.ingest;
            let room = meanwhile(&mut self.stream, &mut self.feedback, ingest.room()).await?;
            self.append(room);
        }
        Ok(())
    }
}

fn is_large(file: &Spill, builder: &Builder) -> bool {
    file.byte_len() + builder.open_bytes() as u64 >= MAX_OPEN as u64
}
