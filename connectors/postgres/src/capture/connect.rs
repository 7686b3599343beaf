//! From nothing to a running stream: prepares the source, makes sure that the history goes on, starts.

use std::time::Duration;

use rowcast_engine::abort::{self, Point};
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::StreamPosition;
use rowcast_engine::status::Status;
use rowcast_engine::{Error, Lsn, Result};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::assembly::Assembly;
use super::feedback::Feedback;
use super::replay::Replay;
use super::resume::{self, Facts, System, Verdict};
use super::session::Session;
use crate::catalog::Catalog;
use crate::config::Source;
use crate::setup::server::Server;
use crate::setup::slot;
use crate::setup::{self, installation, publications};
use crate::tables::{identifier, literal};
use crate::wire::{Connection, CopyStream, Purpose, sql_client};

/// After a crash of ours the server may hold the slot for us until it notices; at the first start somebody waits.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// After a network cut the server notices within wal_sender_timeout; so much longer is enough.
const PATIENCE_SLACK: Duration = Duration::from_secs(10);

/// Between two tries to take the slot.
const SLOT_RETRY: Duration = Duration::from_millis(500);

/// The gap of a table whose earlier rows are in no event.
const NEW_TABLE: &str = "new_table";

/// The gap of a history that does not go on.
const SOURCE_LOST: &str = "source_lost";

/// What outlives a connection.
pub(super) struct Link {
    pub(super) source: Source,
    pub(super) ingest: Ingest,
    pub(super) status: Status,
    /// The stream has run at least once.
    pub(super) established: bool,
}

/// Where the stream begins.
struct Start {
    /// Where the server begins: what the slot has confirmed.
    confirmed: Lsn,
    /// Where the journal stands.
    position: Lsn,
}

impl Link {
    /// A running stream.
    ///
    /// # Errors
    ///
    /// `Kind::Refused` for what will not pass by itself, with the remedy; `Kind::Transient` for the rest.
    pub(super) async fn connect(&mut self) -> Result<Session> {
        let mut client = sql_client(&self.source.info).await?;
        let server = self.prepare(&mut client).await?;
        let mut connection = Connection::connect(&self.source.info, Purpose::Replication).await?;
        let start = Box::pin(self.settle(&client, &mut connection, &server)).await?;
        let journal = self.ingest.journal().clone();
        let replay = Replay::start(&journal, start.confirmed, start.position).await?;
        let names = publications::existing(&client, &self.source).await?;
        let stream = Box::pin(self.start(&client, connection, &server, &names)).await?;
        let (tables, status) = (&self.source.tables, &self.status);
        let assembly = Assembly::new(tables, status, replay, journal.position(), journal.last_tx_end());
        let catalog = Catalog::new(&self.source.info, &self.source.publications());
        self.source.adopt = false;
        let parts = (self.source.tables.clone(), self.ingest.clone(), self.status.clone());
        let feedback = Feedback::new(journal.durable(), start.confirmed, server.sender_timeout);
        tracing::info!(
            slot = self.source.slot,
            position = %start.position,
            server = server.version_text,
            "Streaming changes from {}",
            self.source.info
        );
        Ok(Session::new(stream, assembly, feedback, catalog, parts, start.position))
    }

    /// Makes the source ready the first time, afterwards only looks.
    async fn prepare(&mut self, client: &mut Client) -> Result<Server> {
        if self.established {
            return Server::read(client).await;
        }
        let installation = self.ingest.journal().installation();
        let (server, reconciled) = Box::pin(setup::prepare(client, &self.source, installation)).await?;
        for channel in &reconciled.partly {
            record_partly(&self.ingest, channel).await?;
        }
        let tables = publications::captured(client, &self.source).await?;
        warn_missing(&self.source, &tables);
        self.status.source(|source| {
            source.server_version.clone_from(&server.version_text);
            source.tables = tables;
        });
        Ok(server)
    }

