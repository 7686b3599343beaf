//! A transaction that the server sends before it ends: what has come of it, and what of that was rolled back.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use rowcast_engine::record::{Builder, Recast, TxStart};
use rowcast_engine::schema::{Schema, SchemaId};
use rowcast_engine::status::Status;
use rowcast_engine::{Lsn, Result};

use super::assembly::{too_wide, undescribed};
use super::composite::{self, Composite};
use super::relations::{Parts, Relations};
use super::spill::Large;
use super::wished::Wished;
use crate::catalog::Attributes;
use crate::pgoutput::{Change, Relation, RelationIds};
use crate::snapshot::job::Job;
use crate::snapshot::visible::Commit;

/// Numbers of schema versions from here on stand for descriptions that are looked up at the commit: before it the
/// catalog does not show what the transaction itself has changed.
const UNKNOWN: SchemaId = 1 << 31;

/// What a description takes beside its bytes.
const DESCRIPTION: usize = 128;

/// What the catalog has said of descriptions, by the numbers that events of theirs have.
pub(super) type Found = HashMap<SchemaId, Option<Arc<Schema>>>;

/// What the stream says of a table within this transaction: nobody else's before it commits.
#[derive(Debug)]
struct Table {
    version: usize,
    width: u16,
    /// `None`: nobody wants it.
    schema: Option<SchemaId>,
    /// Its place among all descriptions of the stream.
    order: u64,
    /// Events of the transaction that had come before it.
    at: u32,
    /// It is a partition of which only a key is logged of an old row, and changes come under the name of this root, which is
    /// FULL.
    part_of: Option<u32>,
    /// It is such a root.
    keyed: bool,
}

/// A description of a table, as events use it: each has values of row types with the same numbers of fields.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) message: Arc<[u8]>,
    pub(super) schema: Option<SchemaId>,
    composites: Vec<Composite>,
    /// The table's own name is one of those that are captured.
    pub(super) is_named: bool,
    /// The catalog has to be asked at the commit.
    pub(super) doubtful: bool,
    /// There is an event of it.
    used: bool,
    /// There may be one of a partition of which only a key is logged of an old row.
    keyed: bool,
}

/// A description that has to be looked up.
#[derive(Debug)]
pub(super) struct Doubtful {
    /// The number that events of it have.
    pub(super) schema: SchemaId,
    pub(super) message: Arc<[u8]>,
    /// How many their values of row types have.
    pub(super) attributes: Vec<Attributes>,
    /// Of a partition of it only a key is logged of an old row.
    pub(super) keyed: bool,
}

/// The first event of a subtransaction.
#[derive(Clone, Copy, Debug)]
struct Sub {
    xid: u32,
    first: u32,
    /// The event before it is a message.
    after_message: bool,
}

/// An open transaction.
pub(super) struct Streamed {
    pub(super) xid: u32,
    pub(super) builder: Builder,
    pub(super) file: Large,
    pub(super) origin: String,
    tables: HashMap<u32, Table>,
    versions: Vec<Version>,
    parts: Parts,
    /// In the order of their numbers, which is that of their beginnings.
    subs: Vec<Sub>,
    /// Events that were rolled back.
    dead: Vec<Range<u32>>,
    /// The newest event's.
    newest_xid: u32,
    after_message: bool,
    /// The first message that may have been rolled back, or not: Postgres says of messages only in which transaction
    /// they were sent.
    unsure: Option<u32>,
    /// It has changed a type, which others see when it commits.
    pub(super) types_changed: bool,
    /// Bytes of descriptions.
    described: usize,
    /// Tables whose rows it asks for, each with how many events had come before.
    wishes: Wished,
    /// Events that another configuration may not have made of it, those included that were rolled back.
    uncertain: u32,
}

impl Streamed {
    pub(super) fn new(xid: u32) -> Self {
        let mut builder = Builder::new();
        builder.begin(TxStart { xid, ..TxStart::default() });
        Self {
            xid,
            builder,
            file: Large::None,
            origin: String::new(),
            tables: HashMap::new(),
            versions: Vec::new(),
            parts: Parts::default(),
            subs: Vec::new(),
            dead: Vec::new(),
            newest_xid: xid,
            after_message: false,
            unsure: None,
            types_changed: false,
            described: 0,
            wishes: Wished::default(),
            uncertain: 0,
        }
    }

