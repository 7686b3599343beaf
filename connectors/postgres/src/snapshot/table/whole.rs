//! A table without a key: read in one piece.

use std::time::{Duration, Instant};

use rowcast_engine::Result;
use rowcast_engine::abort::{self, Point};
use rowcast_engine::journal::State;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tokio_postgres::Client;

use super::crowded::CROWDED_MAX;
use super::gone::is_undefined;
use super::{Ended, Reading, Round, gone};
use crate::config::Origin;
use crate::snapshot::keyless::{self, Reason};
use crate::snapshot::order::{Gone, Order, Ready, Whole, Why, Written, ask, begin};
use crate::snapshot::read::{Piece, Reader, Table, WholeOutcome, no_text};
use crate::snapshot::scan;
use crate::snapshot::server::oid;
use crate::snapshot::task::Surroundings;
use crate::snapshot::told::Told;
use crate::snapshot::tracker::{Flaw, Opened};
use crate::tables::qualified;

/// What came of a reading.
enum Piecework {
    /// It is on its way to the stream.
    Sent,
    /// It is of no use.
    Not(Written),
    Ends(Round),
}

/// So many readings that were broken off are told to whoever looks after it.
const READINGS_TOLD: u32 = 3;

/// How often a table is read that is emptied or altered just then, before it is given up. One that is so often is small.
const TRIES: u32 = 20;

/// How often a standby's snapshot is taken of which it is not known what it sees. Of one in several it is known, however
/// much is written: nothing is replayed while it is taken, or the transaction lies outside of what was in progress.
const DOUBTS: u32 = 200;

/// The pause between two grows with their number, up to this.
const DOUBT_PAUSE: Duration = Duration::from_millis(5);
const DOUBT_PAUSE_MAX: Duration = Duration::from_millis(250);

impl Reading {
    /// Reads the table to its end, however often it takes.
    pub(super) async fn whole(&mut self, client: &mut Client) -> Result<Round> {
        if self.job.condition.is_some() {
            return self.give_up(client, keyless::CONDITION).await;
        }
        if !self.make_room(CROWDED_MAX).await? {
            return Ok(Round::Ended(Ended::Stopped));
        }
        let relation = self.job.progress.relation;
        self.order(Order::End(relation)).await?;
        (self.window, self.early, self.behind) = (None, None, false);
        self.waiting = None;
        self.restart(relation);
        (self.job.progress.key, self.job.progress.order) = Default::default();
        self.tell_of_readings();
        let looked_up = tokio::select! {
            looked_up = self.look_up(relation) => looked_up?,
            () = self.stopped.stopped() => return Ok(Round::Ended(Ended::Stopped)),
        };
        if let Err(reason) = looked_up {
            return self.give_up(client, reason).await;
        }
        let (mut tries, mut doubts, mut opened) = (0, 0, None);
        self.catch_up(client).await?;
        loop {
            if self.stopped.is_stopped() {
                return Ok(Round::Ended(Ended::Stopped));
            }
            // What was looked up is worth waiting with: the next one would have to look it up again.
            self.make_room(Duration::MAX).await?;
            self.wait_for_journal().await?;
            let Some(memory) = self.memory().await? else { continue };
            let sent = match self.piece(client, memory, &mut opened).await? {
                Piecework::Sent => self.placed(client).await?,
                Piecework::Not(written) => Some(written),
                Piecework::Ends(round) => return Ok(round),
            };
            let Some(sent) = sent else { return Ok(Round::Ended(Ended::Stopped)) };
            match sent {
                Written::Yes(_, rows) => return self.arrived(rows).await,
                Written::Flawed(Flaw::Doubt) if doubts < DOUBTS => {
                    doubts += 1;
                    self.wait_for(Why::Changed).await;
                    sleep(DOUBT_PAUSE_MAX.min(DOUBT_PAUSE * doubts)).await;
                }
                Written::Flawed(Flaw::Changed) if tries < TRIES => {
                    tries += 1;
                    self.wait_for(Why::Changed).await;
                    self.catch_up(client).await?;
                }
                Written::Flawed(flaw) => return self.give_up(client, flaw.into()).await,
                Written::Repeat(why) => self.wait_for(why).await,
                Written::NoText => return Err(no_text(&self.job.channel())),
                // That is said of chunks alone.
                Written::Void => return Ok(Round::Next),
            }
        }
    }

