//! What the stream does not say of a table, asked while it waits.

use std::sync::Arc;

use rowcast_engine::schema::{Identity, Schema};
use rowcast_engine::{Error, Kind, Result};
use tokio::time::sleep;

use super::{CATALOG_RETRY, STOPPING, Session, meanwhile};
use crate::catalog::{Catalog, Described};
use crate::pgoutput::{Message, decode};
use crate::setup::candidates::unpublished_remedy;
use crate::setup::slot;
use crate::tables::qualified;

impl Session {
    /// Asks the catalog for a table, for as long as it takes: guessing would be wrong for ever. Only a server that
    /// is stopping is left alone, since it does not stop before this stream has ended.
    pub(super) async fn describe(&mut self, table: u32) -> Result<()> {
        let Some(message) = self.assembly.relations.message(table) else { return Ok(()) };
        let described = self.look_up(&message).await?;
        let schema = self.register(described)?;
        if let Some(schema) = &schema {
            self.assembly.snapshots.describe(schema);
        }
        self.assembly.relations.settle(table, schema.as_deref());
        Ok(())
    }

    pub(super) async fn look_up(&mut self, message: &[u8]) -> Result<Described> {
        loop {
            let work = Box::pin(ask(&mut self.catalog, message));
            match meanwhile(&mut self.stream, &mut self.feedback, work).await {
                Ok(described) => return Ok(described),
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

async fn ask(catalog: &mut Catalog, message: &[u8]) -> Result<Described> {
    match decode(message) {
        Ok(Message::Relation(relation)) => catalog.describe(&relation).await,
        _ => Err(Error::failed("A table's description cannot be read back")),
    }
}
