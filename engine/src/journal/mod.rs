//! The journal: an append-only log of numbered events in segment files.
//!
//! ```text
//! DIR/lock                        locked while a process has the journal open, as is DIR itself
//! DIR/00000001795226490105.seg    a segment, named by the number of its first event
//! DIR/00000001795226490105.idx    its index; made again by a scan when it is missing or wrong
//! DIR/spill-3.tmp                 a huge transaction that has not committed yet; removed at opening
//! DIR/00000001795226490105.zst.tmp  a closed segment on its way to its compressed form; removed at opening
//! DIR/history.tmp                 a history of the source that has not begun yet; removed at opening
//! DIR/installation                the uuid that every segment names: whose journal this is
//! DIR/removed                     the number of the last event that retention has removed, see `removed`
//! DIR/taken                       which events another hand has taken from the end, see `taken`
//! DIR/00000001795226490105.seg.cut-640  what `repair` has cut off there, for a person; `….new` while it is written,
//!                                 as is a segment that `repair` makes; removed at opening
//!
//! segment   0 "ROWCASTJ"      8 u16 format version (2)   10 u16 flags: 1 = one spilled transaction, 2 = compressed,
//!                                                        4 = a history of the source begins here,
//!                                                        8 = a bridge over lost numbers (see `repair`)
//!          12 u32 length of this header (128)            16 u64 base: number of the first event
//!          24 u64 number of the last event before it     32 i64 created, microseconds since 1970
//!          40 uuid of the installation                   56 u64 end LSN of the spilled transaction,
//!                                                      or position at which the history begins
//!          64 u64 when the file was made, nanoseconds since 1970: a copy is made later (0: not known)
//!         124 u32 CRC32C of the bytes before             128 batches, one after the other
//! ```
//! Magic, version, and the checksum over the first 124 bytes stay where they are in every version. Version 2 has events
//! for some sinks alone, which a program that knows version 1 would show to everybody; both are read.
//! A batch is drawn in `record/layout.rs`, the rest of a compressed segment in `compressed.rs`. All integers are
//! little-endian; tuples are as Postgres sent them. Events are numbered relative to their segment, so that a
//! transaction can be written before its numbers are known. The newest segment may end with zeros, see `zeros`.
//!
//! Order of truth: written, synced, then visible, then confirmed to the source. A transaction is visible whole or
//! not at all. A failed sync ends all writing until the process starts again, because the kernel may have thrown
//! away what it could not write.

mod age;
mod backup;
mod cache;
mod check;
mod compressed;
mod compressor;
mod crowded;
mod damage;
pub mod disk;
mod distance;
mod ending;
mod gaps;
mod history;
mod holds;
mod installation;
mod last;
mod lock;
mod lost_end;
mod marks;
mod noted;
mod notes;
mod opening;
mod place;
mod position;
mod reader;
mod refusal;
mod registry;
mod release;
mod removed;
mod repair;
mod retention;
mod rolling;
mod room;
mod salvage;
mod scan;
mod segment;
mod sidecar;
mod spill;
mod taken;
pub(crate) mod writer;
mod zeros;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

pub use backup::{BackupReport, backup, empty_dir};
pub use check::{CheckReport, check, for_each_event};
pub use gaps::ChannelGap;
pub use opening::open;
pub use place::{Start, first_of_last};
pub use position::{Broken, StreamPosition};
pub use reader::{Gone, Read, StoredTransaction};
pub(crate) use refusal::or_files;
pub use refusal::{quoted, with_repair};
pub use repair::{Cut, LostNumbers, RepairReport, repair};
pub(crate) use rolling::RowsEnd;
pub(crate) use rolling::json_of as encode_position;
pub(crate) use room::OUT_OF_FILES;
pub use spill::Spill;
pub(crate) use writer::{Append, Command, TxEnd};

use crate::answer::answered;
use crate::error::{Error, Result};
use crate::journal::cache::Cache;
use crate::journal::disk::{Disk, DiskFile};
use crate::journal::holds::Holds;
use crate::journal::lock::Lock;
use crate::journal::marks::Marks;
use crate::journal::notes::Notes;
use crate::journal::registry::Registry;
use crate::journal::release::Release;
use crate::journal::room::Claim;
use crate::journal::segment::Segment;
use crate::lsn::Lsn;
use crate::record::Builder;
use crate::schema::Schema;

