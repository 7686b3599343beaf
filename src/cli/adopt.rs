//! `rowcast adopt`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use rowcast_engine::{Error, Result};
use serde::Deserialize;
use tokio::net::UnixStream;

use super::client::Client;
use super::output;
use super::settings::Settings;
use crate::config;
use crate::failure::Failure;
use crate::wiring;

/// For a slot to come free (10 s), for a new one to be made (30 s), and for the disk.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast adopt --data /var/lib/rowcast
  rowcast adopt --source postgres://me@localhost/shop --data /var/lib/rowcast

For when the history of the source does not go on in the journal: the slot is gone, lost, made anew, moved, or
another installation's; the server was restored from a backup, promoted from before the journal's position, or is
another one. `rowcast status` then says that the source is waiting, and why; the doors go on serving.

Look first whether the address leads to the right server, and that no other rowcast reads the slot. Then this records
a gap with the reason, of which every reader is told, and changes are captured again. Numbers go on rising.

Does rowcast run on this data directory, it is told to go on, and no source need be named. Does it not run, this does
it alone; then start rowcast as always. Where nothing is broken, nothing is changed. With source.on_gap = \"continue\"
rowcast does the same by itself.")]
pub(crate) struct Adopt {
    #[command(flatten)]
    settings: Settings,
}

#[derive(Deserialize)]
struct Answer {
    adopted: Option<Adopted>,
}

#[derive(Deserialize)]
struct Adopted {
    gap: u64,
    reason: String,
    detail: String,
}

impl Adopt {
    pub(crate) fn execute(self) -> Result<ExitCode, Failure> {
        let mut config = self.settings.load()?;
        let socket = config::socket(&config.data);
        if let Some(answer) = wiring::block_on_one(ask_running(&socket))?? {
            tell(answer.adopted)?;
            return Ok(ExitCode::SUCCESS);
        }
        config.source.adopt = true;
        if !self.settings.names_data() && config.data == Path::new(config::DATA) {
            need_journal(&config.journal_dir())?;
        }
        config.need_source()?;
        let adopted = wiring::block_on(wiring::adopt(config))??;
        let told = |adopted: rowcast_engine::adoption::Adopted| Adopted {
            gap: adopted.gap,
            reason: adopted.reason,
            detail: adopted.detail,
        };
        tell(adopted.map(told))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// In a new journal there is nothing that could go on, and the slot would be taken from the one that has it: whoever has
/// lost his says so.
fn need_journal(dir: &Path) -> Result<()> {
    if dir.exists() {
        return Ok(());
    }
    Err(Error::usage(format!("There is no journal in {} that could go on", dir.display())).hint(
        "Name the data directory of the rowcast that waits: rowcast adopt --data DIR. Is that one lost, name it all the \
         same, or a new one",
    ))
}

/// Tells a rowcast that runs; `None` when none does.
async fn ask_running(socket: &Path) -> Result<Option<Answer>> {
    if UnixStream::connect(socket).await.is_err() {
        return Ok(None);
    }
    let client = Client::Socket(socket.to_owned());
    let answer = client.ask_within(PATIENCE, Method::POST, "/v1/source/adopt", "").await?;
    serde_json::from_slice(&answer)
        .map(Some)
        .map_err(|error| Error::failed("The answer cannot be read").because(error))
}

fn tell(adopted: Option<Adopted>) -> Result<()> {
    let text = match adopted {
        Some(Adopted { gap, reason, detail }) => {
            format!("Recorded gap {gap} ({reason}); changes are captured again.\n{detail}.\n")
        }
        None => "There is nothing to adopt: the history goes on.\n".to_owned(),
    };
    output::print(&text)
}
