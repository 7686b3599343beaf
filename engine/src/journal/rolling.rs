//! The end of a segment and the start of the next one; a spilled transaction comes in as a segment of its own.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use metrics::counter;

use crate::abort::{self, Point};
use crate::error::{Error, Result};
use crate::event::Micros;
use crate::journal::disk::DiskFile;
use crate::journal::refusal::{is_out_of_files, or_files};
use crate::journal::segment::{SEGMENT_HEADER, Segment, SegmentHeader};
use crate::journal::sidecar::{self, Leftover};
use crate::journal::spill::Spilled;
use crate::journal::writer::{Active, DISK_FULL, TxEnd, Writer, now};
use crate::journal::{Shared, Spill, StreamPosition, retention};
use crate::lsn::Lsn;
use crate::record::{Builder, Header, Note, SpilledTx, seal};
use crate::schema::SchemaId;

/// What stands at the end of rows in a file of their own.
#[derive(Debug)]
pub(crate) struct RowsEnd {
    /// The stream's position before and after them.
    pub(crate) position: Lsn,
    pub(crate) at: Micros,
    /// Notes that become durable with them.
    pub(crate) notes: Vec<Note>,
}

impl Writer {
    /// Closes the segment and starts the next one.
    pub(crate) fn roll(&mut self) -> Result<()> {
        self.end_segment()?;
        abort::point(Point::RollClosed);
        self.store_sidecar();
        let previous = Arc::clone(&self.active.segment);
        // Positions alone have filled it: its file must not be replaced, it may hold the only one.
        self.next += u64::from(previous.events() == 0);
        self.active = loop {
            match start_segment(&self.shared, self.next, &previous) {
                Ok(active) => break active,
                Err(error) if self.waits_out(&error, "there is no room for a new segment")? => {}
                Err(error) => return Err(cannot_create(&self.shared, self.next, error)),
            }
        };
        abort::point(Point::SegmentStarted);
        self.write_carried()?;
        abort::point(Point::RollPosition);
        // Durable before retention may remove an older one.
        self.sync_file()?;
        abort::point(Point::RollDone);
        retention::apply(&self.shared);
        if let Some(compressor) = &self.compressor {
            compressor.look();
        }
        Ok(())
    }

    /// Every segment begins with the position at which it begins, and with all notes.
    pub(crate) fn write_carried(&mut self) -> Result<()> {
        let mut builder = carried(&self.shared, &stored_position(&self.shared))?;
        builder.take().into_iter().try_for_each(|part| self.write_quiet(part.bytes))
    }

    /// Writes what a segment begins with at the end of a spilled transaction's file, which begins with that.
    /// What is noted with it comes last, and so counts.
    fn put_carried(
        &self,
        file: &dyn DiskFile,
        segment: &Segment,
        (lsn, notes): (Lsn, &[Note]),
    ) -> Result<()> {
        let position = StreamPosition { lsn, ..stored_position(&self.shared) };
        let mut builder = carried(&self.shared, &position)?;
        for (name, json) in notes {
            builder.note(name, json);
        }
        for part in builder.take() {
            let mut bytes = part.bytes;
            seal(&mut bytes, segment.events());
            self.put_in(file, &segment.path, &bytes, segment.length())?;
            if let Some(header) = Header::parse(&bytes) {
                segment.grow(&header);
            }
        }
        Ok(())
    }

    fn warn_if_larger_than_all(&self, bytes: u64) {
        let max_size = retention::max_size(&self.shared);
        if bytes > max_size {
            tracing::warn!(
                bytes,
                max_size,
                hint = "Raise journal.max_size if they are to be read for longer",
                "A transaction is larger than the journal may be: its events go as soon as others follow"
            );
        }
    }

    /// Writes to a file that is not the active one, waiting for room as long as it takes.
    fn put_in(&self, file: &dyn DiskFile, path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
        while let Err(error) = file.write_at(bytes, offset) {
            if !is_full(&error) {
                return Err(Error::journal(format!("Cannot write to {}", path.display())).because(error));
            }
            self.wait_for_room(DISK_FULL)?;
        }
        Ok(())
    }

