//! What has been read of the replication stream, and where the next frame in it lies.
//!
//! ```text
//! bytes    [ given out | whole frames … | part of a frame | room to read into ]
//!          0           start                              end           length
//! ```

/// Room for each read, in bytes; with less a busy stream would cost a system call every few rows.
const MIN_READ: usize = 256 * 1024;

/// The usual size, in bytes: a full receive buffer, and part of a frame before it.
const USUAL: usize = 1024 * 1024 + MIN_READ;

/// A buffer that one long frame has made longer than this is given back once the frame is done, in bytes.
const KEPT: usize = 4 * USUAL;

/// Postgres cannot hold a value, hence a message, of more than 1 GiB; the slack is for headers. In bytes.
const MAX_FRAME: usize = (1 << 30) + (1 << 20);

/// Type byte and length, which counts itself but not the type byte.
const HEADER: usize = 5;

/// A frame's length is not one that Postgres can send.
pub(super) struct Impossible;

/// A whole frame in the buffer.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) tag: u8,
    at: usize,
    length: usize,
}

pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// Begins with what was read ahead.
    pub(super) fn new(read_ahead: &[u8]) -> Self {
        let mut bytes = vec![0; USUAL.max(read_ahead.len() + MIN_READ)];
        bytes[..read_ahead.len()].copy_from_slice(read_ahead);
        Self { bytes, start: 0, end: read_ahead.len() }
    }

    /// How many bytes have not been given out.
    fn pending(&self) -> usize {
        self.end - self.start
    }

    /// Where to read into: `MIN_READ` bytes at least. The buffer doubles only as a long frame really comes in,
    /// so that a wrong length cannot claim memory.
    pub(super) fn room(&mut self) -> &mut [u8] {
        let pending = self.pending();
        if self.bytes.len() > KEPT && pending < MIN_READ {
            let mut smaller = vec![0; USUAL];
            smaller[..pending].copy_from_slice(&self.bytes[self.start..self.end]);
            self.bytes = smaller;
        } else if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
        }
        (self.start, self.end) = (0, pending);
        if self.bytes.len() - pending < MIN_READ {
            // The slack also bounds a reader that never takes its frames out.
            self.bytes.resize((self.bytes.len() * 2).min(MAX_FRAME + KEPT), 0);
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes have been read into the room.
    pub(super) fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// Takes the next frame out, if it is there whole. Its body stays in place until the next [`Self::room`].
    pub(super) fn take(&mut self) -> Result<Option<Frame>, Impossible> {
        let Some((header, _)) = self.bytes[self.start..self.end].split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [tag, length @ ..] = *header;
        let length = u32::from_be_bytes(length) as usize;
        if !(4..=MAX_FRAME).contains(&length) {
            return Err(Impossible);
        }
        if self.pending() <= length {
            return Ok(None);
        }
        let at = self.start + HEADER;
        self.start += length + 1;
        Ok(Some(Frame { tag, at, length: length - 4 }))
    }

    /// The body of a frame just taken.
    pub(super) fn body(&self, frame: Frame) -> &[u8] {
        &self.bytes[frame.at..frame.at + frame.length]
    }
}
