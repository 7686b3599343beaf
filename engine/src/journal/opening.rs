//! Opening: cuts a torn tail and says so, refuses a broken middle with file and offset.

mod bridge;
mod segment;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

pub(crate) use self::segment::note_asides;
use crate::abort::{self, Point};
use crate::error::{Error, Result};
use crate::journal::cache::Cache;
use crate::journal::compressed::plain_view;
use crate::journal::compressor::Compressor;
use crate::journal::disk::Disk;
use crate::journal::history::ASIDE;
use crate::journal::holds::Holds;
use crate::journal::installation::installation;
use crate::journal::lock::Lock;
use crate::journal::lost_end::{LostEnd, number_of};
use crate::journal::marks::Marks;
use crate::journal::notes::Notes;
use crate::journal::refusal::{
    broken_segment, cannot_list, cannot_read, foreign, is_named, misfit_or_misnamed, rightly_named,
    seen_too_much, unknown_position,
};
use crate::journal::registry::Registry;
use crate::journal::release::Release;
use crate::journal::removed::warn_of_missing;
use crate::journal::rolling::{cannot_create, start_segment};
use crate::journal::segment::{SEGMENT_HEADER, Segment, SegmentHeader, is_compressed};
use crate::journal::sidecar;
use crate::journal::writer::{UNSYNCED_MAX, Writer, now};
use crate::journal::{Command, Journal, Options, Shared, State, StreamPosition, Sync, gone};
use crate::lsn::Lsn;
use crate::record::layout::NUMBERS_END;
use crate::schema::SchemaId;

/// Appends waiting for the writer; each is bounded by whoever sends it (capture: two at a time, publishing: a
/// message each, which whoever publishes holds in any case). As many as may come during one sync: what has no place here
/// is not in the next round, and holds up those who do not wait for a place.
const QUEUE: usize = 1024;
/// How often the opening looks whether the writer waits for room.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Numbers left out where the clock stands below the newest one, because it was set back: for those that damage hides, or
/// that a copy of this journal has given meanwhile. The 53 bits that numbers have last for 6 million such openings.
pub(super) const SHOWN_MAX: u64 = 1 << 30;
/// Openings, each within a second of the one before, after which a clock that stands below the newest number counts as set
/// back (`Sync::Interval`).
const OPENINGS: u64 = 64;
/// How often ages and free space are looked at.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// Opens the journal, making it if there is none, and starts its writer. Must be called within a tokio runtime.
pub fn open(options: Options, disk: Arc<dyn Disk>) -> Result<Journal> {
    let lock = Lock::make(&options.dir)?;
    let installation = installation(&options.dir, &*disk)?;
    let release = Release::start()?;
    remove_spills(&options.dir, &*disk, &release)?;
    if let Some(lost) = LostEnd::of(&options.dir, &*disk)? {
        return Err(lost.refusal());
    }
    remove_lone_indexes(&options.dir, &*disk)?;
    abort::point(Point::OpenCleared);
    let registry = Registry::default();
    let mut found = Found::load(&options.dir, installation, &*disk, &registry)?;
    found.bridge(&options.dir, &*disk, &registry)?;
    let newest = found.segments.last().map_or(0, |segment| segment.last());
    let lsn = found.lsn();
    warn_of_unknown(newest, &options);
    warn_of_missing(&options.dir, &*disk, &found.segments)?;
    let marks = Marks::of(&found.segments, lsn);
    abort::point(Point::OpenScanned);
    let shared = Arc::new(Shared {
        cache: Cache::new(options.cache_bytes),
        disk,
        installation,
        segments: ArcSwap::from_pointee(found.segments),
        registry,
        head: watch::Sender::new(newest),
        durable: watch::Sender::new(lsn),
        state: watch::Sender::new(State::Open),
        position: Mutex::new(StreamPosition { installation, ..found.position }),
        notes: Mutex::new(found.notes),
        noted: watch::Sender::new(0),
        last_tx_end: AtomicU64::new(found.last_tx_end.0),
        holds: Holds::new(&options.holds, options.stalled_after),
        marks,
        submitted: AtomicU64::new(lsn.0),
        damage: Mutex::default(),
        stays: AtomicU64::new(0),
        closing: AtomicBool::new(false),
        spills: AtomicU64::new(0),
        spilled: AtomicU64::new(0),
        life: Uuid::new_v4(),
        names: Mutex::new(()),
        release,
        taken: OnceLock::new(),
        spills_waiting: AtomicU64::new(0),
        lock: Mutex::new(Some(lock)),
        options,
    });
    start(shared, newest)
}