    /// Bytes of events that are in memory.
    pub(super) fn held(&self) -> usize {
        self.builder.open_bytes()
    }

    /// Bytes that stay in memory as long as it is open: descriptions, what is known of subtransactions, and what it asks for.
    pub(super) fn kept(&self) -> usize {
        let subs = self.subs.len() * size_of::<Sub>() + self.dead.len() * size_of::<Range<u32>>();
        self.described + subs + self.wishes.bytes()
    }

    pub(super) fn set_origin(&mut self, name: &str) {
        name.clone_into(&mut self.origin);
        // Said before any event; it stands in what events follow.
        self.builder.origin(name);
    }

    /// Takes a description in. What others have been told, word for word, need not be looked up again. Gives whether
    /// the catalog might know the table.
    pub(super) fn describe(
        &mut self,
        relation: &Relation<'_>,
        message: &[u8],
        others: &mut Relations,
        is_named: bool,
    ) -> bool {
        let (at, order) = (self.builder.open_events(), others.next_order());
        let (id, width) = (relation.id, relation.width());
        self.parts.describe(relation);
        if let Some(table) = self.tables.get_mut(&id)
            && let Some(version) = self.versions.get_mut(table.version)
            && *version.message == *message
        {
            // Said again: something of it has changed that the description does not show.
            version.doubtful = true;
            (table.order, table.part_of) = (order, None);
            return false;
        }
        let is_first = !self.tables.contains_key(&id);
        let settled = others.settled(id, message).filter(|_| is_first && !self.types_changed);
        let version = self.versions.len();
        let asks = is_first && settled.is_none();
        let (schema, composites, doubtful) = match settled {
            // The transaction may have changed what the description does not show.
            Some((Some(schema), composites)) => (Some(schema), composites.to_vec(), true),
            Some((None, _)) => (None, Vec::new(), false),
            None => (Some(self.provisional()), Vec::new(), true),
        };
        self.described += message.len() + DESCRIPTION;
        let message = message.into();
        let (used, keyed) = (false, false);
        self.versions.push(Version { message, schema, composites, is_named, doubtful, used, keyed });
        // Its partitions need not be described again.
        let keyed = self.tables.get(&id).is_some_and(|before| before.keyed);
        self.tables.insert(id, Table { version, width, schema, order, at, part_of: None, keyed });
        asks
    }

    /// The number that events of the next description have, if it is not known.
    fn provisional(&self) -> SchemaId {
        SchemaId::try_from(self.versions.len()).unwrap_or(SchemaId::MAX) | UNKNOWN
    }

    /// The newest description of a table.
    pub(super) fn description(&self, id: u32) -> Option<Arc<[u8]>> {
        let version = self.versions.get(self.tables.get(&id)?.version)?;
        Some(Arc::clone(&version.message))
    }

    /// What the catalog has said of it before the commit: then it is asked again, to be sure.
    pub(super) fn settle(&mut self, id: u32, schema: &Schema) {
        if let Some(table) = self.tables.get_mut(&id)
            && let Some(version) = self.versions.get_mut(table.version)
        {
            (table.schema, version.schema) = (Some(schema.id), Some(schema.id));
            version.composites = composite::columns(schema);
        }
    }

    /// Takes a row change in.
    pub(super) fn change(&mut self, xid: u32, lsn: Lsn, change: &Change<'_>) -> Result<()> {
        if let Some(part) = self.parts.change(change.relation) {
            self.note_part(part, change.relation);
        }
        let table = self.tables.get_mut(&change.relation).ok_or_else(|| undescribed(change.relation))?;
        if change.columns > table.width {
            return Err(too_wide(change, table.width));
        }
        let (Some(_), Some(version)) = (table.schema, self.versions.get(table.version)) else {
            return Ok(());
        };
        // Each column may have another number.
        for _ in 0..version.composites.len() {
            if !self.fit(change) {
                break;
            }
        }
        let Some(table) = self.tables.get(&change.relation) else { return Ok(()) };
        let (Some(schema), Some(version)) = (table.schema, self.versions.get_mut(table.version)) else {
            return Ok(());
        };
        version.used = true;
        version.keyed |= table.keyed;
        composite::note_seen(&mut version.composites, change.raw);
        self.note(xid, false);
        self.builder.change(schema, change.op, lsn, change.raw);
        Ok(())
    }

