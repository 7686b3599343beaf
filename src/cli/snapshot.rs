//! `rowcast snapshot`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{ArgGroup, Args};
use hyper::Method;
use rowcast_engine::{Error, Result};
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, Target};
use super::output::{self, harmless};
use crate::failure::Failure;
use crate::wiring;

/// Between two looks at how far it has come.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Characters of a bar.
const BAR: usize = 24;
/// Tables that are drawn: a terminal must not scroll meanwhile.
const DRAWN_MAX: usize = 10;
/// DECAWM of the VT100, off and on: whether a line that is too long goes on in the next.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("order").args(["pause", "resume", "cancel", "status"]),
    after_help = "\
Examples:
  rowcast snapshot public.orders
  rowcast snapshot public.orders --where \"created_at > now() - interval '1 day'\"
  rowcast snapshot 'public.*' --detach
  rowcast snapshot --status
  rowcast snapshot public.orders --pause

The rows come as events with op read, in chunks in the order of the key, while changes go on: whoever follows both
ends with the table. It survives restarts, waits for sinks that are far behind, and writes nothing to the database. A
table without a key is read in one piece, without a condition, for those who begin with an empty table where it was
asked for: that event is printed. Which tables are read when capture begins is source.snapshot.

Orders are taken from the user that runs rowcast, through the socket in its data directory (--data), not over HTTP
(--url), which shows how far it has come."
)]
pub(crate) struct Snapshot {
    /// Captured tables: public.orders, public.*, * (repeatable)
    #[arg(required_unless_present = "status", value_name = "TABLE")]
    tables: Vec<String>,
    /// An SQL condition that the rows meet; for one table
    #[arg(long = "where", value_name = "SQL", conflicts_with = "order")]
    condition: Option<String>,
    /// Do not wait until it is done
    #[arg(long, conflicts_with = "order")]
    detach: bool,
    /// Stop after the chunk that is on its way, over restarts, too
    #[arg(long)]
    pause: bool,
    /// Go on after a pause
    #[arg(long)]
    resume: bool,
    /// Read no more of them
    #[arg(long)]
    cancel: bool,
    /// Only show what is not done
    #[arg(long)]
    status: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Deserialize)]
