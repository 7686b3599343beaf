//! From nothing to a running stream: prepares the source, makes sure that the history goes on, starts.

use std::collections::BTreeSet;
use std::time::Duration;

use rowcast_engine::abort::{self, Point};
use rowcast_engine::adoption::Asked;
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::{Broken, StreamPosition};
use rowcast_engine::status::Status;
use rowcast_engine::{Error, Kind, Lsn, Result};
use tokio_postgres::Client;

use super::broken::Break;
use super::contents::{self, Keeper};
use super::during::during;
use super::lasting::Repeats;
use super::published::{self, Publications};
use super::reading::Reading;
use super::resume::{self, Facts, System, Verdict};
use super::session::Session;
use super::starting::start_command;
use super::taking::{caught_up, identify_system, same_server, switched};
use super::waiting::told;
use crate::catalog::Catalog;
use crate::config::{Origin, Source};
use crate::conninfo::Conninfo;
use crate::setup::installation::Owner;
use crate::setup::server::Server;
use crate::setup::slot::{self, Observed, Slot};
use crate::setup::{self, captured, installation, publications};
use crate::snapshot::Snapshots;
use crate::snapshot::job::{self, ALL, Wanted};
use crate::wire::{Connection, Purpose, sql_session};

/// After a crash of ours the server may hold the slot for us until it notices; at the first start somebody waits.
pub(super) const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// The server's function that looks up the publications of a stream.
const UNPUBLISHED: &str = "get_publication_oid";

/// SQLSTATE `untranslatable_character`.
const UNTRANSLATABLE: &str = "22P05";

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
    switched: Option<Lsn>,
    pub(super) server: Server,
    pub(super) slot: Option<Slot>,
    /// It is none that could be read.
    pub(super) unfit: Option<Error>,
    pub(super) published: Publications,
    pub(super) owner: Option<Owner>,
}

impl Situation {
    /// Where the stream is asked to start: where the slot stands, unless the server would repeat what it was asked
    /// for in another way.
    fn start(&self, asked_since: Lsn) -> Lsn {
        let confirmed = self.slot.as_ref().and_then(|slot| slot.confirmed_flush_lsn).unwrap_or_default();
        if asked_since > confirmed { asked_since } else { Lsn::ZERO }
    }
}