/// When the disk is asked to make appended events durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Before they are shown.
    Always,
    /// At most this long after they are shown, and before they are confirmed to the source: a power cut repeats
    /// them under new numbers and loses none.
    Interval(Duration),
}

/// What becomes of closed segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// They stay as they were written.
    None,
    /// A thread of low priority compresses them.
    Zstd,
}

/// How the journal keeps its events.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directory.
    pub dir: PathBuf,
    /// Segments closed longer ago than this are removed.
    pub retention: Duration,
    /// All segments together take no more than this; `None`: half the file system.
    pub max_size: Option<u64>,
    /// Capture pauses when less than this is free; never more than a tenth of the file system.
    pub min_free: u64,
    /// When to sync.
    pub sync: Sync,
    /// A segment is closed at about this size.
    pub segment_bytes: u64,
    /// A small group makes the newest segment this much longer than it is, with zeros, for those to come: a sync of a
    /// file that does not grow takes less. At most 256 KB.
    pub ahead_bytes: usize,
    /// Whether closed segments are compressed. Ones that are can be read in any case.
    pub compression: Compression,
    /// Memory for the newest batches.
    pub cache_bytes: usize,
    /// Numbers start above this: what sinks and clients are known to have seen.
    pub seen: u64,
    /// Up to where each push door is, so that retention spares what it lacks even before it runs.
    pub holds: BTreeMap<String, u64>,
    /// A push door that is behind and has not moved for this long does not keep the journal above `max_size`.
    pub stalled_after: Duration,
    /// The command that mends it, with the directories as people name them, for hints.
    pub repair: Option<String>,
}

impl Options {
    /// The defaults, in a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            retention: Duration::from_secs(24 * 60 * 60),
            max_size: None,
            min_free: 1 << 30,
            sync: Sync::Always,
            // Retention gives room back a segment at a time; opening scans one.
            segment_bytes: 64 << 20,
            // A fifth of a millisecond, in one of some twenty groups of a hundred rows.
            ahead_bytes: 256 << 10,
            compression: Compression::None,
            cache_bytes: 32 << 20,
            seen: 0,
            holds: BTreeMap::new(),
            // A broker's restart or a rolling upgrade is over by then.
            stalled_after: Duration::from_secs(10 * 60),
            repair: None,
        }
    }
}

/// What the writer is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "detail")]
pub enum State {
    /// Taking events.
    Open,
    /// Waiting for room; readers are served.
    Full(String),
    /// A write or sync failed: nothing is taken until the process starts again; readers are served.
    Failed(String),
}

/// Numbers for status and metrics.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Number of the oldest event that is held.
    pub oldest: u64,
    /// Number of the newest event.
    pub newest: u64,
    /// Segment files.
    pub segments: usize,
    /// How many of them are compressed.
    pub compressed: usize,
    /// Bytes of all segments on the disk.
    pub bytes: u64,
    /// Commit time of the newest transaction, microseconds since 1970; 0 when there is none.
    pub newest_commit: i64,
    /// What the writer is doing.
    #[serde(flatten)]
    pub state: State,
    /// Damage that was met and is still there, as far as is known: what is behind it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// The installation.
    pub installation: Uuid,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) installation: Uuid,
    pub(crate) segments: ArcSwap<Vec<Arc<Segment>>>,
    pub(crate) registry: Registry,
    pub(crate) cache: Cache,
    /// Number of the newest visible event.
    pub(crate) head: watch::Sender<u64>,
    /// Position up to which the stream is durable here.
    pub(crate) durable: watch::Sender<Lsn>,
    pub(crate) state: watch::Sender<State>,
    pub(crate) position: Mutex<StreamPosition>,
    /// What the source keeps beside its events, as far as it is durable.
    pub(crate) notes: Mutex<Notes>,
    /// Counts their changes.
    pub(crate) noted: watch::Sender<u64>,
    /// End LSN of the newest transaction stored.
    pub(crate) last_tx_end: AtomicU64,
    /// Position of the stream after what was handed over last, durable or not.
    pub(crate) submitted: AtomicU64,
    /// What each push door still needs.
    pub(crate) holds: Holds,
    /// Which position belongs to which number.
    pub(crate) marks: Marks,
    /// Damage that was met, by the base of the segment; no more entries than segments.
    pub(crate) damage: Mutex<BTreeMap<u64, damage::Damage>>,
    /// Base of the segment that retention could not remove; 0 when there is none.
    pub(crate) stays: AtomicU64,
    pub(crate) closing: AtomicBool,
    pub(crate) spills: AtomicU64,
    /// Bytes in files of transactions that have not committed.
    pub(crate) spilled: AtomicU64,
    /// Tells this opening's files from those of another one.
    pub(crate) life: Uuid,
    /// Held while a segment's name goes, or goes to its compressed form: else a removed one would come back.
    pub(crate) names: Mutex<()>,
    /// Gives the blocks of removed files back.
    pub(crate) release: Release,
    /// Where it is noted that another hand has taken something from the end.
    pub(crate) taken: OnceLock<Arc<dyn DiskFile>>,
    /// Huge transactions that wait for room.
    pub(crate) spills_waiting: AtomicU64,
    /// Held until the writer has closed the journal.
    pub(crate) lock: Mutex<Option<Lock>>,
}

