//! From nothing to a running stream: prepares the source, makes sure that the history goes on, starts.

use std::collections::BTreeSet;
use std::time::Duration;

use rowcast_engine::abort::{self, Point};
use rowcast_engine::adoption::Asked;
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::StreamPosition;
use rowcast_engine::status::Status;
use rowcast_engine::{Error, Kind, Lsn, Result};
use tokio_postgres::Client;

use super::broken::Break;
use super::contents::{self, Keeper};
use super::during::during;
use super::lasting::Repeats;
use super::plan::Plan;
use super::published::{self, Publications};
use super::reading::Reading;
use super::resume::{self, System, Verdict};
use super::session::Session;
use super::starting::start_command;
use super::taking::{caught_up, identify_system, same_server, switched};
use crate::catalog::Catalog;
use crate::config::{Origin, Source};
use crate::conninfo::Conninfo;
use crate::setup::installation::Owner;
use crate::setup::server::Server;
use crate::setup::slot::{self, Observed, Slot};
use crate::setup::{self, captured, exposed, installation};
use crate::snapshot::Snapshots;
use crate::snapshot::job::{self, ALL, Wanted};
use crate::wire::{Connection, Purpose, sql_session};

/// After a crash of ours the server may hold the slot for us until it notices; at the first start somebody waits.
pub(super) const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// Between two tries to take the slot.
pub(super) const SLOT_RETRY: Duration = Duration::from_millis(500);

/// What outlives a connection.
pub(super) struct Link {
    pub(super) source: Source,
    /// The one server, of those that the source names, that the newest connection leads to.
    pub(super) here: Conninfo,
    pub(super) ingest: Ingest,
    pub(super) status: Status,
    /// The stream has run at least once.
    pub(super) established: bool,
    /// The journal had streamed before this start.
    known: bool,
    /// Who has let a broken history go on, and waits to hear of it.
    pub(super) asked: Option<Asked>,
    /// The reason for which it waits, once that has been logged.
    pub(super) waits_for: Option<String>,
    /// What the stream reads, for those who look after it.
    pub(super) reading: Reading,
    /// Why the slot was given up, until the gap is recorded.
    pub(super) given_up: Option<String>,
    /// Errors that come again and again.
    pub(super) repeats: Repeats,
    /// A transaction came that protocol 2 cannot tell: from now on they are sent when they commit.
    pub(super) whole: bool,
}

/// What the server says, beside what the journal has.
pub(super) struct Situation {
    pub(super) stored: StreamPosition,
    pub(super) system: System,
    pub(super) switched: Option<Lsn>,
    pub(super) server: Server,
    pub(super) slot: Option<Slot>,
    /// It is none that could be read.
    pub(super) unfit: Option<Error>,
    pub(super) published: Publications,
    /// Those of them that the slot shows wherever it reads.
    pub(super) shown: Publications,
    pub(super) owner: Option<Owner>,
}

impl Situation {
    /// Where the stream is asked to start: where the slot stands, unless the server would repeat what it was asked
    /// for in another way.
    pub(super) fn start(&self, asked_since: Lsn) -> Lsn {
        let confirmed = self.slot.as_ref().and_then(|slot| slot.confirmed_flush_lsn).unwrap_or_default();
        if asked_since > confirmed { asked_since } else { Lsn::ZERO }
    }
}

impl Link {
    /// Nothing has happened yet.
    pub(super) fn new(source: Source, ingest: Ingest, status: Status) -> Self {
        let here = source.info.clone();
        let (reading, repeats) = (Reading::default(), Repeats::default());
        let (asked, waits_for, given_up) = (None, None, None);
        let (known, established) = (!ingest.journal().position().slot.is_empty(), false);
        Self {
            source,
            here,
            ingest,
            status,
            established,
            known,
            asked,
            waits_for,
            reading,
            given_up,
            repeats,
            whole: false,
        }
    }

