//! A closed segment in its compressed form, read as if it were not.
//!
//! ```text
//!   0 the segment's header, with flag 2 in its flags
//! 128 frames, one after the other: each is FRAME_BYTES of what follows the header of the plain form (the last one
//!     less), compressed by zstd on its own
//!   t table, for each frame: 0 u64 its offset   8 u32 its length   12 u32 CRC32C of these 12 bytes and of the frame
//!     footer 0 "ROWCASTZ"                       8 u64 length of the plain form
//!           16 u64 t                           24 u32 FRAME_BYTES   28 u32 CRC32C of the bytes before
//! ```
//! Offsets everywhere else (index, batches, messages) are those of the plain form. Where a frame's entry stands is
//! reckoned from the offset, so that a reader in a huge segment needs no more of the table than its own frames.

use std::io;
use std::path::Path;
use std::sync::Arc;

use zstd::bulk::Decompressor;

use crate::journal::disk::{Disk, DiskFile};
use crate::journal::salvage::Salvaged;
use crate::journal::segment::{SEGMENT_HEADER, Segment, SegmentHeader, is_compressed};
use crate::record::layout::{get_u32, get_u64, put};

/// Plain bytes in a frame: as far as the index may be off, so that finding a place costs two frames.
pub(crate) const FRAME_BYTES: u32 = 256 << 10;
/// What a file may say its frames are: no more memory than this for one, no more entries than these for a read.
const FRAME_SIZES: std::ops::RangeInclusive<u32> = 4 << 10..=4 << 20;
pub(crate) const ENTRY_BYTES: usize = 16;
pub(crate) const FOOTER_BYTES: usize = 32;
const MAGIC: &[u8; 8] = b"ROWCASTZ";
/// What stands for a damaged frame: no batch begins with it, and no text has it, so that none is whole by chance.
const BLANK: u8 = 0xff;
const HEADER: u64 = SEGMENT_HEADER as u64;

/// Opens a segment file, in whichever form it is: offsets and length are those of the plain form.
pub(crate) fn open_segment(disk: &dyn Disk, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.open(path)?;
    let mut header = [0; SEGMENT_HEADER];
    file.read_at(&mut header, 0)?;
    plain_view(file, &header)
}

/// The same of a segment that is known, unless another file has taken its place: numbers are relative, and would be
/// given to what stands there.
pub(crate) fn open_own(disk: &dyn Disk, segment: &Segment) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.open(&segment.path)?;
    let mut bytes = [0; SEGMENT_HEADER];
    file.read_at(&mut bytes, 0)?;
    if is_own(&bytes, segment) {
        return plain_view(file, &bytes);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "its header is not the one that was written"))
}

/// Whether a file that begins with these bytes is this segment, or a copy of it.
pub(crate) fn is_own(bytes: &[u8], segment: &Segment) -> bool {
    let of = |header: &SegmentHeader| (header.base, header.created, header.installation);
    SegmentHeader::decode(bytes).is_ok_and(|found| of(&found) == of(&segment.header))
}

/// The plain form of a segment file whose first bytes are `header`.
pub(crate) fn plain_view(file: Arc<dyn DiskFile>, header: &[u8]) -> io::Result<Arc<dyn DiskFile>> {
    if is_compressed(header) { Ok(Arc::new(Compressed::open(file)?)) } else { Ok(file) }
}