    /// What a root says of old rows is not what is logged of this partition's.
    fn note_part(&mut self, part: u32, root: u32) {
        if let Some(table) = self.tables.get_mut(&part) {
            table.part_of = Some(root);
        }
        if let Some(table) = self.tables.get_mut(&root) {
            table.keyed = true;
        }
    }

    /// A row type has changed where a value has another number of fields: from there on it is another description, which
    /// may have been there before. Gives whether it was so.
    fn fit(&mut self, change: &Change<'_>) -> bool {
        let provisional = self.provisional();
        let Some(table) = self.tables.get_mut(&change.relation) else { return false };
        let Some(version) = self.versions.get(table.version) else { return false };
        let Some(misfit) = composite::mismatch(&version.composites, change.raw) else { return false };
        let composites = composite::unseen(&version.composites, misfit);
        let (message, is_named) = (Arc::clone(&version.message), version.is_named);
        let is_same = |known: &Version| {
            known.message == message && composite::are_alike(&known.composites, &composites)
        };
        let known = self.versions.iter().position(is_same);
        table.version = known.unwrap_or(self.versions.len());
        if known.is_none() {
            self.described += DESCRIPTION;
            let schema = Some(provisional);
            self.versions.push(Version {
                message,
                schema,
                composites,
                is_named,
                doubtful: true,
                used: false,
                keyed: false,
            });
        }
        table.schema = self.versions.get(table.version).and_then(|version| version.schema);
        true
    }

    /// Takes the emptying of tables in: one event for each.
    pub(super) fn truncate(
        &mut self,
        xid: u32,
        lsn: Lsn,
        tables: RelationIds<'_>,
        (cascade, restart): (bool, bool),
    ) -> Result<()> {
        self.parts.truncate();
        for id in tables.iter() {
            let table = self.tables.get(&id).ok_or_else(|| undescribed(id))?;
            let (Some(schema), version) = (table.schema, table.version) else { continue };
            if let Some(version) = self.versions.get_mut(version) {
                version.used = true;
            }
            self.note(xid, false);
            self.builder.truncate(schema, lsn, cascade, restart);
        }
        Ok(())
    }

    pub(super) fn message(&mut self, channel: &str, lsn: Lsn, payload: &[u8]) {
        self.note(self.xid, true);
        self.builder.message(channel, lsn, payload);
    }

    /// The same of one that is a matter of the configuration: what is believed, or that it is told at all.
    pub(super) fn uncertain_message(&mut self, channel: &str, lsn: Lsn, payload: &[u8]) {
        self.uncertain += 1;
        self.message(channel, lsn, payload);
    }

    /// What was made of it, an event or a note, is a matter of the configuration, too.
    pub(super) fn gap(&mut self, channel: &str, reason: &str, detail: &str) {
        self.uncertain += 1;
        self.note(self.xid, true);
        self.builder.gap(channel, reason, detail);
    }

