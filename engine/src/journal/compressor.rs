//! The thread that compresses closed segments, one at a time, when nothing else needs the processor.
//!
//! The compressed form is written to a file beside the segment, synced, and renamed over it. A crash at any point
//! leaves one form or the other, whole; readers that have the plain file open go on in it.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use metrics::counter;
use zstd::bulk::{Compressor as Zstd, Decompressor};

use crate::error::{Error, Result};
use crate::journal::compressed::{Entry, FRAME_BYTES, Footer};
use crate::journal::disk::{Disk, DiskFile};
use crate::journal::refusal::is_out_of_files;
use crate::journal::rolling::is_full;
use crate::journal::scan::{Broken, ScanError, Scanner};
use crate::journal::segment::{SEGMENT_HEADER, Segment, mark_compressed};
use crate::journal::{Compression, Shared, retention};

/// Of zstd: see ARCHITECTURE.md for what the others cost and give.
const LEVEL: i32 = 1;
/// A smaller segment gives back no more than a block of the file system.
const SMALLEST: u64 = 8 << 10;
/// Where there is no room it is tried again after at most 2 to the power of this closed segments.
const SKIPS: u32 = 10;
/// The new file is synced after so many bytes, so that no sync of the writer waits for more of it than this.
const SYNC_BYTES: u64 = 4 << 20;
/// A tenth of what others count where they want the processor: it gives way, and comes to an end.
const NICE: i32 = 10;

/// The thread. It ends with the writer that holds it.
#[derive(Debug)]
pub(crate) struct Compressor {
    wake: Option<SyncSender<()>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Compressor {
    /// Starts it where compression is wanted.
    pub(crate) fn start(shared: &Arc<Shared>) -> Result<Option<Self>> {
        if shared.options.compression == Compression::None {
            return Ok(None);
        }
        let (wake, woken) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let work = Work {
            shared: Arc::clone(shared),
            stop: Arc::clone(&stop),
            left_alone: HashSet::new(),
            told: false,
            full: 0,
            skips: 0,
        };
        let thread =
            std::thread::Builder::new().name("compress".into()).spawn(move || work.run(&woken)).map_err(
                |error| Error::failed("Cannot start the thread that compresses segments").because(error),
            )?;
        let compressor = Self { wake: Some(wake), stop, thread: Some(thread) };
        // What an earlier run has left.
        compressor.look();
        Ok(Some(compressor))
    }

    /// Tells it that a segment may have been closed.
    pub(crate) fn look(&self) {
        if let Some(wake) = &self.wake {
            // When it is already told, that is enough.
            let _ = wake.try_send(());
        }
    }
}

impl Drop for Compressor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            // At most a few megabytes away; a panic in it was printed and concerns nobody here.
            let _ = thread.join();
        }
    }
}

struct Work {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    /// Segments, by base, that stay as they are: damaged ones, and those that gain nothing.
    left_alone: HashSet<u64>,
    /// Whether a failure has been told.
    told: bool,
    /// So often one after the other there was no room.
    full: u32,
    /// So many more times it is not tried although a segment has been closed: what fails takes the time of reading and
    /// compressing, and the last room, of a quota say.
    skips: u32,
}

impl Work {
    fn run(mut self, woken: &Receiver<()>) {
        // Without the right to, it competes like others.
        let _ = rustix::process::setpriority_process(None, NICE);
        while woken.recv().is_ok() {
            if self.skips > 0 {
                self.skips -= 1;
                continue;
            }
            while let Some(segment) = self.next() {
                let Err(error) = self.compress(&segment) else {
                    self.full = 0;
                    continue;
                };
                self.tell(&segment, &error);
                if passes(&error) {
                    // Tried again when another one is closed, then after two, after four.
                    self.skips = (1 << self.full.min(SKIPS)) - 1;
                    self.full += 1;
                    break;
                }
                self.left_alone.insert(segment.header.base);
            }
        }
    }

    /// The oldest closed segment that is not compressed, and of which the file system has room for both forms; `None`
    /// when there is none or it is time to stop.
    fn next(&self) -> Option<Arc<Segment>> {
        let segments = self.shared.segments.load();
        let (_, closed) = segments.split_last().filter(|_| !self.stop.load(Ordering::Acquire))?;
        let fits = |segment: &Segment| retention::short_of_room(&self.shared, segment.length()).is_none();
        let next = closed.iter().find(|segment| {
            segment.closed() > 0
                && segment.length() >= SMALLEST
                && !segment.is_compressed()
                && !self.left_alone.contains(&segment.header.base)
                && fits(segment)
        })?;
        Some(Arc::clone(next))
    }

    fn tell(&mut self, segment: &Segment, error: &io::Error) {
        let path = segment.path.display();
        let until = match error {
            _ if is_full(error) => "there is room",
            _ if passes(error) => "another file can be opened",
            _ => "the next start",
        };
        if std::mem::replace(&mut self.told, true) {
            tracing::debug!(%error, %path, "A segment stays uncompressed until {until}");
        } else {
            tracing::warn!(%error, %path, "A segment stays uncompressed until {until}; so may others");
        }
        counter!("rowcast_journal_compressed_failures_total").increment(1);
    }

