//! `rowcast check`.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use rowcast_postgres::Requirement;

use super::output::{self, Output, Style, harmless};
use super::settings::Settings;
use crate::failure::{Failure, code};
use crate::wiring;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast check --source postgres://me@localhost/shop
  rowcast check --source postgres://me@localhost/shop --tables 'public.*' --json

Nothing is changed. Exit code 1 when something is missing.")]
pub(crate) struct Check {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

impl Check {
    pub(crate) fn execute(self) -> Result<ExitCode, Failure> {
        let config = self.settings.load()?;
        config.need_source()?;
        let found = wiring::block_on_one(rowcast_postgres::check(&config.source))??;
        if self.json {
            output::print_json(&found)?;
        } else {
            let mut output = Output::new();
            let text = table(&found, &Style::new(output.colours));
            output.text(&text)?;
        }
        let met = found.iter().all(|requirement| requirement.ok);
        Ok(if met { ExitCode::SUCCESS } else { ExitCode::from(code::FAILED) })
    }
}

fn table(found: &[Requirement], style: &Style) -> String {
    let width = found.iter().map(|requirement| requirement.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Requirement { name, ok, found, remedy } in found {
        let mark = match (ok, remedy) {
            (false, _) => style.paint(31, "✗"),
            (true, Some(_)) => style.paint(33, "!"),
            (true, None) => style.paint(32, "✓"),
        };
        let _ = writeln!(text, "{mark} {:width$}  {}", harmless(name), harmless(found));
        for line in remedy.iter().flat_map(|remedy| remedy.lines()) {
            let _ = writeln!(text, "  {:width$}  {}", "", style.paint(2, &format!("→ {}", harmless(line))));
        }
    }
    let missing = found.iter().filter(|requirement| !requirement.ok).count();
    let verdict = match missing {
        0 => style.paint(32, "Ready: rowcast run --source … will work"),
        1 => style.paint(31, "1 requirement is not met"),
        _ => style.paint(31, &format!("{missing} requirements are not met")),
    };
    let _ = writeln!(text, "\n{verdict}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_requirement_has_its_line_and_remedy() {
        let requirement = |name: &str, ok, remedy: Option<&str>| Requirement {
            name: name.into(),
            ok,
            found: "x\u{1b}".into(),
            remedy: remedy.map(Into::into),
        };
        let found = [
            requirement("wal_level", false, Some("ALTER SYSTEM …\nrestart")),
            requirement("slot", true, None),
            requirement("keep", true, Some("advice")),
        ];
        let expected = "\
✗ wal_level  x\u{fffd}
             → ALTER SYSTEM …
             → restart
✓ slot       x\u{fffd}
! keep       x\u{fffd}
             → advice

1 requirement is not met
";
        assert_eq!(table(&found, &Style::new(false)), expected);
        assert!(table(&found[1..], &Style::new(true)).contains("\u{1b}[32m✓\u{1b}[0m slot"));
    }
}
