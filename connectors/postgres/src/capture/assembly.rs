//! From messages of the stream to transactions for the journal. The hot path: nothing here waits.

mod altered;
mod streamed;
mod wanted;

use metrics::Counter;
use std::time::Duration;

use rowcast_engine::event::{Micros, Op};
use rowcast_engine::journal::StreamPosition;
use rowcast_engine::record::{Builder, TxStart};
use rowcast_engine::status::Status;
use rowcast_engine::{Error, Lsn, Result};

use super::composite;
use super::custom::{self, Said};
use super::nap;
use super::proof::Proof;
use super::refusals::Refusals;
use super::relations::{Lookup, Relations};
use super::replay::{Replay, Verdict};
use super::streams::Streams;
use super::wished::Wished;
use crate::pgoutput::{Change, Malformed, Message, RelationIds, decode};
use crate::snapshot::job::{Job, Since};
use crate::snapshot::tracker::Tracker;
use crate::snapshot::visible::Commit;
use crate::tables::Tables;

/// Microseconds from 1970 to 2000, where the clock of the stream's frames starts.
const POSTGRES_EPOCH: Micros = 946_684_800_000_000;

/// The gap of a table whose earlier rows are in no event.
const NEW_TABLE: &str = "new_table";
const PARTLY: &str = "The table was captured after rows had been inserted: those are in no event";

/// What has to happen before the stream can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: the next message, please.
    Next,
    /// The catalog has to be asked for this table; then the same message again.
    Describe(u32),
    /// More stored transactions have to be read; then the same message again.
    NextPage,
    /// A transaction that has a file of its own has committed.
    Spilled {
        /// Where its commit record ends.
        end: Lsn,
        /// Its commit time.
        committed: Micros,
    },
    /// Rows that a snapshot has read into a file are due.
    Filed,
    /// The catalog may be asked for a table that the open transaction has described, which has been taken in.
    Ask(u32),
    /// A transaction that was sent before it committed has committed.
    Streamed(StreamCommit),
}

/// The commit of a transaction that was sent before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamCommit {
    pub(super) xid: u32,
    /// Where its commit record starts.
    pub(super) final_lsn: Lsn,
    /// Where it ends.
    pub(super) end: Lsn,
    /// Its commit time.
    pub(super) committed: Micros,
}

/// The transaction that the stream is in.
#[derive(Debug)]
struct Open {
    commit: Commit,
    committed: Micros,
    /// The journal holds it already.
    repeated: bool,
    /// Something of it would be stored.
    wanted: bool,
}

/// Takes messages in.
pub(super) struct Assembly {
    pub(super) builder: Builder,
    pub(super) relations: Relations,
    /// Transactions that have changed a type: the catalog is believed when it shows them.
    pub(super) altered: Vec<Commit>,
    pub(super) replay: Replay,
    /// Transactions that are sent before they commit.
    pub(super) streams: Streams,
    tables: Tables,
    status: Status,
    /// Whose stream this is.
    identity: StreamPosition,
    open: Option<Open>,
    /// The open transaction has a file of its own.
    pub(super) spilling: bool,
    /// End of the transaction before, for the next one to name.
    previous_end: Lsn,
    /// End of the newest transaction (or message) that is whole in the builder or has been taken from it.
    pub(super) finished: Lsn,
    /// Transactions that have ended since the start.
    pub(super) ended: u64,
    /// All that committed below this has been taken in, or was nothing to us.
    pub(super) passed: Lsn,
    /// Nothing has come since the server told, between transactions, how far it has gone through its log.
    caught_up: bool,
    /// When the newest frame was sent, and when what it belongs to was committed.
    sent: Micros,
    committed: Micros,
    /// What the newest Begin said of that, until the next message comes.
    begun: Option<Micros>,
    transactions: Counter,
    /// What snapshots have to know of the stream.
    pub(super) snapshots: Tracker,
    /// A table that comes later is read, in place of a gap.
    pub(super) reads_new_tables: bool,
    /// Partitions are told by their own names.
    pub(super) by_leaf: bool,
    /// What tells rowcast's own messages from others.
    pub(super) proof: Proof,
    refusals: Refusals,
    /// Tables that the open transaction wants to be read.
    wanted: Wished,
    /// Those of a transaction that is in a file of its own: there is no room for a note in it.
    pub(super) late: Vec<Job>,
}

