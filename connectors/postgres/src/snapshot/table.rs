//! One table, read to its end.

mod alike;
mod answer;
mod attended;
mod board;
mod crowded;
mod gone;
mod heard;
mod swapped;
mod way;
mod whole;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use rowcast_engine::abort::{self, Point};
use rowcast_engine::event::Micros;
use rowcast_engine::{Error, Kind, Lsn, Result, Stop};
use tokio::sync::OwnedSemaphorePermit;
use tokio_postgres::Client;

use self::attended::{Attendant, Attended};
use self::crowded::CROWDED_MAX;
use self::gone::is_undefined;
use self::swapped::Busy;
use self::way::Way;
use super::condition::{is_at_fault, try_out};
use super::job::{Job, Progress, note_unless_replaced};
use super::order::{Gone, Order, Ready};
use super::pace::Pace;
use super::read::{CHUNK_MB, Chunk, Outcome, Range, Reader, texts_of};
use super::rows::key_of_texts;
use super::scan::{self, Moved};
use super::server::oid;
use super::size::Size;
use super::task::Surroundings;
use super::tracker::Again;
use crate::setup::slot;
use crate::tables::qualified;
use crate::wire::row_error;

/// Keys read again at once, and how many of them, or how many bytes, may wait before they go first: what is behind them
/// adds more, and `tracker/again.rs` has its limits.
const KEYS_AT_ONCE: usize = 500;
const KEYS_FIRST: usize = 2_000;
const KEY_BYTES_FIRST: usize = 4 << 20;

/// Bytes of the server's log whose events are not looked through twice, when a table is taken up again.
const LOOKED_THROUGH: u64 = 16 << 20;

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All has been read.
    Done,
    /// Somebody has paused or cancelled it.
    Stopped,
    /// There is nothing to read.
    Dropped,
}

/// A chunk on its way into the journal.
struct Sent {
    window: u64,
    /// The job before it.
    before: Job,
}

/// What becomes of a round.
enum Round {
    Next,
    Ended(Ended),
}

/// The reader of one table.
pub(crate) struct Reading {
    around: Surroundings,
    job: Job,
    stopped: Stop,
    publications: Vec<String>,
    size: Size,
    session: Attended,
    /// The stream looks after this table.
    followed: Option<u32>,
    /// Rows that may be on their way into the journal.
    way: Option<Way>,
    unseen_since: Option<Instant>,
    /// The table is in none of our publications.
    unpublished_since: Option<Instant>,
    /// Open still, of a chunk that did not see what was streamed before.
    window: Option<u64>,
    /// Of the next chunk: opened before the stream was given one to write, while which it answers nobody.
    early: Option<u64>,
    /// Notes of wishes for the same rows, which have them with this reading.
    alike: Vec<String>,
    /// How often it has begun anew, since too much had changed, and since when that is too often.
    beginnings: u32,
    anew_since: Option<Instant>,
    /// The least number of keys that waited while those went first, and since when that has not become less.
    waiting: Option<(usize, Instant)>,
    /// The stream comes first.
    behind: bool,
    busy: Option<Busy>,
    started: Instant,
    pace: Pace,
}

impl Reading {
    pub(crate) fn new(around: Surroundings, job: Job, stopped: Stop) -> Self {
        let publications = around.source.publications().map(str::to_owned).to_vec();
        let (started, pace) = (Instant::now(), Pace::new(Instant::now(), job.progress.rows));
        let (size, session, followed) = (Size::new(), Attended::default(), None);
        let (way, unseen_since, beginnings, anew_since) = (None, None, 0, None);
        Self {
            around,
            job,
            stopped,
            publications,
            size,
            session,
            followed,
            way,
            unseen_since,
            unpublished_since: None,
            window: None,
            early: None,
            alike: Vec::new(),
            beginnings,
            anew_since,
            waiting: None,
            behind: false,
            busy: None,
            started,
            pace,
        }
    }

