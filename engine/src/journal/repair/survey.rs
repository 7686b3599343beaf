//! Looks at the whole journal and says what has to be done. Writes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::event::Micros;
use crate::journal::StreamPosition;
use crate::journal::compressed::{BrokenTable, blanked_view};
use crate::journal::disk::{Disk, DiskFile};
use crate::journal::ending::Ending;
use crate::journal::installation;
use crate::journal::lost_end::{LostEnd, SHORT, number_of};
use crate::journal::opening::{SHOWN_MAX, highest_schema, never_begun, segment_paths};
use crate::journal::refusal::{
    all_rightly_named, broken_segment, cannot_read, foreign, misfit, rightly_named,
};
use crate::journal::repair::mend::{Bridge, Mend};
use crate::journal::repair::{Cut, LostNumbers};
use crate::journal::scan::{ScanError, Scanner};
use crate::journal::segment::{OTHER_VERSION, SEGMENT_HEADER, Segment, SegmentHeader, is_compressed};
use crate::journal::writer::now;
use crate::journal::{sidecar, taken};
use crate::lsn::Lsn;
use crate::record::layout::NUMBERS_END;
use crate::record::{Aside, Header, asides};
use crate::schema::SchemaId;

/// Schema versions left out where it is not known how many were described in what is lost: more than a segment has.
const SCHEMAS_MAX: SchemaId = 1 << 16;

/// What a survey found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) mends: Vec<Mend>,
    pub(super) restore_installation: Option<Uuid>,
}

/// What is sound up to a place.
#[derive(Clone, Debug, Default)]
struct Kept {
    /// Number of the last event; `None` before the first segment.
    last: Option<u64>,
    time_max: Micros,
    lsn_max: Lsn,
    position: Option<StreamPosition>,
}

/// A break whose other end has not been found yet.
#[derive(Debug)]
struct Wound {
    cuts: Vec<Cut>,
    what: String,
    /// Nothing below this number is given again: read from file names and from batches behind the break.
    reserved: u64,
    /// The number before the first one of the broken file, by its name.
    before: Option<u64>,
    /// A history begins within it, at this position.
    history: Option<Lsn>,
}

impl Wound {
    fn without_cuts(what: String) -> Self {
        Self { cuts: Vec::new(), what, reserved: 0, before: None, history: None }
    }
}

#[derive(Debug)]
struct Survey<'a> {
    disk: &'a dyn Disk,
    paths: Vec<PathBuf>,
    installation: Option<Uuid>,
    kept: Kept,
    wound: Option<Wound>,
    mends: Vec<Mend>,
    /// What an index knows of the end.
    lost: Option<LostEnd>,
    /// The highest number of a schema version that anything says has been given: clients have kept a table under it.
    schemas: SchemaId,
}

pub(super) fn survey(dir: &Path, disk: &dyn Disk, seen: u64) -> Result<Found> {
    let stored = installation::stored(dir, disk)?;
    let paths = segment_paths(dir, disk)?;
    let mut survey = Survey {
        disk,
        paths: paths.clone(),
        installation: stored,
        kept: Kept::default(),
        wound: None,
        mends: Vec::new(),
        lost: LostEnd::of(dir, disk)?,
        schemas: taken::schemas(dir, disk)?.max(sidecar::highest(dir, disk)?),
    };
    all_rightly_named(&paths, disk)?;
    for (at, path) in paths.iter().enumerate() {
        survey.look(path, at + 1 == paths.len())?;
    }
    survey.miss();
    survey.end(dir, seen);
    if !paths.is_empty() && survey.installation.is_none() {
        return Err(Error::journal(format!(
            "No segment in {} can be read, nor whose they are",
            dir.display()
        ))
        .hint("Restore the file installation from a copy."));
    }
    let restore_installation = survey.installation.filter(|_| stored.is_none());
    Ok(Found { mends: survey.mends, restore_installation })
}