    pub(super) fn store_sidecar(&self) {
        let (position, highest) = (stored_position(&self.shared), self.shared.registry.highest());
        let left = Leftover {
            position: (!position.slot.is_empty()).then(|| json_of(&position, highest).ok()).flatten(),
            last_tx_end: Lsn(self.shared.last_tx_end.load(Ordering::Acquire)),
            schemas: self.active.schemas.clone(),
            unread: 0,
            notes: self.shared.notes(),
        };
        sidecar::store(&*self.shared.disk, &self.active.segment, &self.shared.registry, &left);
    }

    /// Takes a spilled transaction in as a segment: its first bytes are rewritten, it is synced and renamed. What it
    /// holds has been synced before, so that nobody waits here for more than that.
    pub(super) fn adopt(
        &mut self,
        spill: Spill,
        end: TxEnd,
        (position, notes): (Lsn, Vec<Note>),
    ) -> Result<()> {
        let Some(Spilled { path, file, segment: written, schemas }) = spill.into_file() else {
            return self.sync_now();
        };
        self.end_segment()?;
        self.store_sidecar();
        abort::point(Point::AdoptBegun);
        let previous = Arc::clone(&self.active.segment);
        let header = SegmentHeader {
            base: self.next,
            previous_last: previous.last(),
            created: now(),
            installation: self.shared.installation,
            spilled: Some(SpilledTx { end_lsn: end.end_lsn }),
            ..SegmentHeader::default()
        };
        let target = Segment::path_in(&self.shared.options.dir, self.next);
        let segment = adopted(header, target.clone(), &written, &previous, end);
        let failed = |error| Error::journal(format!("Cannot take {} in", path.display())).because(error);
        // Its name may be that of a segment that holds the only position.
        self.put_carried(&*file, &segment, (position, &notes))?;
        abort::point(Point::AdoptPosition);
        self.put_in(&*file, &path, &header.encode(), 0)?;
        abort::point(Point::AdoptHeader);
        file.sync().map_err(failed)?;
        abort::point(Point::AdoptSynced);
        // An empty active segment has the same name; the rename takes its place.
        while let Err(error) = self.shared.disk.rename(&path, &target) {
            if !is_full(&error) {
                return Err(failed(error));
            }
            self.wait_for_room("there is no room for the name of a large transaction's file")?;
        }
        abort::point(Point::AdoptRenamed);
        while let Err(error) = self.shared.disk.sync_dir(&self.shared.options.dir) {
            // That opens the directory.
            if !is_out_of_files(&error) {
                return Err(failed(error));
            }
            self.wait_for_its_name(&target)?;
            self.is_still_there(&segment, &*file)?;
        }
        abort::point(Point::AdoptDurable);
        self.warn_if_larger_than_all(segment.length());
        self.next += segment.events();
        counter!("rowcast_events_total").increment(segment.events());
        counter!("rowcast_journal_bytes_total").increment(segment.length());
        let length = segment.length();
        self.active = Active { schemas, ..Active::new(Arc::new(segment), file, length) };
        install(&self.shared, &self.active.segment);
        self.shared.note_tx_end(end.end_lsn);
        let newest = self.next - 1;
        self.shared.cache.clear(newest);
        // It is whole and durable: it need not wait for the room that the next segment may lack.
        self.shared.head.send_replace(newest);
        // Behind that: whoever finds that rows were read finds them.
        self.shared.note(notes);
        // Before the next segment begins with the position: retention may take this one at once.
        self.confirm(Some(position));
        abort::point(Point::AdoptShown);
        self.roll()
    }

    /// Waits until files can be opened, with a transaction's file under its name and behind the one that is written. Where
    /// that one is taken meanwhile, what stands behind the hole goes: nobody was told of it, and it comes again.
    fn wait_for_its_name(&self, target: &Path) -> Result<()> {
        let waited = self.shared.wait_for_files();
        if *target != self.active.segment.path {
            self.look_at_file().inspect_err(|_| {
                // If it stays, the next opening refuses the hole before it.
                let _ = self.shared.disk.remove(target);
            })?;
        }
        waited
    }

    /// A transaction's file that somebody removed while it waited is not taken in: nobody was told of it, and it comes again.
    fn is_still_there(&self, segment: &Segment, file: &dyn DiskFile) -> Result<()> {
        let harm = self.shared.harm_to(segment, segment.length(), Some(file));
        let how = match harm {
            Ok(how) => how,
            // No file can be opened yet.
            Err(_) => file.look().is_ok_and(|look| !look.named).then_some("removed"),
        };
        let Some(how) = how else { return Ok(()) };
        let path = segment.path.display();
        Err(Error::journal(format!(
            "{path}, the file of a large transaction, was {how} before it was taken in"
        ))
        .hint("Start rowcast again: Postgres sends the transaction once more."))
    }

