//! Walks over the batches of one segment file, in large reads.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::journal::compressed::FRAME_BYTES;
use crate::journal::disk::DiskFile;
use crate::journal::segment::{INDEX_STRIDE, SEGMENT_HEADER};
use crate::journal::zeros::without_zeros;
use crate::record::layout::{BATCH_HEADER, CHECKSUM_END};
use crate::record::{Header, intact};

/// One read: large enough that a replay is sequential, small enough for many readers.
pub(crate) const CHUNK_BYTES: u64 = 1 << 20;

/// So much is read at once where more cannot be: a page, which a disk gives or does not.
const PIECE_BYTES: u64 = 4 << 10;

/// A place that holds no whole, sound batch.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) offset: u64,
    pub(crate) reason: &'static str,
}

#[derive(Debug)]
pub(crate) enum ScanError {
    Io(io::Error),
    Broken(Broken),
}

/// Yields (offset, header, bytes) of each batch between two offsets. The bytes of batches that were read together
/// share one buffer.
#[derive(Debug)]
pub(crate) struct Scanner {
    file: Arc<dyn DiskFile>,
    at: u64,
    end: u64,
    window: Bytes,
    window_at: u64,
    /// What is read at once, if no batch is larger.
    chunk: u64,
    /// Number of the next event, relative to the segment, once it is known.
    next_event: Option<u64>,
}

impl Scanner {
    pub(crate) fn new(file: Arc<dyn DiskFile>, from: u64, end: u64) -> Self {
        let next_event = (from == SEGMENT_HEADER as u64).then_some(0);
        let (window, chunk) = (Bytes::new(), CHUNK_BYTES);
        Self { file, at: from, end, window, window_at: from, chunk, next_event }
    }

    /// For one that goes no further than from an entry of the index to the next: reads no more than that at once.
    pub(crate) fn for_a_place(self) -> Self {
        Self { chunk: INDEX_STRIDE, ..self }
    }

