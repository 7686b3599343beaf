//! What is wanted of a source's snapshots, and what is told of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::gauge;
use serde::Serialize;
use tokio::sync::{Mutex as Turn, mpsc, oneshot};

use crate::error::{Error, Result};
use crate::status::{RECONNECTING, Status};

/// Tables that have metrics of their own, since the start: each is a few series more. The others are in the sums.
const LABELLED: usize = 100;

/// What is tried again for so long without getting on is for a person to look at.
const TRIED_MAX: Duration = Duration::from_secs(60);

/// Commands that may wait for the source.
const WAITING: usize = 8;

/// A source that connects again by its own wish is back within so long; whoever orders something waits for it (`rowcast snapshot`
/// itself for ten),
const AWAY_MAX: Duration = Duration::from_secs(7);

/// and looks so often.
const LOOK: Duration = Duration::from_millis(50);

/// What somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Reads the rows of tables, by channel or pattern, those that meet an SQL condition.
    Start {
        /// `public.orders`, `public.*`, `*`.
        tables: Vec<String>,
        /// An SQL condition over the columns.
        condition: Option<String>,
    },
    /// Tables stop being read after the chunk that is on its way.
    Pause(Vec<String>),
    /// They go on where they stopped.
    Resume(Vec<String>),
    /// They are read no more.
    Cancel(Vec<String>),
}

/// Whether a table is being read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is not its turn yet, or it waits for the reason that is said.
    #[default]
    Waiting,
    /// It is being read.
    Reading,
    /// Somebody has paused it.
    Paused,
    /// It cannot be read before somebody has mended what is said; it is tried again now and then.
    Failed,
}

/// A table of a snapshot that is not done.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Shown {
    /// The table's channel.
    pub channel: String,
    /// Whether it is being read.
    pub state: State,
    /// What it waits for; with the remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// It was asked for; else it is the initial snapshot.
    pub ad_hoc: bool,
    /// The sinks that it is read for alone; none: for everybody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<String>,
    /// Of a table without a key: whoever begins with an empty table behind this event, and follows, ends with the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Rows written so far.
    pub rows: u64,
    /// Rows that there are thought to be, as far as statistics tell.
    pub estimate: u64,
    /// Chunks that had to be read again since it goes on.
    pub chunks_repeated: u64,
    /// Rows written in the last seconds, a second.
    pub rows_per_second: u64,
    /// Reading it has failed, and it has not got on since.
    #[serde(skip)]
    pub failing: Option<Failing>,
    /// All of its rows have been given to the journal: so many.
    #[serde(skip)]
    pub whole: Option<u64>,
    /// Bytes of the condition that its rows are to meet.
    #[serde(skip)]
    pub condition_bytes: usize,
    /// It is read and does not get on: since when, and why.
    #[serde(skip)]
    pub still: Option<(Instant, String)>,
}

/// What has failed, maybe again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct Failing {
    /// The first time.
    pub first: Instant,
    /// The last time, and how long behind the one before.
    pub last: Instant,
    /// Zero where there is none before.
    pub behind: Duration,
    /// Why, the last time.
    pub reason: String,
}

impl Shown {
    /// Why it does not get on, where a person should look at that.
    pub(crate) fn trouble(&self) -> Option<String> {
        let Self { channel, .. } = self;
        let why = self.reason.as_deref().unwrap_or("no reason is known");
        let failing = self.failing.as_ref().filter(|_| self.state != State::Paused);
        if self.state == State::Failed {
            let why = failing.map_or(why, |failing| &failing.reason);
            return Some(format!("The snapshot of {channel} has failed: {why}"));
        }
        let told = |seconds, why| format!("The snapshot of {channel} has not got on for {seconds} s: {why}");
        let long = |since: &Instant| self.state != State::Paused && since.elapsed() >= TRIED_MAX;
        if let Some((since, why)) = self.still.as_ref().filter(|(since, _)| long(since)) {
            return Some(told(since.elapsed().as_secs(), why));
        }
        let failing = failing?;
        // Once is what any network does; and one that goes on for longer than those before may be well this time.
        let usual = TRIED_MAX.max(failing.behind * 2);
        let again = failing.last > failing.first && failing.last.elapsed() < usual;
        let tried = failing.first.elapsed();
        (again && tried >= TRIED_MAX).then(|| told(tried.as_secs(), &failing.reason))
    }

