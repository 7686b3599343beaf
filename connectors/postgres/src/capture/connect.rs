//! From nothing to a running stream: prepares the source, makes sure that the history goes on, starts.

use std::time::Duration;

use rowcast_engine::abort::{self, Point};
use rowcast_engine::adoption::Asked;
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::{Broken, StreamPosition};
use rowcast_engine::status::Status;
use rowcast_engine::{Error, Lsn, Result};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::assembly::Assembly;
use super::broken::Break;
use super::feedback::Feedback;
use super::replay::Replay;
use super::resume::{self, Facts, System, Verdict};
use super::session::Session;
use crate::catalog::Catalog;
use crate::config::{Source, Streaming};
use crate::setup::installation::Owner;
use crate::setup::server::Server;
use crate::setup::slot::{self, Slot};
use crate::setup::{self, installation, publications};
use crate::tables::{identifier, literal};
use crate::wire::{Connection, CopyStream, Purpose, sql_client};

/// After a crash of ours the server may hold the slot for us until it notices; at the first start somebody waits.
pub(super) const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// After a network cut the server notices within wal_sender_timeout; so much longer is enough.
const PATIENCE_SLACK: Duration = Duration::from_secs(10);

/// Between two tries to take the slot.
pub(super) const SLOT_RETRY: Duration = Duration::from_millis(500);

/// What outlives a connection.
pub(super) struct Link {
    pub(super) source: Source,
    pub(super) ingest: Ingest,
    pub(super) status: Status,
    /// The stream has run at least once.
    pub(super) established: bool,
    /// Who has let a broken history go on, and waits to hear of it.
    pub(super) asked: Option<Asked>,
    /// The reason for which it waits, once that has been logged.
    pub(super) waits_for: Option<String>,
    /// A transaction came that protocol 2 cannot tell: from now on they are sent when they commit.
    pub(super) whole: bool,
}

/// What the server says, beside what the journal has.
pub(super) struct Situation {
    pub(super) stored: StreamPosition,
    pub(super) system: System,
    switched: Option<Lsn>,
    pub(super) slot: Option<Slot>,
    pub(super) owner: Option<Owner>,
}

/// How the history goes on.
enum Plan {
    As(Verdict),
    Behind(Break),
}

impl Link {
    /// Nothing has happened yet.
    pub(super) fn new(source: Source, ingest: Ingest, status: Status) -> Self {
        Self { source, ingest, status, established: false, asked: None, waits_for: None, whole: false }
    }

    /// A running stream.
    ///
    /// # Errors
    ///
    /// `Kind::Refused` for what will not pass by itself, with the remedy (a [`Break`] where the history does not go
    /// on: then nothing was changed in the source); `Kind::Transient` for the rest.
    pub(super) async fn connect(&mut self) -> Result<Session> {
        let mut client = sql_client(&self.source.info).await?;
        let server = Server::read(&client).await?;
        if !self.established {
            server.fit(self.source.manage)?;
        }
        let mut connection = Connection::connect(&self.source.info, Purpose::Replication).await?;
        let situation = self.look(&client, &mut connection, &server).await?;
        let plan = self.plan(&situation)?;
        if let Plan::Behind(broken) = &plan {
            // Before anything of the other one's is changed.
            self.make_sure_of_slot(&client, broken).await?;
        }
        if !self.established || matches!(plan, Plan::Behind(_)) {
            self.prepare(&mut client, &server).await?;
        }
        let position = Box::pin(self.settle(&client, &mut connection, &situation, plan)).await?;
        let journal = self.ingest.journal().clone();
        let names = publications::existing(&client, &self.source).await?;
        let stream = Box::pin(self.start(&client, connection, &server, &names)).await?;
        let confirmed = self.confirmed(&client, position).await?;
        let replay = Replay::start(&journal, confirmed, position).await?;
        let (tables, status) = (&self.source.tables, &self.status);
        let assembly = Assembly::new(tables, status, replay, journal.position(), journal.last_tx_end());
        let catalog = Catalog::new(&self.source.info, &self.source.publications());
        self.source.adopt = false;
        let parts = (self.source.tables.clone(), self.ingest.clone(), self.status.clone());
        let feedback = Feedback::new(journal.durable(), confirmed, server.sender_timeout);
        tracing::info!(
            slot = self.source.slot,
            %position,
            server = server.version_text,
            "Streaming changes from {}",
            self.source.info
        );
        Ok(Session::new(stream, assembly, feedback, catalog, parts, position))
    }