    /// Makes sure that the journal's history goes on in the slot, and stores whose it is before anything is
    /// confirmed.
    async fn settle(&self, client: &Client, connection: &mut Connection, server: &Server) -> Result<Start> {
        let system = identify_system(connection).await?;
        self.status.source(|source| source.server_lsn = system.end);
        // What the connection before handed over may still be on its way to the disk.
        self.ingest.settled().await?;
        let journal = self.ingest.journal();
        let stored = journal.position();
        let slot = slot::read(client, &self.source.slot).await?;
        if let Some(slot) = &slot {
            slot.fit(&self.source.slot, &server.database)?;
        }
        let owner = installation::read(client, &self.source.slot).await?;
        let facts = Facts {
            system: &system,
            switched: switched(connection, &stored, &system).await?,
            slot_name: &self.source.slot,
            slot: slot.as_ref(),
            owner: owner.as_ref(),
            installation: journal.installation(),
        };
        let confirmed = slot.as_ref().and_then(|slot| slot.confirmed_flush_lsn);
        let birth = owner.as_ref().and_then(|owner| owner.slot_birth);
        let (lsn, slot_birth) = match resume::judge(&stored, &facts) {
            Ok(Verdict::Continue) => (stored.lsn, stored.slot_birth),
            Ok(Verdict::Begin(from)) => (from, self.claim(client, birth.unwrap_or(from)).await?),
            Ok(Verdict::Create) => self.create(client, connection).await?,
            Err(broken) if self.source.adopt => {
                tracing::warn!("Adopts the slot: {}", broken.0);
                self.record_lost(&broken.0).await?;
                match slot.as_ref().filter(|slot| slot.lost().is_none()) {
                    Some(slot) => {
                        let from = slot.confirmed_flush_lsn.unwrap_or_default();
                        (from, self.claim(client, birth.unwrap_or(from)).await?)
                    }
                    None => self.recreate(client, connection, &facts).await?,
                }
            }
            Err(broken) => return Err(broken.error()),
        };
        abort::point(Point::SourceRecorded);
        self.identify(&system, lsn, slot_birth).await?;
        abort::point(Point::SourceIdentified);
        Ok(Start { confirmed: confirmed.unwrap_or(lsn).min(lsn), position: lsn })
    }

    async fn identify(&self, system: &System, lsn: Lsn, slot_birth: Lsn) -> Result<()> {
        let journal = self.ingest.journal();
        let position = StreamPosition {
            lsn,
            system: system.id,
            timeline: system.timeline,
            slot: self.source.slot.clone(),
            slot_birth,
            installation: journal.installation(),
        };
        let reached = journal.position().lsn;
        if reached > lsn {
            let what =
                format!("The journal stands at {reached}, the slot at {lsn}, and the journal cannot go back");
            return Err(Error::refused(what).hint("Start with a new data directory (--data DIR)"));
        }
        self.ingest.identify(position).await
    }

    /// Makes this installation the slot's owner; gives the slot's birth.
    async fn claim(&self, client: &Client, birth: Lsn) -> Result<Lsn> {
        if self.source.manage {
            let installation = self.ingest.journal().installation();
            installation::claim(client, &self.source.slot, installation, Some(birth)).await?;
        }
        Ok(birth)
    }

    /// Makes the slot. Claimed before it exists, so that a crash in between leaves it ours.
    async fn create(&self, client: &Client, connection: &mut Connection) -> Result<(Lsn, Lsn)> {
        let name = &self.source.slot;
        if !self.source.manage {
            let what = format!("The replication slot {name} does not exist, and source.manage is false");
            return Err(Error::refused(what).hint(slot::create_remedy(name)));
        }
        let installation = self.ingest.journal().installation();
        installation::claim(client, name, installation, None).await?;
        abort::point(Point::SourceClaimed);
        let birth = slot::create(connection, client, name).await?;
        abort::point(Point::SourceCreated);
        tracing::info!(slot = name, position = %birth, "Created the replication slot");
        self.claim(client, birth).await.map(|birth| (birth, birth))
    }

    /// Makes the slot anew where it is lost or gone.
    async fn recreate(
        &self,
        client: &Client,
        connection: &mut Connection,
        facts: &Facts<'_>,
    ) -> Result<(Lsn, Lsn)> {
        if facts.slot.is_some() && self.source.manage {
            slot::drop(client, &self.source.slot).await?;
        }
        self.create(client, connection).await
    }

    async fn record_lost(&self, detail: &str) -> Result<()> {
        self.ingest.journal().record_gap("", SOURCE_LOST, detail, now()).await.map(drop)
    }