    /// How much of it is done, in percent of the estimate.
    pub fn percent(&self) -> f64 {
        if self.estimate == 0 { 0.0 } else { self.rows as f64 * 100.0 / self.estimate.max(self.rows) as f64 }
    }
}

/// What a command was about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ordered {
    /// Channels.
    pub tables: Vec<String>,
    /// Those without a key of which a snapshot begins: whoever begins with an empty table behind this event, and follows,
    /// ends with the table.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub since: BTreeMap<String, u64>,
}

/// A command that waits to be carried out. Dropped, it was not.
#[derive(Debug)]
pub struct Asked(Command, oneshot::Sender<Result<Ordered>>);

impl Asked {
    /// The command, and where its outcome is told.
    pub fn into_parts(self) -> (Command, oneshot::Sender<Result<Ordered>>) {
        (self.0, self.1)
    }
}

#[derive(Debug)]
pub(crate) struct Desk {
    commands: mpsc::Sender<Asked>,
    /// One source hears them, whichever of its connections it is.
    heard: Turn<mpsc::Receiver<Asked>>,
    shown: Mutex<BTreeMap<String, Shown>>,
    /// Tables that have been read since the start.
    done: Mutex<BTreeMap<String, u64>>,
    /// Tables that were given up since the start, and why.
    dropped: Mutex<BTreeMap<String, String>>,
    /// Tables that have metrics of their own.
    labelled: Mutex<BTreeSet<String>>,
    /// Since when, and why, nothing of what is wanted can even be begun.
    held: Mutex<Option<(Instant, String)>>,
}

impl Default for Desk {
    fn default() -> Self {
        let (commands, heard) = mpsc::channel(WAITING);
        let (shown, done, dropped) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (labelled, held) = (Mutex::default(), Mutex::default());
        Self { commands, heard: Turn::new(heard), shown, done, dropped, labelled, held }
    }
}

pub(crate) type Shared = Arc<Desk>;

impl Status {
    /// Has a command carried out by the source; gives what it was about.
    ///
    /// # Errors
    ///
    /// `Kind::Refused` while the source is not streaming and not about to, or with the source's reason.
    pub async fn ask_for_snapshot(&self, command: Command) -> Result<Ordered> {
        let state = self.state_soon().await;
        if state != "streaming" {
            return Err(Error::refused(format!(
                "The source is {state}: snapshots are made while it streams"
            ))
            .hint("`rowcast status` says why"));
        }
        let (sender, answer) = oneshot::channel();
        let busy = || Error::refused("Too many commands for snapshots wait already");
        self.snapshots.commands.try_send(Asked(command, sender)).map_err(|_| busy())?;
        answer.await.unwrap_or_else(|_| {
            Err(Error::refused("The stream has ended meanwhile: whether that was carried out is not known")
                .hint("`rowcast status` shows what is to be read"))
        })
    }

