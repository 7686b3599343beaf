//! What has become of the rows that were read, once the stream has passed their position.

use std::collections::HashMap;

use super::{Flaw, Whole};
use crate::snapshot::rows::Rows;
use crate::snapshot::told::{Print, Shape, Told, print};
use crate::snapshot::visible::Visible;

/// Rows that have been read: all that the snapshot saw, but those that the consumer had when the window was opened.
#[derive(Debug)]
pub(crate) struct ReadWhole<'a> {
    pub(crate) relation: u32,
    pub(crate) window: u64,
    /// What the snapshot saw.
    pub(crate) visible: &'a Visible,
    pub(crate) shape: Shape,
    /// What the consumer had, and what of that was met in the table.
    pub(crate) told: &'a Told,
    /// The latter, where memory holds it.
    pub(crate) left_out: Option<&'a Rows>,
    /// All that is done to the table is published: the consumer has no row that it has not.
    pub(crate) exact: bool,
}

/// What rows take that are to be told, or to be told no more, beside those that were read. A row is noted once, however many
/// there are of it: beyond this the table is read again, of which the next snapshot sees it.
const SETTLED_MAX: u64 = 64 << 20;

/// What one takes beside its bytes.
const ROW_BYTES: u64 = 24;

/// A row of which fewer are to be told than were read.
#[derive(Debug)]
struct Fewer {
    by: u64,
    row: Option<Box<[u8]>>,
}

/// What is to be done to the rows that were read.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// None of them is left, and the consumer has all that came behind.
    pub(crate) emptied: bool,
    /// What was left out since the consumer had it he has no more.
    cleared: bool,
    more: Vec<(Box<[u8]>, u64)>,
    fewer: HashMap<Print, Fewer>,
}

/// Rows as they are to be told.
#[derive(Debug)]
pub(crate) struct Current<'a> {
    /// Of those that were read.
    pub(crate) kept: Vec<&'a [u8]>,
    /// Others of those, which are to be told no more.
    pub(crate) gone: Vec<Box<[u8]>>,
    /// More of them.
    pub(crate) added: Vec<Box<[u8]>>,
    /// Rows that are to be told no more, and were never read: the consumer has more than the table.
    pub(crate) excess: u64,
}

impl Whole {
    pub(crate) fn settle(&mut self, read: &ReadWhole<'_>) -> Result<Changes, Flaw> {
        self.soundness()?;
        let window = self.window.as_ref().filter(|open| open.number == read.window).ok_or(Flaw::Changed)?;
        window.flaw.map_or(Ok(()), Err)?;
        if self.shape.as_ref().is_some_and(|shape| !shape.is_like(&read.shape)) {
            return Err(Flaw::Changed);
        }
        if !self.unlisted.are_in(&read.shape) {
            return Err(Flaw::Shapes);
        }
        if window.emptied {
            return Ok(Changes { emptied: true, ..Changes::default() });
        }
        // What was left out is to be told, too, and nobody knows what it was.
        if window.cleared && read.told.has_met() && read.left_out.is_none() {
            return Err(Flaw::Changed);
        }
        let mut changes = Changes { cleared: window.cleared, ..Changes::default() };
        let mut excess = if window.cleared { 0 } else { read.told.unmet() };
        let mut bytes: u64 = 0;
        let mut take = |row: &[u8], by: i64| {
            bytes = bytes.saturating_add((ROW_BYTES + row.len() as u64).saturating_mul(by.unsigned_abs()));
        };
        for (row, since) in &mut self.since {
            let (has, met) = if window.cleared { (0, 0) } else { read.told.standing(*row) };
            excess = excess.saturating_sub(u64::from(has - met));
            // Read were those that the snapshot saw without those that he had and that were met.
            let by = since.unseen + i64::from(met) - since.left_of(has.into());
            match (by, since.row.take()) {
                (0, _) => {}
                // He had more than the table, and what was read has none of them.
                (..0, _) if met < has => excess += by.unsigned_abs(),
                (..0, row_bytes) => {
                    row_bytes.iter().for_each(|row| take(row, by));
                    changes.fewer.insert(*row, Fewer { by: by.unsigned_abs(), row: row_bytes });
                }
                (_, Some(row)) => {
                    take(&row, by);
                    changes.more.push((row, by.unsigned_abs()));
                }
                // It has been told by no event that the snapshot sees, nor taken away by one.
                (_, None) => return Err(Flaw::Changed),
            }
        }
        if bytes > SETTLED_MAX {
            return Err(Flaw::Changed);
        }
        if read.exact && excess > 0 { Err(Flaw::Excess) } else { Ok(changes) }
    }
}

impl Changes {
    /// Makes them to rows, which are all that were read, or the last of them, and those that were left out.
    pub(crate) fn apply<'a>(mut self, rows: &'a Rows, left_out: Option<&'a Rows>) -> Current<'a> {
        let is_all = self.fewer.is_empty();
        let mut is_kept = |row: &&[u8]| match (!is_all).then(|| self.fewer.get_mut(&print(row))).flatten() {
            Some(fewer) if fewer.by > 0 => {
                fewer.by -= 1;
                false
            }
            _ => true,
        };
        let left_out = left_out.filter(|_| self.cleared).into_iter().flat_map(Rows::iter);
        let all = rows.iter().chain(left_out).filter(|_| !self.emptied);
        let kept = all.filter(&mut is_kept).collect();
        let (mut gone, mut added, mut excess) = (Vec::new(), Vec::new(), 0);
        for Fewer { by, row } in self.fewer.into_values() {
            let times = usize::try_from(by).unwrap_or(usize::MAX);
            match row {
                Some(row) => gone.extend(std::iter::repeat_n(row, times)),
                None => excess += by,
            }
        }
        for (row, by) in self.more {
            added.extend(std::iter::repeat_n(row, usize::try_from(by).unwrap_or(usize::MAX)));
        }
        Current { kept, gone, added, excess }
    }
}
