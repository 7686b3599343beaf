//! One file of the log: its header, what of it may be read, and the index into it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use uuid::Uuid;

use crate::event::Micros;
use crate::journal::age::Age;
use crate::journal::zeros::without_zeros;
use crate::lsn::Lsn;
use crate::record::layout::{NUMBERS_END, get_i64, get_u16, get_u32, get_u64, put};
use crate::record::{Header, SpilledTx};

pub(crate) const SEGMENT_HEADER: usize = 128;
const MAGIC: &[u8; 8] = b"ROWCASTJ";
const VERSION: u16 = 2;
/// The oldest one that can be read.
const OLDEST_VERSION: u16 = 1;
/// What is said of a sound header that this program cannot read; nobody may take it for damage.
pub(crate) const OTHER_VERSION: &str = "its format is of another version of rowcast";
const WRONG_CHECKSUM: &str = "its header's checksum is wrong";
const FLAG_SPILLED: u16 = 1;
const FLAG_COMPRESSED: u16 = 2;
/// A new history begins here.
const FLAG_HISTORY: u16 = 4;
const FLAG_BRIDGE: u16 = 8;
const FLAGS: u16 = FLAG_SPILLED | FLAG_COMPRESSED | FLAG_HISTORY | FLAG_BRIDGE;

/// One index entry for about this many bytes: a read that starts in the middle looks at no more than this to find
/// its place, and 64 MB of log cost 10 KB of memory.
pub(crate) const INDEX_STRIDE: u64 = 256 << 10;

/// The first bytes of a segment file; drawn in the header of `journal`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) base: u64,
    pub(crate) previous_last: u64,
    pub(crate) created: Micros,
    pub(crate) installation: Uuid,
    pub(crate) spilled: Option<SpilledTx>,
    /// It holds one gap, which stands for all numbers between the last event before it and its own.
    pub(crate) bridge: bool,
    /// A history of the source begins here, at this position.
    pub(crate) history: Option<Lsn>,
    /// When the file that it was written to was made ([`crate::journal::disk::DiskFile::born`]); 0: not known, or it was
    /// whole when it got its name.
    pub(crate) born: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = [0; SEGMENT_HEADER];
        let flags = if self.spilled.is_some() { FLAG_SPILLED } else { 0 }
            | if self.history.is_some() { FLAG_HISTORY } else { 0 }
            | if self.bridge { FLAG_BRIDGE } else { 0 };
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, &VERSION.to_le_bytes());
        put(&mut bytes, 10, &flags.to_le_bytes());
        put(&mut bytes, 12, &128u32.to_le_bytes());
        put(&mut bytes, 16, &self.base.to_le_bytes());
        put(&mut bytes, 24, &self.previous_last.to_le_bytes());
        put(&mut bytes, 32, &self.created.to_le_bytes());
        put(&mut bytes, 40, self.installation.as_bytes());
        let lsn = self.history.unwrap_or(self.spilled.unwrap_or_default().end_lsn);
        put(&mut bytes, 56, &lsn.0.to_le_bytes());
        put(&mut bytes, 64, &self.born.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..124]);
        put(&mut bytes, 124, &crc.to_le_bytes());
        bytes
    }

    /// Reads a header; the error says what is wrong with it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.get(..8) != Some(MAGIC) {
            return Err("it is no journal segment");
        }
        let version = get_u16(bytes, 8).ok_or("its header is cut")?;
        let body = bytes.get(..124).ok_or("its header is cut")?;
        if get_u32(bytes, 124) != Some(crc32c::crc32c(body)) {
            return Err(WRONG_CHECKSUM);
        }
        let known = (OLDEST_VERSION..=VERSION).contains(&version);
        if !known || get_u16(bytes, 10).is_none_or(|flags| flags & !FLAGS != 0) {
            return Err(OTHER_VERSION);
        }
        let header = Self::fields(bytes).ok_or("its header is cut")?;
        if header.base >= NUMBERS_END || header.previous_last >= header.base.max(1) {
            return Err("its header has numbers that no segment can have");
        }
        Ok(header)
    }

    /// Whether these bytes begin as every segment does.
    pub(crate) fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC)
    }

    /// Whether a header may have come to this, of which any beginning was written, with zeros behind.
    pub(crate) fn is_torn(bytes: &[u8; SEGMENT_HEADER]) -> bool {
        let begun = without_zeros(bytes);
        if begun < MAGIC.len() {
            return bytes.get(..begun).is_some_and(|begun| MAGIC.starts_with(begun));
        }
        Self::is_one(bytes) && Self::decode(bytes) == Err(WRONG_CHECKSUM)
    }

    fn fields(bytes: &[u8]) -> Option<Self> {
        let flags = get_u16(bytes, 10)?;
        let lsn = Lsn(get_u64(bytes, 56)?);
        Some(Self {
            base: get_u64(bytes, 16)?,
            previous_last: get_u64(bytes, 24)?,
            created: get_i64(bytes, 32)?,
            installation: Uuid::from_slice(bytes.get(40..56)?).ok()?,
            spilled: (flags & FLAG_SPILLED != 0).then_some(SpilledTx { end_lsn: lsn }),
            history: (flags & FLAG_HISTORY != 0).then_some(lsn),
            bridge: flags & FLAG_BRIDGE != 0,
            born: get_u64(bytes, 64)?,
        })
    }
}

