//! `rowcast publish`.

use std::io::Read;
use std::process::ExitCode;

use clap::Args;
use hyper::Method;
use rowcast_engine::{Error, Result};
use serde::Deserialize;

use super::client::{Target, encoded};
use super::output;
use crate::failure::Failure;
use crate::wiring;

/// Bytes of standard input that are read: more than rowcast takes.
const INPUT_MAX: u64 = 2 << 20;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast publish orders.shipped '{\"id\": 7}'
  echo '{\"id\": 7}' | rowcast publish orders.shipped -

Prints the event's number once the event is durable. In a transaction of the database, and in commit order with its
row changes: select rowcast.publish('orders.shipped', '{\"id\": 7}')")]
pub(crate) struct Publish {
    /// The channel: letters, digits, _ and -, in parts with a dot between; not that of a captured table, nor rowcast.…
    channel: String,
    /// The payload, any JSON value; - reads it from standard input
    #[arg(value_name = "JSON", allow_hyphen_values = true)]
    payload: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Deserialize)]
struct Answer {
    id: u64,
}

impl Publish {
    pub(crate) fn execute(self) -> Result<ExitCode, Failure> {
        let payload = if self.payload == "-" { read_input()? } else { self.payload };
        let client = self.target.client()?;
        let path = format!("/v1/channels/{}/events", encoded(&self.channel));
        let answer = wiring::block_on_one(client.ask(Method::POST, &path, payload))??;
        let answer: Answer = serde_json::from_slice(&answer)
            .map_err(|error| Error::failed("The answer cannot be read").because(error))?;
        output::print(&format!("{}\n", answer.id))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn read_input() -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .take(INPUT_MAX)
        .read_to_string(&mut text)
        .map_err(|error| Error::failed("Cannot read standard input").because(error))?;
    Ok(text)
}
