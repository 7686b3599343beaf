//! `rowcast journal backup`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use rowcast_engine::journal::{BackupReport, backup, empty_dir};
use rowcast_engine::{Error, Result};

use super::{held, journal_dir, plural};
use crate::cli::output;
use crate::cli::settings::Base;
use crate::config::units::approximate_size;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast journal backup /backup/rowcast-2026-11-21 --data /var/lib/rowcast

The copy is a data directory: to restore, start rowcast with --data on it, or put it in the place of the lost one.
Numbers that were given after the backup are never given again, and who has them is told a gap. What Postgres has been
told to forget since is not in the backup: rowcast says so and waits, and `rowcast adopt` goes on behind a gap.")]
pub(super) struct Backup {
    /// A new directory
    #[arg(value_name = "DEST")]
    dest: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    base: Base,
}

impl Backup {
    pub(super) fn base(&self) -> &Base {
        &self.base
    }

    pub(super) fn execute(self) -> Result<()> {
        let dir = journal_dir(&self.base)?;
        empty_dir(&self.dest)?;
        // Positions first: a sink must not be further than the journal it goes on from.
        copy_positions(&self.base.load()?.cursors(), &self.dest.join("cursors"))?;
        let report = backup(&dir, &self.dest.join("journal")).inspect_err(|_| {
            // Else it could not be done again. All of it was made here; what else there may be stays.
            let _ = fs::remove_dir(self.dest.join("journal"));
            let _ = fs::remove_dir_all(self.dest.join("cursors"));
        })?;
        if self.json {
            return output::print_json(&report);
        }
        output::print(&describe(&report))
    }
}

fn describe(report: &BackupReport) -> String {
    let copied = &report.copied;
    let (segments, size) = (plural(copied.segments, "segment", "segments"), approximate_size(copied.bytes));
    format!("Copied to {}: {}, in {segments} of {size}\n", report.dir.display(), held(copied))
}

/// The positions of sinks: small files, each renamed into place.
fn copy_positions(from: &Path, to: &Path) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::failed(format!("Cannot copy {} to {}", from.display(), to.display())).because(error)
    };
    let entries = match fs::read_dir(from) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    empty_dir(to)?;
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let copy = to.join(path.file_name().unwrap_or_default());
            fs::copy(&path, &copy).map_err(failed)?;
            fs::File::open(&copy).and_then(|file| file.sync_all()).map_err(failed)?;
        }
    }
    fs::File::open(to).and_then(|dir| dir.sync_all()).map_err(failed)
}
