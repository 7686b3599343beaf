//! The replication stream: the hot path. One buffer, one read at a time, frames decoded in place.

use std::io;
use std::time::Duration;

use rowcast_engine::{Error, Lsn, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::buffer::{Buffer, Frame};
use super::db_error::{DbError, server_error};
use super::messages::Messages;
use super::remedy;
use super::socket::Socket;
use super::status::Status;
use super::veil::veiled;

/// A status is 39 bytes; a server that does not take them for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the end of the stream may take, so that the server has released the slot when it is done.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// CopyDone and Terminate.
const FAREWELL: &[u8] = b"c\0\0\0\x04X\0\0\0\x04";

/// One frame of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFrame<'a> {
    /// XLogData: a message of the output plugin.
    Data {
        /// Position of the data; zero where a message is not the last of its group.
        start: Lsn,
        /// The server's end of WAL; in logical replication the same as `start`.
        end: Lsn,
        /// When it was sent, microseconds since 2000-01-01 UTC.
        sent: i64,
        /// The plugin's message.
        body: &'a [u8],
    },
    /// The server is alive.
    Keepalive {
        /// The server's end of WAL that it has gone through.
        end: Lsn,
        /// When it was sent, microseconds since 2000-01-01 UTC.
        sent: i64,
        /// Whether a status is wanted at once.
        reply: bool,
    },
}

/// A running replication stream.
///
/// Call [`next`](Self::next) until it gives None, then [`fill`](Self::fill). Nothing is allocated or copied for a
/// frame, and `fill` may be dropped at any time (in a `select!`) without losing a byte.
pub struct CopyStream {
    socket: Socket,
    buffer: Buffer,
    status: Status,
    /// Why the stream is over; every later call repeats it.
    over: Option<End>,
}

/// Why a stream is over.
enum End {
    Server(DbError),
    LeftOut(DbError),
    Done,
    Closed,
    Broken(io::ErrorKind, String),
    Protocol(&'static str),
}

impl CopyStream {
    pub(super) fn new(messages: Messages) -> Self {
        let buffer = Buffer::new(&messages.incoming);
        Self { socket: messages.socket, buffer, status: Status::none(), over: None }
    }

    /// Reads once, as much as is there, waiting for at least one byte; how many bytes came. Cancel safe.
    ///
    /// # Errors
    ///
    /// `Kind::Transient` when the connection is closed or broken, and for ever after.
    pub async fn fill(&mut self) -> Result<usize> {
        self.check()?;
        match self.socket.read(self.buffer.room()).await {
            Ok(0) => Err(self.end(End::Closed)),
            Ok(count) => {
                self.buffer.filled(count);
                Ok(count)
            }
            Err(e) => Err(self.end(End::broken(&e))),
        }
    }