struct Answer {
    tables: Vec<String>,
    #[serde(default)]
    since: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Listed {
    tables: Vec<Standing>,
    read: BTreeMap<String, u64>,
    dropped: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Standing {
    channel: String,
    #[serde(default)]
    sinks: Vec<String>,
    state: String,
    reason: Option<String>,
    rows: u64,
    estimate: u64,
    percent: f64,
    rows_per_second: u64,
}

impl Snapshot {
    pub(crate) fn execute(self) -> Result<ExitCode, Failure> {
        let client = self.target.client()?;
        if self.status {
            let listed = list(&client)?;
            output::print(&describe(&listed))?;
            return Ok(ExitCode::SUCCESS);
        }
        let order = match (self.pause, self.resume, self.cancel) {
            (true, ..) => "/pause",
            (_, true, _) => "/resume",
            (.., true) => "/cancel",
            _ => "",
        };
        let mut body = json!({"tables": self.tables});
        if let (Some(condition), Some(body)) = (&self.condition, body.as_object_mut()) {
            body.insert("where".to_owned(), json!(condition));
        }
        let path = format!("/v1/snapshots{order}");
        let answer = wiring::block_on_one(client.ask(Method::POST, &path, body.to_string()))??;
        let Answer { tables, since } = serde_json::from_slice(&answer).map_err(unreadable)?;
        output::print(&begins(&since))?;
        if order.is_empty() && !self.detach {
            follow(&client, &tables)?;
        } else {
            let done = match order {
                "/pause" => "is paused",
                "/resume" => "goes on",
                "/cancel" => "is cancelled",
                _ => "is under way",
            };
            output::print(&format!("The snapshot of {} {done}\n", harmless(&tables.join(", "))))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Where those begin whose rows nothing tells apart: their rows come without what events have told since.
fn begins(since: &BTreeMap<String, u64>) -> String {
    let line = |(table, id): (&String, &u64)| {
        format!(
            "{} has no key: whoever begins with an empty table behind event {id} (from={id}) ends with the table\n",
            harmless(table)
        )
    };
    since.iter().map(line).collect()
}

fn list(client: &Client) -> Result<Listed> {
    let answer = wiring::block_on_one(client.ask(Method::GET, "/v1/snapshots", ""))??;
    serde_json::from_slice(&answer).map_err(unreadable)
}

/// Waits until all of them are done; a person at the terminal sees how far they are.
fn follow(client: &Client, tables: &[String]) -> Result<()> {
    let watched = io::stderr().is_terminal();
    let mut drawn = 0;
    loop {
        let listed = list(client).map_err(unwatched)?;
        let left: Vec<&Standing> = listed
            .tables
            .iter()
            .filter(|shown| shown.sinks.is_empty() && tables.contains(&shown.channel))
            .collect();
        if watched {
            drawn = draw(&left, drawn);
        }
        if let Some(paused) = left.iter().find(|shown| shown.state == "paused") {
            return Err(Error::failed(format!("The snapshot of {} is paused", harmless(&paused.channel)))
                .hint("rowcast snapshot TABLE --resume lets it go on"));
        }
        if let Some(failed) = left.iter().find(|shown| shown.state == "failed") {
            let why = failed.reason.as_deref().unwrap_or("the log says why");
            let what = format!("The snapshot of {} has failed: {}", harmless(&failed.channel), harmless(why));
            return Err(Error::failed(what).hint(format!(
                "It is tried again every minute. `rowcast snapshot {} --cancel` ends it",
                harmless(&failed.channel)
            )));
        }
        if left.is_empty() {
            return tell(tables, &listed);
        }
        // A look at a program that works on its own; nothing depends on when.
        thread::sleep(LOOK_EVERY);
    }
}

/// Rowcast may have been ended, or only be out of reach: the snapshot is not lost with it.
fn unwatched(error: Error) -> Error {
    Error::failed("The snapshot cannot be watched any more")
        .because(error)
        .hint("It goes on when rowcast runs again: rowcast snapshot --status shows how far it is")
}

/// What has become of them, now that all are done.
fn tell(tables: &[String], listed: &Listed) -> Result<()> {
    let read = tables.iter().filter_map(|table| Some((table, listed.read.get(table)?)));
    let lines: String = read.map(|(table, rows)| format!("{}: {rows} rows\n", harmless(table))).collect();
    output::print(&lines)?;
    let missing: Vec<String> = tables
        .iter()
        .filter(|table| !listed.read.contains_key(*table))
        .map(|table| match listed.dropped.get(table) {
            Some(why) => format!("{} {}", harmless(table), harmless(why)),
            None => format!("{} was cancelled, or is not known any more", harmless(table)),
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::failed(format!("Not all was read: {}", missing.join("; "))))
}

/// Draws over what was drawn before; gives how many lines there are now.
fn draw(left: &[&Standing], before: usize) -> usize {
    let (text, lines) = drawing(left, before);
    // Nobody watching is no reason to end.
    let _ = io::stderr().write_all(text.as_bytes());
    lines
}

/// Goes up over `before` lines, and draws anew; with the number of lines. One that is too long for the terminal is cut
/// there: what it had gone on with in the next line would stay when it is drawn over.
fn drawing(left: &[&Standing], before: usize) -> (String, usize) {
    let mut text = String::new();
    if before > 0 {
        let _ = write!(text, "\x1b[{before}A\x1b[J");
    }
    text.push_str(NO_WRAP);
    left.iter().take(DRAWN_MAX).for_each(|shown| text.push_str(&line(shown)));
    let more = left.len().saturating_sub(DRAWN_MAX);
    if more > 0 {
        let _ = writeln!(text, "and {more} more");
    }
    text.push_str(WRAP);
    (text, left.len().min(DRAWN_MAX) + usize::from(more > 0))
}

fn line(shown: &Standing) -> String {
    let filled = (shown.percent.clamp(0.0, 100.0) / 100.0 * BAR as f64) as usize;
    let bar: String = (0..BAR).map(|at| if at < filled { '█' } else { '░' }).collect();
    let reason = shown.reason.as_ref().map(|reason| format!("  {}", harmless(reason))).unwrap_or_default();
    let whom = match shown.sinks.as_slice() {
        [] => String::new(),
        sinks => format!(" for {}", harmless(&sinks.join(" and "))),
    };
    format!(
        "{}{whom}  {bar} {:>5.1} %  {} of about {} rows, {}/s  {}{reason}\n",
        harmless(&shown.channel),
        shown.percent,
        shown.rows,
        shown.estimate,
        shown.rows_per_second,
        harmless(&shown.state),
    )
}

fn describe(listed: &Listed) -> String {
    if listed.tables.is_empty() {
        return "No snapshot is under way\n".to_owned();
    }
    listed.tables.iter().map(line).collect()
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::failed("The answer cannot be read").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_where_a_table_without_a_key_begins() {
        assert_eq!(
            begins(&[("public.log".to_owned(), 7)].into()),
            "public.log has no key: whoever begins with an empty table behind event 7 (from=7) ends with the table\n"
        );
    }

    #[test]
    fn is_drawn_over_in_whole_lines() {
        let shown: Vec<Standing> = (0..12)
            .map(|number| {
                let channel = format!("public.a_table_with_a_long_name_{number}");
                serde_json::from_value(json!({
                    "channel": channel, "state": "reading", "ad_hoc": true, "rows": 500, "estimate": 1000,
                    "percent": 50.0, "rows_per_second": 250
                }))
                .unwrap()
            })
            .collect();
        let left: Vec<&Standing> = shown.iter().collect();
        let (text, lines) = drawing(&left[..2], 0);
        assert_eq!((lines, text.lines().count() - 1), (2, 2), "{text}");
        assert!(text.starts_with(&format!("{NO_WRAP}public.a_table")) && text.ends_with(WRAP), "{text}");
        let (text, lines) = drawing(&left, 2);
        assert!(text.starts_with("\x1b[2A\x1b[J") && text.contains("\nand 2 more\n"), "{text}");
        assert_eq!(lines, text.matches('\n').count());
    }

    #[test]
    fn a_person_sees_how_far_it_is() {
        let listed: Listed = serde_json::from_value(json!({"read": {}, "dropped": {}, "tables": [{
            "channel": "public.orders", "state": "reading", "ad_hoc": true, "rows": 500, "estimate": 1000,
            "percent": 50.0, "rows_per_second": 250
        }, {
            "channel": "public.t", "state": "waiting", "ad_hoc": false, "sinks": ["a", "b"], "rows": 0,
            "estimate": 0, "percent": 0.0, "rows_per_second": 0
        }]}))
        .unwrap();
        let expected = "public.orders  ████████████░░░░░░░░░░░░  50.0 %  500 of about 1000 rows, 250/s  reading\n\
             public.t for a and b  ░░░░░░░░░░░░░░░░░░░░░░░░   0.0 %  0 of about 0 rows, 0/s  waiting\n";
        assert_eq!(describe(&listed), expected);
        assert_eq!(
            describe(&Listed { tables: vec![], read: [].into(), dropped: [].into() }),
            "No snapshot is under way\n"
        );
    }
}