impl Assembly {
    /// Starts behind `previous_end`, the newest transaction that the journal holds.
    pub(super) fn new(
        tables: &Tables,
        status: &Status,
        replay: Replay,
        identity: StreamPosition,
        previous_end: Lsn,
    ) -> Self {
        Self {
            builder: Builder::new(),
            relations: Relations::default(),
            altered: Vec::new(),
            replay,
            streams: Streams::default(),
            tables: tables.clone(),
            status: status.clone(),
            open: None,
            spilling: false,
            previous_end,
            finished: Lsn::ZERO,
            ended: 0,
            passed: Lsn::ZERO,
            sent: 0,
            committed: 0,
            begun: None,
            caught_up: false,
            transactions: metrics::counter!("rowcast_source_transactions_total"),
            snapshots: Tracker::behind(identity.lsn),
            identity,
            reads_new_tables: false,
            by_leaf: false,
            proof: Proof::default(),
            refusals: Refusals::default(),
            wanted: Wished::default(),
            late: Vec::new(),
        }
    }

    /// Whether the stream is between transactions and everything has been taken from the builder.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_none() && self.builder.ready_bytes() == 0
    }

    /// Whether the stream is between transactions, and all that the journal held has been repeated.
    pub(super) fn is_between(&self) -> bool {
        self.open.is_none() && self.replay.is_done()
    }

    /// End of the newest transaction (or message) that has been taken in, over this connection or before.
    pub(super) fn end_of_newest(&self) -> Lsn {
        self.finished.max(self.previous_end)
    }

    /// Whether what arrives has waited on the server: there is a backlog.
    pub(super) fn is_behind(&self) -> bool {
        !self.caught_up && nap::is_behind(self.sent, self.committed)
    }

    /// How old what was committed last was when the server sent it, by the server's own clock; nothing once it has had
    /// nothing more to send.
    pub(super) fn lag(&self) -> Duration {
        let is_over = self.committed == 0 || self.caught_up;
        let late = if is_over { 0 } else { self.sent.saturating_sub(self.committed) };
        Duration::from_micros(late.try_into().unwrap_or(0))
    }

    /// The commit time of what was replicated to the server is another server's, by whose clock it went: how long it has
    /// waited here is not known.
    fn came_from_elsewhere(&mut self) {
        self.committed = self.sent;
    }

    /// The server has gone through its log up to here.
    ///
    /// # Errors
    ///
    /// When it lacks what the journal holds.
    pub(super) fn keepalive(&mut self, end: Lsn) -> Result<()> {
        if self.open.is_none() {
            self.replay.finish_at(end)?;
            self.passed = self.passed.max(end);
            self.caught_up = true;
        }
        Ok(())
    }

    /// Takes one message in. `lsn` and `sent` are the frame's.
    ///
    /// # Errors
    ///
    /// For messages that cannot be understood, and for a history that is not the journal's. For good.
    pub(super) fn take(&mut self, lsn: Lsn, sent: i64, body: &[u8]) -> Result<Step> {
        let sent = std::mem::replace(&mut self.sent, sent.saturating_add(POSTGRES_EPOCH));
        let was_caught_up = std::mem::replace(&mut self.caught_up, false);
        if let Some(committed) = self.begun.take() {
            self.committed = committed;
        }
        if self.streams.is_within() {
            return self.take_within(lsn, body);
        }
        match decode(body).map_err(|malformed| broken(malformed, lsn, body))? {
            Message::Change(change) => {
                self.relations.note_change(change.relation);
                self.change(lsn, &change)
            }
            Message::Begin { final_lsn, committed, xid } => {
                // By whose clock that was, the next message says: until then nothing more is known than before.
                (self.sent, self.caught_up, self.begun) = (sent, was_caught_up, Some(committed));
                self.begin(final_lsn, committed, xid)?;
                Ok(Step::Next)
            }
            Message::Commit { end_lsn, .. } => self.commit(end_lsn),
            Message::Relation(relation) => {
                let within = self.open.as_ref().map(|open| open.commit);
                self.relations.describe(&relation, body, within);
                Ok(Step::Next)
            }
            Message::Origin { name } => {
                self.came_from_elsewhere();
                if self.open.as_ref().is_some_and(|open| !open.repeated) {
                    self.builder.origin(&String::from_utf8_lossy(name));
                }
                Ok(Step::Next)
            }
            // The catalog is asked anyway.
            Message::Type => Ok(Step::Next),
            Message::Truncate { relations, cascade, restart_identity } => {
                self.relations.note_truncate();
                self.truncate(lsn, relations, cascade, restart_identity)
            }
            Message::Logical { transactional, lsn, prefix, content } => {
                if !transactional && was_caught_up {
                    // Nobody has committed it, so it is not late.
                    self.committed = self.sent;
                }
                // No name of ours has anything in it that is no text.
                self.message(transactional, lsn, &String::from_utf8_lossy(prefix), content)?;
                Ok(Step::Next)
            }
            Message::StreamStart { xid, first } => self.stream_start(xid, first),
            Message::StreamStop => Err(outside()),
            Message::StreamCommit { xid, commit_lsn, end_lsn, committed } => {
                self.stream_commit(StreamCommit { xid, final_lsn: commit_lsn, end: end_lsn, committed })
            }
            Message::StreamAbort { xid, subxid } => self.streams.abort(xid, subxid),
        }
    }

    fn begin(&mut self, final_lsn: Lsn, committed: Micros, xid: u32) -> Result<()> {
        let repeated = self.replay.repeats(final_lsn);
        if !repeated {
            self.replay.finish()?;
        }
        self.relations.look_again();
        self.wanted = Wished::default();
        let commit = Commit { xid, at: final_lsn };
        self.open = Some(Open { commit, committed, repeated, wanted: false });
        if !repeated {
            let previous_end_lsn = self.previous_end;
            self.snapshots.arrives(commit);
            self.builder.begin(TxStart { xid, final_lsn, previous_end_lsn, committed, origin: "" });
        }
        Ok(())
    }

    fn change(&mut self, lsn: Lsn, change: &Change<'_>) -> Result<Step> {
        let open = self.open.as_ref().ok_or_else(outside)?;
        if open.repeated {
            self.note_wanted(change.relation)?;
            return Ok(Step::Next);
        }
        match self.relations.find(change.relation) {
            Lookup::Known(known) => {
                if change.columns > known.width {
                    return Err(too_wide(change, known.width));
                }
                let misfit = if known.composites.is_empty() {
                    None
                } else {
                    composite::mismatch(known.composites, change.raw)
                };
                if let Some(misfit) = misfit {
                    self.relations.doubt(change.relation, misfit, open.commit);
                    return Ok(Step::Describe(change.relation));
                }
                self.builder.change(known.schema, change.op, lsn, change.raw);
                if self.snapshots.is_watching() {
                    self.snapshots.change(change.relation, open.commit, change.op, change.raw);
                }
                Ok(Step::Next)
            }
            Lookup::Unwanted => Ok(Step::Next),
            Lookup::Ask => Ok(Step::Describe(change.relation)),
            Lookup::Undescribed => Err(undescribed(change.relation)),
        }
    }

    /// One event for each table. All of them are looked up before the first is stored, since the message comes
    /// again after each question.
    fn truncate(&mut self, lsn: Lsn, tables: RelationIds<'_>, cascade: bool, restart: bool) -> Result<Step> {
        let open = self.open.as_ref().ok_or_else(outside)?;
        if open.repeated {
            tables.iter().try_for_each(|table| self.note_wanted(table))?;
            return Ok(Step::Next);
        }
        for table in tables.iter() {
            match self.relations.find(table) {
                Lookup::Ask => return Ok(Step::Describe(table)),
                Lookup::Undescribed => return Err(undescribed(table)),
                Lookup::Unwanted | Lookup::Known(_) => {}
            }
        }
        for table in tables.iter() {
            if let Lookup::Known(known) = self.relations.find(table) {
                self.builder.truncate(known.schema, lsn, cascade, restart);
                self.snapshots.truncate(table, open.commit);
            }
        }
        Ok(Step::Next)
    }

    fn message(&mut self, transactional: bool, lsn: Lsn, prefix: &str, content: &[u8]) -> Result<()> {
        let xid = self.open.as_ref().filter(|_| transactional).map(|open| open.commit.xid);
        let said = custom::hear(&self.proof, &self.identity.slot, xid, prefix, content);
        match said {
            Said::Nothing => return Ok(()),
            Said::Gap(channel) => return self.gap(channel),
            Said::Wish(job) => {
                if let Some(reason) = self.wish(*job)? {
                    let event = custom::refused(prefix, reason, content, &mut self.refusals);
                    self.builder.message(event.channel, lsn, &event.payload);
                }
                return Ok(());
            }
            Said::Types => {
                if let Some(open) = &self.open {
                    self.note_altered(open.commit);
                }
                return Ok(());
            }
            Said::Ddl(_) | Said::Event(..) | Said::Forged(_) => {}
        }
        let repeated = match &mut self.open {
            Some(open) if transactional => {
                // What is believed can be another thing at the next start: then the key is another one.
                open.wanted |= !matches!(said, Said::Forged(_));
                open.repeated
            }
            _ => self.replay.repeats_message(lsn),
        };
        if !repeated && !transactional {
            self.replay.finish()?;
        }
        let event = match said {
            _ if repeated => return Ok(()),
            Said::Ddl(content) => custom::ddl(content, &mut self.refusals),
            Said::Event(channel, content) => {
                custom::event(channel, content, &self.status, &mut self.refusals)
            }
            Said::Forged(reason) => custom::forged(prefix, reason, content, &mut self.refusals),
            Said::Nothing | Said::Gap(_) | Said::Wish(_) | Said::Types => return Ok(()),
        };
        if self.builder.is_open() {
            self.builder.message(event.channel, lsn, &event.payload);
            return Ok(());
        }
        // Not of any transaction: sent by one that may even have rolled back.
        let position = StreamPosition { lsn, ..self.identity.clone() };
        let json = serde_json::to_vec(&position)
            .map_err(|error| Error::failed("Cannot write the stream's position as JSON").because(error))?;
        self.builder.message_alone(self.sent, (event.channel, &event.payload), (lsn, &json));
        self.finished = self.finished.max(lsn);
        self.passed = self.passed.max(lsn);
        Ok(())
    }

    fn commit(&mut self, end: Lsn) -> Result<Step> {
        let open = self.open.as_ref().ok_or_else(outside)?;
        let (commit, committed, repeated) = (open.commit, open.committed, open.repeated);
        let since = Since::Commit(commit.at);
        self.late.extend(self.wanted.take().map(|job| Job { since, ..job }));
        if repeated {
            if self.replay.compare(end, commit.xid, committed, !open.wanted)? == Verdict::NextPage {
                return Ok(Step::NextPage);
            }
        } else if !self.spilling {
            let wanted = self.wanted_tables(committed)?;
            self.builder.commit_with(end, &wanted);
            self.finished = end;
            self.ended += 1;
        }
        if !repeated {
            self.snapshots.delivered(commit);
        }
        self.open = None;
        self.previous_end = end;
        self.passed = self.passed.max(end);
        self.transactions.increment(1);
        if self.spilling && !repeated {
            return Ok(Step::Spilled { end, committed });
        }
        Ok(Step::Next)
    }

    /// A repeated change of a table that is captured means that the journal must hold its transaction.
    fn note_wanted(&mut self, table: u32) -> Result<()> {
        let Some(open) = self.open.as_mut().filter(|open| !open.wanted) else { return Ok(()) };
        let (message, _) = self.relations.message(table).ok_or_else(|| undescribed(table))?;
        let decoded = decode(&message).map_err(|malformed| broken(malformed, Lsn::ZERO, &message))?;
        if let Message::Relation(relation) = decoded {
            open.wanted = self.tables.matches(relation.schema, relation.table);
        }
        Ok(())
    }
}