    /// The next whole frame in the buffer, borrowed from it; None when more must be read.
    ///
    /// # Errors
    ///
    /// The reason of the stream's end, and for ever after: the server's [`DbError`], its regular end, or a
    /// frame that breaks the protocol.
    #[expect(
        clippy::should_implement_trait,
        reason = "the frame borrows from the stream, so it is no Iterator"
    )]
    pub fn next(&mut self) -> Result<Option<CopyFrame<'_>>> {
        self.check()?;
        let frame = loop {
            match self.buffer.take() {
                Ok(Some(frame)) if frame.tag == b'd' => break frame,
                Ok(Some(other)) => self.aside(other)?,
                Ok(None) => return Ok(None),
                Err(_) => {
                    return Err(self.end(End::Protocol("a frame's length is beyond what Postgres can send")));
                }
            }
        };
        // Decoded twice only where it fails: the borrow of a good one must not reach the bad one's latch.
        if CopyFrame::decode(self.buffer.body(frame)).is_none() {
            return Err(self.end(End::Protocol("an unknown frame came in the replication stream")));
        }
        Ok(CopyFrame::decode(self.buffer.body(frame)))
    }

    /// Whether TCP carries the stream: then reading late makes the server faster.
    pub fn is_tcp(&self) -> bool {
        self.socket.is_tcp()
    }

    /// Bytes that have arrived and not been read; 0 where the kernel does not say.
    pub fn waiting(&self) -> u64 {
        self.socket.waiting().unwrap_or(0)
    }

    /// Tells the server how far we are: written, durable, applied. A flush position lets it forget WAL for good.
    ///
    /// When dropped half-way, the next call first finishes that status.
    ///
    /// # Errors
    ///
    /// `Kind::Transient` when the server does not take it in time or the connection is broken.
    pub async fn send_status(
        &mut self,
        write: Lsn,
        flush: Lsn,
        apply: Lsn,
        reply_requested: bool,
    ) -> Result<()> {
        self.check()?;
        let sending = timeout(WRITE_TIMEOUT, async {
            self.status.send(&mut self.socket).await?;
            self.status = Status::new(write, flush, apply, reply_requested);
            self.status.send(&mut self.socket).await
        });
        let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "the server takes no status"));
        let sent = sending.await.unwrap_or_else(late);
        sent.map_err(|e| self.end(End::broken(&e)))
    }

    /// Ends the stream in order, as far as that is possible in two seconds.
    ///
    /// What the server still sends is thrown away: closing on unread data would reset the connection, and with
    /// it lose the last status.
    pub async fn finish(mut self) {
        let farewell = timeout(FINISH_TIMEOUT, async {
            self.status.send(&mut self.socket).await?;
            self.socket.write_all(FAREWELL).await?;
            self.socket.flush().await?;
            let rest = self.buffer.room();
            while self.socket.read(rest).await? > 0 {}
            io::Result::Ok(())
        });
        if !matches!(farewell.await, Ok(Ok(()))) {
            tracing::debug!("The replication connection did not end in order");
        }
    }

    /// What is not CopyData: notices, settings, and the ways in which a stream ends.
    #[cold]
    fn aside(&mut self, frame: Frame) -> Result<()> {
        let body = self.buffer.body(frame);
        let end = match frame.tag {
            b'N' => {
                let notice = DbError::parse(body);
                notice.log();
                if !notice.leaves_out_publication() {
                    return Ok(());
                }
                // Before 18 it is an error: what is left out would be missed in silence.
                End::LeftOut(notice)
            }
            // ParameterStatus and NotificationResponse.
            b'S' | b'A' => return Ok(()),
            b'E' => End::Server(DbError::parse(body)),
            // CopyDone, or CommandComplete of a server that shuts down.
            b'c' | b'C' => End::Done,
            _ => End::Protocol("an unknown message came in the replication stream"),
        };
        Err(self.end(end))
    }

    fn end(&mut self, end: End) -> Error {
        let error = end.error();
        self.over = Some(end);
        error
    }

    fn check(&self) -> Result<()> {
        self.over.as_ref().map_or(Ok(()), |end| Err(end.error()))
    }
}

impl<'a> CopyFrame<'a> {
    /// Reads a CopyData body; None for what is neither of the two.
    #[inline]
    fn decode(body: &'a [u8]) -> Option<Self> {
        let (kind, rest) = body.split_first()?;
        match kind {
            b'w' => {
                let (start, rest) = number(rest)?;
                let (end, rest) = number(rest)?;
                let (sent, body) = number(rest)?;
                Some(Self::Data { start: Lsn(start), end: Lsn(end), sent: sent.cast_signed(), body })
            }
            b'k' => {
                let (end, rest) = number(rest)?;
                let (sent, rest) = number(rest)?;
                Some(Self::Keepalive { end: Lsn(end), sent: sent.cast_signed(), reply: *rest.first()? != 0 })
            }
            _ => None,
        }
    }
}

#[inline]
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    bytes.split_first_chunk().map(|(number, rest)| (u64::from_be_bytes(*number), rest))
}

impl End {
    fn broken(cause: &io::Error) -> Self {
        Self::Broken(cause.kind(), cause.to_string())
    }

    fn error(&self) -> Error {
        match self {
            // A publication's row filter may fail over a row.
            Self::Server(error) => {
                server_error("Postgres ended the replication stream", veiled(error.clone()))
            }
            Self::LeftOut(notice) => {
                server_error("Postgres leaves a publication out of the replication stream", notice.clone())
            }
            Self::Done => {
                Error::transient("Postgres ended the replication stream, as it does when it shuts down")
            }
            Self::Closed => Error::transient("Postgres closed the replication connection"),
            Self::Broken(kind, text) => Error::transient("The replication connection broke")
                .because(io::Error::new(*kind, text.clone())),
            Self::Protocol(what) => remedy::protocol(*what),
        }
    }
}
