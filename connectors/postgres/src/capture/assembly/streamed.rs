//! Transactions that are sent before they commit (protocol 2): their pieces, and their ends.

use rowcast_engine::record::TxStart;
use rowcast_engine::{Lsn, Result};

use super::wanted::new_table;
use super::{Assembly, NEW_TABLE, PARTLY, Step, StreamCommit, broken, outside};
use crate::capture::custom::{self, Said};
use crate::capture::replay::Verdict;
use crate::capture::streamed::{Found, Streamed};
use crate::pgoutput::{Message, Within, decode_within};
use crate::snapshot::visible::Commit;

impl Assembly {
    pub(super) fn stream_start(&mut self, xid: u32, first: bool) -> Result<Step> {
        if self.open.is_some() {
            return Err(outside());
        }
        self.streams.start(xid, first)?;
        Ok(Step::Next)
    }

    /// Takes in a message of the open transaction in whose piece the stream is.
    pub(super) fn take_within(&mut self, lsn: Lsn, body: &[u8]) -> Result<Step> {
        let Within { xid, message } =
            decode_within(body).map_err(|malformed| broken(malformed, lsn, body))?;
        let open = self.streams.within().ok_or_else(outside)?;
        match message {
            Message::Change(change) => open.change(xid, lsn, &change)?,
            Message::Truncate { relations, cascade, restart_identity } => {
                open.truncate(xid, lsn, relations, (cascade, restart_identity))?;
            }
            Message::Relation(relation) => {
                let is_named = self.tables.matches(relation.schema, relation.table);
                // As it comes outside of pieces: without the number of the subtransaction.
                let plain = [body.get(..1).unwrap_or_default(), body.get(5..).unwrap_or_default()].concat();
                let ask = open.describe(&relation, &plain, &mut self.relations, is_named);
                self.streams.within_bounds()?;
                return Ok(if ask { Step::Ask(relation.id) } else { Step::Next });
            }
            Message::Logical { transactional: true, lsn, prefix, content } => {
                self.message_within(lsn, &String::from_utf8_lossy(prefix), content)?;
            }
            Message::Logical { transactional, lsn, prefix, content } => {
                self.message(transactional, lsn, &String::from_utf8_lossy(prefix), content)?;
            }
            Message::Origin { name } => open.set_origin(&String::from_utf8_lossy(name)),
            Message::StreamStop => {
                self.streams.stop()?;
                // What comes next is not late because this was.
                self.committed = self.sent;
            }
            // The catalog is asked anyway.
            Message::Type => {}
            _ => return Err(outside()),
        }
        Ok(Step::Next)
    }

    fn message_within(&mut self, lsn: Lsn, prefix: &str, content: &[u8]) -> Result<()> {
        let open = self.streams.within().ok_or_else(outside)?;
        let event = match custom::hear(&self.proof, &self.identity.slot, Some(open.xid), prefix, content) {
            Said::Nothing => return Ok(()),
            Said::Gap(channel) => {
                let taken = new_table(self.reads_new_tables, channel).map(|job| open.wish(job, &self.status));
                if taken != Some(Ok(())) {
                    open.gap(channel, NEW_TABLE, PARTLY);
                }
                return Ok(());
            }
            Said::Wish(job) => {
                if let Err(reason) = open.wish(*job, &self.status) {
                    let event = custom::refused(prefix, reason, content, &mut self.refusals);
                    open.uncertain_message(event.channel, lsn, &event.payload);
                }
                return self.streams.within_bounds();
            }
            Said::Types => {
                open.change_types();
                return Ok(());
            }
            Said::Ddl(content) => custom::ddl(content, &mut self.refusals),
            Said::Event(channel, content) => {
                custom::event(channel, content, &self.status, &mut self.refusals)
            }
            Said::Forged(reason) => {
                let event = custom::forged(prefix, reason, content, &mut self.refusals);
                open.uncertain_message(event.channel, lsn, &event.payload);
                return Ok(());
            }
        };
        open.message(event.channel, lsn, &event.payload);
        Ok(())
    }

    /// The commit of one that was sent before it. What the journal holds already is dropped only now: its place in the
    /// log was not known before.
    pub(super) fn stream_commit(&mut self, commit: StreamCommit) -> Result<Step> {
        let StreamCommit { xid, final_lsn, end, committed } = commit;
        if self.open.is_some() {
            return Err(outside());
        }
        self.committed = committed;
        self.relations.look_again();
        let streamed = self.streams.peek(xid)?;
        if !streamed.origin.is_empty() {
            self.committed = self.sent;
        }
        if !self.replay.repeats(final_lsn) {
            self.replay.finish()?;
            return Ok(Step::Streamed(commit));
        }
        if self.replay.compare(end, xid, committed, !streamed.is_wanted())? == Verdict::NextPage {
            return Ok(Step::NextPage);
        }
        let streamed = self.streams.take(xid)?;
        let at = Commit { xid, at: final_lsn };
        if streamed.types_changed {
            self.note_altered(at);
        }
        streamed.tell(&mut self.relations, &Found::new(), at);
        self.stream_ended(end, streamed.live() > 0);
        Ok(Step::Next)
    }

    /// What is known of it now.
    pub(in crate::capture) fn start_of<'a>(
        &self,
        streamed: &'a Streamed,
        commit: &StreamCommit,
    ) -> TxStart<'a> {
        TxStart {
            xid: commit.xid,
            final_lsn: commit.final_lsn,
            previous_end_lsn: self.previous_end,
            committed: commit.committed,
            origin: &streamed.origin,
        }
    }

    /// It has been handed over, or dropped. One of which nothing is left is not worth naming: sent whole, it would not
    /// have come.
    pub(in crate::capture) fn stream_ended(&mut self, end: Lsn, is_live: bool) {
        if is_live {
            self.previous_end = end;
        }
        self.passed = self.passed.max(end);
        self.transactions.increment(1);
    }
}