    /// The source's state, which may take moments where it connects again.
    async fn state_soon(&self) -> &'static str {
        let deadline = tokio::time::Instant::now() + AWAY_MAX;
        loop {
            let mut state = "";
            self.source(|source| state = source.state);
            if state != RECONNECTING || tokio::time::Instant::now() >= deadline {
                return state;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// For the source: the next command. Cancel safe.
    pub async fn asked_for_snapshot(&self) -> Asked {
        match self.snapshots.heard.lock().await.recv().await {
            Some(asked) => asked,
            None => std::future::pending().await,
        }
    }

    /// Changes what is said of snapshots: tables that are not done, by any name.
    pub fn snapshots(&self, change: impl FnOnce(&mut BTreeMap<String, Shown>)) {
        change(&mut self.snapshots.shown.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// For the source: a table is wanted; what became of an earlier wish is of no interest any more.
    pub fn note_wanted(&self, channel: &str) {
        self.snapshots.done.lock().unwrap_or_else(PoisonError::into_inner).remove(channel);
        self.snapshots.dropped.lock().unwrap_or_else(PoisonError::into_inner).remove(channel);
    }

    /// For the source: a table has been read whole.
    pub fn note_read(&self, channel: &str, rows: u64) {
        self.note_wanted(channel);
        let mut done = self.snapshots.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.insert(channel.to_owned(), rows);
    }

    /// For the source: a table is not read, for good.
    pub fn note_dropped(&self, channel: &str, why: &str) {
        self.note_wanted(channel);
        let mut dropped = self.snapshots.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        dropped.insert(channel.to_owned(), why.to_owned());
    }

    /// Tables that were given up since the start, and why.
    pub fn dropped_tables(&self) -> BTreeMap<String, String> {
        self.snapshots.dropped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tables that have been read whole since the start, with their rows.
    pub fn read_tables(&self) -> BTreeMap<String, u64> {
        self.snapshots.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The tables of snapshots that are not done, in the order of their channels.
    pub fn unfinished_snapshots(&self) -> Vec<Shown> {
        let shown = self.snapshots.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.values().cloned().collect()
    }

    /// For the source: nothing of what is wanted can be begun, for this reason; or it can again.
    pub fn note_held(&self, why: Option<&str>) {
        let mut held = self.snapshots.held.lock().unwrap_or_else(PoisonError::into_inner);
        let since = held.as_ref().map_or_else(Instant::now, |(since, _)| *since);
        *held = why.map(|why| (since, why.to_owned()));
    }

    /// What stands in the way of snapshots, where a person should look at that.
    pub(crate) fn snapshot_troubles(&self, unfinished: &[Shown]) -> Vec<String> {
        let mut troubles: Vec<String> = unfinished.iter().filter_map(Shown::trouble).collect();
        let held = self.snapshots.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, why)) = held.as_ref().filter(|(since, _)| since.elapsed() >= TRIED_MAX) {
            troubles.push(format!("Snapshots have waited for {} s: {why}", since.elapsed().as_secs()));
        }
        troubles
    }

    /// Sets the gauges that `/metrics` shows of them.
    pub(crate) fn record_snapshots(&self) {
        let (shown, done) = (self.unfinished_snapshots(), self.read_tables());
        let failed = shown.iter().filter(|shown| shown.trouble().is_some()).count();
        gauge!("rowcast_snapshot_failed_tables").set(failed as f64);
        gauge!("rowcast_snapshot_unfinished_tables").set(shown.len() as f64);
        let mut labelled = self.snapshots.labelled.lock().unwrap_or_else(PoisonError::into_inner);
        for shown in &shown {
            if labelled.len() < LABELLED {
                labelled.insert(shown.channel.clone());
            }
        }
        for channel in labelled.iter() {
            let rows = done.get(channel).copied();
            let whole = Shown { rows: rows.unwrap_or(0), estimate: rows.unwrap_or(0), ..Shown::default() };
            let table = shown.iter().find(|shown| shown.channel == *channel).unwrap_or(&whole);
            let set = |name: &'static str, value: f64| gauge!(name, "table" => channel.clone()).set(value);
            set("rowcast_snapshot_table_rows", table.rows as f64);
            set("rowcast_snapshot_table_estimated_rows", table.estimate as f64);
            set("rowcast_snapshot_table_percent", table.percent());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long_ago() -> Instant {
        Instant::now().checked_sub(TRIED_MAX).expect("the machine has run for a minute")
    }

    #[test]
    fn what_does_not_get_on_for_long_is_told() {
        let shown = |state, failing: Option<(Instant, Instant)>| Shown {
            channel: "public.t".to_owned(),
            state,
            reason: Some("it is quiet".to_owned()),
            failing: failing.map(|(first, last)| {
                let (behind, reason) = (last - first, "no route".to_owned());
                Failing { first, last, behind, reason }
            }),
            ..Shown::default()
        };
        let now = Instant::now();
        assert_eq!(shown(State::Waiting, None).trouble(), None);
        assert_eq!(shown(State::Waiting, Some((now, now))).trouble(), None, "it passes by itself");
        assert_eq!(shown(State::Reading, Some((long_ago(), long_ago()))).trouble(), None, "once");
        assert_eq!(shown(State::Paused, Some((long_ago(), now))).trouble(), None, "that was somebody's wish");
        let trouble = shown(State::Reading, Some((long_ago(), now))).trouble().unwrap();
        assert_eq!(trouble, "The snapshot of public.t has not got on for 60 s: no route");
        let trouble = shown(State::Failed, None).trouble().unwrap();
        assert_eq!(trouble, "The snapshot of public.t has failed: it is quiet");
    }

    #[test]
    fn what_cannot_even_be_begun_is_told() {
        let status = Status::default();
        status.note_held(Some("first"));
        status.snapshots.held.lock().unwrap().as_mut().unwrap().0 = long_ago();
        // Whatever it is by now, it has not begun since.
        status.note_held(Some("no login"));
        assert_eq!(status.snapshot_troubles(&[]), ["Snapshots have waited for 60 s: no login"]);
        status.note_held(None);
        status.note_held(Some("again"));
        assert!(status.snapshot_troubles(&[]).is_empty());
    }
}