    /// Takes in rows that a snapshot read, in the same way. To the stream they are nothing: its newest transaction ends
    /// where it did, and it stands where it stood.
    pub(super) fn adopt_rows(&mut self, spill: Spill, rows: RowsEnd) -> Result<()> {
        let RowsEnd { position, at, notes } = rows;
        let end_lsn = Lsn(self.shared.last_tx_end.load(Ordering::Acquire));
        self.adopt(spill, TxEnd { end_lsn, committed: at }, (position, notes))
    }
}

fn adopted(
    header: SegmentHeader,
    path: PathBuf,
    written: &Segment,
    previous: &Segment,
    end: TxEnd,
) -> Segment {
    let segment = Segment::new(header, path, previous.time_max(), previous.lsn_max()).behind(previous);
    segment.restore(written.index(), written.length(), written.events(), (Micros::MIN, Lsn::ZERO));
    segment.is_one_transaction((previous.time_max(), previous.lsn_max()), (end.committed, end.end_lsn));
    segment
}

pub(crate) fn stored_position(shared: &Shared) -> StreamPosition {
    let mut position = shared.position.lock().unwrap_or_else(PoisonError::into_inner).clone();
    position.lsn = *shared.durable.borrow();
    position
}

/// What the source has told of itself, to be said again in a segment of its own.
pub(super) fn carried(shared: &Shared, position: &StreamPosition) -> Result<Builder> {
    let mut builder = Builder::new();
    if !position.slot.is_empty() {
        builder.position(position.lsn, &json_of(position, shared.registry.highest())?);
    }
    for (name, json) in shared.notes() {
        builder.note(&name, &json);
    }
    Ok(builder)
}

/// The position as it is stored, with the highest number that a schema version has so far.
pub(crate) fn json_of(position: &StreamPosition, schemas: SchemaId) -> Result<Vec<u8>> {
    #[derive(serde::Serialize)]
    struct Stored<'a> {
        #[serde(flatten)]
        position: &'a StreamPosition,
        schemas: SchemaId,
    }
    serde_json::to_vec(&Stored { position, schemas })
        .map_err(|error| Error::failed("Cannot write the stream's position as JSON").because(error))
}

/// Makes the file of a segment that begins with event `base`. When it cannot, nothing of it is left.
pub(crate) fn start_segment(shared: &Arc<Shared>, base: u64, previous: &Segment) -> io::Result<Active> {
    let header = SegmentHeader {
        base,
        previous_last: previous.last(),
        created: now(),
        installation: shared.installation,
        ..SegmentHeader::default()
    };
    let path = Segment::path_in(&shared.options.dir, base);
    let made = shared.disk.create(&path).and_then(|file| {
        abort::point(Point::SegmentCreated);
        let header = SegmentHeader { born: file.born()?, ..header };
        file.write_at(&header.encode(), 0)?;
        file.sync()?;
        abort::point(Point::SegmentHeader);
        shared.disk.sync_dir(&shared.options.dir)?;
        Ok((file, header))
    });
    let (file, header) = made.inspect_err(|_| {
        // An empty file that stays is removed at the next opening.
        let _ = shared.disk.remove(&path);
    })?;
    let segment = Segment::new(header, path, previous.time_max(), previous.lsn_max()).behind(previous);
    let segment = Arc::new(segment);
    install(shared, &segment);
    Ok(Active::new(segment, file, SEGMENT_HEADER as u64))
}

pub(crate) fn cannot_create(shared: &Shared, base: u64, error: io::Error) -> Error {
    let path = Segment::path_in(&shared.options.dir, base);
    let hint = or_files(
        &error,
        "Make room in the data directory, and give the user that runs rowcast the right to write there.",
    );
    Error::journal(format!("Cannot create {}", path.display())).because(error).hint(hint)
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Shows a segment to readers.
pub(super) fn install(shared: &Shared, segment: &Arc<Segment>) {
    shared.segments.rcu(|segments| {
        let mut segments: Vec<_> =
            segments.iter().filter(|other| other.header.base != segment.header.base).cloned().collect();
        segments.push(Arc::clone(segment));
        segments
    });
}