    /// Waits until the journal takes something, or somebody stops the reading. Before the table is locked.
    async fn wait_for_journal(&self) -> Result<()> {
        let mut state = self.around.journal.state();
        loop {
            let State::Full(detail) = state.borrow_and_update().clone() else { break };
            self.say(Some(&detail));
            tokio::select! {
                changed = state.changed() => changed.map_err(|_| gone(Gone))?,
                () = self.stopped.stopped() => break,
            }
        }
        self.say(None);
        Ok(())
    }

    /// Has the stream look after the table, and know what a consumer has of it who began where it was wanted.
    async fn look_up(&self, relation: u32) -> Result<Result<(), Reason>> {
        let permit = scan::may_look().await?;
        let order = |begun| Order::BeginWhole(relation, begun);
        let until = begin(&self.around.orders, &self.around.journal, order).await.map_err(gone)?;
        let told = match scan::told(&self.around.journal, &self.job, until, (&self.stopped, permit)).await? {
            Ok(told) => Box::new(told),
            Err(unknown) => return Ok(Err(unknown.into())),
        };
        let order = |sound| Order::Tell(relation, told, sound);
        let sound = ask(&self.around.orders, order).await.map_err(gone)?;
        Ok(sound.map_err(Reason::from))
    }

    /// Reads all rows and gives them to the stream. The window stays open where a snapshot in it did not see what was
    /// streamed before it: a later one will.
    async fn piece(
        &mut self,
        client: &mut Client,
        memory: OwnedSemaphorePermit,
        open: &mut Option<Opened>,
    ) -> Result<Piecework> {
        let relation = self.job.progress.relation;
        let mut opened = match self.opened(open.take()).await? {
            Ok(opened) => opened,
            Err(flaw) => return Ok(Piecework::Not(Written::Flawed(flaw))),
        };
        abort::point(Point::SnapshotOpened);
        let (job, publications, stopped) =
            (self.job.clone(), self.publications.clone(), self.stopped.clone());
        let Surroundings { journal, orders, version, source, .. } = self.around.clone();
        let first = job.place == 0;
        let mut piece =
            Piece { journal: &journal, stopped: &stopped, opened: &mut opened, orders: &orders, first };
        let tables = &source.tables;
        let statements = &*self.session.statements();
        let mut reader = Reader { client, statements, publications: &publications, tables, version };
        let read = reader.read_whole(&job, &mut piece, |rows, estimate| self.tell(rows, estimate)).await;
        if let Ok(WholeOutcome::Unseen) = read {
            *open = Some(opened);
            return Ok(Piecework::Not(Written::Repeat(Why::Unseen)));
        }
        let Opened { window, told, .. } = opened;
        if let Ok(WholeOutcome::Read(table)) = read {
            return self.give(window, *table, told, memory).await.map(|()| Piecework::Sent);
        }
        self.order(Order::CloseWhole(relation, window, Box::new(told))).await?;
        let outcome = match read {
            Err(error) if is_undefined(&error) && oid(client, &self.job).await? != Some(relation) => {
                WholeOutcome::Gone
            }
            read => read?,
        };
        self.not_read(client, outcome).await
    }

    async fn opened(&self, open: Option<Opened>) -> Result<Result<Opened, Flaw>> {
        if let Some(opened) = open {
            return Ok(Ok(opened));
        }
        let relation = self.job.progress.relation;
        let opened = ask(&self.around.orders, |answer| Order::OpenWhole(relation, answer)).await;
        opened.map_err(gone)?.ok_or_else(|| gone(Gone))
    }

