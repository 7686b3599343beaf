//! Rowcast: the row changes of a Postgres database as numbered, durable, replayable events over SSE, WebSocket and
//! Kafka. This is the program: arguments, configuration and wiring. `wiring.rs` is the floor plan.

mod cli;
mod config;
mod demo;
mod failure;
mod logging;
mod wiring;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::logging::Format;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => return cli::refuse(&refused),
    };
    let (format, level) = (cli.log, cli.log_level().to_owned());
    if let Err(error) = logging::start(format, &level) {
        return failure::Failure::from(error).report(Format::Text);
    }
    match cli.command.execute() {
        Ok(code) => code,
        Err(failure) => failure.report(format),
    }
}