    /// The next batch; `None` at the end. After an error the scanner stands where the error is.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Header, Bytes)>, ScanError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let at = self.at;
        let broken = |reason| ScanError::Broken(Broken { offset: at, reason });
        let head =
            self.view(BATCH_HEADER as u64)?.ok_or_else(|| broken("the file ends within a batch header"))?;
        let header = Header::parse(&head).ok_or_else(|| broken("there is no batch header"))?;
        if self.end - at < u64::from(header.length) {
            return Err(broken("the file ends within a batch"));
        }
        if !self.may_be_taken(&header)? {
            return Err(broken("the batch's checksum is wrong"));
        }
        let whole =
            self.view(u64::from(header.length))?.ok_or_else(|| broken("the file ends within a batch"))?;
        if !intact(&whole) {
            return Err(broken("the batch's checksum is wrong"));
        }
        if self.next_event.is_some_and(|next| next != header.first) {
            return Err(broken("its events do not follow those before it"));
        }
        self.next_event = Some(header.first + u64::from(header.events));
        self.at += u64::from(header.length);
        Ok(Some((at, header, whole)))
    }

    /// Whether memory may be taken for the batch: not on the word of a length that is damaged, of a large one. Its
    /// checksum is compared first, a read at a time.
    fn may_be_taken(&self, header: &Header) -> Result<bool, ScanError> {
        let (mut at, end) = (self.at + CHECKSUM_END as u64, self.at + u64::from(header.length));
        if end - self.at <= CHUNK_BYTES {
            return Ok(true);
        }
        let (mut crc, mut buffer) = (0, vec![0; CHUNK_BYTES as usize]);
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let piece = buffer.get_mut(..wanted).unwrap_or_default();
            let read = self.file.read_at(piece, at).map_err(ScanError::Io)?;
            if read == 0 {
                break;
            }
            crc = crc32c::crc32c_append(crc, piece.get(..read).unwrap_or_default());
            at += read as u64;
        }
        Ok(crc == header.crc)
    }

    /// How much to read for a batch of `length` bytes: up to the end of a frame, where the segment is compressed, so
    /// that none is unpacked twice.
    fn chunk(&self, length: u64) -> u64 {
        let beyond = (self.at + self.chunk).saturating_sub(SEGMENT_HEADER as u64) % u64::from(FRAME_BYTES);
        let aligned = self.chunk - beyond;
        if length <= aligned { aligned } else { length.max(self.chunk) }
    }

    /// Where the next batch stands.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Whether the next batch has been read already.
    pub(crate) fn is_at_hand(&self) -> bool {
        let start = usize::try_from(self.at - self.window_at).unwrap_or(usize::MAX);
        let rest = self.window.get(start..).unwrap_or_default();
        Header::parse(rest).is_some_and(|header| header.length as usize <= rest.len())
    }

    /// `length` bytes from the current place, reading more of the file if need be.
    fn view(&mut self, length: u64) -> Result<Option<Bytes>, ScanError> {
        if self.end - self.at < length {
            return Ok(None);
        }
        let start = self.at - self.window_at;
        if (self.window.len() as u64) < start + length {
            let size = self.chunk(length).min(self.end - self.at);
            let mut buffer = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
            let read = match self.file.read_at(&mut buffer, self.at) {
                Err(error) => self.read_up_to_error(&mut buffer, length, error)?,
                Ok(read) => read,
            };
            buffer.truncate(read);
            self.window = buffer.into();
            self.window_at = self.at;
        }
        let start = usize::try_from(self.at - self.window_at).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        Ok((end <= self.window.len()).then(|| self.window.slice(start..end)))
    }

    /// A sector that cannot be read withholds no more than what stands in it: reads piece by piece what comes before it, for
    /// as long as that goes. The error where that is less than is needed: a short read would look like an end.
    #[cold]
    fn read_up_to_error(&self, buffer: &mut [u8], length: u64, error: io::Error) -> Result<usize, ScanError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = self.at + filled as u64;
            // To the end of a page, so that one that is ill takes nothing of the one before it.
            let size = usize::try_from(PIECE_BYTES - at % PIECE_BYTES).unwrap_or(usize::MAX);
            let end = filled.saturating_add(size).min(buffer.len());
            let piece = buffer.get_mut(filled..end).unwrap_or_default();
            match self.file.read_at(piece, at) {
                Ok(read) if read > 0 => filled += read,
                _ => break,
            }
        }
        if filled as u64 >= length { Ok(filled) } else { Err(ScanError::Io(error)) }
    }

    /// Whether a sound batch stands anywhere behind the current place that was written when all before it was
    /// synced: then what is broken is a middle, not a tail. Of what is not synced, a power cut leaves any part.
    ///
    /// Not in a copy that was made meanwhile (`copied`), where zeros stand at the end of a batch: whoever copied had read on
    /// when what belongs there was written. Zeros within a batch are what a disk has that cannot read a sector.
    pub(crate) fn is_in_the_middle(&mut self, copied: bool) -> Result<bool, ScanError> {
        let (from, next_event) = (self.at, self.next_event);
        let mut first = [1];
        self.file.read_at(&mut first, from).map_err(ScanError::Io)?;
        if copied && first == [0] {
            return Ok(false);
        }
        let follows = self.seek_sound(|header| !header.early);
        self.back_to(from);
        self.next_event = next_event;
        follows
    }

    /// From where on there is nothing but zeros: not before the current place.
    pub(crate) fn end_of_data(&self) -> io::Result<u64> {
        let (mut at, mut end) = (self.at, self.at);
        let mut buffer = vec![0; usize::try_from((self.end - at).min(CHUNK_BYTES)).unwrap_or(usize::MAX)];
        while at < self.end {
            let read = self.file.read_at(&mut buffer, at)?;
            let data = without_zeros(buffer.get(..read).unwrap_or_default());
            end = if data > 0 { at + data as u64 } else { end };
            at += (read as u64).max(1);
        }
        Ok(end.min(self.end))
    }

    /// Forgets what was read: another process may have written there since.
    pub(crate) fn look_again(&mut self) {
        self.window = Bytes::new();
        self.window_at = self.at;
    }

    fn back_to(&mut self, at: u64) {
        (self.at, self.next_event) = (at, None);
        // What was read last may begin behind.
        self.look_again();
    }

    /// Goes to the next sound batch behind the current place that counts; stays where it is when there is none.
    pub(crate) fn seek_sound(&mut self, counts: impl Fn(&Header) -> bool) -> Result<bool, ScanError> {
        let (from, next) = (self.at, self.next_event);
        // An event takes more than a byte. So rows that look like batches do not cost a checksum each.
        let follows = |header: &Header, at: u64| {
            next.is_none_or(|next| header.first.checked_sub(next).is_some_and(|passed| passed <= at - from))
        };
        let mut at = from + 1;
        self.look_again();
        while at < self.end {
            let size = usize::try_from((self.end - at).min(CHUNK_BYTES)).unwrap_or(usize::MAX);
            let mut buffer = vec![0; size];
            let read = self.file.read_at(&mut buffer, at).map_err(ScanError::Io)?;
            buffer.truncate(read);
            for hit in memchr::memmem::find_iter(&buffer, b"RCB1") {
                let place = at + hit as u64;
                (self.at, self.next_event) = (place, None);
                let head = self.view(BATCH_HEADER as u64).ok().flatten();
                let header = head.and_then(|head| Header::parse(&head));
                let likely = header.is_some_and(|header| counts(&header) && follows(&header, place));
                if likely && matches!(self.next(), Ok(Some(_))) {
                    (self.at, self.next_event) = (place, None);
                    return Ok(true);
                }
            }
            // The magic may lie across two reads.
            at += if read > 4 { read as u64 - 3 } else { 4 };
        }
        self.back_to(from);
        Ok(false)
    }
}
