//! `rowcast journal`: the files on disk, without the program that writes them.

mod backup;
mod repair;
mod show;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{CheckReport, check};
use rowcast_engine::{Error, Result};

use super::output;
use super::settings::Base;
use crate::config::units::approximate_size;
use crate::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct Journal {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print events, a JSON object a line
    Show(show::Show),
    /// Read everything and compare checksums; exit code 4 names file and offset of what is damaged
    Check(Check),
    /// Mend a damaged journal: cut at the break, keep what is cut off, and record a gap that readers are told
    Repair(repair::Repair),
    /// Copy journal and positions into a new directory, whether rowcast runs or not
    Backup(backup::Backup),
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
        let base = match &self.action {
            Action::Show(show) => show.base(),
            Action::Check(check) => &check.base,
            Action::Repair(repair) => repair.base(),
            Action::Backup(backup) => backup.base(),
        };
        // An error of the configuration is told by who needs it.
        let config = base.load().ok();
        let done = match self.action {
            Action::Show(show) => show.execute(),
            Action::Check(check) => check.execute(),
            Action::Repair(repair) => repair.execute(),
            Action::Backup(backup) => backup.execute(),
        };
        done.map_err(|error| match &config {
            Some(config) => config.name_directories(error),
            None => error,
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn journal_dir(base: &Base) -> Result<PathBuf> {
    let dir = base.load()?.journal_dir();
    // One that may not be looked at is not one that is not there: whoever reads it says so. Below a file nothing is.
    let there = dir.try_exists().unwrap_or_else(|error| error.kind() != ErrorKind::NotADirectory);
    if !there {
        return Err(Error::journal(format!("There is no journal in {}", dir.display()))
            .hint("Name rowcast's data directory: --data DIR"));
    }
    Ok(dir)
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
    let CheckReport { segments, batches, bytes, unfinished, .. } = report;
    let held = held(report);
    let end = match unfinished {
        0 => String::new(),
        _ => format!(
            "{unfinished} bytes at the end are not whole yet: being written, or cut at the next start\n"
        ),
    };
    let missing = report.missing.map_or_else(String::new, |gone| {
        let which = gone.of_beginning();
        format!("{which} are missing: segments at its beginning were removed, and not by retention\n")
    });
    let taken = report.taken.map_or_else(String::new, |gone| {
        let (from, to) = (gone.from, gone.to);
        format!(
            "Events {from} to {to} are missing: the newest segment was removed, cut or replaced while rowcast ran. The next start tells \
             every reader a gap\n"
        )
    });
    let (batches, segments) =
        (plural(*batches, "batch", "batches"), plural(*segments, "segment", "segments"));
    let size = approximate_size(*bytes);
    format!("The journal is sound: {held}, in {batches} and {segments} of {size}\n{missing}{taken}{end}")
}

/// What a journal holds, in words.
fn held(report: &CheckReport) -> String {
    match report.events {
        0 => "no events".to_owned(),
        events => format!("{events} events from {} to {}", report.oldest, report.newest),
    }
}

fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use rowcast_engine::journal::Gone;

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
        report.missing = Some(Gone { from: 1, to: 9 });
        assert!(describe(&report).contains("\nAll events up to 9 are missing: "));
        report.missing = Some(Gone { from: 5, to: 9 });
        assert!(describe(&report).contains("\nEvents 5 to 9 are missing: "));
        report.taken = Some(Gone { from: 21, to: 23 });
        assert!(describe(&report).contains("\nEvents 21 to 23 are missing: the newest segment"));
        assert!(
            describe(&report)
                .ends_with("7 bytes at the end are not whole yet: being written, or cut at the next start\n")
        );
    }
}