/// The same for who looks for what is left: a damaged frame reads as bytes that are no batch, so that what stands before
/// and behind it is found as in a plain file; where the table is damaged there are the frames that can be found without it.
pub(crate) fn blanked_view(
    file: Arc<dyn DiskFile>,
    header: &[u8],
) -> io::Result<(Arc<dyn DiskFile>, Option<BrokenTable>)> {
    if !is_compressed(header) {
        return Ok((file, None));
    }
    match Compressed::open(Arc::clone(&file)) {
        Ok(sound) => {
            let footer = sound.footer;
            let salvaged = if sound.every_entry_fits()? { None } else { Some(Salvaged::of(&*file)?) };
            // What is wrong may be the entry, not the frame: whether the frame is sound, its batches tell.
            match salvaged.filter(|found| found.footer == footer) {
                Some(found) => Ok(of_salvaged(file, Salvaged { whole: true, ..found })),
                None => Ok((Arc::new(Compressed { blanks: true, ..sound }), None)),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let found = Salvaged::of(&*file)?;
            Ok(of_salvaged(file, found))
        }
        Err(error) => Err(error),
    }
}

fn of_salvaged(file: Arc<dyn DiskFile>, found: Salvaged) -> (Arc<dyn DiskFile>, Option<BrokenTable>) {
    let Salvaged { entries, footer, whole } = found;
    let broken = BrokenTable { at: footer.table, whole };
    (Arc::new(Compressed { file, footer, entries: Some(entries), blanks: true }), Some(broken))
}

/// Of a compressed segment whose table, or the footer behind it, is damaged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BrokenTable {
    /// Where the frames end that can be read, in the file.
    pub(crate) at: u64,
    /// These are all frames.
    pub(crate) whole: bool,
}

/// The last bytes of a compressed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// Of the plain form.
    pub(crate) length: u64,
    /// Where the table stands.
    pub(crate) table: u64,
    pub(crate) frame_bytes: u32,
}

impl Footer {
    pub(crate) fn encode(self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, &self.length.to_le_bytes());
        put(&mut bytes, 16, &self.table.to_le_bytes());
        put(&mut bytes, 24, &self.frame_bytes.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..28]);
        put(&mut bytes, 28, &crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], file_length: u64) -> Option<Self> {
        let sound = bytes.get(..8)? == MAGIC && get_u32(bytes, 28)? == crc32c::crc32c(bytes.get(..28)?);
        sound.then_some(())?;
        let footer =
            Self { length: get_u64(bytes, 8)?, table: get_u64(bytes, 16)?, frame_bytes: get_u32(bytes, 24)? };
        (footer.length >= HEADER && footer.table >= HEADER).then_some(())?;
        FRAME_SIZES.contains(&footer.frame_bytes).then_some(())?;
        let table = footer.frames().checked_mul(ENTRY_BYTES as u64)?;
        let expected = footer.table.checked_add(table)?.checked_add(FOOTER_BYTES as u64)?;
        (expected == file_length).then_some(footer)
    }

    fn frames(self) -> u64 {
        (self.length - HEADER).div_ceil(u64::from(self.frame_bytes))
    }
}

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) length: u32,
    crc: u32,
}

impl Entry {
    pub(crate) fn of(offset: u64, frame: &[u8]) -> Option<Self> {
        let length = u32::try_from(frame.len()).ok()?;
        Some(Self { offset, length, crc: Self::checksum(offset, length, frame) })
    }

    fn checksum(offset: u64, length: u32, frame: &[u8]) -> u32 {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&offset.to_le_bytes()), &length.to_le_bytes());
        crc32c::crc32c_append(crc, frame)
    }

    pub(crate) fn encode(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        put(&mut bytes, 0, &self.offset.to_le_bytes());
        put(&mut bytes, 8, &self.length.to_le_bytes());
        put(&mut bytes, 12, &self.crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self { offset: get_u64(bytes, 0)?, length: get_u32(bytes, 8)?, crc: get_u32(bytes, 12)? })
    }
}

/// A compressed segment file, read by the offsets of its plain form. It takes no writes.
#[derive(Debug)]
struct Compressed {
    file: Arc<dyn DiskFile>,
    footer: Footer,
    /// In place of a table that is damaged.
    entries: Option<Vec<Entry>>,
    /// Damaged frames are blank instead of an error.
    blanks: bool,
}

impl Compressed {
    fn open(file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let length = file.length()?;
        let mut bytes = [0; FOOTER_BYTES];
        let at = length.saturating_sub(FOOTER_BYTES as u64);
        file.read_at(&mut bytes, at)?;
        let footer = Footer::decode(&bytes, length)
            .ok_or_else(|| damaged(format!("the table at the end of the compressed segment, offset {at}")))?;
        Ok(Self { file, footer, entries: None, blanks: false })
    }

    /// Offset in the plain form and plain length of a frame.
    fn place(&self, frame: u64) -> (u64, usize) {
        let size = u64::from(self.footer.frame_bytes);
        let start = HEADER + frame * size;
        // At most what a frame may be.
        (start, usize::try_from(size.min(self.footer.length - start)).unwrap_or(0))
    }

