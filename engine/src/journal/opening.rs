//! Opening: cuts a torn tail and says so, refuses a broken middle with file and offset.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::journal::cache::Cache;
use crate::journal::compressed::{open_segment, plain_view};
use crate::journal::compressor::Compressor;
use crate::journal::disk::{Disk, make_dir};
use crate::journal::registry::Registry;
use crate::journal::rolling::{cannot_create, start_segment};
use crate::journal::scan::{Broken, ScanError, Scanner};
use crate::journal::segment::{SEGMENT_HEADER, Segment, SegmentHeader, is_compressed};
use crate::journal::sidecar::{self, Leftover};
use crate::journal::writer::{Writer, now};
use crate::journal::{Command, Journal, Options, Shared, State, StreamPosition, Sync};
use crate::lsn::Lsn;
use crate::record::asides;

/// Appends waiting for the writer; each is bounded by whoever sends it (capture: two at a time, publishing: a
/// message each).
const QUEUE: usize = 8;
/// How often ages and free space are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Opens the journal, making it if there is none, and starts its writer. Must be called within a tokio runtime.
pub fn open(options: Options, disk: Arc<dyn Disk>) -> Result<Journal> {
    let lock = lock(&options.dir)?;
    let installation = installation(&options.dir)?;
    remove_spills(&options.dir, &*disk)?;
    let registry = Registry::default();
    let found = Found::load(&options.dir, &*disk, &registry)?;
    if let Some(other) = found.segments.iter().find(|segment| segment.header.installation != installation) {
        return Err(Error::journal(format!("{} belongs to another installation", other.path.display()))
            .hint("Give every rowcast a data directory of its own (--data DIR)."));
    }
    let newest = found.segments.last().map_or(0, |segment| segment.last());
    let lsn = found.lsn();
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
        holds: Mutex::new(options.holds.clone()),
        submitted: AtomicU64::new(lsn.0),
        closing: AtomicBool::new(false),
        spills: AtomicU64::new(0),
        names: Mutex::new(()),
        lock: Mutex::new(Some(lock)),
        options,
    });
    start(shared, newest)
}

fn start(shared: Arc<Shared>, newest: u64) -> Result<Journal> {
    let clock = u64::try_from(now()).unwrap_or(0);
    // Not below an empty segment either: a clock that was set back must not give its numbers to others.
    let last_base = shared.segments.load().last().map_or(0, |segment| segment.header.base);
    let next = (newest.max(shared.options.seen) + 1).max(clock).max(last_base);
    let previous = shared.segments.load().last().map_or_else(|| Arc::new(nothing_before()), Arc::clone);
    let active =
        start_segment(&shared, next, &previous).map_err(|error| cannot_create(&shared, next, error))?;
    let mut writer =
        Writer { shared: Arc::clone(&shared), active, next, unchecked: 0, unsynced: None, compressor: None };
    writer.write_position()?;
    // Durable before the segment that held it so far may go.
    writer.sync_file()?;
    shared.cache.clear(newest);
    drop_empty(&shared);
    writer.compressor = Compressor::start(&shared)?;
    let (commands, queue) = mpsc::channel(QUEUE);
    spawn_ticks(&shared, &commands);
    std::thread::Builder::new()
        .name("journal".into())
        .spawn(move || writer.run(queue))
        .map_err(|error| Error::failed("Cannot start the journal's thread").because(error))?;
    Ok(Journal { shared, commands })
}

fn nothing_before() -> Segment {
    let header =
        SegmentHeader { base: 0, previous_last: 0, created: 0, installation: Uuid::nil(), spilled: None };
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

pub(crate) fn lock(dir: &Path) -> Result<File> {
    let failed = |error: std::io::Error| {
        Error::journal(format!("Cannot open the journal in {}", dir.display()))
            .because(error)
            .hint("Name a directory that the user who runs rowcast may write to (--data DIR).")
    };
    make_dir(dir).map_err(failed)?;
    let file =
        File::options().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(failed)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Error::journal(format!("The journal in {} is in use by another process", dir.display()))
            .hint("Stop the other rowcast, or give this one a directory of its own (--data DIR).")
    })?;
    Ok(file)
}

/// The installation's uuid, made at the first opening.
fn installation(dir: &Path) -> Result<Uuid> {
    let path = dir.join("installation");
    let failed =
        |error: std::io::Error| Error::journal(format!("Cannot use {}", path.display())).because(error);
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|error: uuid::Error| {
            Error::journal(format!("{} holds no installation number", path.display())).because(error)
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let uuid = Uuid::new_v4();
            let beside = dir.join("installation.new");
            std::fs::write(&beside, format!("{uuid}\n")).map_err(failed)?;
            File::open(&beside).and_then(|file| file.sync_all()).map_err(failed)?;
            std::fs::rename(&beside, &path).map_err(failed)?;
            Ok(uuid)
        }
        Err(error) => Err(failed(error)),
    }
}

/// What lies in the directory.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) segments: Vec<Arc<Segment>>,
    position: StreamPosition,
    last_tx_end: Lsn,
}

