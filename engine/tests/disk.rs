//! A disk in memory that forgets at a power cut whatever a real one may forget, and whose N-th call can fail.
//!
//! What a cut may leave (assumptions about the medium): synced bytes stay. Of unsynced writes every sector of 512
//! bytes is there or not for itself, in its state after any of the writes to it; a sector can be torn. A file is as
//! long as what is there, or longer, with zeros. Of a write that fails or is broken off by a kill, any beginning is
//! there, though it has several buffers: the journal's vectored writes come here as one. Names are durable after `sync_dir`, maybe before. After a failed
//! sync the unsynced bytes can be read but no later sync makes them durable, as Linux has it.

mod cut;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rowcast_engine::journal::disk::{Disk, DiskFile, Look};

use self::cut::outlives;
use crate::random::Random;

/// What the journal can ask of a disk, as bits.
pub(crate) const CREATE: u32 = 1;
pub(crate) const OPEN: u32 = 2;
pub(crate) const WRITE: u32 = 4;
pub(crate) const READ: u32 = 8;
pub(crate) const SYNC: u32 = 16;
pub(crate) const TRUNCATE: u32 = 32;
pub(crate) const RENAME: u32 = 64;
pub(crate) const REMOVE: u32 = 128;
pub(crate) const LIST: u32 = 256;
pub(crate) const SYNC_DIR: u32 = 512;
/// Not calls but whose they are: a fault with one of these bits is for the thread that compresses, or for all others.
/// So the others' calls are the same again with the same seed, whatever that thread has come to.
pub(crate) const COMPRESSOR: u32 = 1024;
pub(crate) const OTHERS: u32 = 2048;
pub(crate) const CHANGING: u32 = CREATE | WRITE | SYNC | TRUNCATE | RENAME | REMOVE | SYNC_DIR;
pub(crate) const ANY: u32 = CHANGING | OPEN | READ | LIST;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ill {
    /// EIO.
    Broken,
    /// EPERM.
    Forbidden,
    /// ENOSPC.
    Full,
    /// EMFILE.
    Files,
    /// The power goes: nothing works any more, and the disk is as it was.
    Power,
    /// The process is killed: nothing works any more, and what was written so far is there.
    Kill,
}

/// A call that is going to fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// Which calls count.
    pub(crate) calls: u32,
    /// So many of them go well before.
    pub(crate) after: u32,
    pub(crate) ill: Ill,
    /// So many of them fail.
    pub(crate) times: u32,
    /// It is over when somebody has waited so often for room.
    pub(crate) waits: u32,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate(usize),
}

#[derive(Clone, Debug)]
struct Pending {
    change: Change,
    /// A sync of it failed: the kernel takes it for written.
    forgotten: bool,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(PathBuf, u64),
    Unlink(PathBuf),
    Move(PathBuf, PathBuf, u64),
}

#[derive(Debug, Default)]
struct State {
    inodes: HashMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    pending_names: Vec<NameChange>,
    inodes_made: u64,
    fault: Option<Fault>,
    dead: bool,
    /// The process is, the power is not.
    killed: bool,
    failed: u64,
    largest_read: usize,
    bytes_read: u64,
    free: Option<u64>,
    /// The journal's thread has to wait before its next call.
    held: bool,
    /// It does.
    waits: bool,
    writes: u64,
    syncs: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeDisk(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug)]
struct FakeFile(FakeDisk, u64);

impl FakeDisk {
    /// Makes every write fail for want of room, or no longer.
    pub(crate) fn fill(&self, full: bool) {
        let calls = CREATE | WRITE;
        let fault = Fault { calls, after: 0, ill: Ill::Full, times: u32::MAX, waits: u32::MAX };
        self.plan(full.then_some(fault));
    }

    /// Makes every sync fail from now on.
    pub(crate) fn fail_syncs(&self) {
        self.plan(Some(Fault { calls: SYNC, after: 0, ill: Ill::Broken, times: u32::MAX, waits: 0 }));
    }

    pub(crate) fn plan(&self, fault: Option<Fault>) {
        self.state(|state| state.fault = fault);
    }

    /// Next to nothing is free until somebody has waited for room.
    pub(crate) fn run_short(&self) {
        self.state(|state| state.free = Some(0));
    }

    /// Whether nothing is planned.
    pub(crate) fn is_well(&self) -> bool {
        self.state(|state| state.fault.is_none())
    }

    /// Whether the power has gone, or the process is dead.
    pub(crate) fn is_dead(&self) -> bool {
        self.state(|state| state.dead)
    }

    /// Calls that have failed as planned.
    pub(crate) fn failed(&self) -> u64 {
        self.state(|state| state.failed)
    }