    /// It asks for a table's rows. That is a message, too: a savepoint that is rolled back may take it along.
    /// Gives why it may not.
    pub(super) fn wish(&mut self, job: Job, status: &Status) -> std::result::Result<(), &'static str> {
        self.note(self.xid, true);
        self.wishes.take_in(self.builder.open_events(), job, status)
    }

    /// What it asks for, now that it has committed.
    pub(super) fn take_wishes(&mut self) -> impl Iterator<Item = Job> + use<> {
        self.wishes.take()
    }

    /// An event is about to be added.
    fn note(&mut self, xid: u32, message: bool) {
        if xid != self.newest_xid && xid != self.xid {
            let at = self.place(xid);
            if self.subs.get(at).is_none_or(|sub| sub.xid != xid) {
                let (first, after_message) = (self.builder.open_events(), self.after_message);
                self.subs.insert(at, Sub { xid, first, after_message });
            }
        }
        // A message says nothing of where it was sent.
        if !message {
            self.newest_xid = xid;
        }
        self.after_message = message;
    }

    /// Where the subtransaction is among the known ones. Numbers are given in order, from the transaction's own on.
    fn place(&self, xid: u32) -> usize {
        let age = |xid: u32| xid.wrapping_sub(self.xid);
        self.subs.partition_point(|sub| age(sub.xid) < age(xid))
    }

    /// A subtransaction was rolled back: with it all that came since its first event, since nobody else can have
    /// written meanwhile but its own subtransactions, and all of those that began since it did.
    pub(super) fn undo(&mut self, subxid: u32) {
        let gone = self.subs.split_off(self.place(subxid));
        self.newest_xid = self.xid;
        if let Some(first) = gone.iter().min_by_key(|sub| sub.first) {
            let from = first.first;
            self.after_message = first.after_message;
            self.unsure = self.unsure.filter(|message| *message < from);
            self.tables.retain(|_, table| table.at < from);
            // One from before the first event has no event between: then that is known to come after a message.
            self.wishes.undo(from);
            while self.dead.last().is_some_and(|range| range.start >= from) {
                self.dead.pop();
            }
            let to = self.builder.open_events();
            match self.dead.last_mut() {
                Some(before) if before.end >= from => before.end = to,
                _ if to > from => self.dead.push(from..to),
                _ => {}
            }
        }
        if self.after_message {
            let all = self.builder.open_events();
            let stays = self.dead.last().filter(|range| range.end == all).map_or(all, |range| range.start);
            let message = stays.saturating_sub(1);
            self.unsure = Some(self.unsure.map_or(message, |before| before.min(message)));
        }
    }

    /// Whether it is unknown of a message that would stay whether it was rolled back.
    pub(super) fn is_unsure(&self) -> bool {
        self.unsure.is_some()
    }

    /// Events that stay.
    pub(super) fn live(&self) -> u32 {
        let dead: u32 = self.dead.iter().map(|range| range.end - range.start).sum();
        self.builder.open_events() - dead
    }

    /// Whether something of it is certainly wanted.
    pub(super) fn is_wanted(&self) -> bool {
        self.live() > self.uncertain && self.used().all(|version| version.is_named)
    }

    fn used(&self) -> impl Iterator<Item = &Version> {
        self.versions.iter().filter(|version| version.used && version.schema.is_some())
    }

    /// The descriptions that have to be looked up.
    pub(super) fn doubtful(&self) -> Vec<Doubtful> {
        let doubtful = |version: &Version| {
            let (message, attributes) = (Arc::clone(&version.message), composite::seen(&version.composites));
            Some(Doubtful { schema: version.schema?, message, attributes, keyed: version.keyed })
        };
        self.used().filter(|version| version.doubtful).filter_map(doubtful).collect()
    }

    /// What becomes of its events, now that it has committed and the catalog was asked.
    pub(super) fn recast(&mut self, found: &Found) -> Recast {
        let number = |schema: &Option<Arc<Schema>>| schema.as_ref().map(|schema| schema.id);
        let schemas = found.iter().map(|(id, schema)| (*id, number(schema))).collect();
        Recast { dead: std::mem::take(&mut self.dead), schemas }
    }

    /// It has changed a type.
    pub(super) fn change_types(&mut self) {
        self.types_changed = true;
        self.doubt_descriptions();
    }

    /// What it has said of tables so far may have types that have changed.
    pub(super) fn doubt_descriptions(&mut self) {
        self.versions.iter_mut().for_each(|version| version.doubtful = true);
    }

    /// Its descriptions are everybody's from now on, with what the catalog has said of them.
    pub(super) fn tell(&self, others: &mut Relations, found: &Found, commit: Commit) {
        for (id, table) in &self.tables {
            others.take_over_part(*id, table.part_of, table.order);
        }
        for (id, table) in &self.tables {
            if let Some(version) = self.versions.get(table.version) {
                let place = (table.order, version.doubtful, commit);
                let is_new = others.take_over(*id, &version.message, table.width, place);
                // Its own events may be of partitions that are others by its end.
                let is_said = is_new && (!table.keyed || others.is_keyed(*id));
                if let Some(schema) = version.schema.and_then(|id| found.get(&id)).filter(|_| is_said) {
                    others.settle(*id, schema.as_deref());
                }
            }
        }
    }
}
