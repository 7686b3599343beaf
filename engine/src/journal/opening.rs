//! Opening: cuts a torn tail and says so, refuses a broken middle with file and offset.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::abort::{self, Point};
use crate::error::{Error, Result};
use crate::journal::cache::Cache;
use crate::journal::disk::{Disk, DiskFile, make_dir};
use crate::journal::history::ASIDE;
use crate::journal::holds::Holds;
use crate::journal::installation::installation;
use crate::journal::refusal::{
    broken_middle, broken_segment, cannot_open, cannot_read, cannot_use, foreign, misfit,
};
use crate::journal::registry::Registry;
use crate::journal::rolling::{cannot_create, is_full, start_segment};
use crate::journal::scan::{Broken, CHUNK_BYTES, ScanError, Scanner};
use crate::journal::segment::{SEGMENT_HEADER, Segment, SegmentHeader};
use crate::journal::sidecar::{self, Leftover};
use crate::journal::writer::{Writer, now};
use crate::journal::{Command, Journal, Options, Shared, State, StreamPosition, Sync, gone};
use crate::lsn::Lsn;
use crate::record::asides;

/// Appends waiting for the writer; each is bounded by whoever sends it (capture: two at a time, publishing: a
/// message each).
const QUEUE: usize = 8;
/// How often the opening looks whether the writer waits for room.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Numbers left out at an opening where the clock stands below the newest one, because it was set back: for those
/// that a power cut may have taken after they were shown (`Sync::Interval`). A segment is synced when it is closed, so
/// that this would be one of 16 GB. The 53 bits that numbers have last for 6 million such openings.
const SHOWN_MAX: u64 = 1 << 30;
/// How often ages and free space are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Opens the journal, making it if there is none, and starts its writer. Must be called within a tokio runtime.
pub fn open(options: Options, disk: Arc<dyn Disk>) -> Result<Journal> {
    let lock = lock(&options.dir)?;
    let installation = installation(&options.dir, &*disk)?;
    remove_spills(&options.dir, &*disk)?;
    remove_lone_indexes(&options.dir, &*disk)?;
    abort::point(Point::OpenCleared);
    let registry = Registry::default();
    let found = Found::load(&options.dir, installation, &*disk, &registry)?;
    let newest = found.segments.last().map_or(0, |segment| segment.last());
    let lsn = found.lsn();
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
        last_tx_end: AtomicU64::new(found.last_tx_end.0),
        holds: Holds::new(&options.holds, options.stalled_after),
        submitted: AtomicU64::new(lsn.0),
        damage: Mutex::default(),
        closing: AtomicBool::new(false),
        spills: AtomicU64::new(0),
        spills_waiting: AtomicU64::new(0),
        lock: Mutex::new(Some(lock)),
        options,
    });
    start(shared, newest)
}