    /// The largest buffer that was asked to be filled.
    pub(crate) fn largest_read(&self) -> usize {
        self.state(|state| state.largest_read)
    }

    /// Bytes read so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.state(|state| state.bytes_read)
    }

    /// Lets the journal's thread wait before its next call, so that what comes meanwhile is one group.
    pub(crate) fn hold(&self, held: bool) {
        self.state(|state| state.held = held);
        self.0.1.notify_all();
    }

    /// Waits until the journal's thread does.
    pub(crate) fn until_held(&self) {
        let state = self.0.0.lock().unwrap();
        let (_state, timed) =
            self.0.1.wait_timeout_while(state, Duration::from_secs(20), |state| !state.waits).unwrap();
        assert!(!timed.timed_out(), "the journal's thread has nothing to do");
    }

    /// Writes and syncs of files so far.
    pub(crate) fn calls(&self) -> (u64, u64) {
        self.state(|state| (state.writes, state.syncs))
    }

    /// All files, as those see them who read now.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.state(|state| {
            let live = |ino: &u64| state.inodes[ino].live.clone();
            state.names.iter().map(|(path, ino)| (path.clone(), live(ino))).collect()
        })
    }

    /// The names of its files.
    pub(crate) fn names(&self) -> Vec<String> {
        self.state(|state| state.names.keys().map(|path| path.display().to_string()).collect())
    }

    /// Puts this into a file, durably; one that is there stays the same file.
    pub(crate) fn put(&self, path: PathBuf, bytes: Vec<u8>) {
        self.state(|state| {
            state.inodes_made += 1;
            let ino = state.ino(&path).unwrap_or(state.inodes_made);
            state.inodes.insert(ino, Inode { live: bytes.clone(), durable: bytes, pending: Vec::new() });
            state.names.insert(path.clone(), ino);
            state.durable_names.insert(path, ino);
        });
    }

    fn state<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.0.lock().unwrap())
    }

    /// A call of the journal; `anyway` is what it does even when it fails of this.
    fn call<T>(
        &self,
        kind: u32,
        anyway: impl FnOnce(&mut State, Ill),
        work: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.0.0.lock().unwrap();
        let thread = std::thread::current();
        while state.held && thread.name() == Some("journal") {
            state.waits = true;
            self.0.1.notify_all();
            state = self.0.1.wait(state).unwrap();
        }
        state.waits = false;
        let not_for = if thread.name() == Some("compress") { OTHERS } else { COMPRESSOR };
        match state.verdict(kind, not_for) {
            Ok(()) => work(&mut state),
            Err((error, ill)) => {
                if let Some(ill) = ill {
                    anyway(&mut state, ill);
                }
                Err(error)
            }
        }
    }
}

impl State {
    /// The error, and what has come over the disk by this call.
    fn verdict(&mut self, kind: u32, not_for: u32) -> Result<(), (io::Error, Option<Ill>)> {
        if self.dead {
            return Err((io::Error::other("the power is out"), None));
        }
        let meant = |fault: &&mut Fault| fault.calls & kind != 0 && fault.calls & not_for == 0;
        let Some(fault) = self.fault.as_mut().filter(meant) else { return Ok(()) };
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        let ill = fault.ill;
        fault.times = fault.times.saturating_sub(1);
        self.failed += 1;
        self.dead = matches!(ill, Ill::Power | Ill::Kill);
        self.killed = ill == Ill::Kill;
        if fault.times == 0 || self.dead {
            self.fault = None;
        }
        let error = match ill {
            Ill::Full => io::ErrorKind::StorageFull.into(),
            Ill::Files => io::Error::from_raw_os_error(24),
            Ill::Forbidden => io::ErrorKind::PermissionDenied.into(),
            Ill::Broken => io::Error::other("the disk is ill"),
            Ill::Power => io::Error::other("the power goes"),
            Ill::Kill => io::Error::other("the process ends"),
        };
        Err((error, Some(ill)))
    }

