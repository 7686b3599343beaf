//! `rowcast completions`.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, output};
use crate::failure::Failure;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast completions bash > ~/.local/share/bash-completion/completions/rowcast
  rowcast completions fish > ~/.config/fish/completions/rowcast.fish")]
pub(crate) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn execute(self) -> Result<ExitCode, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "rowcast", &mut script);
        output::print(&String::from_utf8_lossy(&script))?;
        Ok(ExitCode::SUCCESS)
    }
}