    /// The journal has streamed before, in this process or an earlier one: it is worth waiting for.
    pub(super) fn is_known(&self) -> bool {
        self.established || self.known
    }

    /// A running stream.
    ///
    /// # Errors
    ///
    /// `Kind::Refused` for what will not pass by itself, with the remedy (a [`Break`] where the history does not go
    /// on: then nothing was changed in the source); `Kind::Transient` for the rest.
    pub(super) async fn connect(&mut self) -> Result<Session> {
        let board = self.status.clone();
        let (mut client, here) = during(&board, "Logs in", sql_session(&self.source.info)).await?;
        self.reading.found(&here);
        self.here = here;
        let server = during(&board, "Reads the server's settings", Server::read(&client)).await?;
        if server.standby && self.source.manage && self.is_known() {
            return Err(server.wait_for_primary());
        }
        if !self.established {
            server.fit(&self.source)?;
        }
        let logs_in = Connection::connect(&self.here, Purpose::Replication);
        let mut connection = during(&board, "Logs in for replication", logs_in).await?;
        during(&board, "Makes sure that this is one server", same_server(&client, &mut connection)).await?;
        self.status.source(|source| source.address = self.here.redacted());
        let look = self.look(&client, &mut connection, &server);
        let situation = during(&board, "Compares the journal with the server", look).await?;
        let plan = self.plan(&situation)?;
        if let Plan::Behind(broken) = &plan {
            self.reading.begin_adopting();
            // Before anything of the other one's is changed.
            self.make_sure_of_slot(&client, &server, broken).await?;
        }
        let (goes_on, mut altered) = (matches!(plan, Plan::As(_)), false);
        let compares = !self.established || !goes_on;
        if compares {
            let shown = self.readable(situation.published.clone(), situation.stored.lsn)?;
            let ready = self.prepare(&mut client, &server, goes_on.then_some(&*shown));
            altered = during(&board, "Makes schema and publications ready", Box::pin(ready)).await?;
        }
        let journal = self.ingest.journal().clone();
        let before = published::noted(&journal)?;
        let settled = Box::pin(self.settle(&client, &mut connection, &situation, plan));
        let position = during(&board, "Settles where the stream begins", settled).await?;
        let reads = published::noted(&journal)?.unwrap_or_default();
        let shown = self.source.reading(&reads);
        if compares || before.as_ref() != Some(&reads) {
            let keeper = Keeper::new(&journal);
            let look = keeper.look(&mut client, &shown, server.version, altered);
            during(&board, "Notes what is published", Box::pin(look)).await?;
        }
        let names: Vec<String> = reads.into_iter().map(|(name, _)| name).collect();
        let stored = journal.position();
        let from = situation.start(stored.asked_since);
        let sent = self.sent()?;
        self.status.source(|source| source.large_transactions = sent.told(self.source.streaming));
        let command = start_command(&self.source, from, &names, sent);
        let starts = Box::pin(self.start(&client, connection, &server, &command));
        let mut stream = during(&board, "Starts the stream", starts).await?;
        let told = during(&board, "Reads where the slot stands", self.confirmed(&client, position)).await?;
        let start = (told, told.max(from), position);
        let reads = Box::pin(self.read_ahead(&client, &mut stream, &server, start));
        let what = "Reads what the journal holds beyond the slot's position";
        let (assembly, feedback, taken) = during(&board, what, reads).await?;
        let catalog = Catalog::new(&self.here, &shown.publications(), server.version);
        self.source.adopt = false;
        let parts = (taken, self.ingest.clone(), self.status.clone());
        let source = Source { info: self.here.clone(), ..shown };
        let (snapshots, orders) = Snapshots::start(source, &journal, &self.status, server.version)?;
        let (slot, server) = (&self.source.slot, &server.version_text);
        if self.doubtful(assembly.replay.is_done()).is_none() {
            tracing::info!(slot, %position, server, "Streaming changes from {}", self.here);
        }
        Ok(Session::new(stream, assembly, feedback, catalog, parts, (snapshots, orders, sent), position))
    }