    /// Reads on from where the job stands.
    ///
    /// # Errors
    ///
    /// What the server says; it is tried again later from there.
    pub(crate) async fn run(mut self) -> Result<Ended> {
        // A fault of ours ends the reading of one table, which is told, and nothing else.
        let fault = |_| {
            Err(Error::failed("The reader of a table's rows has ended by a fault of rowcast's own")
                .hint("It is tried again. Please report it, with what the program has printed"))
        };
        let ended = AssertUnwindSafe(self.attended()).catch_unwind().await.unwrap_or_else(fault);
        if let Some(relation) = self.followed.filter(|_| !matches!(ended, Ok(Ended::Done))) {
            // The stream may be gone.
            let _ = self.order(Order::End(relation)).await;
        }
        let after_all = AssertUnwindSafe(self.read_after_all()).catch_unwind().await;
        if let Ok(Some(rows)) = after_all {
            self.note(rows);
            self.finish(rows);
            return Ok(Ended::Done);
        }
        ended
    }

    async fn attended(&mut self) -> Result<Ended> {
        let mut client = self.session.open(&self.around.source.info).await?;
        let attendant = Attendant::of(self);
        tokio::select! {
            ended = self.read_on(&mut client) => ended,
            error = attendant.attend() => Err(error),
        }
    }

    async fn read_on(&mut self, client: &mut Client) -> Result<Ended> {
        let Some(relation) = oid(client, &self.job).await? else {
            if self.leave(client, None).await? {
                return Ok(Ended::Dropped);
            }
            return self.drop_it("does not exist, or has another name").await;
        };
        if let Some(condition) = &self.job.condition
            && let Err(error) = self.try_out(client, condition).await
        {
            if error.kind() != Kind::Usage {
                return Err(error);
            }
            return self.drop_it(&format!("cannot be read with that condition: {error}")).await;
        }
        if !self.follow(relation).await? {
            return Ok(Ended::Stopped);
        }
        if self.leave(client, Some(relation)).await? {
            return Ok(Ended::Dropped);
        }
        self.busy = Some(Busy::with(&self.around, self.job.note()));
        let again = self.take_up(relation).await?;
        self.order(Order::Again(relation, again.into_keys())).await?;
        let mut ended = self.chunks(client).await;
        if let Err(error) = &ended
            && self.job.condition.is_some()
            && slot::sqlstate(error).is_some_and(is_at_fault)
        {
            self.order(Order::End(relation)).await?;
            // What is on its way comes before the end of the wish.
            self.read_after_all().await;
            ended = self.drop_it(&format!("cannot be read with that condition: {error}")).await;
        }
        if ended.is_ok() {
            self.say(None);
        }
        ended
    }

    /// Makes sure that the progress is that of this table and this history. Gives the keys to be read again.
    async fn take_up(&mut self, relation: u32) -> Result<Again> {
        let progress = &self.job.progress;
        let same = progress.relation == relation && progress.history == self.around.history;
        let moved = match (same, &progress.cursor) {
            (false, _) => Err("it is another table by now, or the history is another one"),
            (true, None) => Ok(Moved::default()),
            (true, Some(_)) => scan::moved(&self.around.journal, &self.job.channel(), progress.lsn).await?,
        };
        let Moved { mut keys, up_to } = match moved {
            Ok(moved) => moved,
            Err(why) => {
                if progress.rows > 0 {
                    tracing::warn!(table = self.job.channel(), "The snapshot of a table begins anew: {why}");
                }
                self.restart(relation);
                return Ok(Again::default());
            }
        };
        progress.again.iter().for_each(|texts| keys.insert(key_of_texts(texts)));
        self.note_moved(&keys, up_to).await?;
        Ok(keys)
    }

    /// Remembers what was found up to here. Where much lies behind it, whoever takes it up next need not look through that
    /// again: while something fails, that is often, and more and more.
    async fn note_moved(&mut self, keys: &Again, up_to: Lsn) -> Result<()> {
        let progress = &mut self.job.progress;
        progress.again = texts_of(keys.iter(), keys.len());
        // A key that is no text is told when it is to be read, and must not be forgotten before.
        let is_all = progress.again.len() == keys.len();
        if progress.cursor.is_none() || !is_all || up_to.0 < progress.lsn.0.saturating_add(LOOKED_THROUGH) {
            return Ok(());
        }
        progress.lsn = up_to;
        let json = self.job.json()?;
        tokio::select! {
            noted = note_unless_replaced(&self.around.journal, &self.job, &json) => noted,
            // There may be no room for it.
            () = self.stopped.stopped() => Ok(()),
        }
    }