    /// Makes the source ready.
    async fn prepare(&mut self, client: &mut Client, server: &Server) -> Result<()> {
        Box::pin(setup::prepare(client, &self.source, server)).await?;
        let tables = publications::captured(client, &self.source).await?;
        warn_missing(&self.source, &tables);
        self.status.source(|source| {
            source.server_version.clone_from(&server.version_text);
            source.tables = tables;
        });
        Ok(())
    }

    /// Gathers what decides whether the history goes on. Changes nothing.
    async fn look(&self, client: &Client, connection: &mut Connection, server: &Server) -> Result<Situation> {
        let system = identify_system(connection).await?;
        self.status.source(|source| source.server_lsn = system.end);
        // What the connection before handed over may still be on its way to the disk.
        self.ingest.settled().await?;
        let stored = self.ingest.journal().position();
        let slot = slot::read(client, &self.source.slot).await?;
        if let Some(slot) = &slot {
            slot.fit(&self.source.slot, &server.database)?;
        }
        let owner = installation::read(client, &self.source.slot).await?;
        let switched = switched(connection, &stored, &system).await?;
        Ok(Situation { stored, system, switched, slot, owner })
    }

    /// Whether the journal's history goes on in the slot, or whether it may go on behind a gap.
    fn plan(&self, situation: &Situation) -> Result<Plan> {
        let facts = Facts {
            system: &situation.system,
            switched: situation.switched,
            slot_name: &self.source.slot,
            slot: situation.slot.as_ref(),
            owner: situation.owner.as_ref(),
            installation: self.ingest.journal().installation(),
        };
        let judged = resume::judge(&situation.stored, &facts);
        let broken = match (judged, self.noticed(situation)) {
            (Ok(verdict), None) => return Ok(Plan::As(verdict)),
            (Err(broken), _) | (Ok(_), Some(broken)) => broken,
        };
        if self.may_adopt(&broken, situation.slot.as_ref()) {
            return Ok(Plan::Behind(broken));
        }
        Err(broken.error())
    }

    /// A break that was noticed before, where comparing with the journal would not show it again, or need not.
    fn noticed(&self, situation: &Situation) -> Option<Break> {
        let broken = situation.stored.broken()?;
        let confirmed = situation.slot.as_ref()?.confirmed_flush_lsn?;
        let blind = !self.ingest.journal().holds_all_above(confirmed);
        let broken = Break { reason: broken.reason.clone(), detail: broken.detail.clone(), foreign: false };
        (blind || self.may_adopt(&broken, None)).then_some(broken)
    }

    /// Remembers a break that the server may not show for long.
    pub(super) async fn remember(&self, broken: &Break) -> Result<()> {
        self.ingest.settled().await?;
        let stored = self.ingest.journal().position();
        if stored.slot.is_empty() || !broken.is_fleeting() || stored.broken().is_some() {
            return Ok(());
        }
        let (reason, detail) = (broken.reason.clone(), broken.detail.clone());
        let broken = Some(Broken { reason, detail, at: stored.lsn });
        self.ingest.identify(StreamPosition { broken, ..stored }).await
    }