impl Survey<'_> {
    fn look(&mut self, path: &Path, newest: bool) -> Result<()> {
        let unreadable = |error| cannot_read(path, error);
        let file = self.disk.open(path).map_err(unreadable)?;
        let length = file.length().map_err(unreadable)?;
        let mut bytes = [0; SEGMENT_HEADER];
        let read = file.read_at(&mut bytes, 0).map_err(unreadable)?;
        match SegmentHeader::decode(&bytes) {
            Ok(header) => {
                self.whose(path, header.installation)?;
                rightly_named(path, header.base, self.disk)?;
                self.join(path, &header)?;
                let packed = is_compressed(&bytes);
                let (view, table) = blanked_view(file, &bytes).map_err(unreadable)?;
                self.walk(path, &header, (&view, packed, table), newest)
            }
            // Opening removes it; only behind a bridge it would be in the way.
            Err(_)
                if newest
                    && never_begun(&bytes, read, length)
                    && self.wound.is_none()
                    && !self.is_cut(path) =>
            {
                Ok(())
            }
            Err(reason) if reason == OTHER_VERSION => Err(broken_segment(path, reason)),
            Err(reason) => {
                let base = number_of(path);
                let base_or_zero = base.unwrap_or(0);
                let broken = Damage {
                    reason,
                    damaged_at: 0,
                    cut_at: 0,
                    base: base_or_zero,
                    packed: false,
                    history: None,
                };
                self.cut(path, &file, length, &broken)?;
                if let (Some(wound), Some(base)) = (&mut self.wound, base) {
                    wound.before.get_or_insert(base.saturating_sub(1));
                }
                Ok(())
            }
        }
    }

    fn whose(&mut self, path: &Path, theirs: Uuid) -> Result<()> {
        let ours = *self.installation.get_or_insert(theirs);
        if ours == theirs { Ok(()) } else { Err(foreign(path, theirs, ours, self.disk)) }
    }

    /// Fits a sound header to what came before it: ends the open wound, or finds that a segment is missing.
    fn join(&mut self, path: &Path, header: &SegmentHeader) -> Result<()> {
        let previous = header.previous_last;
        if let Some(last) = self.kept.last.filter(|last| previous < *last) {
            let what = format!("{}; numbers stand twice", misfit(previous, last));
            return Err(broken_segment(path, &what)
                .hint("Move one of the two files out of the directory, then run this again."));
        }
        let missing =
            |last: u64| Wound::without_cuts(format!("{}: {}", name_of(path), misfit(previous, last)));
        let wound = match (self.wound.take(), self.kept.last) {
            (None, Some(last)) if last < previous => Some(missing(last)),
            (wound, _) => wound,
        };
        if let Some(wound) = wound {
            self.close(path.parent(), wound, previous, false, header.created);
        }
        self.kept.last = Some(previous);
        Ok(())
    }

    /// Notes how a wound is mended; `to` is the last lost number.
    fn close(&mut self, dir: Option<&Path>, wound: Wound, to: u64, open_end: bool, at: Micros) {
        if wound.history.is_some() {
            self.kept.lsn_max = Lsn::ZERO;
        }
        let Kept { last, time_max, lsn_max, position } = self.kept.clone();
        let reached = |stored: Lsn| wound.history.unwrap_or(stored).max(lsn_max);
        // Without anything before it: as if retention had taken the rest.
        let last = last.or(wound.before).unwrap_or(to).min(to);
        let bridge = (last < to).then(|| {
            let (from, file) = (last + 1, Segment::path_in(dir.unwrap_or(Path::new("")), to));
            let detail = format!("The journal was damaged and has been mended. {}", wound.what);
            // Not later than what follows: places are sought by time.
            let at = if time_max > 0 { time_max } else { at };
            let position = position.map(|stored| StreamPosition { lsn: reached(stored.lsn), ..stored });
            let lost = LostNumbers { from, to, open_end, bridge: file, detail };
            let installation = self.installation.unwrap_or_default();
            let history = wound.history;
            // How many were described where it is lost is not known.
            let schemas = if open_end { self.schemas.saturating_add(SCHEMAS_MAX) } else { self.schemas };
            Bridge { previous_last: last, lost, at, position, schemas, installation, history }
        });
        self.mends.push(Mend { cuts: wound.cuts, bridge });
        self.kept.last = Some(to);
    }

    /// Whether an index knows that this file was longer.
    fn is_cut(&self, path: &Path) -> bool {
        self.lost.as_ref().is_some_and(|lost| lost.cut_at.is_some() && lost.path == *path)
    }

    /// What is missing behind the newest segment is a wound, too.
    fn miss(&mut self) {
        let Some(lost) = &self.lost else { return };
        let wound = self.wound.get_or_insert_with(|| Wound {
            before: lost.first.checked_sub(1),
            ..Wound::without_cuts(lost.missing())
        });
        wound.reserved = wound.reserved.max(lost.last);
    }

    /// The end of the journal ends a wound in the newest segment: how many numbers it took is not known, but they all
    /// lie below the clock and below what was seen elsewhere.
    fn end(&mut self, dir: &Path, seen: u64) {
        let Some(wound) = self.wound.take() else { return };
        let at = now();
        let clock = u64::try_from(at).unwrap_or(0);
        let floor = seen.max(wound.reserved).max(self.kept.last.map_or(0, |last| last + 1));
        let mut to = if clock > floor { clock } else { floor + SHOWN_MAX };
        while self.paths.contains(&Segment::path_in(dir, to)) {
            to += 1;
        }
        self.close(Some(dir), wound, to, true, at);
    }

    /// Reads the batches of a segment, up to the first damage.
    fn walk(
        &mut self,
        path: &Path,
        header: &SegmentHeader,
        (file, packed, table): (&Arc<dyn DiskFile>, bool, Option<BrokenTable>),
        newest: bool,
    ) -> Result<()> {
        let length = file.length().map_err(|error| cannot_read(path, error))?;
        let mut walk = Walk {
            scanner: Scanner::new(Arc::clone(file), SEGMENT_HEADER as u64, length),
            header: *header,
            good_end: SEGMENT_HEADER as u64,
            events: 0,
            sound: self.kept.clone(),
            pending: Vec::new(),
            schemas: 0,
        };
        if header.history.is_some() {
            // Positions before it are of another history.
            walk.sound.lsn_max = Lsn::ZERO;
        }
        let broken = walk.run().map_err(|error| cannot_read(path, error))?;
        self.schemas = self.schemas.max(walk.schemas);
        let unfinished = || (walk.good_end, "its last transaction is not whole");
        let broken = broken.or_else(|| (walk.good_end < length).then(unfinished));
        let lost = self.is_cut(path);
        if lost && broken.is_none() {
            let what = format!("{} is damaged at offset {length}: {SHORT}", name_of(path));
            self.kept = walk.sound;
            self.wound = Some(Wound::without_cuts(what));
            return Ok(());
        }
        let broken = match (broken, table) {
            (None, Some(table)) if table.whole => {
                self.kept = walk.sound;
                self.mends.push(Mend { cuts: vec![only_table(path, table, length)], bridge: None });
                return Ok(());
            }
            (None, Some(_)) => Some((length, "no compressed frame can be read there, nor the table")),
            (broken, _) => broken,
        };
        let Some((damaged_at, reason)) = broken else {
            self.kept = walk.sound;
            return Ok(());
        };
        // A compressed one was whole when it got its name.
        let unreadable = |error| cannot_read(path, error);
        let ending =
            Ending::of(self.disk, path, (header, &**file), newest && !packed && !lost).map_err(unreadable)?;
        let ends = |scanner: &Scanner| Ok(scanner.end_of_data().map_err(unreadable)? <= damaged_at);
        let zeros = !lost && ending.may_have_zeros(walk.good_end) && walk.pending.is_empty();
        // Of what stands behind zeros in a copy, numbers have been given: whoever repairs it has a gap of them.
        if (zeros && ends(&walk.scanner)?)
            || (ending.may_be_torn(walk.good_end) && !is_in_the_middle(&mut walk.scanner, path)?)
        {
            self.kept = walk.sound;
            return Ok(());
        }
        // A file without events is of no use; its position goes into the bridge.
        let cut_at = if walk.events == 0 { 0 } else { walk.good_end };
        self.kept = walk.sound;
        // Where the file goes whole, the bridge says in its place that a history begins here.
        let history = header.history.filter(|_| cut_at == 0);
        self.cut(
            path,
            file,
            length,
            &Damage { reason, damaged_at, cut_at, base: header.base, packed, history },
        )
    }

    /// Notes what of a file has to go.
    fn cut(&mut self, path: &Path, file: &Arc<dyn DiskFile>, length: u64, broken: &Damage) -> Result<()> {
        let &Damage { reason, damaged_at, cut_at, base, packed, history } = broken;
        let kept_from = if packed { 0 } else { cut_at };
        let Behind { events: sound_events, highest, schemas } =
            behind(file, damaged_at, length, base).map_err(|error| cannot_read(path, error))?;
        self.schemas = self.schemas.max(schemas);
        let cut = Cut {
            file: path.to_owned(),
            reason: reason.to_owned(),
            damaged_at,
            cut_at,
            bytes: length - cut_at,
            sound_events,
            saved: PathBuf::from(format!("{}.cut-{kept_from}", path.display())),
        };
        let what = format!("{} is damaged at offset {damaged_at}: {reason}", name_of(path));
        let wound = self.wound.get_or_insert_with(|| Wound::without_cuts(what));
        wound.history = history.or(wound.history);
        wound.reserved = wound.reserved.max(highest).max(base);
        wound.cuts.push(cut);
        Ok(())
    }
}

