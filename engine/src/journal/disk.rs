//! The seam to the disk: tests cut its power and make its N-th call fail.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{AtFlags, StatxFlags};

/// What the journal asks of a directory of files.
pub trait Disk: Send + Sync + std::fmt::Debug + 'static {
    /// Makes a new, empty file for reading and writing.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading, and for writing where that is allowed.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Gives a file another name, replacing what has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; those who have it open can read on.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The files of a directory, unordered.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Makes names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes free for us and in all on the file system.
    fn space(&self, dir: &Path) -> io::Result<(u64, u64)>;
    /// Waits before a full disk is asked again; only the journal's own thread does.
    fn pause(&self, how_long: Duration) {
        std::thread::sleep(how_long);
    }
}

/// What is seen of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its length.
    pub length: u64,
    /// It has a name, as far as that is known: nobody has removed it.
    pub named: bool,
    /// Which file it is, among those that are open; 0: not known. Network file systems may number theirs anew with each
    /// mount.
    pub inode: u64,
}

/// An open file.
pub trait DiskFile: Send + Sync + std::fmt::Debug {
    /// Writes all bytes at an offset.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Writes all bytes of several buffers, one behind the other, as one write. Of one that fails, any beginning may be
    /// there. What the slices show afterwards is not defined.
    fn write_vectored_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        self.write_at(&bytes, offset)
    }
    /// Reads as much as there is, up to the buffer's length.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Makes contents and length durable (fdatasync).
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Its length.
    fn length(&self) -> io::Result<u64>;
    /// Its length, and whether it still has a name.
    fn look(&self) -> io::Result<Look> {
        Ok(Look { length: self.length()?, named: true, inode: 0 })
    }
    /// When it was made, in nanoseconds since 1970: a copy is made later. 0: not known.
    fn born(&self) -> io::Result<u64> {
        Ok(0)
    }
}

/// The machine's disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

/// Makes the journal's directory, for its owner only: row values are in it.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// The directories around one, from the inside: each has the name of the one before.
pub(crate) fn around(dir: &Path) -> impl Iterator<Item = &Path> {
    dir.ancestors().skip(1).map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir })
}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        match OpenOptions::new().read(true).write(true).open(path) {
            // What may only be read can be read: a copy on a read-only file system, or one that an error has made so.
            Err(why)
                if [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::PermissionDenied]
                    .contains(&why.kind()) =>
            {
                Ok(Arc::new(OnlyRead { file: File::open(path)?, why }))
            }
            opened => Ok(Arc::new(opened?)),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn space(&self, dir: &Path) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
    }
}

impl DiskFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn write_vectored_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        write_all(buffers, offset, |rest, at| rustix::io::pwritev(self, rest, at).map_err(io::Error::from))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match FileExt::read_at(self, rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn length(&self) -> io::Result<u64> {
        // Not by its metadata: from Linux 6.13 on, a write that follows such a look gives the file a time of its own, for
        // which its next sync waits (`Documentation/filesystems/multigrain-ts.rst`). Nobody uses the file's own place.
        let mut file = self;
        file.seek(SeekFrom::End(0))
    }

    fn look(&self) -> io::Result<Look> {
        // Without its times, for the same reason. Old kernels and some containers refuse it.
        let wanted = StatxFlags::SIZE | StatxFlags::NLINK;
        match rustix::fs::statx(self, c"", AtFlags::EMPTY_PATH, wanted | StatxFlags::INO) {
            Ok(seen) if StatxFlags::from_bits_retain(seen.stx_mask).contains(wanted) => {
                let known = StatxFlags::from_bits_retain(seen.stx_mask).contains(StatxFlags::INO);
                let inode = if known { seen.stx_ino } else { 0 };
                Ok(Look { length: seen.stx_size, named: seen.stx_nlink > 0, inode })
            }
            _ => Ok(Look { length: DiskFile::length(self)?, named: true, inode: 0 }),
        }
    }

    fn born(&self) -> io::Result<u64> {
        // Not every file system knows, and not every container lets ask. (Its inode would tell it from a copy as well, but some
        // network file systems number their files anew with each mount.)
        let born = self.metadata()?.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        Ok(born.map_or(0, |born| u64::try_from(born.as_nanos()).unwrap_or(0)))
    }
}

/// A file that may only be read. Whoever writes to it is told why, in place of "Bad file descriptor".
#[derive(Debug)]
struct OnlyRead {
    file: File,
    why: io::Error,
}