/// Whether these first bytes of a segment, if they are sound, say that the rest is compressed.
pub(crate) fn is_compressed(header: &[u8]) -> bool {
    SegmentHeader::decode(header).is_ok()
        && get_u16(header, 10).is_some_and(|flags| flags & FLAG_COMPRESSED != 0)
}

/// Makes the first bytes of a segment those of its compressed form, or of its plain one.
pub(crate) fn mark_compressed(header: &mut [u8; SEGMENT_HEADER], compressed: bool) {
    let others = get_u16(header, 10).unwrap_or(0) & !FLAG_COMPRESSED;
    let flags = others | if compressed { FLAG_COMPRESSED } else { 0 };
    put(header, 10, &flags.to_le_bytes());
    let crc = crc32c::crc32c(&header[..124]);
    put(header, 124, &crc.to_le_bytes());
}

/// A place from which a segment can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// First event of the batch, relative to the base.
    pub(crate) first: u64,
    pub(crate) offset: u64,
    /// Highest commit time of all batches before this one, in this segment and in older ones.
    pub(crate) time_before: Micros,
    /// Highest end LSN of all batches before this one.
    pub(crate) lsn_before: Lsn,
}

/// A segment as readers see it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) path: PathBuf,
    /// Events in the segments before it, those included that retention has taken since this one was opened.
    before: u64,
    /// Bytes that may be read, in its plain form.
    length: AtomicU64,
    /// Bytes on the disk: less than the length once it is compressed.
    stored: AtomicU64,
    /// Events in it.
    events: AtomicU64,
    /// Highest commit time and end LSN up to its end, older segments included.
    time_max: AtomicI64,
    lsn_max: AtomicU64,
    /// When it was closed, by our clock; 0 while it is written.
    closed: AtomicI64,
    /// Likewise, for how long it has been.
    age: Mutex<Option<Age>>,
    index: RwLock<Vec<IndexEntry>>,
}

impl Segment {
    pub(crate) fn new(header: SegmentHeader, path: PathBuf, time_before: Micros, lsn_before: Lsn) -> Self {
        Self {
            header,
            path,
            before: 0,
            length: AtomicU64::new(SEGMENT_HEADER as u64),
            stored: AtomicU64::new(SEGMENT_HEADER as u64),
            events: AtomicU64::new(0),
            time_max: AtomicI64::new(time_before),
            lsn_max: AtomicU64::new(lsn_before.0),
            closed: AtomicI64::new(0),
            age: Mutex::default(),
            index: RwLock::new(Vec::new()),
        }
    }

    /// The same, with what `previous` and those before it have counted. That one must not grow any more.
    pub(crate) fn behind(self, previous: &Self) -> Self {
        Self { before: previous.count(), ..self }
    }

    pub(crate) fn file_name(base: u64) -> String {
        format!("{base:020}.seg")
    }

    pub(crate) fn path_in(dir: &Path, base: u64) -> PathBuf {
        dir.join(Self::file_name(base))
    }

