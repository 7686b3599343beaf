//! `rowcast journal`: the files on disk, read without the program that writes them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use clap::{Args, Subcommand};
use rowcast_engine::format::native::{NativeOptions, write_event};
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{CheckReport, check, for_each_event};
use rowcast_engine::{Error, Result};

use super::output::{self, Output, Written};
use super::settings::Base;
use crate::config::units::approximate_size;
use crate::failure::Failure;

/// Events between the reading thread and the printing one.
const AHEAD: usize = 256;

#[derive(Debug, Args)]
pub(crate) struct Journal {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print events, a JSON object a line
    Show(Show),
    /// Read everything and compare checksums; exit code 4 names file and offset of what is damaged
    Check(Check),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast journal show --data /var/lib/rowcast --limit 10
  rowcast journal show --from 1795233906000000 | jq .after")]
struct Show {
    /// The number of the first event to print [default: the oldest held]
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    from: u64,
    /// Events to print at most [default: all]
    #[arg(long, short = 'n', value_name = "COUNT")]
    limit: Option<u64>,
    #[command(flatten)]
    base: Base,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast journal check
  rowcast journal check --data /var/lib/rowcast --json")]
struct Check {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    base: Base,
}

impl Journal {
    pub(crate) fn execute(self) -> Result<ExitCode, Failure> {
        match self.action {
            Action::Show(show) => show.execute()?,
            Action::Check(check) => check.execute()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn journal_dir(base: &Base) -> Result<PathBuf> {
    let dir = base.load()?.journal_dir();
    if !dir.is_dir() {
        return Err(Error::journal(format!("There is no journal in {}", dir.display()))
            .hint("Name rowcast's data directory: --data DIR"));
    }
    Ok(dir)
}

impl Show {
    fn execute(self) -> Result<()> {
        let dir = journal_dir(&self.base)?;
        let (send, receive) = sync_channel(AHEAD);
        // A thread of its own, so that reading ends when enough has been printed.
        std::thread::Builder::new()
            .name("read".into())
            .spawn(move || read(&dir, self.from, &send))
            .map_err(|error| Error::failed("Cannot start a thread").because(error))?;
        print(&receive, self.limit.unwrap_or(u64::MAX))
    }
}

fn read(dir: &Path, from: u64, send: &SyncSender<Result<Vec<u8>>>) {
    let options = NativeOptions::default();
    let read = for_each_event(dir, &RealDisk, from, |event| {
        let mut line = Vec::new();
        write_event(&mut line, event, &options);
        send.send(Ok(line)).is_ok()
    });
    if let Err(error) = read {
        // Nobody listens any more when enough was printed.
        let _ = send.send(Err(error));
    }
}

fn print(lines: &Receiver<Result<Vec<u8>>>, limit: u64) -> Result<()> {
    let mut output = Output::new();
    for _ in 0..limit {
        let Ok(line) = lines.recv() else { break };
        if output.line(line?)? == Written::NobodyReads {
            break;
        }
    }
    Ok(())
}

impl Check {
    fn execute(self) -> Result<()> {
        let report = check(&journal_dir(&self.base)?, &RealDisk)?;
        if self.json {
            return output::print_json(&report);
        }
        output::print(&describe(&report))
    }
}

fn describe(report: &CheckReport) -> String {
    let CheckReport { segments, batches, events, bytes, oldest, newest, unfinished } = report;
    let held = match events {
        0 => "no events".to_owned(),
        _ => format!("{events} events from {oldest} to {newest}"),
    };
    let end = match unfinished {
        0 => String::new(),
        _ => format!(
            "{unfinished} bytes at the end are not whole yet: being written, or cut at the next start\n"
        ),
    };
    let (batches, segments) =
        (plural(*batches, "batch", "batches"), plural(*segments, "segment", "segments"));
    let size = approximate_size(*bytes);
    format!("The journal is sound: {held}, in {batches} and {segments} of {size}\n{end}")
}

fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_a_sentence() {
        let mut report = CheckReport { segments: 2, bytes: 3 << 20, ..CheckReport::default() };
        assert_eq!(
            describe(&report),
            "The journal is sound: no events, in 0 batches and 2 segments of 3.0 MB\n"
        );
        (report.events, report.oldest, report.newest, report.unfinished) = (5, 10, 20, 7);
        assert!(describe(&report).contains("5 events from 10 to 20"));
        assert!(
            describe(&report)
                .ends_with("7 bytes at the end are not whole yet: being written, or cut at the next start\n")
        );
    }

    #[test]
    fn printing_ends_at_the_limit_and_at_an_error() {
        let (send, receive) = sync_channel(2);
        send.send(Err(Error::journal("Damaged"))).unwrap();
        assert!(print(&receive, 1).is_err());
        send.send(Ok(Vec::new())).unwrap();
        assert!(print(&receive, 0).is_ok());
    }
}
