//! `rowcast adopt`.

use std::process::ExitCode;

use clap::Args;

use super::settings::Settings;
use crate::failure::Failure;
use crate::wiring;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast adopt --source postgres://me@localhost/shop --data /var/lib/rowcast

For when rowcast refuses to start because the slot belongs to another installation, or because its history is not
the one in the journal (a restored backup, a slot made anew). What is lost in between is recorded as a gap, which
every reader is told. Then start rowcast as always.")]
pub(crate) struct Adopt {
    #[command(flatten)]
    settings: Settings,
}

impl Adopt {
    pub(crate) fn execute(self) -> Result<ExitCode, Failure> {
        let mut config = self.settings.load()?;
        config.source.adopt = true;
        config.need_source()?;
        wiring::block_on(wiring::adopt(config))?
    }
}