    fn ino(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn inode(&mut self, ino: u64) -> &mut Inode {
        self.inodes.get_mut(&ino).expect("a file that is open is there")
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        apply(&mut self.live, &change);
        self.pending.push(Pending { change, forgotten: false });
    }

    fn sync(&mut self) {
        let mut forgotten: Vec<Pending> = Vec::new();
        for pending in self.pending.drain(..) {
            if pending.forgotten {
                forgotten.push(pending);
                continue;
            }
            apply(&mut self.durable, &pending.change);
            forgotten.retain_mut(|old| outlives(&mut old.change, &pending.change));
        }
        self.pending = forgotten;
    }
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Truncate(length) => content.truncate(*length),
        Change::Write { offset, bytes } => write(content, *offset, bytes),
    }
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl Disk for FakeDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let ino = self.call(
            CREATE,
            |_, _| {},
            |state| {
                if let Ok(ino) = state.ino(path) {
                    // As O_TRUNC has it: the file stays the same one.
                    state.inode(ino).change(Change::Truncate(0));
                    return Ok(ino);
                }
                state.inodes_made += 1;
                let ino = state.inodes_made;
                state.inodes.insert(ino, Inode::default());
                state.names.insert(path.to_owned(), ino);
                state.pending_names.push(NameChange::Link(path.to_owned(), ino));
                Ok(ino)
            },
        )?;
        Ok(Arc::new(FakeFile(self.clone(), ino)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let ino = self.call(OPEN, |_, _| {}, |state| state.ino(path))?;
        Ok(Arc::new(FakeFile(self.clone(), ino)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(
            RENAME,
            |_, _| {},
            |state| {
                let ino = state.ino(from)?;
                state.names.remove(from);
                state.names.insert(to.to_owned(), ino);
                state.pending_names.push(NameChange::Move(from.to_owned(), to.to_owned(), ino));
                Ok(())
            },
        )
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(
            REMOVE,
            |_, _| {},
            |state| {
                state.ino(path)?;
                state.names.remove(path);
                state.pending_names.push(NameChange::Unlink(path.to_owned()));
                Ok(())
            },
        )
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let of_dir = |path: &&PathBuf| path.parent() == Some(dir);
        self.call(LIST, |_, _| {}, |state| Ok(state.names.keys().filter(of_dir).cloned().collect()))
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        self.call(
            SYNC_DIR,
            |_, _| {},
            |state| {
                state.durable_names = state.names.clone();
                state.pending_names.clear();
                Ok(())
            },
        )
    }

    fn space(&self, _dir: &Path) -> io::Result<(u64, u64)> {
        Ok((self.state(|state| state.free).unwrap_or(1 << 40), 1 << 40))
    }

    fn pause(&self, _how_long: Duration) {
        let over = self.state(|state| {
            state.free = None;
            let Some(fault) = &mut state.fault else { return true };
            fault.waits = fault.waits.saturating_sub(1);
            if fault.waits == 0 {
                state.fault = None;
            }
            state.fault.is_none()
        });
        if !over {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

impl DiskFile for FakeFile {
    fn born(&self) -> io::Result<u64> {
        Ok(self.1)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let whole = Change::Write { offset: offset as usize, bytes: bytes.to_vec() };
        // What fails has written any beginning of it; at a power cut, all of it may be on its way.
        let part = |state: &mut State, ill: Ill| {
            let seed = state.failed ^ offset ^ ((bytes.len() as u64) << 32);
            let begun = Random::new(seed).index(bytes.len().max(1));
            let bytes = if ill == Ill::Power { bytes } else { &bytes[..begun] };
            let change = Change::Write { offset: offset as usize, bytes: bytes.to_vec() };
            state.inode(self.1).change(change);
        };
        // A full disk has room for what is written over what is there.
        let inside = |state: &mut State| {
            state.inode(self.1).live.len() >= offset as usize + bytes.len()
                && state.fault.is_some_and(|fault| fault.ill == Ill::Full)
        };
        let kind = if self.0.state(inside) { 0 } else { WRITE };
        self.0.call(kind, part, |state| {
            state.writes += 1;
            state.inode(self.1).change(whole);
            Ok(())
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.call(
            READ,
            |_, _| {},
            |state| {
                state.largest_read = state.largest_read.max(buffer.len());
                let rest = state.inode(self.1).live.get(offset as usize..).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                state.bytes_read += count as u64;
                Ok(count)
            },
        )
    }

    fn sync(&self) -> io::Result<()> {
        let forget = |state: &mut State, ill: Ill| {
            let ended = matches!(ill, Ill::Power | Ill::Kill);
            let pending = state.inode(self.1).pending.iter_mut().filter(|_| !ended);
            // Not a file's length, which is none of its pages.
            let writes = pending.filter(|pending| matches!(pending.change, Change::Write { .. }));
            writes.for_each(|pending| pending.forgotten = true);
        };
        self.0.call(SYNC, forget, |state| {
            state.syncs += 1;
            state.inode(self.1).sync();
            Ok(())
        })
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.call(
            TRUNCATE,
            |_, _| {},
            |state| {
                state.inode(self.1).change(Change::Truncate(length as usize));
                Ok(())
            },
        )
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.look()?.length)
    }

    fn look(&self) -> io::Result<Look> {
        let seen = |state: &mut State| Look {
            length: state.inode(self.1).live.len() as u64,
            named: state.names.values().any(|ino| *ino == self.1),
            inode: self.1 + 1,
        };
        self.0.call(READ, |_, _| {}, |state| Ok(seen(state)))
    }
}
