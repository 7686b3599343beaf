//! What the parts say of themselves, for status, health and metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::gauge;
use serde::Serialize;
use tokio::sync::Notify;

use crate::beginnings::Filling;
use crate::confirm::Confirm;
use crate::cursor::Started;
use crate::journal::{Journal, OUT_OF_FILES, State};
use crate::lsn::Lsn;
use crate::snapshots::Shown;

/// A server that has repeated so many transactions, and goes on, had not stored for long what it was told: since each
/// telling is stored within seconds, fewer are what a busy server does after any restart.
pub const MANY_REPEATED: u64 = 100_000;

/// [`Source::state`] of a source that has streamed and connects again.
pub const RECONNECTING: &str = "reconnecting";

/// So many tables that are not captured, or not left out, are told each by itself.
const TABLES_TOLD: usize = 5;

/// What is said of one, and of several.
const UNCAPTURED: (&str, &str) = ("is wanted and not captured", "are wanted and not captured");
const EXPOSED: (&str, &str) =
    ("is to be left out, and its rows are captured", "are to be left out, and their rows are captured");

/// The state of the door in.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Source {
    /// `starting`, `streaming`, `reconnecting`, `paused`, `waiting` (for a person: `rowcast adopt`), `stopped`.
    pub state: &'static str,
    /// Why, when it is not streaming; with the remedy.
    pub reason: Option<String>,
    /// Host, port and database, without the password.
    pub address: String,
    /// As the server says it.
    pub server_version: String,
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// The server's newest position as far as we know.
    pub server_lsn: Lsn,
    /// Up to where the stream has been received.
    pub received_lsn: Lsn,
    /// Up to where it has been confirmed to the server.
    pub confirmed_lsn: Lsn,
    /// When a change counts as done for the server.
    pub confirm: Confirm,
    /// Push doors for whose sake it is told less than the journal has, now.
    pub held_by: Vec<String>,
    /// Why it is told what the journal has all the same.
    pub waived: Option<String>,
    /// It is now; else the doors are catching up with what it was told.
    #[serde(skip)]
    pub waives: bool,
    /// Push doors that have to have a change before it is told.
    #[serde(skip)]
    pub required: Vec<String>,
    /// Bytes between the server's newest position and the confirmed one.
    pub lag_bytes: u64,
    /// How old what was committed last was when the server sent it, in seconds.
    pub lag_seconds: f64,
    /// Transactions that the server has sent again although the journal has them, as long as it goes on doing so.
    pub repeated: u64,
    /// Connections lost since the start.
    pub reconnects: u64,
    /// What stands still although it is streaming; with the remedy.
    pub stuck: Option<String>,
    /// What the slot is: `active`, `inactive`, `in_use`, `missing`, `synced`, `other`, or why it is lost. Empty before
    /// it was looked for, and while it cannot be seen.
    pub slot_state: &'static str,
    /// As the server says it: `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
    /// Bytes of its log that the server keeps for the slot.
    pub wal_retained_bytes: Option<u64>,
    /// Bytes that may be written before the server gives the slot up; `None`: without limit.
    pub wal_safe_bytes: Option<u64>,
    /// For so long nobody has read the slot, where the server says so.
    pub slot_inactive_seconds: Option<u64>,
    /// When the server sends transactions that do not fit into its memory, and why then.
    pub large_transactions: &'static str,
    /// Commits on the server wait until rowcast has confirmed them (`synchronous_standby_names`).
    pub commits_wait: bool,
    /// What will come to harm if nothing is done.
    pub concern: Option<String>,
    /// Why it cannot be looked after what is captured, where that lasts; with the remedy.
    pub unattended: Option<String>,
    /// Publications that were made while the stream ran, and which it still cannot read: by what they wait for; with the remedy.
    pub unread: Option<String>,
    /// The captured tables: channel, and whether only inserts and truncates are captured.
    pub tables: BTreeMap<String, Captured>,
    /// Tables that are wanted and not captured: channel, and why, with the remedy.
    pub uncaptured: BTreeMap<String, String>,
    /// Tables that are to be left out and whose rows are captured all the same: channel, and why, with the remedy.
    pub exposed: BTreeMap<String, String>,
    /// When the server was last heard of.
    #[serde(skip)]
    pub heard: Option<Instant>,
    /// Silence longer than this is not normal.
    #[serde(skip)]
    pub silence_max: Option<Duration>,
}

/// A captured table.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Captured {
    /// It has no usable replica identity.
    pub inserts_only: bool,
}

/// The state of a door out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Door {
    /// `http`, `kafka`.
    pub kind: &'static str,
    /// `starting`, `running`, `retrying`, `paused`, `stopped`.
    pub state: &'static str,
    /// Why, when it is not running; with the remedy.
    pub reason: Option<String>,
    /// Number of the last event that the target has; `None` for doors whose clients remember.
    pub position: Option<u64>,
    /// Commit time of the oldest event that the target lacks, microseconds since 1970; `None` when it lacks none.
    pub behind_since: Option<i64>,
    /// Events delivered since the start.
    pub delivered: u64,
    /// Clients connected, for doors that serve.
    pub clients: Option<u64>,
    /// How a door that pushes began.
    pub started: Option<Started>,
    /// Rows that are read for it alone, until all have been.
    pub filling: Option<Filling>,
}