/// A handle on the open journal. Clones are the same journal.
#[derive(Clone, Debug)]
pub struct Journal {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::Sender<Command>,
}

impl Journal {
    /// Watches the number of the newest visible event.
    pub fn head(&self) -> watch::Receiver<u64> {
        self.shared.head.subscribe()
    }

    /// Number of the newest visible event; below the first one ever, when there is none.
    pub fn newest(&self) -> u64 {
        *self.shared.head.borrow()
    }

    /// Number of the oldest event that is held; one above the newest when none is.
    pub fn oldest(&self) -> u64 {
        let segments = self.shared.segments.load();
        let first = segments.iter().find(|segment| segment.events() > 0);
        first.map_or_else(|| self.newest() + 1, |segment| segment.header.base)
    }

    /// Watches the position up to which the stream is durable here: what may be confirmed to the source.
    pub fn durable(&self) -> watch::Receiver<Lsn> {
        self.shared.durable.subscribe()
    }

    /// Watches what the writer is doing.
    pub fn state(&self) -> watch::Receiver<State> {
        self.shared.state.subscribe()
    }

    /// What is shown becomes durable later, unless somebody asks for it.
    pub(crate) fn syncs_later(&self) -> bool {
        matches!(self.shared.options.sync, Sync::Interval(_))
    }

    /// Whose history this is.
    pub fn installation(&self) -> Uuid {
        self.shared.installation
    }

    /// Where the journal lies.
    pub fn dir(&self) -> &Path {
        &self.shared.options.dir
    }

    /// The stored position of the source.
    pub fn position(&self) -> StreamPosition {
        let held = self.shared.position.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: both change at once when another history begins.
        StreamPosition { lsn: *self.shared.durable.borrow(), ..held.clone() }
    }

    /// End LSN of the newest transaction stored; zero when there was none.
    pub fn last_tx_end(&self) -> Lsn {
        Lsn(self.shared.last_tx_end.load(std::sync::atomic::Ordering::Acquire))
    }

    /// Gives a schema version its number, the old one if it is known.
    pub fn register(&self, schema: Schema) -> Result<Arc<Schema>> {
        self.shared.registry.register(schema)
    }

    /// All schema versions that are known.
    pub fn schemas(&self) -> Vec<Arc<Schema>> {
        self.shared.registry.all()
    }

    /// Tells up to which number a push door is done: retention spares what lies above, unless the door stands still
    /// when the journal reaches its `max_size`.
    pub fn hold_above(&self, door: &str, id: u64) {
        self.shared.holds.moved(door, id);
    }

    /// Where a push door keeps its positions: before something goes because it has it, its position is durable.
    pub(crate) fn hold_kept_in(&self, door: &str, dir: &Path) {
        self.shared.holds.kept_in(door, dir);
    }

    /// A push door begins (again) behind `id`: whether it stands still counts from now on.
    pub(crate) fn hold_anew(&self, door: &str, id: u64) {
        self.shared.holds.begin(door, id);
    }

    /// A push door is stopped or paused: what it needs is the first to go when the journal reaches its `max_size`.
    pub fn hold_idle(&self, door: &str) {
        self.shared.holds.idle(door);
    }