    fn entries(&self, first: u64, count: usize) -> io::Result<Vec<u8>> {
        if let Some(entries) = &self.entries {
            let wanted = entries.iter().skip(usize::try_from(first).unwrap_or(usize::MAX)).take(count);
            return Ok(wanted.flat_map(|entry| entry.encode()).collect());
        }
        let mut bytes = vec![0; count * ENTRY_BYTES];
        let at = self.footer.table + first * ENTRY_BYTES as u64;
        let read = self.file.read_at(&mut bytes, at)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Reads the compressed bytes of a frame and compares their checksum, before anything looks at them.
    fn load(&self, start: u64, entry: Option<Entry>, into: &mut Vec<u8>) -> io::Result<()> {
        let wrong = |why| Err(damaged_frame(start, why));
        let Some(entry) = entry else { return wrong("its entry in the table is cut") };
        let end = entry.offset.checked_add(u64::from(entry.length));
        let longest = zstd::zstd_safe::compress_bound(self.footer.frame_bytes as usize);
        if entry.offset < HEADER
            || end.is_none_or(|end| end > self.footer.table)
            || entry.length as usize > longest
        {
            return wrong("its entry in the table is wrong");
        }
        into.resize(entry.length as usize, 0);
        let read = self.file.read_at(into, entry.offset)?;
        if read < into.len() || Entry::checksum(entry.offset, entry.length, into) != entry.crc {
            return wrong("its checksum is wrong");
        }
        Ok(())
    }

    /// Whether the table says of every frame what stands there.
    fn every_entry_fits(&self) -> io::Result<bool> {
        let mut packed = Vec::new();
        for frame in 0..self.footer.frames() {
            let entry = Entry::decode(&self.entries(frame, 1)?);
            match self.load(self.place(frame).0, entry, &mut packed) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(false),
                loaded => loaded?,
            }
        }
        Ok(true)
    }

    /// Reads a frame, all but its first `skip` bytes, as far as there is room; gives their number.
    fn read_frame(
        &self,
        frames: &mut Frames,
        (start, plain): (u64, usize),
        entry: Option<Entry>,
        skip: usize,
        into: &mut [u8],
    ) -> io::Result<usize> {
        let read = self.load(start, entry, &mut frames.packed).and_then(|()| {
            frames.unpack(into, skip, plain).ok_or_else(|| damaged_frame(start, "it does not unpack"))
        });
        match read {
            Err(error) if self.blanks && error.kind() == io::ErrorKind::InvalidData => {
                let blank = into.len().min(plain.saturating_sub(skip));
                into.iter_mut().take(blank).for_each(|byte| *byte = BLANK);
                Ok(blank)
            }
            read => read,
        }
    }
}

impl DiskFile for Compressed {
    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        Err(closed())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset < HEADER {
            let upto = buffer.len().min(usize::try_from(HEADER - offset).unwrap_or(0));
            let (head, rest) = buffer.split_at_mut(upto);
            let read = self.file.read_at(head, offset)?;
            let more = if read == upto && !rest.is_empty() { self.read_at(rest, HEADER)? } else { 0 };
            return Ok(read + more);
        }
        let end = self.footer.length.min(offset.saturating_add(buffer.len() as u64));
        if offset >= end {
            return Ok(0);
        }
        let size = u64::from(self.footer.frame_bytes);
        let (first, last) = ((offset - HEADER) / size, (end - 1 - HEADER) / size);
        let entries = self.entries(first, usize::try_from(last - first + 1).unwrap_or(0))?;
        let mut entries = entries.chunks_exact(ENTRY_BYTES).map(Entry::decode);
        let mut frames = Frames::new()?;
        let mut rest = buffer;
        let mut at = offset;
        for frame in first..=last {
            let (start, plain) = self.place(frame);
            let skip = usize::try_from(at - start).unwrap_or(plain);
            let taken = self.read_frame(&mut frames, (start, plain), entries.next().flatten(), skip, rest)?;
            rest = rest.get_mut(taken..).unwrap_or_default();
            at += taken as u64;
        }
        Ok(usize::try_from(at - offset).unwrap_or(0))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn truncate(&self, _length: u64) -> io::Result<()> {
        Err(closed())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.footer.length)
    }
}