    /// Stores whose history goes on, and where, before anything is confirmed.
    async fn settle(
        &mut self,
        client: &Client,
        connection: &mut Connection,
        situation: &Situation,
        plan: Plan,
    ) -> Result<Lsn> {
        let stored = &situation.stored;
        let (lsn, slot_birth) = match plan {
            Plan::As(Verdict::Continue) if stored.unclaimed => {
                (stored.lsn, self.claim(client, stored.slot_birth).await?)
            }
            Plan::As(Verdict::Continue) => (stored.lsn, stored.slot_birth),
            Plan::As(Verdict::Begin(from)) => {
                let birth = situation.owner.as_ref().and_then(|owner| owner.slot_birth);
                (from, self.claim(client, birth.unwrap_or(from)).await?)
            }
            Plan::As(Verdict::Create) => self.create(client, connection).await?,
            Plan::Behind(broken) => self.adopt(client, connection, situation, broken).await?,
        };
        let position = self.position(&situation.system, lsn, slot_birth);
        let broken = self.ingest.journal().position().broken.filter(|broken| broken.at == lsn);
        abort::point(Point::SourceRecorded);
        self.ingest.identify(StreamPosition { broken, ..position }).await?;
        abort::point(Point::SourceIdentified);
        Ok(lsn)
    }

    pub(super) fn position(&self, system: &System, lsn: Lsn, slot_birth: Lsn) -> StreamPosition {
        StreamPosition {
            lsn,
            system: system.id,
            timeline: system.timeline,
            slot: self.source.slot.clone(),
            slot_birth,
            installation: self.ingest.journal().installation(),
            ..StreamPosition::default()
        }
    }

    /// What the slot has confirmed, now that nobody else can read from it: the stream begins there.
    async fn confirmed(&self, client: &Client, position: Lsn) -> Result<Lsn> {
        let name = &self.source.slot;
        let slot = slot::read(client, name).await?;
        let confirmed = slot.and_then(|slot| slot.confirmed_flush_lsn).unwrap_or(position);
        let stored = StreamPosition { lsn: position, ..StreamPosition::default() };
        resume::not_ahead(&stored, name, confirmed).map_err(Break::error)?;
        Ok(confirmed)
    }

    /// Makes this installation the slot's owner; gives the slot's birth.
    pub(super) async fn claim(&self, client: &Client, birth: Lsn) -> Result<Lsn> {
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
    pub(super) async fn recreate(
        &self,
        client: &Client,
        connection: &mut Connection,
        is_there: bool,
    ) -> Result<(Lsn, Lsn)> {
        if is_there && self.source.manage {
            slot::drop(client, &self.source.slot).await?;
        }
        self.create(client, connection).await
    }

    /// Starts the stream, waiting for the slot where another session has it.
    async fn start(
        &self,
        client: &Client,
        connection: Connection,
        server: &Server,
        publications: &[String],
    ) -> Result<CopyStream> {
        let streaming = if self.whole { Streaming::Off } else { self.source.streaming };
        let command = start_command(&self.source.slot, publications, streaming);
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
        // The slot cannot be read any more; the next look at it says why.
        Some("55000") => Error::transient("The replication slot cannot be read").because(error),
        _ => error,
    }
}

fn start_command(slot: &str, publications: &[String], streaming: Streaming) -> String {
    let (version, more) = match streaming {
        Streaming::Off => (1, ""),
        Streaming::On => (2, ", streaming 'on'"),
    };
    // An identifier within a string within a command: each layer quotes.
    let names: Vec<String> = publications.iter().map(|name| identifier(name)).collect();
    format!(
        "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '{version}', publication_names {}, \
         messages 'true'{more})",
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

/// Microseconds since 1970.
pub(super) fn now() -> rowcast_engine::event::Micros {
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
            start_command("rowcast", &names, Streaming::Off),
            "START_REPLICATION SLOT \"rowcast\" LOGICAL 0/0 (proto_version '1', \
             publication_names '\"rowcast\",\"My \"\"Pub''s\"\"\"', messages 'true')"
        );
        assert_eq!(
            start_command("rowcast", &names[..1], Streaming::On),
            "START_REPLICATION SLOT \"rowcast\" LOGICAL 0/0 (proto_version '2', \
             publication_names '\"rowcast\"', messages 'true', streaming 'on')"
        );
    }
}