    /// Notes a batch that has been written at the end. Only the writer calls this.
    pub(crate) fn grow(&self, header: &Header) {
        let offset = self.length();
        self.note(header, offset);
        self.events.store(header.first + u64::from(header.events), Ordering::Release);
        self.stored.store(offset + u64::from(header.length), Ordering::Release);
        self.length.store(offset + u64::from(header.length), Ordering::Release);
    }

    fn note(&self, header: &Header, offset: u64) {
        let (time_before, lsn_before) = (self.time_max(), self.lsn_max());
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if index.last().is_none_or(|last| offset - last.offset >= INDEX_STRIDE) {
            index.push(IndexEntry { first: header.first, offset, time_before, lsn_before });
        }
        drop(index);
        self.time_max.store(time_before.max(header.time_max), Ordering::Release);
        self.lsn_max.store(lsn_before.max(header.lsn_max).0, Ordering::Release);
    }

    pub(crate) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    /// What it takes on the disk.
    pub(crate) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Acquire)
    }

    pub(crate) fn set_stored(&self, bytes: u64) {
        self.stored.store(bytes, Ordering::Release);
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.stored() < self.length()
    }

    pub(crate) fn events(&self) -> u64 {
        self.events.load(Ordering::Acquire)
    }

    /// Events in the segments before it. Only differences of this tell something.
    pub(crate) fn count_before(&self) -> u64 {
        self.before
    }

    /// The same, with its own.
    pub(crate) fn count(&self) -> u64 {
        self.before + self.events()
    }

    pub(crate) fn time_max(&self) -> Micros {
        self.time_max.load(Ordering::Acquire)
    }

    pub(crate) fn lsn_max(&self) -> Lsn {
        Lsn(self.lsn_max.load(Ordering::Acquire))
    }

    pub(crate) fn closed(&self) -> Micros {
        self.closed.load(Ordering::Acquire)
    }

    /// It has been closed a moment ago.
    pub(crate) fn close(&self, at: Micros) {
        self.close_before(at, at);
    }

    /// It was closed at some time before `now`.
    pub(crate) fn close_before(&self, at: Micros, now: Micros) {
        *self.age.lock().unwrap_or_else(PoisonError::into_inner) = Some(Age::of(at, now));
        self.closed.store(at, Ordering::Release);
    }

    /// For how long it has been closed; `None` while it is written.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.age.lock().unwrap_or_else(PoisonError::into_inner).map(Age::so_far)
    }

    /// Number of its last event, or of the last one before it when it has none.
    pub(crate) fn last(&self) -> u64 {
        match self.events() {
            0 => self.header.previous_last,
            events => self.header.base + events - 1,
        }
    }

    /// Where to start reading for the last place at which `before` still holds.
    pub(crate) fn offset_where(&self, before: impl Fn(&IndexEntry) -> bool) -> u64 {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let after = index.partition_point(before);
        let entry = after.checked_sub(1).and_then(|at| index.get(at));
        entry.map_or(SEGMENT_HEADER as u64, |entry| entry.offset)
    }

    pub(crate) fn index(&self) -> Vec<IndexEntry> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says of a segment that all of it is one transaction, what came `before` it and what it ends with: its batches,
    /// which were written before that was known, do not.
    pub(crate) fn is_one_transaction(&self, before: (Micros, Lsn), end: (Micros, Lsn)) {
        let after = (before.0.max(end.0), before.1.max(end.1));
        let mut index = self.index();
        for (at, entry) in index.iter_mut().enumerate() {
            (entry.time_before, entry.lsn_before) = if at == 0 { before } else { after };
        }
        self.restore(index, self.length(), self.events(), after);
    }

    pub(crate) fn restore(&self, index: Vec<IndexEntry>, length: u64, events: u64, times: (Micros, Lsn)) {
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = index;
        self.stored.store(length, Ordering::Release);
        self.length.store(length, Ordering::Release);
        self.events.store(events, Ordering::Release);
        self.time_max.store(times.0, Ordering::Release);
        self.lsn_max.store(times.1.0, Ordering::Release);
    }
}