/// What unpacking needs: two frames of memory.
struct Frames {
    zstd: Decompressor<'static>,
    packed: Vec<u8>,
    plain: Vec<u8>,
}

impl Frames {
    fn new() -> io::Result<Self> {
        Ok(Self { zstd: Decompressor::new()?, packed: Vec::new(), plain: Vec::new() })
    }

    /// Unpacks a frame of `plain` bytes, all but its first `skip`, as far as there is room; gives their number.
    fn unpack(&mut self, into: &mut [u8], skip: usize, plain: usize) -> Option<usize> {
        if skip == 0
            && let Some(whole) = into.get_mut(..plain)
        {
            let got = self.zstd.decompress_to_buffer(&self.packed, whole).ok()?;
            return (got == plain).then_some(plain);
        }
        self.plain.resize(plain, 0);
        let got = self.zstd.decompress_to_buffer(&self.packed, self.plain.as_mut_slice()).ok()?;
        let wanted = self.plain.get(skip..plain).filter(|_| got == plain)?;
        let taken = wanted.len().min(into.len());
        into.get_mut(..taken)?.copy_from_slice(wanted.get(..taken)?);
        Some(taken)
    }
}

fn damaged_frame(start: u64, why: &str) -> io::Error {
    damaged(format!("the compressed frame that begins at offset {start}: {why}"))
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "a compressed segment is not written to")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of one frame, whose last bytes are `footer`.
    fn file(footer: Footer) -> Arc<dyn DiskFile> {
        let file = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; SEGMENT_HEADER];
        let frame = zstd::bulk::compress(&[7; 5000], 1).unwrap();
        let entry = Entry::of(HEADER, &frame).unwrap();
        bytes.extend_from_slice(&frame);
        bytes.extend_from_slice(&entry.encode());
        bytes.extend_from_slice(&footer.encode());
        file.write_at(&bytes, 0).unwrap();
        Arc::new(file)
    }

    fn sound() -> Footer {
        let frame = zstd::bulk::compress(&[7; 5000], 1).unwrap();
        Footer { length: HEADER + 5000, table: HEADER + frame.len() as u64, frame_bytes: FRAME_BYTES }
    }

    #[test]
    fn any_stretch_can_be_read() {
        let file = Compressed::open(file(sound())).unwrap();
        for (offset, length, expected) in
            [(0, 128, 128), (100, 100, 100), (128, 9000, 5000), (5000, 9, 9), (5128, 1, 0)]
        {
            let mut buffer = vec![1; length];
            assert_eq!(file.read_at(&mut buffer, offset).unwrap(), expected, "{length} bytes at {offset}");
            let plain = buffer.iter().enumerate().take(expected);
            for (at, byte) in plain {
                assert_eq!(*byte, if offset + at as u64 >= HEADER { 7 } else { 0 });
            }
        }
        assert!(file.write_at(b"x", 128).is_err() && file.truncate(128).is_err(), "it takes no writes");
    }

    #[test]
    fn lengths_that_cannot_be_are_refused_before_anything_is_allocated() {
        let sound = sound();
        for footer in [
            Footer { length: u64::MAX, ..sound },
            Footer { length: 0, ..sound },
            Footer { length: HEADER + 2 * u64::from(FRAME_BYTES), ..sound },
            Footer { table: u64::MAX - 8, ..sound },
            Footer { table: 0, ..sound },
            Footer { frame_bytes: 0, ..sound },
            Footer { frame_bytes: u32::MAX, ..sound },
        ] {
            assert!(Compressed::open(file(footer)).is_err(), "{footer:?}");
        }
        // A frame that is longer, or shorter, than it should be.
        for length in [HEADER + 4000, HEADER + 6000] {
            let file = Compressed::open(file(Footer { length, ..sound })).unwrap();
            let error = file.read_at(&mut [0; 100], 200).unwrap_err();
            assert!(error.to_string().contains("begins at offset 128"), "{error}");
        }
    }
}
