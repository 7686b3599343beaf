//! `rowcast run`.

use std::process::ExitCode;

use clap::Args;

use super::settings::Settings;
use crate::failure::Failure;
use crate::wiring;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast run --source postgres://me@localhost/shop
  rowcast run --source postgres://me@localhost/shop --tables 'public.*' --data /var/lib/rowcast
  rowcast run --source postgres://me@localhost/shop --kafka localhost:9092 --topic-prefix shop
  rowcast run --config rowcast.toml --log json

The database needs wal_level = logical; the rest (schema rowcast, publications, replication slot) is prepared here.
Ctrl-C or SIGTERM ends it in order within ten seconds; the next start goes on where this one ended. SIGHUP makes it
compare at once what is captured with what is wanted; when it comes because the terminal is gone, it ends as well.")]
pub(crate) struct Run {
    /// Take over the replication slot although its history does not continue here; a gap is recorded
    #[arg(long, help_heading = "Source")]
    adopt: bool,
    #[command(flatten)]
    settings: Settings,
}

impl Run {
    pub(crate) fn execute(self) -> Result<ExitCode, Failure> {
        let mut config = self.settings.load()?;
        config.source.adopt = self.adopt;
        config.need_source()?;
        config.http.check_listen()?;
        wiring::block_on(wiring::run(config))?
    }
}