/// One board for all parts. Clones are the same board.
#[derive(Clone, Debug, Default)]
pub struct Status {
    source: Arc<Mutex<Source>>,
    doors: Arc<Mutex<BTreeMap<String, Door>>>,
    pub(crate) adoption: crate::adoption::Shared,
    pub(crate) snapshots: crate::snapshots::Shared,
    pub(crate) beginners: crate::beginnings::Shared,
    look: Arc<Notify>,
}

/// The whole board at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Nothing is wrong.
    pub healthy: bool,
    /// What is wrong, a sentence each.
    pub reasons: Vec<String>,
    /// The program's version.
    pub version: &'static str,
    /// The door in.
    pub source: Source,
    /// Tables that snapshots are reading, or are going to read.
    pub snapshots: Vec<Shown>,
    /// The journal.
    pub journal: crate::journal::Summary,
    /// The doors out by name.
    pub doors: BTreeMap<String, Door>,
}

impl Status {
    /// Changes what is said of the source.
    pub fn source(&self, change: impl FnOnce(&mut Source)) {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut source);
        source.lag_bytes = source.server_lsn.0.saturating_sub(source.confirmed_lsn.0);
    }

    /// Asks the source to compare at once what it captures with what is wanted. Asking twice before it does is once.
    pub fn look_again(&self) {
        self.look.notify_one();
    }

    /// Waits until somebody asks for that. For the source alone.
    pub async fn asked_to_look(&self) {
        self.look.notified().await;
    }

    /// Changes what is said of a door.
    pub fn door(&self, name: &str, change: impl FnOnce(&mut Door)) {
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(door) = doors.get_mut(name) {
            change(door);
        } else {
            change(doors.entry(name.to_owned()).or_default());
        }
    }

    /// The captured tables.
    pub fn tables(&self) -> BTreeMap<String, Captured> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner).tables.clone()
    }

    /// Whether a channel is a captured table, as far as is known.
    pub fn is_table(&self, channel: &str) -> bool {
        self.table(channel) == Some(true)
    }

    /// Whether a channel is a captured table; `None` before the source has been reached, when nobody knows.
    pub fn table(&self, channel: &str) -> Option<bool> {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = !source.tables.is_empty() || !source.server_version.is_empty();
        is_known.then(|| source.tables.contains_key(channel))
    }

    /// The whole board.
    pub fn report(&self, journal: &Journal) -> Report {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner).clone();
        doors.iter_mut().for_each(|(name, door)| door.filling = self.filling(name));
        if !source.waives {
            source.held_by = journal.lacking(&source.required);
        }
        let held = held_bytes(journal, &source);
        let journal = journal.summary();
        // The source itself may be waiting for the journal, and say nothing meanwhile.
        if let (State::Full(detail), "streaming") = (&journal.state, source.state) {
            source.state = "paused";
            source.reason = Some(detail.clone());
        }
        let mut reasons = Vec::new();
        reasons.extend(source_reason(&source));
        reasons.extend(source.concern.clone());
        reasons.extend(source.waived.clone());
        reasons.extend(source.unattended.clone());
        reasons.extend(source.unread.clone());
        reasons.extend(table_reasons(&source.uncaptured, UNCAPTURED, "uncaptured"));
        reasons.extend(table_reasons(&source.exposed, EXPOSED, "exposed"));
        match &journal.state {
            State::Open => {}
            State::Full(detail) if detail == OUT_OF_FILES => {
                reasons.push(format!("The journal waits: {detail}"))
            }
            State::Full(detail) => reasons.push(format!("The journal waits for room: {detail}")),
            State::Failed(detail) => {
                reasons.push(format!("The journal has failed, restart rowcast: {detail}"))
            }
        }
        reasons.extend(journal.damage.as_ref().map(|damage| format!("The journal is damaged: {damage}")));
        for (name, door) in &doors {
            if let "retrying" | "stopped" | "paused" = door.state {
                let why = door.reason.as_deref().unwrap_or("no reason is known");
                reasons.push(format!("The door {name} is {}: {why}", door.state));
                reasons.extend(source.held_by.contains(name).then(|| slot_waits(&source, name, held)));
            }
        }
        let snapshots = self.unfinished_snapshots();
        reasons.extend(self.snapshot_troubles(&snapshots));
        Report {
            healthy: reasons.is_empty(),
            reasons,
            version: env!("CARGO_PKG_VERSION"),
            source,
            snapshots,
            journal,
            doors,
        }
    }

    /// Sets the gauges that `/metrics` shows.
    pub fn record(&self, journal: &Journal) {
        let report = self.report(journal);
        let flag = |yes: bool| if yes { 1.0 } else { 0.0 };
        gauge!("rowcast_healthy").set(flag(report.healthy));
        gauge!("rowcast_source_streaming").set(flag(report.source.state == "streaming"));
        gauge!("rowcast_source_stuck").set(flag(report.source.stuck.is_some()));
        if let Some(heard) = report.source.heard {
            gauge!("rowcast_source_silence_seconds").set(heard.elapsed().as_secs_f64());
        }
        gauge!("rowcast_source_lag_bytes").set(report.source.lag_bytes as f64);
        gauge!("rowcast_source_lag_seconds").set(report.source.lag_seconds);
        gauge!("rowcast_source_repeated_transactions").set(report.source.repeated as f64);
        gauge!("rowcast_source_confirmed_lsn").set(report.source.confirmed_lsn.0 as f64);
        let held = if report.source.held_by.is_empty() { 0 } else { held_bytes(journal, &report.source) };
        gauge!("rowcast_source_held_bytes").set(held as f64);
        gauge!("rowcast_source_confirm_waived").set(f64::from(u8::from(report.source.waived.is_some())));
        // A slot that nobody has seen is not one for which nothing is kept.
        let (none, no_limit) =
            if report.source.slot_state.is_empty() { (f64::NAN, f64::NAN) } else { (0.0, f64::INFINITY) };
        let kept = report.source.wal_retained_bytes.map_or(none, |bytes| bytes as f64);
        gauge!("rowcast_source_wal_retained_bytes").set(kept);
        let safe = report.source.wal_safe_bytes.map_or(no_limit, |bytes| bytes as f64);
        gauge!("rowcast_source_wal_safe_bytes").set(safe);
        gauge!("rowcast_source_commits_wait").set(f64::from(u8::from(report.source.commits_wait)));
        gauge!("rowcast_source_slot_inactive_seconds")
            .set(report.source.slot_inactive_seconds.unwrap_or(0) as f64);
        gauge!("rowcast_journal_open").set(flag(report.journal.state == State::Open));
        gauge!("rowcast_journal_newest_id").set(report.journal.newest as f64);
        gauge!("rowcast_journal_oldest_id").set(report.journal.oldest as f64);
        gauge!("rowcast_journal_size_bytes").set(report.journal.bytes as f64);
        gauge!("rowcast_journal_compressed_segments").set(report.journal.compressed as f64);
        self.record_snapshots();
        for (name, door) in report.doors {
            gauge!("rowcast_door_running", "door" => name.clone()).set(flag(door.state == "running"));
            if let Some(position) = door.position {
                gauge!("rowcast_door_position_id", "door" => name.clone()).set(position as f64);
            }
            if door.started.is_some() {
                // Before they are listed nobody knows how many.
                let left = door.filling.map_or(0, |filling| filling.tables.len().max(1));
                gauge!("rowcast_sink_snapshot_tables_left", "sink" => name.clone()).set(left as f64);
            }
            if let Some(clients) = door.clients {
                gauge!("rowcast_door_clients", "door" => name).set(clients as f64);
            }
        }
    }
}

