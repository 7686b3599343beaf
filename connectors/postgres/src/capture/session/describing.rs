//! What the stream does not say of a table, asked while it waits.

use std::sync::Arc;
use std::time::Duration;

use rowcast_engine::schema::{Identity, Schema};
use rowcast_engine::{Error, Kind, Result};
use tokio::time::{Instant, sleep};

use super::{CATALOG_RETRY, STOPPING, Session, meanwhile};
use crate::catalog::{Catalog, Described};
use crate::pgoutput::{Message, decode};
use crate::setup::candidates::unpublished_remedy;
use crate::setup::slot;
use crate::snapshot::visible::Commit;
use crate::tables::qualified;

/// A transaction is sent before others see it: by microseconds, or for as long as it waits for a synchronous standby. After
/// so long the table is described without it.
const UNSEEN_PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks whether it is seen.
const UNSEEN_RETRY: Duration = Duration::from_millis(2);

impl Session {
    /// Asks the catalog for a table, for as long as it takes: guessing would be wrong for ever. Only a server that
    /// is stopping is left alone, since it does not stop before this stream has ended.
    pub(super) async fn describe(&mut self, table: u32) -> Result<()> {
        let Some(message) = self.assembly.relations.message(table) else { return Ok(()) };
        let described = self.look_up(&message, self.assembly.within()).await?;
        let seen = described.seen;
        let schema = self.register(described)?;
        if let Some(schema) = &schema {
            self.assembly.snapshots.describe(schema);
        }
        self.assembly.relations.settle(table, schema.as_deref());
        if !seen {
            self.assembly.relations.doubt_later(table);
        }
        Ok(())
    }

    /// Asks the catalog for a table as a committed transaction shows it. What is not seen within a moment is described as
    /// it is seen: a commit may be waiting for a standby, and that standby may be us.
    pub(super) async fn look_up(&mut self, message: &[u8], commit: Option<Commit>) -> Result<Described> {
        let commits: Vec<Commit> = self.assembly.altered.into_iter().chain(commit).collect();
        let start = Instant::now();
        loop {
            let work = Box::pin(ask(&mut self.catalog, message, &commits));
            match meanwhile(&mut self.stream, &mut self.feedback, work).await {
                Ok(described) if described.seen => {
                    self.assembly.altered = None;
                    return Ok(described);
                }
                Ok(described) if start.elapsed() >= UNSEEN_PATIENCE => {
                    self.assembly.altered = self.assembly.altered.or(commit);
                    tracing::warn!(
                        table = described.schema.channel,
                        hint = "See synchronous_standby_names: commits seem to wait for a standby",
                        "A transaction was sent {} s ago and cannot be seen yet: the table is described as it was before, and \
                         anew at its next transaction",
                        UNSEEN_PATIENCE.as_secs()
                    );
                    return Ok(described);
                }
                Ok(_) => {
                    let pause = async {
                        sleep(UNSEEN_RETRY).await;
                        Ok(())
                    };
                    meanwhile(&mut self.stream, &mut self.feedback, pause).await?;
                }
                Err(error) if error.kind() == Kind::Transient && slot::sqlstate(&error) != Some(STOPPING) => {
                    tracing::warn!("Capture pauses: {error}");
                    self.say("paused", Some(error.to_string()));
                    let pause = async {
                        sleep(CATALOG_RETRY).await;
                        Ok(())
                    };
                    meanwhile(&mut self.stream, &mut self.feedback, pause).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The schema version of what the catalog has said; `None` when nobody wants the table.
    pub(super) fn register(&mut self, described: Described) -> Result<Option<Arc<Schema>>> {
        let (schema, name) = (&described.schema.schema, &described.schema.table);
        let wanted = self.tables.takes(schema, name, &described.names);
        self.stale = true;
        if wanted && !described.hidden.is_empty() {
            warn_of_no_key(&described);
        }
        wanted.then(|| self.ingest.journal().register(described.schema)).transpose()
    }
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

async fn ask(catalog: &mut Catalog, message: &[u8], commits: &[Commit]) -> Result<Described> {
    match decode(message) {
        Ok(Message::Relation(relation)) => catalog.describe(&relation, commits).await,
        _ => Err(Error::failed("A table's description cannot be read back")),
    }
}
