//! Finding a place in a journal that another process may be writing. The index of a segment says where in it; only of
//! one that has none, as the one being written, more is read.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::event::{Event, Micros};
use crate::journal::check::{Opened, Walk, segments};
use crate::journal::disk::Disk;
use crate::journal::registry::Registry;
use crate::journal::segment::Segment;

/// Where reading a journal begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the oldest event.
    Earliest,
    /// With this number, or the next one.
    Number(u64),
    /// With the first event that is not earlier.
    Time(Micros),
}

impl Start {
    /// Which segment has the place, or comes before it.
    pub(super) fn segment_of(self, paths: &[PathBuf], disk: &dyn Disk) -> usize {
        match self {
            Self::Earliest => 0,
            Self::Number(number) => {
                let starts_after = |path: &PathBuf| first_number(path).is_none_or(|first| first > number);
                paths.partition_point(|path| !starts_after(path)).saturating_sub(1)
            }
            Self::Time(time) => paths.partition_point(|path| {
                // Where it is not known it may be there, or before.
                let index = index(path, disk);
                index.is_some_and(|segment| segment.time_max() < time)
            }),
        }
    }

    /// Where to start reading in that segment.
    pub(super) fn offset_in(self, segment: &Segment) -> u64 {
        match self {
            Self::Earliest => segment.offset_where(|_| false),
            Self::Number(number) => {
                let relative = number.saturating_sub(segment.header.base);
                segment.offset_where(|entry| entry.first <= relative)
            }
            Self::Time(time) => segment.offset_where(|entry| entry.time_before < time),
        }
    }

    pub(super) fn is_reached(self, event: &Event<'_>) -> bool {
        match self {
            Self::Earliest => true,
            Self::Number(number) => event.id >= number,
            Self::Time(time) => event.at >= time,
        }
    }
}

/// What the index of a segment says of it, where there is one.
fn index(path: &Path, disk: &dyn Disk) -> Option<Segment> {
    match Walk::open(path, false, disk) {
        Ok(Opened::Segment(walk)) => walk.index(disk, &Registry::default()),
        _ => None,
    }
}

/// The number in a segment's name: of its first event.
fn first_number(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok()
}

/// The number of the first of the newest `count` events; `None` when there is none. Each segment says where the one
/// before it ends, so that no more than headers are read, and the newest one.
pub fn first_of_last(dir: &Path, disk: &dyn Disk, count: u64) -> Result<Option<u64>> {
    let paths = segments(dir, disk)?;
    let (mut left, mut first, mut last) = (count, None, None);
    for (at, path) in paths.iter().enumerate().rev() {
        if left == 0 {
            break;
        }
        let mut walk = match Walk::open(path, at + 1 == paths.len(), disk)? {
            Opened::Segment(walk) => walk,
            Opened::NeverBegun => continue,
            // With all that were older.
            Opened::Removed => break,
        };
        let ends = match last {
            Some(ends) => ends,
            None => walk.end(disk)?,
        };
        let (base, previous) = (walk.header.base, walk.header.previous_last);
        last = Some(previous);
        let taken = (ends + 1).saturating_sub(base).min(left);
        if taken > 0 {
            first = Some(ends + 1 - taken);
        }
        left -= taken;
    }
    Ok(first)
}