    /// Makes the source ready; a stream that goes on reads of its publications what is `shown`. Gives whether options of
    /// its publications were set right.
    async fn prepare(
        &mut self,
        client: &mut Client,
        server: &Server,
        shown: Option<&[(String, u32)]>,
    ) -> Result<bool> {
        let keeper = Keeper::new(self.ingest.journal());
        let mut left = BTreeSet::new();
        let goes_on = shown.map(|shown| self.source.reading(shown)).filter(|_| keeper.is_kept());
        if let Some(shown) = &goes_on {
            // What was lost while it did not run must not be set right unseen.
            keeper.look(client, shown, server.version, false).await?;
            left = keeper.left()?;
        }
        let reconciled = Box::pin(setup::prepare(client, &self.source, server, left)).await?;
        let shown = goes_on.as_ref().unwrap_or(&self.source);
        let tables = captured::tables(client, shown, server.version).await?;
        captured::warn_missing(&self.source, &tables);
        let exposed = exposed::read(client, &self.source, server).await?;
        exposed::warn(&exposed);
        self.status.source(|source| {
            source.server_version.clone_from(&server.version_text);
            source.tables = tables;
            source.uncaptured = reconciled.uncaptured;
            source.exposed = exposed::by_channel(&exposed);
        });
        Ok(reconciled.altered)
    }

    /// Gathers what decides whether the history goes on. Changes nothing.
    async fn look(&self, client: &Client, connection: &mut Connection, server: &Server) -> Result<Situation> {
        same_server(client, connection).await?;
        let system = identify_system(connection).await?;
        self.status.source(|source| source.server_lsn = system.end);
        // What the connection before handed over may still be on its way to the disk.
        self.ingest.settled().await?;
        let stored = self.ingest.journal().position();
        caught_up(server, &stored, &system)?;
        let Observed { slot, publications: published, .. } = slot::observe(client, &self.source).await?;
        let fit = slot.as_ref().map_or(Ok(()), |slot| slot.fit(&self.source, server));
        let unfit = match fit {
            Ok(()) => None,
            Err(error) if stored.slot.is_empty() || error.kind() == Kind::Transient => return Err(error),
            Err(error) => Some(error),
        };
        let owner = installation::read(client, &self.source.slot).await?;
        let switched = switched(connection, &stored, &system).await?;
        let (shown, server) = (published::shown(client, &self.source).await?, server.clone());
        Ok(Situation { stored, system, switched, server, slot, unfit, published, shown, owner })
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
        // A first start, and nothing of the history is there.
        let begins = matches!(plan, Plan::As(Verdict::Begin(_) | Verdict::Create));
        let goes_on = matches!(plan, Plan::As(_));
        let (lsn, slot_birth) = match plan {
            Plan::As(Verdict::Continue) if stored.unclaimed => {
                (stored.lsn, self.claim(client, stored.slot_birth).await?)
            }
            Plan::As(Verdict::Continue) => (stored.lsn, stored.slot_birth),
            Plan::As(Verdict::Begin(from)) => {
                let birth = situation.owner.as_ref().and_then(|owner| owner.slot_birth);
                (from, self.claim(client, birth.unwrap_or(from)).await?)
            }
            Plan::As(Verdict::Create) => self.create(client, connection, &situation.server).await?,
            Plan::Behind(broken) => {
                // What could not be sent before it was committed went with the old slot.
                self.whole &= !broken.renew;
                self.adopt(client, connection, situation, broken).await?
            }
        };
        let before = if goes_on { situation.published.as_slice() } else { &[] };
        let reads = self.publications(client, before, lsn).await?;
        let mut position = self.position(&situation.system, lsn, slot_birth);
        let noted = published::noted(self.ingest.journal())?.unwrap_or_default();
        if published::adds(&self.source.publication, &noted, &reads) {
            // Of below, the server would tell what the journal lacks, or fail at what was not there yet.
            position.asked_since = lsn;
        }
        let broken = self.ingest.journal().position().broken.filter(|broken| broken.at == lsn);
        abort::point(Point::SourceRecorded);
        let mut notes = if begins && self.source.snapshot.is_on() { self.wanted()? } else { Vec::new() };
        notes.push(published::note(&reads)?);
        if !goes_on {
            // The gap of all channels has told it.
            notes.push((contents::NOTE, Vec::new()));
        }
        let notes: Vec<_> = notes.iter().map(|(name, json)| (*name, json.as_slice())).collect();
        self.ingest.identify(StreamPosition { broken, ..position }, &notes).await?;
        abort::point(Point::SourceIdentified);
        Ok(lsn)
    }