/// A sink cannot have had what never was: with `sync = "interval"` a power cut takes it, else somebody did.
fn warn_of_unknown(newest: u64, options: &Options) {
    if options.seen > newest {
        tracing::warn!(
            newest,
            seen = options.seen,
            hint = "With sync = \"interval\" a power cut does that, and the events come again under new numbers; else \
                    restore the removed files, if there is a copy",
            "The journal ends at event {newest}, and a sink has had {}: files of its end are missing",
            options.seen
        );
    }
}

/// Numbers are of 53 bits, which the clock reaches in the year 2255. One above would be damage at the next opening.
fn out_of_numbers(clock: u64, options: &Options) -> Error {
    if clock < options.seen {
        return seen_too_much(options);
    }
    let years = clock / (365 * 24 * 60 * 60 * 1_000_000);
    Error::journal(format!(
        "Cannot number events: the highest number is near (the machine's clock stands {years} years after 1970)"
    ))
    .hint("Set the clock right, and start rowcast again.")
}

fn start(shared: Arc<Shared>, newest: u64) -> Result<Journal> {
    let clock = u64::try_from(now()).unwrap_or(0);
    // Above an empty segment too: what was shown of it may be lost, and its file, which must not be replaced, may
    // hold the only position.
    let last_base = shared.segments.load().last().map_or(0, |segment| segment.header.base);
    let above = newest.max(shared.options.seen).max(last_base) + 1;
    let next = match shared.options.sync {
        Sync::Always if clock > above => clock,
        // A power cut may have taken so many after they were shown. Openings one after the other run ahead of the clock.
        Sync::Interval(_) if clock + OPENINGS * UNSYNCED_MAX > above => clock.max(above + UNSYNCED_MAX),
        _ => above + SHOWN_MAX,
    };
    if next.saturating_add(SHOWN_MAX) >= NUMBERS_END {
        return Err(out_of_numbers(clock, &shared.options));
    }
    let (commands, queue) = mpsc::channel(QUEUE);
    spawn_ticks(&commands);
    let owed = matches!(shared.options.sync, Sync::Interval(_)).then(|| spawn_syncs(&commands));
    let (begun, answer) = sync_channel(1);
    let writing = Arc::clone(&shared);
    std::thread::Builder::new()
        .name("journal".into())
        .spawn(move || match begin(&writing, next, owed) {
            Ok(writer) => {
                // Nobody listens any more when it took long.
                let _ = begun.send(Ok(()));
                writer.run(queue);
            }
            Err(error) => {
                let waiting = Arc::downgrade(&writing);
                // The lock goes with it: who is told of the failure may try again at once.
                drop(writing);
                if let (Err(SendError(Err(error))), Some(shared)) =
                    (begun.send(Err(error)), waiting.upgrade())
                {
                    shared.say_failed(&error);
                }
            }
        })
        .map_err(|error| Error::failed("Cannot start the journal's thread").because(error))?;
    begun_or_waiting(&shared, &answer)?;
    Ok(Journal { shared, commands })
}

