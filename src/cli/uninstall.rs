//! `rowcast uninstall`.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use rowcast_postgres::Removal;

use super::output::{self, harmless};
use super::settings::Settings;
use crate::failure::{Failure, code};
use crate::wiring;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast uninstall --source postgres://me@localhost/shop
  rowcast uninstall --source postgres://me@localhost/shop --yes
  rowcast uninstall --config rowcast.toml --yes

Removes what rowcast made in the database: replication slot, publications, event triggers, schema rowcast. Without
--yes it only says what it would remove. What somebody else made stays, and what another rowcast on the database still
uses; it refuses while rowcast runs on the slot. Exit code 1 when something could not be removed, or is left to you. The data directory with
the journal is not touched.")]
pub(crate) struct Uninstall {
    /// Remove it
    #[arg(long)]
    yes: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

impl Uninstall {
    pub(crate) fn execute(self) -> Result<ExitCode, Failure> {
        let config = self.settings.load()?;
        config.need_source()?;
        let removals = wiring::block_on_one(rowcast_postgres::uninstall(&config.source, self.yes))??;
        if self.json {
            output::print_json(&removals)?;
        } else {
            output::print(&told(&removals, self.yes))?;
        }
        let failed = removals.iter().any(|removal| removal.failed.is_some());
        Ok(if failed { ExitCode::from(code::FAILED) } else { ExitCode::SUCCESS })
    }
}

fn told(removals: &[Removal], done: bool) -> String {
    let mut text = String::new();
    let verb = if done { "removed" } else { "to remove" };
    for Removal { name, sql, stays, failed } in removals {
        let name = harmless(name);
        if let Some(why) = failed {
            let _ = writeln!(text, "still there: {name}, {}", harmless(why));
            continue;
        }
        let _ = match (sql, stays) {
            (Some(sql), _) if !done => writeln!(text, "{verb}: {name}\n  {}", harmless(sql)),
            (Some(_), _) => writeln!(text, "{verb}: {name}"),
            (None, why) => writeln!(text, "stays: {name}, {}", harmless(why.as_deref().unwrap_or_default())),
        };
    }
    let goes = removals.iter().any(|removal| removal.sql.is_some());
    let failed = removals.iter().any(|removal| removal.failed.is_some());
    let _ = match (goes, done) {
        (false, _) if failed => writeln!(text, "\nNothing of it can be removed as it is."),
        (true, true) if failed => {
            writeln!(text, "\nNot all of it could be removed: see to that, and call this once more.")
        }
        (false, _) => writeln!(text, "Nothing here is of rowcast's making."),
        (true, false) => writeln!(text, "\nNothing has been removed yet: add --yes."),
        (true, true) => Ok(()),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_and_what_stays() {
        let removal = |name: &str, sql: Option<&str>, stays: Option<&str>| Removal {
            name: name.to_owned(),
            sql: sql.map(str::to_owned),
            stays: stays.map(str::to_owned),
            failed: None,
        };
        let all = [
            removal("publication p", Some("DROP PUBLICATION p;"), None),
            removal("schema rowcast", None, Some("another rowcast uses it")),
        ];
        let asked = told(&all, false);
        assert!(
            asked.starts_with(
                "to remove: publication p\n  DROP PUBLICATION p;\nstays: schema rowcast, another"
            )
        );
        assert!(asked.ends_with("add --yes.\n"));
        assert_eq!(
            told(&all, true),
            "removed: publication p\nstays: schema rowcast, another rowcast uses it\n"
        );
        let failed = Removal { failed: Some("it is in use".to_owned()), ..all[0].clone() };
        let told_failed = told(std::slice::from_ref(&failed), true);
        assert!(
            told_failed.starts_with("still there: publication p, it is in use\n\nNot all"),
            "{told_failed}"
        );
        assert!(told(&all[1..], true).ends_with("Nothing here is of rowcast's making.\n"));
        let left = Removal { sql: None, ..failed };
        let told_left = told(&[left], false);
        assert!(
            !told_left.contains("of rowcast's making") && told_left.contains("still there: "),
            "{told_left}"
        );
    }
}
