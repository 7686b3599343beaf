//! Mending a broken journal: what is broken is cut off and kept beside it, what is sound stays with its numbers, and
//! a *bridge* stands where numbers are lost.
//!
//! ```text
//! before   100.seg 100..149    150.seg 150..199, broken in 170        200.seg 200.. (previous last 199)
//! after    100.seg 100..149    150.seg 150..169    199.seg the bridge: one gap, number 199, lost from 170    200.seg
//!                              150.seg.cut-4711    what was cut off
//! ```
//! The bridge has the last of the lost numbers, so nobody else's number changes: a client that stands below it is told
//! the gap, one that stands at it goes on. A compressed segment is cut by a plain one with what is sound of it, which
//! takes its name; the file itself is what is kept. Behind a break in the newest segment it has a number that was never given.
//!
//! The order of writing lets a crash at any moment leave a directory that repair mends again, and that opening refuses
//! until then: copies of what is cut off, synced; the bridge, renamed into place; the index of the broken segment goes; only
//! then the cut. A break whose bridge stands already is just cut.

mod mend;
mod survey;

pub(super) use mend::Bridge;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::journal::disk::Disk;
use crate::journal::installation;
use crate::journal::lock::Lock;
use crate::journal::lost_end::LostEnd;
use crate::journal::opening::segment_paths;
use crate::journal::refusal::cannot_use;
use crate::journal::removed;

/// The reason in the gap that a bridge holds.
pub(crate) const REASON: &str = "journal_damaged";

/// What was broken, and what became of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RepairReport {
    /// Nothing was written; this is what would be.
    pub dry_run: bool,
    /// The file `installation` was missing and is written again.
    pub installation_restored: bool,
    /// Bytes that were cut off.
    pub cuts: Vec<Cut>,
    /// Numbers that are lost.
    pub gaps: Vec<LostNumbers>,
}

impl RepairReport {
    /// There was nothing to repair.
    pub fn is_sound(&self) -> bool {
        !self.installation_restored && self.cuts.is_empty() && self.gaps.is_empty()
    }
}

/// What was cut off a segment file.
#[derive(Clone, Debug, Serialize)]
pub struct Cut {
    /// The segment file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: String,
    /// Where the damage is, in bytes.
    pub damaged_at: u64,
    /// From here on it was cut off; 0: the whole file is set aside. Of a compressed segment, as of its plain form.
    pub cut_at: u64,
    /// Bytes cut off; of a compressed segment, as of its plain form.
    pub bytes: u64,
    /// Events in batches behind the damage whose checksums are right: a person may get them back.
    pub sound_events: u64,
    /// Where the bytes are kept; of a compressed segment, the whole file.
    pub saved: PathBuf,
}

/// A range of numbers that is lost, and the gap that stands for it.
#[derive(Clone, Debug, Serialize)]
pub struct LostNumbers {
    /// The first one.
    pub from: u64,
    /// The last one: the number of the gap.
    pub to: u64,
    /// The range goes on to a number that was never given, since how many were is not known.
    pub open_end: bool,
    /// The segment that holds the gap.
    pub bridge: PathBuf,
    /// What readers are told.
    pub detail: String,
}

/// Mends the journal in `dir`, which no process may have open; with `dry_run` only tells what it would do, and writes
/// nothing, so that the file system may be one that can only be read. Numbers up to `seen` are not given to anything new.
///
/// # Errors
///
/// `Kind::Journal`: another process has it open, a file cannot be read or written, or the damage is one that only a
/// person can judge (files of another installation or version, two files with the same numbers).
pub fn repair(dir: &Path, disk: &dyn Disk, seen: u64, dry_run: bool) -> Result<RepairReport> {
    if !dir.is_dir() {
        return Err(nothing_there(dir));
    }
    if installation::stored(dir, disk).is_ok_and(|found| found.is_none())
        && segment_paths(dir, disk)?.is_empty()
    {
        return Err(nothing_there(dir));
    }
    // Where an index speaks of them, there is something to mend.
    if LostEnd::of(dir, disk)?.is_none() {
        removed::are_all_missing(dir, disk)?;
    }
    let _lock = if dry_run { Lock::to_look(dir)? } else { Lock::of(dir)? };
    let mut found = survey::survey(dir, disk, seen)?;
    let before = removed::before_oldest(dir, disk)?;
    let was_missing = before.map_or(Ok(None), |before| removed::missing(dir, disk, before))?.is_some();
    if !dry_run {
        if let Some(uuid) = found.restore_installation {
            installation::store(dir, disk, uuid)?;
        }
        found.mends.iter_mut().try_for_each(|mend| mend.carry_out(dir, disk))?;
        // What a bridge at the beginning says of the number before it is a guess, and no loss.
        let mended = !found.mends.is_empty() && !was_missing;
        if let Some(before) = removed::before_oldest(dir, disk)?.filter(|_| mended) {
            removed::note(dir, disk, before).map_err(|error| cannot_use(dir, error))?;
        }
    }
    let mut report = RepairReport {
        dry_run,
        installation_restored: found.restore_installation.is_some(),
        ..RepairReport::default()
    };
    for mend in found.mends {
        report.cuts.extend(mend.cuts);
        report.gaps.extend(mend.bridge.map(|bridge| bridge.lost));
    }
    Ok(report)
}

fn nothing_there(dir: &Path) -> Error {
    Error::journal(format!("There is no journal in {}", dir.display()))
        .hint("Name the data directory of rowcast (--data DIR).")
}
