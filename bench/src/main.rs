//! Measurements beside a peer, in the same run on the same machine.
//!
//! Each is self-contained: it starts its own throw-away Postgres and the real `rowcast` program, and removes both.
//! Standard output is the table, standard error the progress.

mod backlog;
mod capture;
mod http;
mod huge;
mod latency;
mod pgbench;
mod process;
mod program;
mod server;
mod snapshot;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rowcast_engine::{Error, Result};

/// Side-by-side measurements of rowcast.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The program under test; next to this one where not given.
    #[arg(long, global = true, value_name = "FILE")]
    rowcast: Option<PathBuf>,
    /// Where Postgres and rowcast keep their data; its disk is part of what is measured.
    #[arg(long, global = true, value_name = "DIR", default_value = "/tmp")]
    dir: PathBuf,
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Subcommand)]
enum Measurement {
    /// Rows per second from a backlog into the durable journal, beside pg_recvlogical to nowhere.
    Capture(capture::Options),
    /// One huge transaction, sent when it has committed or before, and small ones beside it.
    Huge(huge::Options),
    /// From insert to SSE client, with everything durable.
    Latency(latency::Options),
    /// Transactions per second of pgbench while rowcast reads, and while pg_recvlogical does.
    Pgbench(pgbench::Options),
    /// Rows per second of a snapshot beside changes, and of COPY.
    Snapshot(snapshot::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let measured = tokio::select! {
        measured = measure(arguments) => measured,
        _ = tokio::signal::ctrl_c() => Err(Error::failed("Interrupted")),
    };
    match measured {
        Ok(table) => {
            println!("{table}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            if let Some(hint) = error.remedy() {
                eprintln!("{hint}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: Arguments) -> Result<String> {
    let place = || server::Place::new(&arguments.dir);
    let rowcast = program::find(arguments.rowcast)?;
    match arguments.measurement {
        Measurement::Capture(options) => capture::measure(&arguments.dir, &rowcast, &options).await,
        Measurement::Huge(options) => huge::measure(&place()?, &rowcast, &options).await,
        Measurement::Latency(options) => latency::measure(&place()?, &rowcast, &options).await,
        Measurement::Pgbench(options) => pgbench::measure(&place()?, &rowcast, &options).await,
        Measurement::Snapshot(options) => snapshot::measure(&place()?, &rowcast, &options).await,
    }
}
