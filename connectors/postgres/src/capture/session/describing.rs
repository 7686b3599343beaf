//! What the stream does not say of a table, asked while it waits.

use std::sync::Arc;
use std::time::Duration;

use rowcast_engine::schema::{Identity, Schema};
use rowcast_engine::{Error, Kind, Result};
use tokio::time::{Instant, sleep};

use super::{CATALOG_RETRY, Session};
use crate::capture::feedback::meanwhile;
use crate::capture::relations::Relations;
use crate::catalog::{Attributes, Catalog, Described, Seen};
use crate::pgoutput::{Message, decode};
use crate::setup::candidates::unpublished_remedy;
use crate::setup::slot;
use crate::snapshot::visible::Commit;
use crate::tables::qualified;

/// How long it is waited for that a transaction can be seen, once: after that no other one is waited for until one is seen.
const UNSEEN_PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks whether it is seen.
const UNSEEN_RETRY: Duration = Duration::from_millis(2);

const UNSEEN: &str = "Transactions were sent seconds ago and cannot be seen yet: commits seem to wait for a standby \
                      (synchronous_standby_names). Tables that they describe are told as they were before, and anew at their \
                      next transaction";

impl Session {
    /// Asks the catalog for a table. What it says of one that a transaction has described which nobody sees yet is for that
    /// transaction alone.
    pub(super) async fn describe(&mut self, table: u32) -> Result<()> {
        let Some((message, after)) = self.assembly.relations.message(table) else { return Ok(()) };
        let (described, seen) = self.look_up((&message, false), after).await?;
        let misfits = self.assembly.relations.misfits(table);
        let schema = self.register(described, seen, &misfits)?;
        if let Some(schema) = &schema {
            self.assembly.snapshots.describe(schema);
        }
        self.assembly.relations.settle(table, schema.as_deref());
        if !seen {
            self.assembly.relations.doubt_later(table);
        }
        Ok(())
    }

    /// A table as the catalog shows it when this transaction is seen, for as long as it takes to read that: guessing would
    /// be wrong for ever. And whether it is seen. `keyed`: events of a transaction of its own are of a partition of which only a
    /// key is logged of an old row.
    pub(super) async fn look_up(
        &mut self,
        (message, keyed): (&[u8], bool),
        after: Option<Commit>,
    ) -> Result<(Described, bool)> {
        let seen = self.wait_until_seen(after).await?;
        loop {
            let work = Box::pin(ask(&mut self.catalog, (message, keyed), &self.assembly.relations));
            let answer = meanwhile(&mut self.stream, &mut self.feedback, work).await;
            if let Some(described) = self.or_pause(answer).await? {
                return Ok((described, seen));
            }
        }
    }

    /// A commit may be waiting for a standby, and that standby may be us.
    async fn wait_until_seen(&mut self, after: Option<Commit>) -> Result<bool> {
        let commits: Vec<Commit> = self.assembly.altered.iter().copied().chain(after).collect();
        if commits.is_empty() {
            return Ok(true);
        }
        let (start, slot) = (Instant::now(), self.assembly.slot().to_owned());
        loop {
            let is_last = self.impatient || start.elapsed() >= UNSEEN_PATIENCE;
            let work = Box::pin(self.catalog.sees(&slot, &commits));
            let answer = meanwhile(&mut self.stream, &mut self.feedback, work).await;
            let Some(seen) = self.or_pause(answer).await? else { continue };
            if seen == Seen::Yes {
                self.assembly.altered.clear();
                self.impatient = false;
                return Ok(true);
            }
            if seen == Seen::NotBeforeUs {
                return Ok(false);
            }
            if is_last {
                if !std::mem::replace(&mut self.impatient, true) {
                    tracing::warn!("{UNSEEN}");
                }
                return Ok(false);
            }
            // Others may be waiting for what was before.
            self.hand_over_ready().await?;
            let pause = async {
                sleep(UNSEEN_RETRY).await;
                Ok(())
            };
            meanwhile(&mut self.stream, &mut self.feedback, pause).await?;
        }
    }

    /// The catalog's answer; `None` behind a pause, where it is to be asked again. Only a server that is stopping is left
    /// alone, since it does not stop before this stream has ended.
    async fn or_pause<T>(&mut self, answer: Result<T>) -> Result<Option<T>> {
        let error = match answer {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) => error,
        };
        if error.kind() != Kind::Transient || slot::sqlstate(&error) == Some(slot::STOPPING) {
            return Err(error);
        }
        tracing::warn!("Capture pauses: {error}");
        self.say("paused", Some(error.to_string()));
        let pause = async {
            sleep(CATALOG_RETRY).await;
            Ok(())
        };
        meanwhile(&mut self.stream, &mut self.feedback, pause).await?;
        Ok(None)
    }

    /// The schema version of what the catalog has said; `None` when nobody wants the table.
    ///
    /// Of a table that is not `seen` nobody knows what it is a part of. Where no publication sends it, as the catalog shows
    /// it, it has become a partition of one that is sent: it is taken unless it is left out.
    ///
    /// What the catalog of now does not know of what its rows are, an earlier version may: of keys, of types that are gone,
    /// and of row types whose values were found to have so many `attributes`.
    pub(super) fn register(
        &mut self,
        mut described: Described,
        seen: bool,
        attributes: &[Attributes],
    ) -> Result<Option<Arc<Schema>>> {
        let (schema, name) = (&described.schema.schema, &described.schema.table);
        let may_be_part = self.assembly.by_leaf && !seen && !described.published;
        let wanted = self.tables.takes(schema, name, &described.names)
            || (may_be_part && self.tables.all_but_excluded().matches(schema, name));
        self.stale = true;
        if wanted && !described.hidden.is_empty() {
            warn_of_no_key(&described);
        }
        if !wanted {
            return Ok(None);
        }
        let journal = self.ingest.journal();
        if !described.needs_past(attributes) {
            return journal.register(described.schema).map(Some);
        }
        let versions = journal.schemas();
        described.recall(versions.clone(), attributes);
        let schema = journal.register(described.schema)?;
        if versions.iter().all(|known| known.id != schema.id) {
            warn_of_unknown_types(&schema);
        }
        Ok(Some(schema))
    }
}

/// Once a version.
fn warn_of_unknown_types(schema: &Schema) {
    let unknown = schema.columns.iter().filter(|column| column.ty.is_unknown());
    let names: Vec<&str> = unknown.map(|column| column.name.as_str()).collect();
    if names.is_empty() {
        return;
    }
    metrics::counter!("rowcast_source_unknown_types_total").increment(names.len() as u64);
    tracing::warn!(
        table = schema.channel,
        schema = schema.id,
        hint = "Rows that were written before a type was dropped have that type, and Postgres has forgotten it. To keep what it \
                was, let rowcast come to the end before such a change",
        "Their types are gone, and no earlier version of the table knows them: told as Postgres' text are {}",
        names.join(", ")
    );
}

fn warn_of_no_key(described: &Described) {
    let Schema { channel, schema, table, identity, .. } = &described.schema;
    tracing::warn!(
        table = channel,
        hint = unpublished_remedy(&qualified(schema, table), *identity == Identity::Full),
        "Its events have no key: not published is what its key has of {}",
        described.hidden.join(", ")
    );
}

async fn ask(
    catalog: &mut Catalog,
    (message, keyed): (&[u8], bool),
    relations: &Relations,
) -> Result<Described> {
    let Ok(Message::Relation(relation)) = decode(message) else {
        return Err(Error::failed("A table's description cannot be read back"));
    };
    catalog.describe(&relation, keyed || relations.is_keyed(relation.id)).await
}
