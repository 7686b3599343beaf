//! `rowcast journal repair`.

use std::fmt::Write;

use clap::Args;
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{Cut, LostNumbers, RepairReport, repair};
use rowcast_engine::{Result, cursor};

use super::{journal_dir, plural};
use crate::cli::output;
use crate::cli::settings::Base;
use crate::config::units::approximate_size;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast journal repair --data /var/lib/rowcast --dry-run
  rowcast journal repair --data /var/lib/rowcast

For when rowcast refuses to start because the journal is damaged, and there is no copy to restore it from. What is
sound stays, with its numbers. What is cut off is kept in the journal's directory, in files named *.seg.cut-*. Each
reader that lacks something is told a gap with the reason journal_damaged. rowcast must not run meanwhile.")]
pub(super) struct Repair {
    /// Only tell what would be done; nothing is written, so the file system may be read-only
    #[arg(long)]
    dry_run: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    base: Base,
}

impl Repair {
    pub(super) fn base(&self) -> &Base {
        &self.base
    }

    pub(super) fn execute(self) -> Result<()> {
        let dir = journal_dir(&self.base)?;
        let seen = cursor::highest(&self.base.load()?.cursors())?;
        let report = repair(&dir, &RealDisk, seen, self.dry_run)?;
        if self.json {
            return output::print_json(&report);
        }
        output::print(&describe(&report))
    }
}

fn describe(report: &RepairReport) -> String {
    if report.is_sound() {
        return "There is nothing to repair\n".to_owned();
    }
    let mut text = String::new();
    if report.installation_restored {
        line(&mut text, "The file installation was missing: written again from the segments");
    }
    for cut in &report.cuts {
        line(&mut text, &describe_cut(cut));
    }
    for gap in &report.gaps {
        line(&mut text, &describe_gap(gap));
    }
    if report.gaps.iter().any(|gap| gap.open_end) {
        line(
            &mut text,
            "The newest events are lost. Postgres sends again what was not confirmed to it; if rowcast refuses to go on \
             because more is lost, `rowcast adopt` takes the slot over",
        );
    }
    if report.dry_run {
        line(&mut text, "Nothing was written; leave --dry-run out to do it");
    }
    text
}

fn describe_cut(cut: &Cut) -> String {
    let (file, saved) = (cut.file.display(), cut.saved.display());
    let Cut { damaged_at, reason, .. } = cut;
    if cut.bytes == 0 {
        return format!(
            "{file} is damaged at offset {damaged_at}, {reason}: no event is lost, what it holds takes its place \
             uncompressed, and the file is kept in {saved}"
        );
    }
    let what = match cut.cut_at {
        0 => format!("it is set aside, {}", approximate_size(cut.bytes)),
        at => format!("cut at {at}, {} cut off", approximate_size(cut.bytes)),
    };
    let events = plural(cut.sound_events, "event", "events");
    format!(
        "{file} is damaged at offset {damaged_at}, {reason}: {what} and kept in {saved}, with {events} that can still be read"
    )
}

fn describe_gap(gap: &LostNumbers) -> String {
    let LostNumbers { from, to, open_end, bridge, .. } = gap;
    let (how_many, bridge) = (to - from + 1, bridge.display());
    if *open_end {
        return format!(
            "All events from number {from} on are lost; readers are told a gap up to {to} ({bridge})"
        );
    }
    let numbers = plural(how_many, "number is", "numbers are");
    format!("{numbers} lost, {from} to {to}; readers are told a gap ({bridge})")
}

fn line(text: &mut String, words: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{words}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_in_words() {
        let mut report = RepairReport::default();
        assert_eq!(describe(&report), "There is nothing to repair\n");
        report.cuts.push(Cut {
            file: "7.seg".into(),
            reason: "the batch's checksum is wrong".to_owned(),
            damaged_at: 900,
            cut_at: 700,
            bytes: 3 << 20,
            sound_events: 1,
            saved: "7.seg.cut-700".into(),
        });
        let whole = Cut { bytes: 0, cut_at: 4000, ..report.cuts[0].clone() };
        assert!(describe_cut(&whole).contains("no event is lost"), "{}", describe_cut(&whole));
        let detail = String::new();
        report.gaps.push(LostNumbers { from: 9, to: 12, open_end: false, bridge: "12.seg".into(), detail });
        assert_eq!(
            describe(&report),
            "7.seg is damaged at offset 900, the batch's checksum is wrong: cut at 700, 3.0 MB cut off and kept in \
             7.seg.cut-700, with 1 event that can still be read\n\
             4 numbers are lost, 9 to 12; readers are told a gap (12.seg)\n"
        );
        (report.dry_run, report.gaps[0].open_end) = (true, true);
        let text = describe(&report);
        assert!(
            text.contains("All events from number 9 on are lost") && text.contains("rowcast adopt"),
            "{text}"
        );
        assert!(text.ends_with("leave --dry-run out to do it\n"), "{text}");
    }
}