    fn compress(&self, segment: &Segment) -> io::Result<()> {
        let disk = &*self.shared.disk;
        let beside = beside(&segment.path);
        let source = match disk.open(&segment.path) {
            // Retention was first.
            Err(_) if self.shared.has_removed(segment) => return Ok(()),
            opened => opened?,
        };
        self.look_through(&source, segment)?;
        let written = Writing::create(disk, &beside)
            .and_then(|writing| writing.all(&*source, segment.length(), &self.stop));
        let placed = match written {
            Ok(Some(stored)) if stored < segment.length() => self.place(segment, &beside, stored),
            Ok(Some(_)) => Err(io::Error::other("it would not become smaller")),
            Ok(None) => Ok(false),
            Err(error) => Err(error),
        };
        if !matches!(placed, Ok(true)) {
            // Removed at the next opening if it cannot be now.
            let _ = disk.remove(&beside);
        }
        placed.map(|_| ())
    }

    /// A damaged segment stays as it is, for whoever mends it.
    fn look_through(&self, source: &Arc<dyn DiskFile>, segment: &Segment) -> io::Result<()> {
        let mut scanner = Scanner::new(Arc::clone(source), SEGMENT_HEADER as u64, segment.length());
        while !self.stop.load(Ordering::Acquire) {
            match scanner.next() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(ScanError::Io(error)) => return Err(error),
                Err(ScanError::Broken(Broken { offset, reason })) => {
                    return Err(io::Error::other(format!("damaged at offset {offset}: {reason}")));
                }
            }
        }
        Ok(())
    }

    fn holds(&self, segment: &Segment) -> bool {
        self.shared.segments.load().iter().any(|held| held.header.base == segment.header.base)
    }

    /// Gives the compressed form the segment's name; `false` when retention has removed the segment meanwhile.
    fn place(&self, segment: &Segment, beside: &Path, stored: u64) -> io::Result<bool> {
        let shared = &self.shared;
        {
            let _names = shared.names.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.holds(segment) {
                return Ok(false);
            }
            shared.disk.rename(beside, &segment.path)?;
            segment.set_stored(stored);
        }
        // Until then a power cut may bring the plain form back, which is as good.
        if let Err(error) = shared.disk.sync_dir(&shared.options.dir) {
            let path = segment.path.display();
            tracing::warn!(%error, %path, "A compressed segment may be uncompressed again after a power cut");
        }
        let saved = segment.length() - stored;
        counter!("rowcast_journal_compressed_segments_total").increment(1);
        counter!("rowcast_journal_compressed_saved_bytes_total").increment(saved);
        tracing::debug!(path = %segment.path.display(), from = segment.length(), to = stored, "Compressed a segment");
        Ok(true)
    }
}

fn passes(error: &io::Error) -> bool {
    is_full(error) || is_out_of_files(error)
}

/// Where the compressed form of a segment is written.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("zst.tmp")
}

/// A compressed form that is being written.
struct Writing {
    file: Arc<dyn DiskFile>,
    at: u64,
    unsynced: u64,
    zstd: Zstd<'static>,
    back: Decompressor<'static>,
    table: Vec<u8>,
    packed: Vec<u8>,
    plain: Vec<u8>,
    compared: Vec<u8>,
}

impl Writing {
    fn create(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: disk.create(path)?,
            at: 0,
            unsynced: 0,
            zstd: Zstd::new(LEVEL)?,
            back: Decompressor::new()?,
            table: Vec::new(),
            packed: Vec::with_capacity(zstd::zstd_safe::compress_bound(FRAME_BYTES as usize)),
            plain: Vec::new(),
            compared: vec![0; FRAME_BYTES as usize],
        })
    }

    /// Writes the whole segment and syncs it; gives the length of the file, `None` when told to stop.
    fn all(mut self, source: &dyn DiskFile, length: u64, stop: &AtomicBool) -> io::Result<Option<u64>> {
        let mut header = [0; SEGMENT_HEADER];
        source.read_at(&mut header, 0)?;
        mark_compressed(&mut header, true);
        self.put(&header)?;
        let mut from = SEGMENT_HEADER as u64;
        while from < length {
            if stop.load(Ordering::Acquire) {
                return Ok(None);
            }
            let size = usize::try_from((length - from).min(u64::from(FRAME_BYTES))).unwrap_or(0);
            self.plain.resize(size, 0);
            if source.read_at(&mut self.plain, from)? < size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.frame()?;
            from += size as u64;
        }
        let footer = Footer { length, table: self.at, frame_bytes: FRAME_BYTES };
        let mut end = std::mem::take(&mut self.table);
        end.extend_from_slice(&footer.encode());
        self.put(&end)?;
        self.file.sync()?;
        Ok(Some(self.at))
    }

    /// Compresses what is in `plain`, and unpacks it again: after this the original goes.
    fn frame(&mut self) -> io::Result<()> {
        self.packed.clear();
        self.zstd.compress_to_buffer(&self.plain, &mut self.packed)?;
        let back = self.back.decompress_to_buffer(&self.packed, self.compared.as_mut_slice())?;
        if self.compared.get(..back) != Some(self.plain.as_slice()) {
            return Err(io::Error::other("what was compressed does not unpack to what it was"));
        }
        let entry = Entry::of(self.at, &self.packed).ok_or(io::ErrorKind::FileTooLarge)?;
        self.table.extend_from_slice(&entry.encode());
        let packed = std::mem::take(&mut self.packed);
        let put = self.put(&packed);
        self.packed = packed;
        put
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_BYTES {
            self.file.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }
}