    /// The note that wants the rows of all captured tables.
    pub(super) fn wanted(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let snapshot = u64::try_from(now()).unwrap_or(0);
        Ok(vec![(ALL, job::json(&Wanted { snapshot })?)])
    }

    pub(super) fn position(&self, system: &System, lsn: Lsn, slot_birth: Lsn) -> StreamPosition {
        let stored = self.ingest.journal().position();
        let local_only = self.source.origin == Origin::None;
        let asked_since = if stored.local_only == local_only { stored.asked_since.min(lsn) } else { lsn };
        let captures = self.source.captures();
        let captured_since = if stored.captures == captures { stored.captured_since.min(lsn) } else { lsn };
        StreamPosition {
            lsn,
            local_only,
            asked_since,
            captures,
            captured_since,
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
        let Observed { slot, publications, .. } = slot::observe(client, &self.source).await?;
        // With which it was begun.
        let noted = published::noted(self.ingest.journal())?.unwrap_or_default();
        if let Some(name) = published::missing(&noted, &publications) {
            return Err(Break::unpublished(name).error());
        }
        self.reading.note(noted, slot.as_ref().and_then(|slot| slot.active_pid));
        let stored = StreamPosition { lsn: position, ..StreamPosition::default() };
        resume::not_ahead(&stored, name, slot.as_ref()).map_err(Break::error)?;
        Ok(slot.and_then(|slot| slot.confirmed_flush_lsn).unwrap_or(position))
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
    async fn create(
        &self,
        client: &Client,
        connection: &mut Connection,
        server: &Server,
    ) -> Result<(Lsn, Lsn)> {
        let name = &self.source.slot;
        if !self.source.manage {
            let what = format!("The replication slot {name} does not exist, and source.manage is false");
            return Err(Error::refused(what).hint(slot::create_remedy(&self.source, server)));
        }
        let installation = self.ingest.journal().installation();
        installation::claim(client, name, installation, None).await?;
        abort::point(Point::SourceClaimed);
        let birth = self.make(client, connection, server).await?;
        abort::point(Point::SourceCreated);
        tracing::info!(slot = name, position = %birth, "Created the replication slot");
        self.claim(client, birth).await.map(|birth| (birth, birth))
    }

    /// Makes the slot anew where it is lost or gone.
    pub(super) async fn recreate(
        &self,
        client: &Client,
        connection: &mut Connection,
        situation: &Situation,
    ) -> Result<(Lsn, Lsn)> {
        if situation.slot.is_some() {
            let name = &self.source.slot;
            if !self.source.manage {
                let what =
                    format!("The replication slot {name} has to be made anew, and source.manage is false");
                let (drop, create) =
                    (slot::drop_sql(name), slot::create_remedy(&self.source, &situation.server));
                return Err(Error::refused(what).hint(format!("{drop} {create}")));
            }
            slot::drop(client, name).await?;
        }
        self.create(client, connection, &situation.server).await
    }
}

/// Microseconds since 1970.
pub(crate) fn now() -> rowcast_engine::event::Micros {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_micros().try_into().unwrap_or(i64::MAX)
}