    /// Waits until retention has taken something that a push door needed and that ends above `beyond`. Cancel safe.
    pub(crate) async fn hold_lost(&self, door: &str, beyond: u64) -> Gone {
        self.shared.holds.lost(door, beyond).await
    }

    /// Numbers for status and metrics.
    pub fn summary(&self) -> Summary {
        let segments = self.shared.segments.load();
        Summary {
            oldest: self.oldest(),
            newest: self.newest(),
            segments: segments.len(),
            compressed: segments.iter().filter(|segment| segment.is_compressed()).count(),
            bytes: segments.iter().map(|segment| segment.stored()).sum(),
            newest_commit: segments.last().map_or(0, |segment| segment.time_max()),
            state: self.shared.state.borrow().clone(),
            damage: self.shared.damage(),
            installation: self.shared.installation,
        }
    }

    /// Appends custom events that did not come from the source and waits until they are durable. Gives the number
    /// of the first one.
    ///
    /// # Errors
    ///
    /// `Kind::Transient`, with nothing stored, when there is no room; `Kind::Journal` when the journal has ended: whether they
    /// are stored is not known where the error says so ([`Error::may_be_done`]).
    pub async fn publish(&self, events: &[(&str, &[u8])], at: i64) -> Result<u64> {
        self.shared.refuse_unless_open()?;
        let mut builder = Builder::new();
        builder.begin_local(at);
        for (channel, payload) in events {
            builder.message(channel, Lsn::ZERO, payload);
        }
        builder.commit(Lsn::ZERO);
        self.append_if_room(builder).await
    }

    /// Stores notes of the source, JSON by name, and waits until they are durable. Empty JSON removes one.
    pub async fn note(&self, notes: &[(&str, &[u8])]) -> Result<()> {
        let mut builder = noting(notes);
        self.append(Append { parts: builder.take(), ..Append::default() }).await.map(drop)
    }

    /// Likewise, for those who can come again.
    ///
    /// # Errors
    ///
    /// `Kind::Transient`, with nothing stored, when there is no room; `Kind::Journal` when the journal has ended.
    pub async fn note_if_room(&self, notes: &[(&str, &[u8])]) -> Result<()> {
        self.shared.refuse_unless_open()?;
        self.append_if_room(noting(notes)).await.map(drop)
    }

    pub(crate) async fn append(&self, append: Append) -> Result<u64> {
        let (reply, answer) = oneshot::channel();
        let append = Append { reply: Some(reply), ..append };
        self.commands.send(Command::Append(append)).await.map_err(|_| gone())?;
        answered(&self.commands, answer).await.ok_or_else(gone)?
    }

    /// Appends, or gives up when there is no room before the writer has begun with it.
    async fn append_if_room(&self, mut builder: Builder) -> Result<u64> {
        let (reply, answer) = oneshot::channel();
        let claim = Claim::default();
        let append = Append {
            parts: builder.take(),
            reply: Some(reply),
            claim: Some(claim.clone()),
            ..Append::default()
        };
        let mut stored = std::pin::pin!(async {
            self.commands.send(Command::Append(append)).await.map_err(|_| gone())?;
            // What the writer has begun with may be in the file, and be found there by the next opening.
            let ended = || if claim.take() { gone() } else { room::may_be_stored() };
            answered(&self.commands, answer).await.ok_or_else(ended)?
        });
        let mut state = self.state();
        tokio::select! {
            biased;
            stored = &mut stored => return stored,
            _ = state.wait_for(|state| *state != State::Open) => {}
        }
        if claim.take() {
            self.shared.refuse_unless_open()?;
            return Err(room::no_room("there was no room a moment ago"));
        }
        stored.await
    }

    /// Ends writing: what was taken is synced, the segment is closed.
    pub async fn close(&self) {
        self.shared.closing.store(true, std::sync::atomic::Ordering::Release);
        let (done, wait) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            // Without an answer the writer had ended already.
            answered(&self.commands, wait).await;
        }
    }
}

fn noting(notes: &[(&str, &[u8])]) -> Builder {
    let mut builder = Builder::new();
    for (name, json) in notes {
        builder.note(name, json);
    }
    builder
}

/// The writer has ended: after a failure or at shutdown.
pub(crate) fn gone() -> Error {
    Error::journal("The journal is closed")
}