    fn restart(&mut self, relation: u32) {
        let history = self.around.history;
        let Progress { key, order, estimate, readings, .. } = std::mem::take(&mut self.job.progress);
        self.job.progress =
            Progress { relation, key, order, estimate, readings, history, ..Progress::default() };
    }

    /// One that came from the log was tried by nobody yet.
    async fn try_out(&self, client: &Client, condition: &str) -> Result<()> {
        try_out(client, &qualified(&self.job.schema, &self.job.table), condition, row_error).await
    }

    async fn chunks(&mut self, client: &mut Client) -> Result<Ended> {
        let mut sent: Option<Sent> = None;
        loop {
            if self.stopped.is_stopped() {
                if let Some(sent) = sent.take() {
                    self.hear(client, sent).await?;
                }
                return Ok(Ended::Stopped);
            }
            if std::mem::take(&mut self.behind) {
                // Far behind, the stream brings more in between than can be kept, however small a chunk is.
                self.catch_up(client).await?;
            }
            if !self.make_room(CROWDED_MAX).await? {
                if let Some(sent) = sent.take() {
                    self.hear(client, sent).await?;
                }
                return Ok(Ended::Stopped);
            }
            // Whoever waits for memory holds none: a chunk on its way may need its reader to arrive.
            let memory = Arc::clone(&self.around.memory).try_acquire_many_owned(CHUNK_MB).ok();
            if (memory.is_none() || self.settles_first())
                && let Some(sent) = sent.take()
                && let Round::Ended(ended) = self.hear(client, sent).await?
            {
                return Ok(ended);
            }
            if self.behind {
                continue;
            }
            let memory = match memory {
                Some(memory) => Some(memory),
                None => {
                    self.close_early().await?;
                    self.memory().await?
                }
            };
            let Some(memory) = memory.filter(|_| !self.stopped.is_stopped()) else { continue };
            match self.round(client, &mut sent, memory).await? {
                Round::Next => {}
                Round::Ended(ended) => return Ok(ended),
            }
        }
    }

    /// Whether the chunk on its way must have arrived before the next one: what that is depends on it.
    fn settles_first(&self) -> bool {
        self.job.progress.at_end || self.many_wait()
    }

    /// Whether so many keys wait to be read again that they go first.
    fn many_wait(&self) -> bool {
        let again = &self.job.progress.again;
        let bytes: usize = again.iter().flatten().map(String::len).sum();
        again.len() >= KEYS_FIRST || bytes >= KEY_BYTES_FIRST
    }

    /// Reads a chunk while the one before is on its way.
    async fn round(
        &mut self,
        client: &mut Client,
        sent: &mut Option<Sent>,
        memory: OwnedSemaphorePermit,
    ) -> Result<Round> {
        let relation = self.job.progress.relation;
        self.look_for_alike()?;
        let window = self.open(relation).await?;
        abort::point(Point::SnapshotOpened);
        let range = self.range();
        let Some(outcome) = self.read(client, &range).await? else {
            self.order(Order::Close(relation, window)).await?;
            // What the server is still looking for is not read.
            self.take_another(client).await?;
            return Ok(Round::Next);
        };
        // What is not read takes none, and the chunk on its way may need it to arrive.
        let memory = Some(memory).filter(|_| matches!(outcome, Outcome::Read(_)));
        // Of one that is too large the session has more to send, and another one is asked.
        let before = sent.take_if(|_| !matches!(outcome, Outcome::TooLarge(_)));
        let expected = self.job.progress.cursor.clone();
        // Whatever comes now, it has come first: its note would take the place of a later one.
        if let Some(before) = before
            && let Round::Ended(ended) = self.hear(client, before).await?
        {
            return Ok(Round::Ended(ended));
        }
        match (outcome, memory) {
            (Outcome::Read(_), _) if expected != self.job.progress.cursor => {
                // The one before has to be read again, and so has this one, which comes behind it.
                self.order(Order::Close(relation, window)).await?;
            }
            (Outcome::Read(chunk), Some(memory)) => {
                self.unpublished_since = None;
                self.answer_alike().await?;
                if chunk.more && !self.settles_first() {
                    self.open_early(relation).await?;
                }
                *sent = Some(self.send(window, *chunk, &range, memory).await?);
            }
            (Outcome::Keyless, _) => return Box::pin(self.whole(client)).await,
            (outcome, _) => {
                self.order(Order::Close(relation, window)).await?;
                return self.otherwise(client, outcome).await;
            }
        }
        Ok(Round::Next)
    }