/// All events can be read: the plain form takes the place of the file, which is kept.
fn only_table(path: &Path, table: BrokenTable, length: u64) -> Cut {
    Cut {
        file: path.to_owned(),
        reason: "the table of the compressed segment".to_owned(),
        damaged_at: table.at,
        cut_at: length,
        bytes: 0,
        sound_events: 0,
        saved: PathBuf::from(format!("{}.cut-0", path.display())),
    }
}

struct Damage {
    reason: &'static str,
    damaged_at: u64,
    cut_at: u64,
    base: u64,
    /// The segment is compressed; offsets are those of its plain form.
    packed: bool,
    /// A history begins with the file, which goes whole.
    history: Option<Lsn>,
}

/// One segment on the way through its batches.
struct Walk {
    scanner: Scanner,
    header: SegmentHeader,
    good_end: u64,
    events: u64,
    /// As of `good_end`.
    sound: Kept,
    pending: Vec<(Header, Option<StreamPosition>)>,
    schemas: SchemaId,
}

impl Walk {
    /// Goes on to the end or to the first damage: its offset and what it is.
    fn run(&mut self) -> std::io::Result<Option<(u64, &'static str)>> {
        loop {
            let (offset, header, bytes) = match self.scanner.next() {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(None),
                Err(ScanError::Io(error)) => return Err(error),
                Err(ScanError::Broken(broken)) => return Ok(Some((broken.offset, broken.reason))),
            };
            self.schemas = self.schemas.max(highest_in(&bytes, &header));
            let position = asides(&bytes, &header).filter_map(|aside| match aside {
                Aside::Position(json) => Some(json),
                _ => None,
            });
            let position = position.last().and_then(|json| serde_json::from_slice(json).ok());
            self.take(offset, header, position);
        }
    }