    async fn not_read(&mut self, client: &mut Client, outcome: WholeOutcome) -> Result<Piecework> {
        let why = match outcome {
            // The first two have been dealt with.
            WholeOutcome::Read(_) | WholeOutcome::Unseen | WholeOutcome::Promoted => {
                Written::Flawed(Flaw::Changed)
            }
            WholeOutcome::Doubt => Written::Flawed(Flaw::Doubt),
            WholeOutcome::Altered => Written::Flawed(Flaw::Shapes),
            WholeOutcome::Gone => match self.gone(client).await? {
                Round::Next => Written::Repeat(Why::Changed),
                ended => return Ok(Piecework::Ends(ended)),
            },
            WholeOutcome::Keyed => {
                self.begin_with_key(Vec::new(), String::new()).await?;
                return Ok(Piecework::Ends(Round::Next));
            }
            outcome @ (WholeOutcome::Stopped | WholeOutcome::Spoilt | WholeOutcome::Roomless) => {
                // What the server is still sending is not read.
                self.take_another(client).await?;
                match outcome {
                    WholeOutcome::Stopped => return Ok(Piecework::Ends(Round::Ended(Ended::Stopped))),
                    WholeOutcome::Roomless => {
                        tracing::warn!(
                            table = self.job.channel(),
                            "The journal has no room for a table that is read in one piece: it is read again when there is some"
                        );
                        Written::Repeat(Why::Changed)
                    }
                    // Asked for the next one, the stream says why.
                    _ => Written::Flawed(Flaw::Changed),
                }
            }
        };
        Ok(Piecework::Not(why))
    }

    async fn give(
        &mut self,
        window: u64,
        table: Table,
        told: Told,
        memory: OwnedSemaphorePermit,
    ) -> Result<()> {
        self.unpublished_since = None;
        self.job.progress.estimate = table.estimate;
        self.job.progress.at_end = true;
        // What other servers' replication has written may be told by no event.
        let is_all = self.around.source.origin == Origin::Any;
        let ready = Ready {
            relation: self.job.progress.relation,
            window,
            visible: table.visible,
            lsn: table.shared.lsn,
            due: table.due,
            at: table.shared.at,
            schema: table.schema,
            rows: table.group.rows,
            asked: Vec::new(),
            whole: Some(Whole {
                filed: table.group.filed,
                told,
                left_out: table.group.left_out,
                exact: table.exact && is_all,
            }),
            first: self.job.place == 0,
            job: self.job.clone(),
            memory,
        };
        self.send_off(ready).await
    }

    /// All of it is on its way to the disk.
    async fn arrived(&mut self, rows: u64) -> Result<Round> {
        abort::point(Point::SnapshotHeard);
        self.note(rows);
        if !self.is_noted().await? {
            return Ok(Round::Ended(Ended::Stopped));
        }
        abort::point(Point::SnapshotNoted);
        self.finish(rows);
        Ok(Round::Ended(Ended::Done))
    }

    async fn give_up(&self, client: &Client, why: Reason) -> Result<Round> {
        keyless::give_up(client, &self.around, &self.job, why).await?;
        Ok(Round::Ended(Ended::Dropped))
    }

    /// One that is broken off again and again before it is through may never be: nobody sees that by its rows.
    fn tell_of_readings(&mut self) {
        let (table, readings) = (self.job.channel(), self.job.progress.readings);
        if readings < READINGS_TOLD {
            return;
        }
        tracing::warn!(
            table,
            readings,
            hint = format!(
                "Let it be read to its end, or give it a key: ALTER TABLE {} ADD PRIMARY KEY (…), of columns that are all \
                 published",
                qualified(&self.job.schema, &self.job.table)
            ),
            "A table without a key is read from its first row again: it can be read only in one piece, and {readings} readings \
             were broken off (by a lost connection, a pause or a restart)"
        );
        let since = *self.anew_since.get_or_insert_with(Instant::now);
        self.stands_still(since, &format!("it has no key and can be read only in one piece, and {readings} readings were broken off, by a lost connection, a pause or a restart"));
    }
}