fn start(shared: Arc<Shared>, newest: u64) -> Result<Journal> {
    let clock = u64::try_from(now()).unwrap_or(0);
    // Above an empty segment too: what was shown of it may be lost, and its file, which must not be replaced, may
    // hold the only position.
    let last_base = shared.segments.load().last().map_or(0, |segment| segment.header.base);
    let above = newest.max(shared.options.seen).max(last_base) + 1;
    let next = if clock > above { clock } else { above + SHOWN_MAX };
    let (commands, queue) = mpsc::channel(QUEUE);
    spawn_ticks(&shared, &commands);
    let (begun, answer) = sync_channel(1);
    let writing = Arc::clone(&shared);
    std::thread::Builder::new()
        .name("journal".into())
        .spawn(move || match begin(&writing, next) {
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
fn begin(shared: &Arc<Shared>, next: u64) -> Result<Writer> {
    let previous = shared.segments.load().last().map_or_else(|| Arc::new(nothing_before()), Arc::clone);
    let active = loop {
        match start_segment(shared, next, &previous) {
            Ok(active) => break active,
            // Without a history there is nobody to serve, and the one who starts it is there to be told.
            Err(error) if is_full(&error) && !shared.segments.load().is_empty() => {
                shared.wait_for_room("there is no room for a new segment")?;
            }
            Err(error) => return Err(cannot_create(shared, next, error)),
        }
    };
    abort::point(Point::SegmentStarted);
    let mut writer = Writer { shared: Arc::clone(shared), active, next, unchecked: 0, unsynced: None };
    writer.write_position()?;
    // Durable before the segment that held it so far may go.
    writer.sync_file()?;
    abort::point(Point::OpenPosition);
    shared.cache.clear(*shared.head.borrow());
    drop_empty(shared);
    abort::point(Point::OpenDropped);
    shared.say_roomy();
    Ok(writer)
}

fn nothing_before() -> Segment {
    let header = SegmentHeader {
        base: 0,
        previous_last: 0,
        created: 0,
        installation: Uuid::nil(),
        spilled: None,
        bridge: false,
        history: None,
    };
    Segment::new(header, PathBuf::new(), 0, Lsn::ZERO)
}

fn spawn_ticks(shared: &Arc<Shared>, commands: &mpsc::Sender<Command>) {
    let weak = commands.downgrade();
    let every = match shared.options.sync {
        Sync::Interval(interval) => interval.clamp(Duration::from_millis(1), TICK),
        Sync::Always => TICK,
    };
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(every);
        loop {
            ticks.tick().await;
            let Some(commands) = weak.upgrade() else { return };
            // A full queue means that the writer is awake anyway; a closed one ends this.
            if matches!(commands.try_send(Command::Tick), Err(mpsc::error::TrySendError::Closed(_))) {
                return;
            }
        }
    });
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

/// Makes the directory and locks it.
pub(crate) fn lock(dir: &Path) -> Result<File> {
    make_dir(dir).map_err(|error| cannot_open(dir, error))?;
    lock_existing(dir)
}

/// Locks a directory that is there.
pub(crate) fn lock_existing(dir: &Path) -> Result<File> {
    let failed = |error| cannot_open(dir, error);
    let file =
        File::options().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(failed)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Error::journal(format!("The journal in {} is in use by another process", dir.display()))
            .hint("Stop the other rowcast, or give this one a directory of its own (--data DIR).")
    })?;
    Ok(file)
}

/// What lies in the directory.
#[derive(Debug, Default)]
pub(crate) struct Found {
    installation: Uuid,
    pub(crate) segments: Vec<Arc<Segment>>,
    position: StreamPosition,
    last_tx_end: Lsn,
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
        let header = match SegmentHeader::decode(&bytes) {
            Ok(header) => header,
            Err(_) if newest && never_begun(&bytes, read) => {
                tracing::warn!(path = %path.display(), "Removed a segment whose first write was cut off");
                return disk.remove(path).map_err(unreadable);
            }
            Err(reason) => return Err(broken(reason)),
        };
        if header.installation != self.installation {
            return Err(foreign(path, header.installation, self.installation));
        }
        // A file that is named as another segment would be replaced by it.
        if path.file_name().is_none_or(|name| *name != *Segment::file_name(header.base)) {
            return Err(broken("its name is not the number of its first event"));
        }
        let (time, lsn, last) = self.segments.last().map_or((0, Lsn::ZERO, None), |before| {
            (before.time_max(), before.lsn_max(), Some(before.last()))
        });
        if last.is_some_and(|last| last != header.previous_last) {
            return Err(broken(&misfit(header.previous_last, last.unwrap_or(0))));
        }
        // Positions before it are of another history.
        let lsn = if header.history.is_some() { Lsn::ZERO } else { lsn };
        let segment = Segment::new(header, path.to_owned(), time, lsn);
        let loaded = if newest { None } else { sidecar::load(disk, path, &segment, registry) };
        let left = match loaded {
            Some(left) => left,
            None => scan(&segment, newest, disk, registry)?,
        };
        if let Some(json) = &left.position {
            self.position =
                serde_json::from_slice(json).map_err(|_| broken("its position record is unreadable"))?;
        }
        let before = if header.history.is_some() { Lsn::ZERO } else { self.last_tx_end };
        self.last_tx_end = before.max(left.last_tx_end);
        self.segments.push(Arc::new(segment));
        Ok(())
    }
}

/// Segment files by number.
pub(crate) fn segment_paths(dir: &Path, disk: &dyn Disk) -> Result<Vec<PathBuf>> {
    files_named(dir, disk, "seg")
}

fn files_named(dir: &Path, disk: &dyn Disk, extension: &str) -> Result<Vec<PathBuf>> {
    let mut paths = disk
        .list(dir)
        .map_err(|error| Error::journal(format!("Cannot list {}", dir.display())).because(error))?;
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    Ok(paths)
}

