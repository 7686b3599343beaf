//! Takes integers and strings off the front of a message.

use std::fmt;

use rowcast_engine::event::Micros;
use rowcast_engine::{Lsn, in_quotes};

/// Microseconds from 1970 to 2000, where Postgres' clock starts.
const POSTGRES_EPOCH: Micros = 946_684_800_000_000;

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The message's tag is none that protocol versions 1 and 2 have.
    UnknownTag(u8),
    /// The message ends before it should, goes on after it should end, or holds an impossible value.
    Body {
        /// The message's tag.
        tag: u8,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A flag or a kind that protocol version 1 does not have.
    UnknownByte {
        /// The message's tag.
        tag: u8,
        /// What it should be.
        what: &'static str,
        /// What it is.
        byte: u8,
    },
    /// There is not even a tag.
    Empty,
}

/// A tag as the protocol's documentation names it.
fn letter(tag: u8) -> impl fmt::Display {
    fmt::from_fn(move |f| write!(f, "{}", in_quotes(char::from(tag).encode_utf8(&mut [0; 2]))))
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTag(tag) => {
                write!(f, "unknown message tag {} (byte 0x{tag:02X})", letter(*tag))
            }
            Self::Body { tag, what } => write!(f, "message {}: {what}", letter(*tag)),
            Self::UnknownByte { tag, what, byte } => {
                write!(f, "message {}: {what} (byte 0x{byte:02X})", letter(*tag))
            }
            Self::Empty => f.write_str("an empty message"),
        }
    }
}

impl std::error::Error for Malformed {}

/// What is left of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    tag: u8,
    pub(super) rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(tag: u8, rest: &'a [u8]) -> Self {
        Self { tag, rest }
    }

    pub(super) fn bad(&self, what: &'static str) -> Malformed {
        Malformed::Body { tag: self.tag, what }
    }

    pub(super) fn unknown(&self, what: &'static str, byte: u8) -> Malformed {
        Malformed::UnknownByte { tag: self.tag, what, byte }
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (chunk, rest) =
            self.rest.split_first_chunk::<N>().ok_or_else(|| self.bad("it ends too early"))?;
        self.rest = rest;
        Ok(*chunk)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.chunk()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.chunk()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.chunk()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.chunk()?))
    }

    pub(super) fn lsn(&mut self) -> Result<Lsn, Malformed> {
        Ok(Lsn(u64::from_be_bytes(self.chunk()?)))
    }

    /// A time, moved to the epoch of 1970.
    pub(super) fn time(&mut self) -> Result<Micros, Malformed> {
        Ok(i64::from_be_bytes(self.chunk()?).saturating_add(POSTGRES_EPOCH))
    }

    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) =
            self.rest.split_at_checked(length).ok_or_else(|| self.bad("it ends too early"))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// What ends with a zero byte. A database without encoding sends any other bytes.
    pub(super) fn zero_ended(&mut self) -> Result<&'a [u8], Malformed> {
        let length =
            self.rest.iter().position(|byte| *byte == 0).ok_or_else(|| self.bad("a name has no end"))?;
        let bytes = self.bytes(length)?;
        self.u8()?;
        Ok(bytes)
    }

    /// A string that ends with a zero byte.
    pub(super) fn string(&mut self) -> Result<&'a str, Malformed> {
        let bytes = self.zero_ended()?;
        std::str::from_utf8(bytes).map_err(|_| self.bad("a name is not UTF-8"))
    }

    /// Makes sure that nothing is left.
    pub(super) fn done(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad("it is longer than it says")) }
    }
}
