//! Opening one segment that no index speaks for: every batch of it is read.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::journal::compressed::open_segment;
use crate::journal::disk::{Disk, DiskFile};
use crate::journal::ending::Ending;
use crate::journal::notes::{self, Notes};
use crate::journal::opening::highest_schema;
use crate::journal::refusal::{broken_middle, cannot_change, cannot_read};
use crate::journal::registry::Registry;
use crate::journal::scan::{Broken, CHUNK_BYTES, ScanError, Scanner};
use crate::journal::segment::{SEGMENT_HEADER, Segment};
use crate::journal::sidecar::{self, Leftover};
use crate::journal::writer::now;
use crate::record::{Aside, Header, asides, last_end};

/// Where the disk of an original has lost what was synced and the file system has made the file anew, the same is seen: so it
/// is loud.
const CUT_COPY: &str = "Cut what a copy of the journal, made while that was written, has in part: what follows it is of a \
                        later moment than the rest. If this is no copy, its disk has lost what was written: restore it from a backup";

const UNREAD: &str =
    "A segment describes tables in a way that cannot be read: their rows in it are unreadable";
const NAMED: &str = "`rowcast journal check` names the first of them; they go with the segment, by retention";

/// Reads a whole segment, checking every batch; cuts the newest one where it is torn. `notes`: those before it.
pub(super) fn scan(
    segment: &Segment,
    newest: bool,
    disk: &dyn Disk,
    registry: &Registry,
    notes: Notes,
) -> Result<Leftover> {
    let path = segment.path.display();
    let unreadable = |error| cannot_read(&segment.path, error);
    let file = open_segment(disk, &segment.path).map_err(unreadable)?;
    let length = file.length().map_err(unreadable)?;
    let mut scanner = Scanner::new(Arc::clone(&file), SEGMENT_HEADER as u64, length);
    let mut left = Leftover { notes, ..Leftover::default() };
    let before = (segment.time_max(), segment.lsn_max());
    // The batches of a transaction count only once its last one is there.
    let mut pending = Vec::new();
    let mut good_end = SEGMENT_HEADER as u64;
    // From here on nothing says that it is synced.
    let mut doubtful = 0;
    let stopped = loop {
        match scanner.next() {
            Ok(Some((offset, header, bytes))) => {
                if !header.early && offset > SEGMENT_HEADER as u64 {
                    doubtful = offset;
                }
                if may_have_all_notes(segment, offset) && has_position(&bytes, &header) {
                    left.notes.clear();
                }
                note_asides(&bytes, &header, registry, &mut left);
                pending.push((header, last_end(&bytes, &header)));
                // A batch without events ends no transaction.
                let whole = !header.more && (header.events > 0 || pending.len() == 1);
                if whole {
                    good_end = offset + u64::from(header.length);
                    // Not the header's: a position can stand beside what is of no transaction.
                    for (header, end) in pending.drain(..) {
                        left.last_tx_end = left.last_tx_end.max(end);
                        segment.grow(&header);
                    }
                }
            }
            Ok(None) => break None,
            Err(ScanError::Io(error)) => return Err(unreadable(error)),
            Err(ScanError::Broken(broken)) => break Some(broken),
        }
    };
    let ending = Ending::of(disk, &segment.path, (&segment.header, &*file), newest).map_err(unreadable)?;
    let zeros = ending.may_have_zeros(good_end);
    let data_end = if zeros { scanner.end_of_data().map_err(unreadable)? } else { length };
    let stopped = stopped.filter(|broken| broken.offset < data_end);
    let unfinished = || Broken { offset: good_end, reason: "its last transaction is not whole" };
    let torn = stopped.or_else(|| (good_end < data_end).then(unfinished));
    if let Some(broken) = torn {
        let middle = |error| io_of(error, &segment.path);
        if !ending.may_be_torn(good_end) || scanner.is_in_the_middle(ending.copied).map_err(middle)? {
            return Err(broken_middle(&segment.path, &broken));
        }
        let (reason, bytes) = (broken.reason, data_end - good_end);
        if ending.copied && scanner.is_in_the_middle(false).map_err(middle)? {
            tracing::error!(%path, offset = good_end, bytes, reason, "{CUT_COPY}");
        } else {
            tracing::warn!(%path, offset = good_end, bytes, reason, "Cut the torn end of the journal");
        }
    }
    if good_end < length {
        let failed = |error| cannot_change("cut the torn end of", &segment.path, error);
        file.truncate(good_end).map_err(failed)?;
    }
    if newest {
        // What a killed process had written may be in memory alone; it is shown and confirmed from now on.
        write_again(&*file, doubtful, good_end).and_then(|()| file.sync()).map_err(|error| {
            cannot_change("write again what may not be on the disk of", &segment.path, error)
        })?;
    }
    if let Some(tx) = segment.header.spilled {
        left.last_tx_end = left.last_tx_end.max(tx.end_lsn);
        segment.is_one_transaction(before, (segment.time_max(), segment.lsn_max().max(tx.end_lsn)));
    }
    segment.close(now());
    keep_index(disk, segment, registry, &left);
    Ok(left)
}

/// Stores the index, unless there are schema versions that it would lack: the next opening would not tell of them.
fn keep_index(disk: &dyn Disk, segment: &Segment, registry: &Registry, left: &Leftover) {
    if left.unread == 0 {
        return sidecar::store(disk, segment, registry, left);
    }
    let path = segment.path.display();
    tracing::error!(%path, versions = left.unread, hint = NAMED, "{UNREAD}");
}

/// Whether the stream's position there stands before all notes that there are: at the beginning, or at the end of what was
/// spilled. One that is not among them was taken back, though the file that said so may be gone: it had no events. A
/// bridge knows of no notes.
fn may_have_all_notes(segment: &Segment, offset: u64) -> bool {
    let header = &segment.header;
    !header.bridge && (header.spilled.is_some() || offset == SEGMENT_HEADER as u64)
}

fn has_position(bytes: &[u8], header: &Header) -> bool {
    asides(bytes, header).any(|aside| matches!(aside, Aside::Position(_)))
}

/// Writes what is there once more. After a sync that failed the kernel takes it for written, though it may be in
/// memory alone, and no later sync would reach it.
fn write_again(file: &dyn DiskFile, from: u64, to: u64) -> std::io::Result<()> {
    let mut at = from;
    while at < to {
        let mut buffer = vec![0; usize::try_from((to - at).min(CHUNK_BYTES)).unwrap_or(usize::MAX)];
        let read = file.read_at(&mut buffer, at)?;
        buffer.truncate(read);
        if buffer.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        file.write_at(&buffer, at)?;
        at += read as u64;
    }
    Ok(())
}

pub(crate) fn note_asides(bytes: &[u8], header: &Header, registry: &Registry, left: &mut Leftover) {
    for aside in asides(bytes, header) {
        match aside {
            Aside::Position(json) => {
                // Not every one that follows says it again.
                registry.note_given(highest_schema(json));
                left.position = Some(json.to_vec());
            }
            Aside::Schema(json) => match registry.load(json) {
                Some(id) => left.schemas.push(id),
                None => left.unread += 1,
            },
            Aside::Note(name, json) => notes::apply(&mut left.notes, (name.to_owned(), json.into())),
        }
    }
}

fn io_of(error: ScanError, path: &Path) -> Error {
    match error {
        ScanError::Io(error) => cannot_read(path, error),
        ScanError::Broken(broken) => broken_middle(path, &broken),
    }
}