    fn take(&mut self, offset: u64, header: Header, position: Option<StreamPosition>) {
        self.pending.push((header, position));
        // As opening counts: a batch without events ends no transaction.
        if header.more || (header.events == 0 && self.pending.len() > 1) {
            return;
        }
        self.good_end = offset + u64::from(header.length);
        for (header, position) in self.pending.drain(..) {
            self.events = header.first + u64::from(header.events);
            self.sound.time_max = self.sound.time_max.max(header.time_max);
            self.sound.lsn_max = self.sound.lsn_max.max(header.lsn_max);
            self.sound.position = position.or(self.sound.position.take());
        }
        if self.events > 0 {
            self.sound.last = Some(self.header.base + self.events - 1);
            let end = self.header.spilled.map_or(Lsn::ZERO, |tx| tx.end_lsn);
            self.sound.lsn_max = self.sound.lsn_max.max(end);
        }
    }
}

fn is_in_the_middle(scanner: &mut Scanner, path: &Path) -> Result<bool> {
    scanner.is_in_the_middle(false).map_err(|error| cannot_read(path, io_of(error)))
}

/// The highest number of a schema version that a batch says has been given.
fn highest_in(bytes: &[u8], header: &Header) -> SchemaId {
    let numbers = asides(bytes, header).map(|aside| match aside {
        Aside::Position(json) => highest_schema(json),
        Aside::Schema(json) => schema_number(json),
        Aside::Note(..) => 0,
    });
    numbers.max().unwrap_or(0)
}

/// Also of one that this version cannot read.
fn schema_number(json: &[u8]) -> SchemaId {
    #[derive(serde::Deserialize)]
    struct Numbered {
        id: SchemaId,
    }
    serde_json::from_slice(json).map_or(0, |Numbered { id }| id)
}

/// Events in sound batches behind a break, and the highest numbers in them.
#[derive(Default)]
struct Behind {
    events: u64,
    highest: u64,
    schemas: SchemaId,
}

fn behind(file: &Arc<dyn DiskFile>, from: u64, length: u64, base: u64) -> std::io::Result<Behind> {
    let mut scanner = Scanner::new(Arc::clone(file), from, length);
    let mut found = Behind::default();
    loop {
        while let Ok(Some((_, header, bytes))) = scanner.next() {
            let last = (base + u64::from(header.events)).saturating_add(header.first).saturating_sub(1);
            found.events += u64::from(header.events);
            found.highest = found.highest.max(if last < NUMBERS_END { last } else { 0 });
            found.schemas = found.schemas.max(highest_in(&bytes, &header));
        }
        if !scanner.seek_sound(|_| true).map_err(io_of)? {
            break;
        }
    }
    Ok(found)
}

fn io_of(error: ScanError) -> std::io::Error {
    match error {
        ScanError::Io(error) => error,
        ScanError::Broken(broken) => std::io::Error::other(broken.reason),
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