/// Waits until the writer can write, or until it waits for room: then what is stored is served meanwhile.
fn begun_or_waiting(shared: &Shared, answer: &Receiver<Result<()>>) -> Result<()> {
    loop {
        match answer.recv_timeout(LOOK_EVERY) {
            Ok(begun) => return begun,
            Err(RecvTimeoutError::Disconnected) => return Err(gone()),
            Err(RecvTimeoutError::Timeout) if matches!(*shared.state.borrow(), State::Full(_)) => {
                return Ok(());
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Starts the first segment of this run, in which `next` will be the first number.
fn begin(shared: &Arc<Shared>, next: u64, owed: Option<watch::Sender<Instant>>) -> Result<Writer> {
    let previous = shared.segments.load().last().map_or_else(|| Arc::new(nothing_before()), Arc::clone);
    let active = loop {
        match start_segment(shared, next, &previous) {
            Ok(active) => break active,
            // Without a history there is nobody to serve, and the one who starts it is there to be told.
            Err(error) if waits_to_begin(shared, &error, &previous)? => {}
            Err(error) => return Err(cannot_create(shared, next, error)),
        }
    };
    abort::point(Point::SegmentStarted);
    let mut writer = Writer {
        shared: Arc::clone(shared),
        active,
        next,
        synced_next: next,
        unchecked: 0,
        unsynced: None,
        owed,
        ticks: 0,
        compressor: None,
    };
    writer.write_carried()?;
    // Durable before the segment that held it so far may go.
    writer.sync_file()?;
    abort::point(Point::OpenPosition);
    shared.note_beginning();
    shared.begin_note();
    shared.cache.clear(*shared.head.borrow());
    drop_empty(shared);
    abort::point(Point::OpenDropped);
    writer.compressor = Compressor::start(shared)?;
    shared.say_roomy();
    Ok(writer)
}

fn waits_to_begin(shared: &Shared, error: &io::Error, previous: &Segment) -> Result<bool> {
    if shared.segments.load().is_empty() {
        return Ok(false);
    }
    let mut waited = shared.waits_out(error, "there is no room for a new segment");
    // No segment begins behind one that nobody could look at: the next opening would find a hole before it.
    while !shared.has_seen_newest(previous)? && matches!(waited, Ok(true)) {
        waited = shared.wait_for_files().map(|()| true);
    }
    waited
}

fn nothing_before() -> Segment {
    Segment::new(SegmentHeader::default(), PathBuf::new(), 0, Lsn::ZERO)
}

fn spawn_ticks(commands: &mpsc::Sender<Command>) {
    let weak = commands.downgrade();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(commands) = weak.upgrade() else { return };
            // It waits for its turn: a crowd must not keep the writer from looking at its file.
            if commands.send(Command::Tick).await.is_err() {
                return;
            }
        }
    });
}

/// Tells the writer to sync at the moment that it has named, the newest one. Ends with it.
fn spawn_syncs(commands: &mpsc::Sender<Command>) -> watch::Sender<Instant> {
    let weak = commands.downgrade();
    let (owed, mut owing) = watch::channel(Instant::now());
    tokio::spawn(async move {
        while owing.changed().await.is_ok() {
            let at = *owing.borrow_and_update();
            tokio::time::sleep_until(at.into()).await;
            let Some(commands) = weak.upgrade() else { return };
            // It waits for its turn: a full queue is worked off.
            if commands.send(Command::Sync).await.is_err() {
                return;
            }
        }
    });
    owed
}

/// Segments that were opened and never written leave nothing to keep, once their successor has the position.
fn drop_empty(shared: &Shared) {
    let segments = shared.segments.load_full();
    let (kept, empty): (Vec<_>, Vec<_>) = segments
        .iter()
        .enumerate()
        .partition(|(at, segment)| segment.events() > 0 || *at + 1 == segments.len());
    for (_, segment) in &empty {
        // Found again and dropped at the next opening if it cannot be removed now.
        let _ = shared.disk.remove(&segment.path);
        let _ = shared.disk.remove(&segment.path.with_extension("idx"));
    }
    shared.segments.store(Arc::new(kept.into_iter().map(|(_, segment)| Arc::clone(segment)).collect()));
}

/// What lies in the directory.
#[derive(Debug, Default)]
pub(crate) struct Found {
    installation: Uuid,
    pub(crate) segments: Vec<Arc<Segment>>,
    position: StreamPosition,
    last_tx_end: Lsn,
    notes: Notes,
}

impl Found {
    fn load(dir: &Path, installation: Uuid, disk: &dyn Disk, registry: &Registry) -> Result<Self> {
        let mut found = Self { installation, ..Self::default() };
        let paths = segment_paths(dir, disk)?;
        for (at, path) in paths.iter().enumerate() {
            found.take(path, at + 1 == paths.len(), disk, registry)?;
        }
        Ok(found)
    }

    /// The stream's position: the stored one, or the end of the newest transaction if that is later.
    fn lsn(&self) -> Lsn {
        let stored = self.segments.last().map_or(Lsn::ZERO, |segment| segment.lsn_max());
        stored.max(self.position.lsn)
    }

    fn take(&mut self, path: &Path, newest: bool, disk: &dyn Disk, registry: &Registry) -> Result<()> {
        let broken = |reason: &str| broken_segment(path, reason);
        let unreadable = |error| cannot_read(path, error);
        let file = disk.open(path).map_err(unreadable)?;
        let mut bytes = [0; SEGMENT_HEADER];
        let read = file.read_at(&mut bytes, 0).map_err(unreadable)?;
        let stored = file.length().map_err(unreadable)?;
        let header = match SegmentHeader::decode(&bytes) {
            Ok(header) => header,
            Err(_) if newest && never_begun(&bytes, read, stored) => {
                tracing::warn!(path = %path.display(), "Removed a segment whose first write was cut off");
                return disk.remove(path).map_err(unreadable);
            }
            Err(reason) => return Err(broken(reason)),
        };
        if header.installation != self.installation {
            return Err(foreign(path, header.installation, self.installation, disk));
        }
        // A file that is named as another segment would be replaced by it.
        rightly_named(path, header.base, disk)?;
        let (time, lsn, last) = self.segments.last().map_or((0, Lsn::ZERO, None), |before| {
            (before.time_max(), before.lsn_max(), Some(before.last()))
        });
        if let Some(last) = last.filter(|last| *last != header.previous_last) {
            let paths = segment_paths(path.parent().unwrap_or(path), disk)?;
            return Err(misfit_or_misnamed(&paths, path, (header.previous_last, last), disk));
        }
        // Positions before it are of another history.
        let lsn = if header.history.is_some() { Lsn::ZERO } else { lsn };
        let file = plain_view(file, &bytes).map_err(unreadable)?;
        let mut segment = Segment::new(header, path.to_owned(), time, lsn);
        let left = match sidecar::load(disk, &segment, &file, newest, registry) {
            Some(left) => left,
            None => {
                segment = Segment::new(header, path.to_owned(), time, lsn);
                let newest = newest && !is_compressed(&bytes);
                segment::scan(&segment, newest, disk, registry, self.notes.clone())?
            }
        };
        if let Some(before) = self.segments.last() {
            segment = segment.behind(before);
        }
        segment.set_stored(stored.min(segment.length()));
        if let Some(json) = &left.position {
            self.position = serde_json::from_slice(json).map_err(|_| unknown_position(path))?;
            registry.note_given(highest_schema(json));
        }
        let before = if header.history.is_some() { Lsn::ZERO } else { self.last_tx_end };
        self.last_tx_end = before.max(left.last_tx_end);
        self.notes = left.notes;
        self.segments.push(Arc::new(segment));
        Ok(())
    }
}

/// The highest number of a schema version, as it stands beside a position; earlier versions of rowcast wrote none.
pub(crate) fn highest_schema(position: &[u8]) -> SchemaId {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Highest {
        schemas: SchemaId,
    }
    serde_json::from_slice::<Highest>(position).unwrap_or_default().schemas
}

/// Segment files by number. One that is not named as a segment is somebody else's, unless it is one inside: that is
/// refused for its name.
pub(crate) fn segment_paths(dir: &Path, disk: &dyn Disk) -> Result<Vec<PathBuf>> {
    let mut paths = files_named(dir, disk, "seg")?;
    paths
        .retain(|path| number_of(path).is_some_and(|number| is_named(path, number)) || is_inside(path, disk));
    Ok(paths)
}

fn is_inside(path: &Path, disk: &dyn Disk) -> bool {
    let mut bytes = [0; SEGMENT_HEADER];
    let read = disk.open(path).and_then(|file| file.read_at(&mut bytes, 0));
    read.is_ok() && SegmentHeader::is_one(&bytes)
}

/// Their indexes by number.
pub(crate) fn index_paths(dir: &Path, disk: &dyn Disk) -> Result<Vec<PathBuf>> {
    files_named(dir, disk, "idx")
}

fn files_named(dir: &Path, disk: &dyn Disk, extension: &str) -> Result<Vec<PathBuf>> {
    let mut paths = disk.list(dir).map_err(|error| cannot_list(dir, error))?;
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    Ok(paths)
}

/// Removes what was not whole when the process ended: transactions that had not committed, a history not begun,
/// segments that were being compressed, what a repair was writing beside.
fn remove_spills(dir: &Path, disk: &dyn Disk, release: &Release) -> Result<()> {
    let ours = |path: &PathBuf| {
        path.file_name().is_some_and(|name| {
            let bytes = name.as_encoded_bytes();
            name == ASIDE || bytes.starts_with(b"spill-") || bytes.ends_with(b".zst.tmp")
        })
    };
    let by_repair = |path: &PathBuf| {
        let name = path.file_name().map_or("", |name| name.to_str().unwrap_or_default());
        name.ends_with(".seg.new") || name.contains(".seg.cut-")
    };
    let unfinished = files_named(dir, disk, "tmp")?.into_iter().filter(ours);
    let unrepaired = files_named(dir, disk, "new")?.into_iter().filter(by_repair);
    for path in unfinished.chain(unrepaired) {
        tracing::info!(path = %path.display(), "Removed a file that was not whole");
        // Harmless if it stays. It may be huge, and nobody waits for how huge.
        let _ = release.remove(disk, &path);
    }
    Ok(())
}

/// Removes the indexes of segments that were removed, or never came to be, before the process ended.
fn remove_lone_indexes(dir: &Path, disk: &dyn Disk) -> Result<()> {
    let segments = segment_paths(dir, disk)?;
    for path in index_paths(dir, disk)? {
        if segments.binary_search(&path.with_extension("seg")).is_err() {
            // Harmless if it stays.
            let _ = disk.remove(&path);
        }
    }
    Ok(())
}

/// Whether the newest segment's header was never written whole: it held nothing yet. The header is synced before
/// anything else is written, so that a longer file has lost it.
pub(crate) fn never_begun(header: &[u8; SEGMENT_HEADER], read: usize, length: u64) -> bool {
    read < SEGMENT_HEADER || (length <= SEGMENT_HEADER as u64 && SegmentHeader::is_torn(header))
}

impl Shared {
    /// Changes whose stream this is; the position itself moves by itself.
    pub(crate) fn identify(&self, position: StreamPosition) {
        *self.position.lock().unwrap_or_else(PoisonError::into_inner) = position;
    }

    pub(crate) fn note_submitted(&self, lsn: Lsn) {
        self.submitted.fetch_max(lsn.0, Ordering::AcqRel);
    }

    pub(crate) fn submitted(&self) -> Lsn {
        Lsn(self.submitted.load(Ordering::Acquire))
    }

    pub(crate) fn note_tx_end(&self, lsn: Lsn) {
        self.last_tx_end.fetch_max(lsn.0, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_was_cut_off_held_nothing() {
        let whole = nothing_before().header.encode();
        let length = SEGMENT_HEADER as u64;
        let begun = |header, length| !never_begun(&header, SEGMENT_HEADER, length);
        assert!(begun(whole, length));
        for cut in [0, 1, 7, 8, 9, 90] {
            let mut torn = whole;
            torn[cut..].fill(0);
            assert!(!begun(torn, length) && begun(torn, length + 1), "cut at {cut}");
        }
        // Something of somebody else's.
        assert!(begun([b'x'; SEGMENT_HEADER], length));
    }
}