    /// What there is to read next. `None`: somebody has stopped the reading.
    async fn read(&self, client: &mut Client, range: &Range) -> Result<Option<Outcome>> {
        let (tables, version) = (&self.around.source.tables, self.around.version);
        let statements = &*self.session.statements();
        let mut reader = Reader { client, statements, publications: &self.publications, tables, version };
        let outcome = tokio::select! {
            outcome = reader.read(&self.job, range) => outcome,
            () = self.stopped.stopped() => return Ok(None),
        };
        let relation = self.job.progress.relation;
        match outcome {
            // Not one that the condition names.
            Err(error) if is_undefined(&error) && oid(client, &self.job).await? != Some(relation) => {
                Ok(Some(Outcome::Gone))
            }
            outcome => {
                if let Ok(Outcome::Read(chunk)) = &outcome {
                    metrics::histogram!("rowcast_snapshot_chunk_seconds").record(chunk.took);
                }
                outcome.map(Some)
            }
        }
    }

    fn range(&self) -> Range {
        let progress = &self.job.progress;
        let again = !progress.again.is_empty();
        if again && self.settles_first() {
            // Fewer, where so many were more than a chunk may have.
            let count = KEYS_AT_ONCE.min(self.size.rows() as usize);
            Range::Keys(progress.again.iter().take(count).cloned().collect())
        } else {
            Range::Next(self.size.rows())
        }
    }

    /// Gives a chunk to the stream; the job stands behind it from here on.
    async fn send(
        &mut self,
        window: u64,
        chunk: Chunk,
        range: &Range,
        mut memory: OwnedSemaphorePermit,
    ) -> Result<Sent> {
        // What it does not take is for others.
        let taken = chunk.rows.byte_len().div_ceil(1 << 20);
        drop(memory.split((CHUNK_MB as usize).saturating_sub(taken)));
        let before = self.job.clone();
        let progress = &mut self.job.progress;
        progress.estimate = chunk.estimate;
        let asked = match range {
            Range::Keys(keys) => keys.iter().map(|texts| key_of_texts(texts)).collect(),
            Range::Next(_) => {
                progress.cursor = chunk.last.clone().or_else(|| progress.cursor.take()).or(Some(Vec::new()));
                progress.at_end = !chunk.more;
                if chunk.more {
                    self.size.adapt((&chunk.rows, chunk.looked_at), chunk.copying);
                }
                Vec::new()
            }
        };
        let first = self.job.place == 0 && before.progress.rows == 0;
        let ready = Ready {
            relation: before.progress.relation,
            window,
            visible: chunk.visible,
            lsn: chunk.lsn,
            due: chunk.due,
            at: now(),
            schema: self.around.journal.register(chunk.schema)?,
            rows: chunk.rows,
            asked,
            whole: None,
            job: self.job.clone(),
            first,
            memory,
        };
        self.send_off(ready).await?;
        Ok(Sent { window, before })
    }

    async fn otherwise(&mut self, client: &mut Client, outcome: Outcome) -> Result<Round> {
        match outcome {
            // Those have been dealt with.
            Outcome::Read(_) | Outcome::Keyless => {}
            Outcome::TooLarge(rows) => {
                self.size.limit(u32::try_from(rows / 2).unwrap_or(1));
                // What the server is still sending is not read.
                self.take_another(client).await?;
            }
            Outcome::Promoted => tracing::info!(
                table = self.job.channel(),
                "The standby was promoted while rows were read: they are read again"
            ),
            Outcome::Gone => return self.gone(client).await,
            Outcome::OtherKey(key, order) => self.begin_with_key(key, order).await?,
        }
        Ok(Round::Next)
    }

    async fn order(&self, order: Order) -> Result<()> {
        self.around.orders.send(order).await.map_err(|_| gone(Gone))
    }
}

fn gone(_: Gone) -> Error {
    Error::transient("The stream that the snapshot stands beside has ended")
}

fn now() -> Micros {
    crate::capture::now()
}