    /// Starts the stream, waiting for the slot where another session has it.
    async fn start(
        &self,
        client: &Client,
        connection: Connection,
        server: &Server,
        publications: &[String],
    ) -> Result<CopyStream> {
        let command = start_command(&self.source.slot, publications);
        let patience = if self.established { server.sender_timeout + PATIENCE_SLACK } else { FIRST_PATIENCE };
        let deadline = Instant::now() + patience;
        let mut connection = Some(connection);
        loop {
            let next = match connection.take() {
                Some(connection) => connection,
                None => Connection::connect(&self.source.info, Purpose::Replication).await?,
            };
            match next.start_replication(&command).await {
                Ok(stream) => return Ok(stream),
                Err(error) if slot::sqlstate(&error) == Some("55006") => {
                    if Instant::now() >= deadline {
                        return Err(self.in_use(client, error).await);
                    }
                    sleep(SLOT_RETRY).await;
                }
                Err(error) => return Err(explain(error)),
            }
        }
    }

    async fn in_use(&self, client: &Client, error: Error) -> Error {
        let holder = slot::holder(client, &self.source.slot).await.ok().flatten();
        let holder = holder.unwrap_or_else(|| "another session".to_owned());
        Error::transient(format!("The replication slot {} is being read by {holder}", self.source.slot))
            .because(error)
            .hint(
                "Stop that reader (select pg_terminate_backend(PID)), or give this one a slot of its own \
                 (source.slot)",
            )
    }
}

/// Adds the remedy to what the server says while streaming or at its start.
pub(super) fn explain(error: Error) -> Error {
    match slot::sqlstate(&error) {
        // A publication that was dropped, or created after the slot's position.
        Some("42704") => error.hint(
            "If it names the publication: the stream needs one that was there when the changes were made. Run \
             `rowcast adopt` after SELECT pg_drop_replication_slot('…'): it records a gap and starts anew",
        ),
        Some("55000") => error.hint(installation::ADOPT),
        _ => error,
    }
}

fn start_command(slot: &str, publications: &[String]) -> String {
    // An identifier within a string within a command: each layer quotes.
    let names: Vec<String> = publications.iter().map(|name| identifier(name)).collect();
    format!(
        "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names {}, messages 'true')",
        identifier(slot),
        literal(&names.join(","))
    )
}

async fn identify_system(connection: &mut Connection) -> Result<System> {
    let rows = connection.simple_query("IDENTIFY_SYSTEM").await?;
    let row = rows.first().map(Vec::as_slice).unwrap_or_default();
    let text = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
    match (text(0).parse(), text(1).parse(), text(2).parse()) {
        (Ok(id), Ok(timeline), Ok(end)) => Ok(System { id, timeline, end }),
        _ => Err(Error::failed("IDENTIFY_SYSTEM gave no answer that can be understood")),
    }
}

/// Where the journal's timeline ended, if the server is on another one.
async fn switched(
    connection: &mut Connection,
    stored: &StreamPosition,
    system: &System,
) -> Result<Option<Lsn>> {
    if stored.slot.is_empty() || stored.system != system.id || stored.timeline == system.timeline {
        return Ok(None);
    }
    let rows = connection.simple_query(&format!("TIMELINE_HISTORY {}", system.timeline)).await?;
    let history = rows.first().and_then(|row| row.get(1)).and_then(Option::as_deref);
    Ok(resume::switch_point(history.unwrap_or_default(), stored.timeline))
}

fn warn_missing(
    source: &Source,
    tables: &std::collections::BTreeMap<String, rowcast_engine::status::Captured>,
) {
    for (schema, table) in source.tables.exact() {
        let channel = rowcast_engine::schema::Schema::channel_of(schema, table);
        if !tables.contains_key(&channel) {
            tracing::warn!(table = channel, "The table does not exist or is not captured yet");
        }
    }
}

/// Says that rows of a table came before its capture.
pub(super) async fn record_partly(ingest: &Ingest, channel: &str) -> Result<()> {
    let detail = "The table was captured after rows had been inserted: those are in no event";
    ingest.journal().record_gap(channel, NEW_TABLE, detail, now()).await.map(drop)
}

/// Microseconds since 1970.
fn now() -> rowcast_engine::event::Micros {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_micros().try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_at_each_layer() {
        let names = ["rowcast".to_owned(), "My \"Pub's\"".to_owned()];
        assert_eq!(
            start_command("rowcast", &names),
            "START_REPLICATION SLOT \"rowcast\" LOGICAL 0/0 (proto_version '1', \
             publication_names '\"rowcast\",\"My \"\"Pub''s\"\"\"', messages 'true')"
        );
    }
}
