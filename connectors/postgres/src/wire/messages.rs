//! Whole protocol messages over a socket, for everything but the replication stream itself.

use std::io;

use bytes::{Buf, BytesMut};
use postgres_protocol::message::backend::{Header, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::socket::Socket;

/// No answer of these phases is longer: a row of a catalog query at most. What claims to be is not Postgres.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// The type byte of CopyBothResponse, which the message parser does not know.
const COPY_BOTH_TAG: u8 = b'W';

/// The type byte and the length, which counts itself.
const HEADER: usize = 5;

/// A message of the server.
pub(super) enum Incoming {
    Message(Message),
    /// Replication has begun.
    CopyBoth,
}

/// A socket with what was read ahead from it.
pub(super) struct Messages {
    pub(super) socket: Socket,
    pub(super) incoming: BytesMut,
}

impl Messages {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, incoming: BytesMut::new() }
    }

    /// The next message. Cancel safe: what was read stays for the next call.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` at the end of the connection, `InvalidData` or `InvalidInput` for what is no message.
    pub(super) async fn read(&mut self) -> io::Result<Incoming> {
        loop {
            if let Some(message) = self.parse()? {
                return Ok(message);
            }
            if self.socket.read_buf(&mut self.incoming).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn parse(&mut self) -> io::Result<Option<Incoming>> {
        let Some(header) = Header::parse(&self.incoming)? else { return Ok(None) };
        let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a message is longer than any can be here",
            ));
        }
        if header.tag() == COPY_BOTH_TAG {
            let whole = length + HEADER - 4;
            if self.incoming.len() < whole {
                return Ok(None);
            }
            self.incoming.advance(whole);
            return Ok(Some(Incoming::CopyBoth));
        }
        Ok(Message::parse(&mut self.incoming)?.map(Incoming::Message))
    }

    /// Sends what `write` puts into the buffer.
    pub(super) async fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buffer = BytesMut::new();
        write(&mut buffer)?;
        self.socket.write_all(&buffer).await?;
        self.socket.flush().await
    }
}
