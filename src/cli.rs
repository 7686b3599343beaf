//! The command line. People and scripts rely on it: what is here stays.

mod adopt;
mod check;
mod client;
mod completions;
mod config;
mod demo;
mod journal;
mod line;
mod output;
mod publish;
mod run;
mod settings;
mod sink;
mod snapshot;
mod status;
mod tail;
mod uninstall;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

pub(crate) use output::print;

use crate::failure::{Failure, code, say};
use crate::logging::Format;

/// The row changes of a Postgres database as numbered, durable, replayable events.
#[derive(Debug, Parser)]
#[command(
    name = "rowcast",
    version,
    propagate_version = false,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = ROOT_HELP
)]
pub(crate) struct Cli {
    /// How the log on standard error is written: text for people, or json, an object a line
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "ROWCAST_LOG",
        hide_possible_values = true,
        help_heading = "Log",
        value_name = "FORMAT"
    )]
    pub(crate) log: Format,
    /// error, warn, info, debug or trace; for one part: info,rowcast_postgres=debug
    #[arg(long, global = true, value_name = "LEVEL", env = "ROWCAST_LOG_LEVEL", help_heading = "Log")]
    log_level: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

const ROOT_HELP: &str = "\
Start here:
  rowcast demo                                                    see it work on a throw-away Postgres
  rowcast check --source postgres://me@localhost/shop             is my database ready?
  rowcast run --source postgres://me@localhost/shop               capture and serve it
  curl 'http://127.0.0.1:8080/v1/events?channel=public.orders'    read it

Exit codes: 0 ended as asked, 1 failed, 2 wrong usage or configuration, 3 the source refuses before the first
success, 4 the journal refuses. Standard output is data, standard error is the log.";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// See it work: an own throw-away Postgres, lively data, every door open
    Demo(demo::Demo),
    /// Capture a database and serve its changes
    Run(run::Run),
    /// Is the database ready? Each requirement, what is found, and the SQL that mends it
    Check(check::Check),
    /// Follow channels: coloured on a terminal, a JSON object a line in a pipe
    Tail(tail::Tail),
    /// Publish a custom event
    Publish(publish::Publish),
    /// How a running rowcast is; exit code 1 when it is not healthy
    Status(status::Status),
    /// The sinks of a running rowcast: list, pause, resume, rewind
    Sink(sink::Sink),
    /// Read the rows that are in tables, beside the stream; show, pause, resume, cancel that
    Snapshot(snapshot::Snapshot),
    /// Look at the journal on disk, whether rowcast runs or not
    Journal(journal::Journal),
    /// Take over a replication slot whose history does not continue here
    Adopt(adopt::Adopt),
    /// Remove from the database what rowcast made in it
    Uninstall(uninstall::Uninstall),
    /// Check or show the configuration, without starting anything
    Config(config::ConfigCommand),
    /// Completions for your shell
    Completions(completions::Completions),
}

impl Cli {
    /// Commands that end soon have a log only when something is wrong.
    pub(crate) fn log_level(&self) -> &str {
        let quiet = match self.command {
            Command::Run(_) | Command::Adopt(_) => "info",
            _ => "warn",
        };
        self.log_level.as_deref().unwrap_or(quiet)
    }
}

impl Command {
    /// Does it.
    pub(crate) fn execute(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Demo(demo) => demo.execute(),
            Self::Run(run) => run.execute(),
            Self::Check(check) => check.execute(),
            Self::Tail(tail) => tail.execute(),
            Self::Publish(publish) => publish.execute(),
            Self::Status(status) => status.execute(),
            Self::Sink(sink) => sink.execute(),
            Self::Snapshot(snapshot) => snapshot.execute(),
            Self::Journal(journal) => journal.execute(),
            Self::Adopt(adopt) => adopt.execute(),
            Self::Uninstall(uninstall) => uninstall.execute(),
            Self::Config(config) => config.execute(),
            Self::Completions(completions) => completions.execute(),
        }
    }
}

/// Ends with what clap has to say: help asked for, or usage that is wrong.
pub(crate) fn refuse(refused: &clap::Error) -> ExitCode {
    if matches!(refused.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // Nobody reading is no reason to fail.
        let _ = refused.print();
        return ExitCode::SUCCESS;
    }
    if json_wanted() {
        let message = refused.to_string();
        let error =
            serde_json::json!({"level": "ERROR", "message": message.trim_end(), "exit_code": code::USAGE});
        say(&error.to_string());
    } else {
        let _ = refused.print();
    }
    ExitCode::from(code::USAGE)
}

/// The arguments are wrong, so they are looked at as text.
fn json_wanted() -> bool {
    let arguments: Vec<_> = std::env::args_os().collect();
    arguments.iter().any(|argument| argument == "--log=json")
        || arguments.windows(2).any(|pair| pair[0] == "--log" && pair[1] == "json")
        || std::env::var_os("ROWCAST_LOG").is_some_and(|format| format == "json")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_example() {
        for command in Cli::command().get_subcommands().filter(|command| !command.has_subcommands()) {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Examples:\n  rowcast "), "{}: {help}", command.get_name());
        }
    }
}
