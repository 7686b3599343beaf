//! `rowcast sink`: the doors that push, while rowcast runs.

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use hyper::Method;
use rowcast_engine::{Error, Result};
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, Target, encoded};
use super::output::{self, Output, Style, harmless};
use crate::config::units::approximate_time;
use crate::failure::Failure;
use crate::wiring;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast sink list
  rowcast sink resume kafka
  rowcast sink rewind kafka --from 2026-11-21T04:00:00Z

A sink that has stopped says in its reason what a person has to do. One that is added begins with the rows of all
captured tables, read for it alone, with all events that are held, or with what comes next: start = \"snapshot\",
\"earliest\" or \"latest\" in its section.

Orders (pause, resume, rewind) are taken from the user that runs rowcast, through the socket in its data directory
(--data), not over HTTP (--url).")]
pub(crate) struct Sink {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// How each sink stands: position, how far behind, and why it does not run
    List(List),
    /// Deliver nothing more until it is resumed, over restarts, too
    Pause(Pause),
    /// Go on after a pause, behind a gap, or try again what needed a person
    Resume(Resume),
    /// Go on at another place: backwards repeats events, forwards skips them
    Rewind(Rewind),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast sink list
  rowcast sink list --url http://127.0.0.1:8080 --json | jq '.sinks[] | select(.state != \"running\")'")]
struct List {
    /// As JSON, all of it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast sink pause kafka
  rowcast sink pause kafka --data /var/lib/rowcast

A paused sink holds what it has not delivered only until the journal reaches journal.max_size.")]
struct Pause {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast sink resume kafka
  rowcast sink resume kafka --data /var/lib/rowcast

A sink that has stopped at a gap goes on behind it; what is missing is told to its target.")]
struct Resume {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast sink rewind kafka --from earliest
  rowcast sink rewind kafka --from 2026-11-21T04:00:00Z
  rowcast sink rewind kafka --from last:1000 --yes
  rowcast sink rewind kafka --from latest --yes

Says what is repeated or skipped, and asks before it does so. What is skipped is told to the target as a gap.")]
struct Rewind {
    #[command(flatten)]
    which: Which,
    /// Where to go on: latest, earliest, an event's number (what comes after it), a time (2026-11-21T04:00:00Z; behind the newest event: latest; before what is held: refused), last:N
    #[arg(long, value_name = "PLACE")]
    from: String,
    /// Do it without asking
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Which {
    /// The sink; rowcast sink list shows them
    name: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Deserialize)]
struct Listed {
    sinks: Vec<Standing>,
    now: i64,
}

#[derive(Deserialize)]
struct Standing {
    name: String,
    kind: String,
    state: String,
    reason: Option<String>,
    position: Option<u64>,
    newest: u64,
    behind_events: Option<u64>,
    behind_since: Option<i64>,
    started: Option<Started>,
    filling: Option<Filling>,
}

#[derive(Deserialize)]
struct Started {
    how: String,
}

/// How far the rows are that are read for a sink alone.
#[derive(Deserialize)]
pub(super) struct Filling {
    tables: Vec<String>,
    rows: u64,
    estimate: u64,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    name: String,
    state: String,
    reason: Option<String>,
    before: u64,
    position: u64,
    #[serde(default)]
    repeats: u64,
    #[serde(default)]
    skips: u64,
}

impl Sink {
    pub(crate) fn execute(self) -> Result<ExitCode, Failure> {
        match self.action {
            Action::List(list) => list.execute()?,
            Action::Pause(Pause { which }) => which.tell("pause")?,
            Action::Resume(Resume { which }) => which.tell("resume")?,
            Action::Rewind(rewind) => rewind.execute()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    fn execute(self) -> Result<()> {
        let client = self.target.client()?;
        let answer = wiring::block_on_one(client.ask(Method::GET, "/v1/sinks", ""))??;
        if self.json {
            let all: serde_json::Value = serde_json::from_slice(&answer).map_err(unreadable)?;
            return output::print_json(&all);
        }
        let listed: Listed = serde_json::from_slice(&answer).map_err(unreadable)?;
        let mut output = Output::new();
        let text = table(&listed, &Style::new(output.colours));
        output.text(&text).map(drop)
    }
}

fn table(listed: &Listed, style: &Style) -> String {
    if listed.sinks.is_empty() {
        return "This rowcast has no sinks: one is made with --kafka HOST:PORT\n".to_owned();
    }
    let width = listed.sinks.iter().map(|sink| sink.name.len()).max().unwrap_or(0).max(6);
    let (state, position, started) = ("STATE", "POSITION", "STARTED");
    let head = format!(
        "{:<width$}  {:<8}{state:<10}{position:<18}{:<18}{started:<10}BEHIND",
        "NAME", "KIND", "NEWEST"
    );
    let mut text = style.paint(1, &head) + "\n";
    for sink in &listed.sinks {
        let colour = if sink.state == "running" { 32 } else { 31 };
        let state = style.paint(colour, &format!("{:<10}", harmless(&sink.state)));
        let position = sink.position.map_or_else(|| "-".to_owned(), |position| position.to_string());
        let (name, kind, newest) = (harmless(&sink.name), harmless(&sink.kind), sink.newest);
        let behind = behind(sink, listed.now);
        let started = sink.started.as_ref().map_or("-", |started| started.how.as_str());
        let started = harmless(started);
        let _ =
            writeln!(text, "{name:<width$}  {kind:<8}{state}{position:<18}{newest:<18}{started:<10}{behind}");
        if let Some(reason) = &sink.reason {
            let _ = writeln!(text, "  {} {}", style.paint(31, "✗"), harmless(reason));
        }
        if let Some(filling) = &sink.filling {
            let _ = writeln!(text, "  {} {}", style.paint(33, "…"), harmless(&filling.told()));
        }
    }
    text
}

impl Filling {
    /// In a sentence.
    pub(super) fn told(&self) -> String {
        let Self { tables, rows, estimate, reason } = self;
        let what = match tables.as_slice() {
            [] => "The rows that are there will be read for it".to_owned(),
            [table] => format!("The rows of {table} are read for it: {rows} of about {estimate}"),
            tables => {
                format!("The rows of {} tables are read for it: {rows} of about {estimate}", tables.len())
            }
        };
        match reason {
            Some(reason) => format!("{what}. That waits: {reason}"),
            None => what,
        }
    }
}

fn behind(sink: &Standing, now: i64) -> String {
    let events = match sink.behind_events {
        None => return "-".to_owned(),
        Some(0) => return "nothing".to_owned(),
        Some(events) => plural(events),
    };
    let waiting = sink.behind_since.map(|since| u64::try_from(now.saturating_sub(since)).unwrap_or(0));
    let waiting = waiting.map(|micros| format!(", {}", approximate_time(Duration::from_micros(micros))));
    events + &waiting.unwrap_or_default()
}

impl Which {
    fn ask(&self, client: &Client, command: &str, body: &serde_json::Value) -> Result<Answer> {
        let path = format!("/v1/sinks/{}/{command}", encoded(&self.name));
        let answer = wiring::block_on_one(client.ask(Method::POST, &path, body.to_string()))??;
        serde_json::from_slice(&answer).map_err(unreadable)
    }

    fn tell(&self, command: &str) -> Result<()> {
        let answer = self.ask(&self.target.client()?, command, &json!({}))?;
        output::print(&stands(&answer))
    }
}

impl Rewind {
    fn execute(self) -> Result<()> {
        let client = self.which.target.client()?;
        let order = |dry_run| json!({"from": self.from, "dry_run": dry_run});
        let planned = self.which.ask(&client, "rewind", &order(true))?;
        if !self.yes && !agreed(&planned)? {
            return output::print("Nothing has changed\n");
        }
        let done = self.which.ask(&client, "rewind", &order(false))?;
        output::print(&format!("{}\n{}", moves(&done, "was moved"), stands(&done)))
    }
}

/// Asks the person at the terminal.
fn agreed(planned: &Answer) -> Result<bool> {
    let what = moves(planned, "would be moved");
    if !io::stdin().is_terminal() {
        return Err(Error::usage(what).hint("With --yes it is done without asking"));
    }
    let failed = |error| Error::failed("Cannot ask").because(error);
    let mut ask = io::stderr();
    write!(ask, "{what}\nGo on? [y/N] ").and_then(|()| ask.flush()).map_err(failed)?;
    let mut said = String::new();
    io::stdin().lock().read_line(&mut said).map_err(failed)?;
    Ok(matches!(said.trim(), "y" | "Y" | "yes"))
}

fn moves(answer: &Answer, verb: &str) -> String {
    let Answer { name, before, position, repeats, skips, .. } = answer;
    let what = match (repeats, skips) {
        (0, 0) => "no event is repeated or skipped".to_owned(),
        (0, skips) => format!("{} will not be delivered", plural(*skips)),
        (repeats, _) => format!("{} will be delivered again", plural(*repeats)),
    };
    format!("The sink {} {verb} from {before} to {position}: {what}", harmless(name))
}

fn stands(answer: &Answer) -> String {
    let Answer { name, state, reason, position, .. } = answer;
    let reason = reason.as_ref().map(|reason| format!(". {reason}")).unwrap_or_default();
    format!("The sink {} is {state} at {position}{}\n", harmless(name), harmless(&reason))
}

fn plural(events: u64) -> String {
    format!("{events} event{}", if events == 1 { "" } else { "s" })
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::failed("The answer cannot be read").because(error)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        sink: Sink,
    }

    #[test]
    fn every_action_teaches_by_example() {
        let command = <Program as clap::CommandFactory>::command();
        assert_eq!(command.get_subcommands().count(), 4);
        for action in command.get_subcommands() {
            let help = action.clone().render_long_help().to_string();
            let example = format!("Examples:\n  rowcast sink {}", action.get_name());
            assert!(help.contains(&example), "{help}");
        }
    }

    #[test]
    fn a_person_can_read_the_list() {
        let listed: Listed = serde_json::from_value(json!({"now": 70_000_000, "newest": 9, "sinks": [
            {"name": "kafka", "kind": "kafka", "state": "running", "reason": null, "position": 9, "newest": 9,
                "behind_events": 0, "behind_since": null},
            {"name": "warehouse", "kind": "kafka", "state": "stopped", "reason": "It is gone", "position": 4,
                "newest": 9, "behind_events": 1, "behind_since": 5_000_000,
                "started": {"how": "earliest", "id": 1, "at": 2}},
            {"name": "third", "kind": "kafka", "state": "running", "reason": null, "position": 9, "newest": 9,
                "behind_events": 0, "behind_since": null, "started": {"how": "snapshot", "id": 1, "at": 2},
                "filling": {"tables": ["public.a", "public.b"], "rows": 5, "estimate": 20}},
            {"name": "new", "kind": "kafka", "state": "starting", "reason": null, "position": null, "newest": 9,
                "behind_events": null, "behind_since": null},
        ]}))
        .unwrap();
        let expected = "\
NAME       KIND    STATE     POSITION          NEWEST            STARTED   BEHIND
kafka      kafka   running   9                 9                 -         nothing
warehouse  kafka   stopped   4                 9                 earliest  1 event, 1 min 5 s
  ✗ It is gone
third      kafka   running   9                 9                 snapshot  nothing
  … The rows of 2 tables are read for it: 5 of about 20
new        kafka   starting  -                 9                 -         -
";
        assert_eq!(table(&listed, &Style::new(false)), expected);
    }

    #[test]
    fn what_is_done_is_said() {
        let answer = |repeats: u64, skips: u64| -> Answer {
            serde_json::from_value(json!({"name": "k", "state": "paused", "reason": "By hand", "before": 5,
                "position": 9, "repeats": repeats, "skips": skips}))
            .unwrap()
        };
        assert_eq!(
            moves(&answer(0, 4), "was moved"),
            "The sink k was moved from 5 to 9: 4 events will not be delivered"
        );
        assert!(moves(&answer(1, 0), "would be moved").ends_with("1 event will be delivered again"));
        assert_eq!(stands(&answer(0, 0)), "The sink k is paused at 9. By hand\n");
    }
}
