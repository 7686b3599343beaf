//! `rowcast config`.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::output;
use super::settings::Settings;
use crate::config;
use crate::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct ConfigCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Say what is wrong with the configuration; exit code 2 when something is
    #[command(after_help = "\
Examples:
  rowcast config check --config rowcast.toml
  rowcast config check --source postgres://localhost/shop --set journal.retention=3d")]
    Check(Settings),
    /// Show every value that counts and where it comes from; secrets stay hidden
    #[command(after_help = "\
Examples:
  rowcast config show
  rowcast config show --config rowcast.toml --set http.listen=127.0.0.1:8081")]
    Show(Settings),
}

impl ConfigCommand {
    pub(crate) fn execute(self) -> Result<ExitCode, Failure> {
        match self.action {
            Action::Check(settings) => {
                let config = settings.load()?;
                config.need_source()?;
                config.http.check_listen()?;
                output::print("The configuration is sound\n")?;
            }
            Action::Show(settings) => output::print(&config::show(&settings.load()?)?)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