impl OnlyRead {
    fn refuse(&self) -> io::Result<()> {
        let why =
            self.why.raw_os_error().map_or_else(|| self.why.kind().into(), io::Error::from_raw_os_error);
        Err(why)
    }
}

impl DiskFile for OnlyRead {
    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        self.refuse()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        DiskFile::read_at(&self.file, buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn truncate(&self, _length: u64) -> io::Result<()> {
        self.refuse()
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn look(&self) -> io::Result<Look> {
        self.file.look()
    }

    fn born(&self) -> io::Result<u64> {
        self.file.born()
    }
}

/// Calls `write` until all is written: it may take less than it is given, and be interrupted.
fn write_all(
    mut buffers: &mut [IoSlice<'_>],
    mut offset: u64,
    mut write: impl FnMut(&[IoSlice<'_>], u64) -> io::Result<usize>,
) -> io::Result<()> {
    // Empty ones at the beginning would look as if nothing could be written.
    IoSlice::advance_slices(&mut buffers, 0);
    while !buffers.is_empty() {
        match write(buffers, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut buffers, written);
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system that takes some bytes at a time, and now and then none.
    fn written(pieces: &[&[u8]], takes: &[io::Result<usize>]) -> (io::Result<()>, Vec<u8>) {
        let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let (mut file, mut calls) = (vec![b'.'; 3], takes.iter());
        let done = write_all(&mut slices, 3, |rest, at| {
            assert_eq!(at, file.len() as u64, "each goes on where the one before ended");
            let bytes: Vec<u8> = rest.iter().flat_map(|piece| piece.iter().copied()).collect();
            match calls.next() {
                Some(Err(error)) => Err(error.kind().into()),
                Some(Ok(count)) => {
                    file.extend_from_slice(&bytes[..*count]);
                    Ok(*count)
                }
                None => {
                    file.extend_from_slice(&bytes);
                    Ok(bytes.len())
                }
            }
        });
        (done, file)
    }

    #[test]
    fn what_is_taken_in_part_or_interrupted_is_gone_on_with() {
        let pieces: [&[u8]; 6] = [b"", b"one", b"", b"two", b"three", b""];
        let interrupted = || Err(io::ErrorKind::Interrupted.into());
        for takes in [
            vec![],
            vec![Ok(11)],
            vec![Ok(1), Ok(1), Ok(1), Ok(1)],
            vec![Ok(3), Ok(3)],
            vec![interrupted(), Ok(4), interrupted(), interrupted()],
            vec![Ok(7), interrupted(), Ok(3)],
        ] {
            let (done, file) = written(&pieces, &takes);
            assert!(done.is_ok(), "{takes:?}");
            assert_eq!(file, b"...onetwothree", "{takes:?}");
        }
        let (done, file) = written(&pieces, &[Ok(5), Err(io::ErrorKind::StorageFull.into())]);
        assert_eq!((done.unwrap_err().kind(), &file[..]), (io::ErrorKind::StorageFull, &b"...onetw"[..]));
        let (done, _) = written(&pieces, &[Ok(5), Ok(0)]);
        assert_eq!(done.unwrap_err().kind(), io::ErrorKind::WriteZero);
        assert!(written(&[b"", b""], &[]).0.is_ok());
    }

    #[test]
    fn a_file_that_may_only_be_read_says_so_to_who_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "rows").unwrap();
        const EROFS: i32 = 30;
        let file = OnlyRead { file: File::open(&path).unwrap(), why: io::Error::from_raw_os_error(EROFS) };
        let refused = [file.write_at(b"x", 0), file.truncate(1), {
            file.write_vectored_at(&mut [IoSlice::new(b"x")], 0)
        }];
        for refusal in refused {
            assert_eq!(refusal.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
        let mut bytes = [0; 9];
        assert_eq!((file.read_at(&mut bytes, 0).unwrap(), file.length().unwrap()), (4, 4));
        file.sync().unwrap();
    }

    #[test]
    fn more_buffers_than_the_system_takes_at_once_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.create(&dir.path().join("file")).unwrap();
        let pieces: Vec<Vec<u8>> =
            (0..5000u32).map(|at| at.to_le_bytes()[..at as usize % 5].to_vec()).collect();
        let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        file.write_vectored_at(&mut slices, 0).unwrap();
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), pieces.concat());
    }
}