/// What the server keeps for push doors alone.
fn held_bytes(journal: &Journal, source: &Source) -> u64 {
    journal.durable().borrow().0.saturating_sub(source.confirmed_lsn.0)
}

fn slot_waits(source: &Source, sink: &str, held: u64) -> String {
    format!(
        "The slot waits for the sink {sink}: Postgres keeps its log from {} on, {held} bytes more than the journal \
         needs, because source.confirm is \"sinks\"",
        source.confirmed_lsn
    )
}

/// One for each of the first tables, and one for all others, which `rowcast status` has under `key`.
fn table_reasons(
    tables: &BTreeMap<String, String>,
    (one, more_than_one): (&str, &str),
    key: &str,
) -> impl Iterator<Item = String> {
    let told = tables.iter().take(TABLES_TOLD);
    let more = tables.len().saturating_sub(TABLES_TOLD);
    told.map(move |(table, why)| format!("The table {table} {one}: {why}")).chain(
        (more > 0).then(|| {
            format!("{more} more tables {more_than_one}: `rowcast status --json` names them ({key})")
        }),
    )
}

fn source_reason(source: &Source) -> Option<String> {
    if source.state != "streaming" {
        let why = source.reason.as_deref().unwrap_or("it has not connected yet");
        return Some(format!(
            "The source is {}: {why}",
            if source.state.is_empty() { "starting" } else { source.state }
        ));
    }
    let silence = source.heard?.elapsed();
    if silence > source.silence_max? {
        return Some(format!(
            "The source has been silent for {} s, longer than two keepalive intervals",
            silence.as_secs()
        ));
    }
    if source.repeated >= MANY_REPEATED {
        return Some(format!(
            "The source is streaming, but the server repeats what the journal has: {} transactions so far. It had not \
             stored what it was told; new changes come behind that",
            source.repeated
        ));
    }
    source.stuck.as_ref().map(|stuck| format!("The source is streaming, but {stuck}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_repeats_very_much_is_told() {
        let source = |repeated| Source {
            state: "streaming",
            heard: Some(Instant::now()),
            silence_max: Some(Duration::from_secs(60)),
            repeated,
            ..Source::default()
        };
        assert_eq!(source_reason(&source(MANY_REPEATED - 1)), None);
        let reason = source_reason(&source(MANY_REPEATED)).unwrap();
        assert!(reason.contains("repeats what the journal has: 100000 transactions"), "{reason}");
    }
}