/// Removes what was not whole when the process ended: transactions that had not committed, a history not begun.
fn remove_spills(dir: &Path, disk: &dyn Disk) -> Result<()> {
    let ours = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"spill-") || name == ASIDE)
    };
    for path in files_named(dir, disk, "tmp")?.into_iter().filter(ours) {
        tracing::info!(path = %path.display(), "Removed a file that was not whole");
        // Harmless if it stays.
        let _ = disk.remove(&path);
    }
    Ok(())
}

/// Removes the indexes of segments that were removed, or never came to be, before the process ended.
fn remove_lone_indexes(dir: &Path, disk: &dyn Disk) -> Result<()> {
    let segments = segment_paths(dir, disk)?;
    for path in files_named(dir, disk, "idx")? {
        if segments.binary_search(&path.with_extension("seg")).is_err() {
            // Harmless if it stays.
            let _ = disk.remove(&path);
        }
    }
    Ok(())
}

/// Reads a whole segment, checking every batch; cuts the newest one where it is torn.
fn scan(segment: &Segment, newest: bool, disk: &dyn Disk, registry: &Registry) -> Result<Leftover> {
    let path = segment.path.display();
    let unreadable = |error| cannot_read(&segment.path, error);
    let file = disk.open(&segment.path).map_err(unreadable)?;
    let length = file.length().map_err(unreadable)?;
    let mut scanner = Scanner::new(Arc::clone(&file), SEGMENT_HEADER as u64, length);
    let mut left = Leftover::default();
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
                note_asides(&bytes, &header, registry, &mut left);
                pending.push(header);
                // A batch without events ends no transaction.
                let whole = !header.more && (header.events > 0 || pending.len() == 1);
                if whole {
                    good_end = offset + u64::from(header.length);
                    for header in pending.drain(..) {
                        let end = if header.events > 0 { header.lsn_max } else { Lsn::ZERO };
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
    let unfinished = || Broken { offset: good_end, reason: "its last transaction is not whole" };
    let torn = stopped.or_else(|| (good_end < length).then(unfinished));
    // A spilled transaction was whole and synced before its file had its name.
    let may_be_torn = newest && segment.header.spilled.is_none();
    if let Some(broken) = torn {
        if !may_be_torn || scanner.sound_batch_follows().map_err(|error| io_of(error, &segment.path))? {
            return Err(broken_middle(&segment.path, &broken));
        }
        let reason = broken.reason;
        tracing::warn!(%path, offset = good_end, bytes = length - good_end, reason, "Cut the torn end of the journal");
        file.truncate(good_end).map_err(unreadable)?;
    }
    if newest {
        // What a killed process had written may be in memory alone; it is shown and confirmed from now on.
        write_again(&*file, doubtful, good_end)
            .and_then(|()| file.sync())
            .map_err(|error| cannot_use(&segment.path, error))?;
    }
    if let Some(tx) = segment.header.spilled {
        left.last_tx_end = left.last_tx_end.max(tx.end_lsn);
        let (time, lsn) = (segment.time_max(), segment.lsn_max().max(tx.end_lsn));
        segment.restore(segment.index(), segment.length(), segment.events(), (time, lsn));
    }
    segment.close(now());
    sidecar::store(disk, segment, registry, &left);
    Ok(left)
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

pub(crate) fn note_asides(
    bytes: &[u8],
    header: &crate::record::Header,
    registry: &Registry,
    left: &mut Leftover,
) {
    for (is_position, json) in asides(bytes, header) {
        if is_position {
            left.position = Some(json.to_vec());
        } else {
            left.schemas.extend(registry.load(json));
        }
    }
}

fn io_of(error: ScanError, path: &Path) -> Error {
    match error {
        ScanError::Io(error) => cannot_read(path, error),
        ScanError::Broken(broken) => broken_middle(path, &broken),
    }
}

/// Whether the newest segment's header was never written whole: it held nothing yet.
pub(crate) fn never_begun(header: &[u8; SEGMENT_HEADER], read: usize) -> bool {
    read < SEGMENT_HEADER || header.iter().all(|byte| *byte == 0)
}

impl Shared {
    /// Changes whose stream this is; the position itself moves when it is durable.
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