/// How the history goes on.
enum Plan {
    As(Verdict),
    Behind(Break),
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
            // Before anything of the other one's is changed.
            self.make_sure_of_slot(&client, broken).await?;
        }
        let (goes_on, mut altered) = (matches!(plan, Plan::As(_)), false);
        let compares = !self.established || !goes_on;
        if compares {
            let ready = self.prepare(&mut client, &server, goes_on);
            altered = during(&board, "Makes schema and publications ready", Box::pin(ready)).await?;
        }
        let settled = Box::pin(self.settle(&client, &mut connection, &situation, plan));
        let position = during(&board, "Settles where the stream begins", settled).await?;
        if compares {
            let keeper = Keeper::new(self.ingest.journal());
            let look = keeper.look(&mut client, &self.source, server.version, altered);
            during(&board, "Notes what is published", Box::pin(look)).await?;
        }
        let journal = self.ingest.journal().clone();
        let names = publications::existing(&client, &self.source).await?;
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
        let catalog = Catalog::new(&self.here, &self.source.publications(), server.version);
        self.source.adopt = false;
        let parts = (taken, self.ingest.clone(), self.status.clone());
        let source = Source { info: self.here.clone(), ..self.source.clone() };
        let (snapshots, orders) = Snapshots::start(source, &journal, &self.status, server.version)?;
        tracing::info!(
            slot = self.source.slot,
            %position,
            server = server.version_text,
            "Streaming changes from {}",
            self.here
        );
        Ok(Session::new(stream, assembly, feedback, catalog, parts, (snapshots, orders, sent), position))
    }

    /// Makes the source ready. Gives whether options of its publications were set right.
    async fn prepare(&mut self, client: &mut Client, server: &Server, goes_on: bool) -> Result<bool> {
        let keeper = Keeper::new(self.ingest.journal());
        let mut left = BTreeSet::new();
        if goes_on && keeper.is_kept() {
            // What was lost while it did not run must not be set right unseen.
            keeper.look(client, &self.source, server.version, false).await?;
            left = keeper.left()?;
        }
        let reconciled = Box::pin(setup::prepare(client, &self.source, server, left)).await?;
        let tables = captured::tables(client, &self.source, server.version).await?;
        captured::warn_missing(&self.source, &tables);
        self.status.source(|source| {
            source.server_version.clone_from(&server.version_text);
            source.tables = tables;
            source.uncaptured = reconciled.uncaptured;
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
        let server = server.clone();
        Ok(Situation { stored, system, switched, server, slot, unfit, published, owner })
    }

    /// Whether the journal's history goes on in the slot, or whether it may go on behind a gap.
    fn plan(&self, situation: &Situation) -> Result<Plan> {
        let facts = Facts {
            system: &situation.system,
            switched: situation.switched,
            slot_name: &self.source.slot,
            slot: situation.slot.as_ref(),
            unfit: situation.unfit.as_ref(),
            owner: situation.owner.as_ref(),
            installation: self.ingest.journal().installation(),
            newest: self.ingest.journal().last_tx_end(),
        };
        let judged =
            resume::judge(&situation.stored, &facts).map_err(|broken| self.as_given_up(situation, broken));
        let broken = match (judged, self.noticed(situation)) {
            (Err(broken), _) | (Ok(_), Some(broken)) => broken,
            (Ok(verdict), None) => match self.unpublished(situation)? {
                Some(broken) => broken,
                None => return Ok(Plan::As(verdict)),
            },
        };
        if self.may_adopt(&broken, situation.slot.as_ref()) {
            if let Some(unfit) = &situation.unfit {
                // Somebody else's is not ours to drop.
                return Err(told(unfit));
            }
            return Ok(Plan::Behind(broken));
        }
        Err(broken.error())
    }

    /// A break that was noticed before, where comparing with the journal would not show it again, or need not.
    fn noticed(&self, situation: &Situation) -> Option<Break> {
        let broken = situation.stored.broken()?;
        let confirmed = situation.slot.as_ref()?.confirmed_flush_lsn?;
        let blind = !self.ingest.journal().holds_all_above(confirmed);
        let broken = Break::again(broken);
        (blind || broken.renew || self.may_adopt(&broken, None)).then_some(broken)
    }

    /// A slot that is gone because it was given up.
    fn as_given_up(&self, situation: &Situation, broken: Break) -> Break {
        match &self.given_up {
            Some(detail) if situation.slot.is_none() && !situation.stored.slot.is_empty() => {
                Break { detail: detail.clone(), lasting: true, ..broken }
            }
            _ => broken,
        }
    }

    /// Remembers a break that the server may not show for long.
    pub(super) async fn remember(&self, broken: &Break) -> Result<()> {
        self.ingest.settled().await?;
        let stored = self.ingest.journal().position();
        if stored.slot.is_empty() || !broken.lasting || stored.broken().is_some() {
            return Ok(());
        }
        let (reason, detail) = (broken.reason.clone(), broken.detail.clone());
        let broken = Some(Broken { reason, detail, at: stored.lsn });
        self.ingest.identify(StreamPosition { broken, ..stored }, &[]).await
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
            Plan::Behind(broken) => self.adopt(client, connection, situation, broken).await?,
        };
        let position = self.position(&situation.system, lsn, slot_birth);
        let broken = self.ingest.journal().position().broken.filter(|broken| broken.at == lsn);
        abort::point(Point::SourceRecorded);
        let mut notes = if begins && self.source.snapshot.is_on() { self.wanted()? } else { Vec::new() };
        let before = if goes_on { situation.published.as_slice() } else { &[] };
        notes.push(self.publications(client, before).await?);
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
        let noted = published::noted(self.ingest.journal())?.unwrap_or_default();
        if let Some(name) = published::missing(&noted, &publications) {
            return Err(Break::unpublished(name).error());
        }
        self.reading.note(publications, slot.as_ref().and_then(|slot| slot.active_pid));
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

/// Adds the remedy to what the server says while streaming or at its start.
pub(super) fn explain(error: Error) -> Error {
    let Some(said) = slot::db_error(&error).filter(|_| Break::of(&error).is_none()) else { return error };
    match said.code.as_str() {
        // A publication that was dropped, or created after the slot's position. The function's name is the same in
        // every language.
        "42704" if said.routine.as_deref() == Some(UNPUBLISHED) => {
            let detail = format!(
                "A publication was dropped, or is younger than the changes that it is to show: {said}"
            );
            Break { detail, ..Break::unpublished("") }.error()
        }
        // The slot cannot be read any more, or is gone; the next look at it says why.
        "55000" | "42704" if error.kind() != Kind::Transient => {
            Error::transient("The replication slot cannot be read").because(error)
        }
        UNTRANSLATABLE => Error::refused("The server's log holds text that has no UTF-8: nothing beyond can be sent")
            .because(error)
            .hint(
                "It stands in the log, and cannot be mended there: replace such characters in the rows that have them; \
                 select pg_drop_replication_slot('NAME'); restart rowcast, and `rowcast adopt` lets it go on behind a \
                 gap",
            ),
        _ => error,
    }
}

/// Microseconds since 1970.
pub(crate) fn now() -> rowcast_engine::event::Micros {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_micros().try_into().unwrap_or(i64::MAX)
}