impl Found {
    fn load(dir: &Path, disk: &dyn Disk, registry: &Registry) -> Result<Self> {
        let mut found = Self::default();
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
        let broken = |reason: &str| {
            Error::journal(format!("{} is damaged: {reason}", path.display()))
                .hint("`rowcast journal check` tells what can be read; restore the file from a copy.")
        };
        let unreadable = |error| Error::journal(format!("Cannot read {}", path.display())).because(error);
        let file = disk.open(path).map_err(unreadable)?;
        let mut bytes = [0; SEGMENT_HEADER];
        let read = file.read_at(&mut bytes, 0).map_err(unreadable)?;
        let header = match SegmentHeader::decode(&bytes) {
            Ok(header) => header,
            Err(_) if newest && (read < SEGMENT_HEADER || bytes.iter().all(|byte| *byte == 0)) => {
                tracing::warn!(path = %path.display(), "Removed a segment whose first write was cut off");
                return disk.remove(path).map_err(unreadable);
            }
            Err(reason) => return Err(broken(reason)),
        };
        let (time, lsn, last) = self.segments.last().map_or((0, Lsn::ZERO, None), |before| {
            (before.time_max(), before.lsn_max(), Some(before.last()))
        });
        if last.is_some_and(|last| last != header.previous_last) {
            return Err(broken(&format!(
                "it continues after event {}, but the segment before it ends at {}: a segment is missing or cut",
                header.previous_last,
                last.unwrap_or(0)
            )));
        }
        let stored = file.length().map_err(unreadable)?;
        let file = plain_view(file, &bytes).map_err(unreadable)?;
        let mut segment = Segment::new(header, path.to_owned(), time, lsn);
        let left = match sidecar::load(disk, &segment, &file, newest, registry) {
            Some(left) => left,
            None => {
                segment = Segment::new(header, path.to_owned(), time, lsn);
                scan(&segment, newest && !is_compressed(&bytes), disk, registry)?
            }
        };
        segment.set_stored(stored.min(segment.length()));
        if let Some(json) = &left.position {
            self.position =
                serde_json::from_slice(json).map_err(|_| broken("its position record is unreadable"))?;
        }
        self.last_tx_end = self.last_tx_end.max(left.last_tx_end);
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

/// Removes the files of transactions that had not committed when the process ended, and of segments that were being
/// compressed.
fn remove_spills(dir: &Path, disk: &dyn Disk) -> Result<()> {
    for path in files_named(dir, disk, "tmp")? {
        tracing::info!(path = %path.display(), "Removed what was not finished when rowcast ended");
        // Harmless if it stays.
        let _ = disk.remove(&path);
    }
    Ok(())
}

/// Reads a whole segment, checking every batch; cuts the newest one where it is torn.
fn scan(segment: &Segment, newest: bool, disk: &dyn Disk, registry: &Registry) -> Result<Leftover> {
    let path = segment.path.display();
    let unreadable = |error| Error::journal(format!("Cannot read {path}")).because(error);
    let file = open_segment(disk, &segment.path).map_err(unreadable)?;
    let length = file.length().map_err(unreadable)?;
    let mut scanner = Scanner::new(Arc::clone(&file), SEGMENT_HEADER as u64, length);
    let mut left = Leftover::default();
    // The batches of a transaction count only once its last one is there.
    let mut pending = Vec::new();
    let mut good_end = SEGMENT_HEADER as u64;
    let stopped = loop {
        match scanner.next() {
            Ok(Some((offset, header, bytes))) => {
                note_asides(&bytes, &header, registry, &mut left);
                if header.events > 0 {
                    left.last_tx_end = left.last_tx_end.max(header.lsn_max);
                }
                pending.push(header);
                // A batch without events ends no transaction.
                let whole = !header.more && (header.events > 0 || pending.len() == 1);
                if whole {
                    good_end = offset + u64::from(header.length);
                    pending.drain(..).for_each(|header| segment.grow(&header));
                }
            }
            Ok(None) => break None,
            Err(ScanError::Io(error)) => return Err(unreadable(error)),
            Err(ScanError::Broken(broken)) => break Some(broken),
        }
    };
    let torn = match stopped {
        Some(broken)
            if !newest || scanner.sound_batch_follows().map_err(|error| io_of(error, &segment.path))? =>
        {
            return Err(broken_middle(&segment.path, &broken));
        }
        Some(broken) => Some(broken.reason),
        None => (good_end < length).then_some("its last transaction is not whole"),
    };
    if let Some(reason) = torn {
        tracing::warn!(%path, offset = good_end, bytes = length - good_end, reason, "Cut the torn end of the journal");
        file.truncate(good_end).map_err(unreadable)?;
    }
    if newest {
        // What a killed process had written may be in memory alone; it is shown and confirmed from now on.
        file.sync().map_err(unreadable)?;
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
        ScanError::Io(error) => Error::journal(format!("Cannot read {}", path.display())).because(error),
        ScanError::Broken(broken) => broken_middle(path, &broken),
    }
}

pub(crate) fn broken_middle(path: &Path, broken: &Broken) -> Error {
    Error::journal(format!("{} is damaged at offset {}: {}", path.display(), broken.offset, broken.reason))
        .hint("`rowcast journal check` tells what can be read; restore the file from a copy.")
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
