//! `rowcast status`.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use rowcast_engine::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;

use super::client::Target;
use super::output::{Output, Style, harmless};
use super::sink::Filling;
use crate::config::units::{approximate_size, approximate_time};
use crate::failure::{Failure, code};
use crate::wiring;

/// Tables of snapshots that are named.
const SNAPSHOTS_SHOWN: usize = 8;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast status
  rowcast status --url http://127.0.0.1:8080 --json | jq .source.lag_bytes

Exit code 1 when it is not healthy, with the reasons.")]
pub(crate) struct Status {
    /// As JSON, all of it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// What is shown of `/v1/status`.
#[derive(Deserialize)]
struct Report {
    healthy: bool,
    reasons: Vec<String>,
    version: String,
    source: Source,
    #[serde(default)]
    snapshots: Vec<Snapshot>,
    journal: Journal,
    doors: BTreeMap<String, Door>,
    now: i64,
}

#[derive(Deserialize)]
struct Source {
    state: String,
    address: String,
    server_version: String,
    slot: String,
    publication: String,
    confirmed_lsn: String,
    lag_bytes: u64,
    wal_retained_bytes: Option<u64>,
    reconnects: u64,
    tables: BTreeMap<String, Captured>,
}

#[derive(Deserialize)]
struct Captured {
    inserts_only: bool,
}

#[derive(Deserialize)]
struct Snapshot {
    channel: String,
    state: String,
    reason: Option<String>,
    rows: u64,
    estimate: u64,
}

#[derive(Deserialize)]
struct Journal {
    oldest: u64,
    newest: u64,
    segments: u64,
    bytes: u64,
    newest_commit: i64,
    state: String,
}

#[derive(Deserialize)]
struct Door {
    state: String,
    position: Option<u64>,
    behind_since: Option<i64>,
    delivered: u64,
    clients: Option<u64>,
    #[serde(default)]
    filling: Option<Filling>,
}

impl Status {
    pub(crate) fn execute(self) -> Result<ExitCode, Failure> {
        let client = self.target.client()?;
        let answer = wiring::block_on_one(client.ask(Method::GET, "/v1/status", ""))??;
        let unreadable = |error| Error::failed("The status cannot be read").because(error);
        let report: Report = serde_json::from_slice(&answer).map_err(unreadable)?;
        let mut output = Output::new();
        if self.json {
            let all: serde_json::Value = serde_json::from_slice(&answer).map_err(unreadable)?;
            let text = serde_json::to_string_pretty(&all).map_err(unreadable)?;
            output.line(text)?;
        } else {
            let text = describe(&report, &Style::new(output.colours));
            output.text(&text)?;
        }
        Ok(if report.healthy { ExitCode::SUCCESS } else { ExitCode::from(code::FAILED) })
    }
}

fn describe(report: &Report, style: &Style) -> String {
    let mut text = String::new();
    let health = if report.healthy { style.paint(32, "healthy") } else { style.paint(31, "not healthy") };
    let _ = writeln!(text, "rowcast {} is {health}", report.version);
    for reason in &report.reasons {
        let _ = writeln!(text, "  {} {}", style.paint(31, "✗"), harmless(reason));
    }
    let mut part = |name: &str, state: &str, lines: &[String]| {
        let colour = if matches!(state, "streaming" | "open" | "running") { 32 } else { 31 };
        let state = format!("{state:<9} ");
        let _ = writeln!(
            text,
            "\n{name:<10}{}{}",
            style.paint(colour, &state),
            lines.join("\n                    ")
        );
    };
    part("source", &report.source.state, &source_lines(&report.source));
    if !report.snapshots.is_empty() {
        let reads = report.snapshots.iter().any(|shown| shown.state == "reading");
        part("snapshot", if reads { "running" } else { "waiting" }, &snapshot_lines(&report.snapshots));
    }
    part("journal", &report.journal.state, &journal_lines(&report.journal, report.now));
    for (name, door) in &report.doors {
        let mut lines = vec![door_line(door, report)];
        lines.extend(door.filling.as_ref().map(|filling| harmless(&filling.told())));
        part(name, &door.state, &lines);
    }
    text
}

fn source_lines(source: &Source) -> Vec<String> {
    let inserts_only = source.tables.values().filter(|table| table.inserts_only).count();
    let only = if inserts_only > 0 { format!(" ({inserts_only} for inserts only)") } else { String::new() };
    let tables = plural(source.tables.len() as u64, "table");
    let server = match source.server_version.as_str() {
        "" => "the server has not been reached since the start".to_owned(),
        version => format!("Postgres {}, {tables}{only}", harmless(version)),
    };
    let mut lines = vec![
        harmless(&source.address),
        server,
        format!("slot {}, publication {}", harmless(&source.slot), harmless(&source.publication)),
        format!(
            "confirmed up to {}, {} behind the server",
            source.confirmed_lsn,
            approximate_size(source.lag_bytes)
        ),
    ];
    if let Some(kept) = source.wal_retained_bytes {
        lines.push(format!("the server keeps {} of its log for the slot", approximate_size(kept)));
    }
    if source.reconnects > 0 {
        lines.push(format!("connected again {}", plural(source.reconnects, "time")));
    }
    lines
}

/// Those that are under way first; no more than a screen has room for.
fn snapshot_lines(snapshots: &[Snapshot]) -> Vec<String> {
    let mut shown: Vec<&Snapshot> = snapshots.iter().collect();
    shown.sort_by_key(|shown| shown.state == "waiting");
    let line = |shown: &&Snapshot| {
        let reason = shown.reason.as_ref().map(|reason| format!(": {}", harmless(reason)));
        format!(
            "{}, {} of about {} rows, {}{}",
            harmless(&shown.channel),
            shown.rows,
            shown.estimate,
            harmless(&shown.state),
            reason.unwrap_or_default()
        )
    };
    let mut lines: Vec<String> = shown.iter().take(SNAPSHOTS_SHOWN).map(line).collect();
    let more = shown.len().saturating_sub(SNAPSHOTS_SHOWN) as u64;
    if more > 0 {
        lines.push(format!("and {} (rowcast snapshot --status)", plural(more, "more table")));
    }
    lines
}

fn journal_lines(journal: &Journal, now: i64) -> Vec<String> {
    let newest = match journal.newest_commit {
        0 => "nothing committed yet".to_owned(),
        at => format!("newest commit {} ago", approximate_time(between(at, now))),
    };
    let held = if journal.oldest > journal.newest {
        "no events".to_owned()
    } else {
        format!("events {} to {}", journal.oldest, journal.newest)
    };
    let segments = plural(journal.segments, "segment");
    vec![format!("{} in {segments}, {newest}", approximate_size(journal.bytes)), held]
}

fn door_line(door: &Door, report: &Report) -> String {
    let mut parts = Vec::new();
    parts.extend(door.clients.map(|clients| plural(clients, "client")));
    parts.push(format!("{} delivered", plural(door.delivered, "event")));
    parts.extend(door.position.map(|position| format!("at {position}")));
    parts.extend(door.behind_since.map(|at| format!("{} behind", approximate_time(between(at, report.now)))));
    parts.join(", ")
}

fn between(earlier: i64, later: i64) -> Duration {
    Duration::from_micros(u64::try_from(later.saturating_sub(earlier)).unwrap_or(0))
}

fn plural(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(state: &str, reasons: &[&str]) -> Report {
        serde_json::from_value(json!({
            "healthy": reasons.is_empty(), "reasons": reasons, "version": "1.0", "now": 10_000_000,
            "source": {"state": state, "reason": null, "address": "postgres://h/d", "server_version": "15.4",
                "slot": "rowcast", "publication": "rowcast", "confirmed_lsn": "0/A", "lag_bytes": 2048, "wal_retained_bytes": 20_971_520,
                "reconnects": 1, "tables": {"public.a": {"inserts_only": true}}},
            "journal": {"state": "open", "oldest": 5, "newest": 9, "segments": 1, "bytes": 100,
                "newest_commit": 8_000_000, "installation": "x"},
            "doors": {"http": {"state": "running", "position": null, "behind_since": null, "delivered": 1,
                "clients": 2, "kind": "http", "reason": null},
                "kafka": {"state": "running", "position": 9, "behind_since": null, "delivered": 0, "clients": null,
                    "filling": {"tables": ["public.a"], "rows": 3, "estimate": 7}}},
        }))
        .unwrap()
    }

    #[test]
    fn a_person_can_read_it() {
        let expected = "\
rowcast 1.0 is healthy

source    streaming postgres://h/d
                    Postgres 15.4, 1 table (1 for inserts only)
                    slot rowcast, publication rowcast
                    confirmed up to 0/A, 2.0 kB behind the server
                    the server keeps 20 MB of its log for the slot
                    connected again 1 time

journal   open      100 B in 1 segment, newest commit 2 s ago
                    events 5 to 9

http      running   2 clients, 1 event delivered

kafka     running   0 events delivered, at 9
                    The rows of public.a are read for it: 3 of about 7
";
        assert_eq!(describe(&report("streaming", &[]), &Style::new(false)), expected);
        let ill = describe(&report("stopped", &["The source is stopped: gone"]), &Style::new(false));
        let mut reading = report("streaming", &[]);
        reading.snapshots = serde_json::from_value(json!([
            {"channel": "public.a", "state": "waiting", "rows": 0, "estimate": 0},
            {"channel": "public.b", "state": "reading", "rows": 5, "estimate": 10},
        ]))
        .unwrap();
        let lines = "\
snapshot  running   public.b, 5 of about 10 rows, reading
                    public.a, 0 of about 0 rows, waiting
";
        assert!(describe(&reading, &Style::new(false)).contains(lines));
        let mut away = report("reconnecting", &[]);
        away.source.server_version.clear();
        let lines = "
source    reconnecting postgres://h/d
                    the server has not been reached since the start
                    slot";
        assert!(describe(&away, &Style::new(false)).contains(lines));
        assert!(ill.starts_with("rowcast 1.0 is not healthy\n  ✗ The source is stopped: gone\n"), "{ill}");
    }
}