pub(super) const REPORT: &str =
    "This is a bug of rowcast or of something between it and the server: please report it";

/// So much of a message is named: its tag, ids and flags. Values come later, and must not be shown.
const HEAD: usize = 8;

fn broken(malformed: Malformed, lsn: Lsn, body: &[u8]) -> Error {
    let head: Vec<String> = body.iter().take(HEAD).map(|byte| format!("{byte:02X}")).collect();
    let what = format!(
        "The replication stream cannot be understood: at {lsn}, {} bytes that begin with {}",
        body.len(),
        head.join(" ")
    );
    Error::failed(what).because(malformed).hint(REPORT)
}

fn outside() -> Error {
    Error::failed("The replication stream has a change outside a transaction").hint(REPORT)
}

pub(super) fn undescribed(table: u32) -> Error {
    Error::failed(format!("The replication stream has a change of table {table}, which it has not described"))
        .hint(REPORT)
}

pub(super) fn too_wide(change: &Change<'_>, width: u16) -> Error {
    let op = match change.op {
        Op::Insert => "An insert",
        Op::Update => "An update",
        _ => "A delete",
    };
    Error::failed(format!(
        "{op} has {} columns, its table {} was described with {width}",
        change.columns, change.relation
    ))
    .hint("Postgres 15.0 and 15.1 do this (fixed in 15.2): upgrade the server")
}
