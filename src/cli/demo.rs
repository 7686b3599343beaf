//! `rowcast demo`.

use std::process::ExitCode;

use clap::Args;

use crate::demo;
use crate::failure::Failure;
use crate::wiring;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast demo
  rowcast demo --rate 200
  rowcast demo --kafka localhost:9092 --topic-prefix demo

Starts a Postgres of its own in a temporary directory, with a small shop under load, and serves its changes. Nothing
stays behind when it ends. Needs the programs of a Postgres installation (initdb, postgres), not a running server.")]
pub(crate) struct Demo {
    /// Transactions a second
    #[arg(long, default_value_t = 20, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,
    /// Where clients connect [default: 127.0.0.1:8080, or the next free port]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Deliver into Kafka, too
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// First part of the names of Kafka topics [default: demo]
    #[arg(long, value_name = "NAME", requires = "kafka")]
    topic_prefix: Option<String>,
}

impl Demo {
    pub(crate) fn execute(self) -> Result<ExitCode, Failure> {
        let Self { rate, listen, kafka, topic_prefix } = self;
        wiring::block_on(demo::run(demo::Options { rate, listen, kafka, topic_prefix }))?
    }
}
