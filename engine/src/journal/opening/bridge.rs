//! Opening a journal from whose end something was taken while it was written: a bridge stands for it, as `repair` lays one.

use std::path::Path;

use metrics::counter;

use crate::error::Result;
use crate::journal::StreamPosition;
use crate::journal::disk::Disk;
use crate::journal::opening::Found;
use crate::journal::reader::Gone;
use crate::journal::refusal::cannot_change;
use crate::journal::registry::Registry;
use crate::journal::repair::{Bridge, LostNumbers};
use crate::journal::segment::Segment;
use crate::journal::taken;
use crate::journal::writer::now;

const DETAIL: &str = "The segment that was being written was removed, cut or replaced while rowcast ran.";
const HINT: &str = "Every reader is told a gap, journal_damaged. If that was nobody's doing, the disk may be failing: see the \
                    kernel's log (dmesg)";

impl Found {
    /// Lays the bridge, durably, where something is missing; tells it.
    pub(super) fn bridge(&mut self, dir: &Path, disk: &dyn Disk, registry: &Registry) -> Result<()> {
        // What was taken may have been all that had it: clients have kept a table under that number.
        registry.note_given(taken::schemas(dir, disk)?);
        let newest = self.segments.last();
        let last = newest.map(|segment| segment.last());
        let end = last.map_or_else(|| taken::end_without_segments(dir, disk), Ok)?;
        let Some(Gone { from, to }) = taken::missing(dir, disk, end)? else { return Ok(()) };
        let time = newest.map_or(0, |segment| segment.time_max());
        let named = |number| self.segments.iter().any(|segment| segment.header.base == number);
        // What was cut may have left a file of this name, which holds the position.
        let number = if named(to) { to + 1 } else { to };
        let path = Segment::path_in(dir, number);
        let bridge = Bridge {
            lost: LostNumbers {
                from,
                to: number,
                open_end: false,
                bridge: path.clone(),
                detail: DETAIL.to_owned(),
            },
            previous_last: end,
            at: if time > 0 { time } else { now() },
            position: (!self.position.slot.is_empty())
                .then(|| StreamPosition { lsn: self.lsn(), ..self.position.clone() }),
            schemas: registry.highest(),
            installation: self.installation,
            history: None,
        };
        bridge
            .write(dir, disk)
            .map_err(|error| cannot_change("write the gap for what is missing at the end,", &path, error))?;
        tracing::error!(
            from,
            to,
            dir = %dir.display(),
            hint = HINT,
            "Events {from} to {to} are missing: the segment that was being written was removed, cut or replaced while rowcast ran"
        );
        counter!("rowcast_journal_missing_total").increment(1);
        self.take(&path, true, disk, registry)
    }
}
