//! Ordinary SQL through `tokio-postgres`, over a session that this crate has logged in.
//!
//! tokio-postgres would log in by itself, but knows neither our TLS modes nor refuses clear-text passwords.
//! So it is given a stream on which the login has already happened: its start-up message is swallowed, and the
//! answer that it waits for is replayed. One login, one set of error messages, one set of pinned settings.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, BytesMut};
use rowcast_engine::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::answer::{Answer, Quiet};
use super::connection::{Connection, Purpose};
use super::socket::Socket;
use crate::conninfo::Conninfo;

/// Logs in and gives a client for SQL; its connection lives in a task of its own until the client is dropped. Its
/// statements take as long as they take.
///
/// # Errors
///
/// As [`Connection::connect`].
pub async fn sql_client(info: &Conninfo) -> Result<Client> {
    open(info, None).await.map(|(client, _)| client)
}

/// The same for short statements: a server of which nothing comes for twelve times `connect_timeout`, and 40 s at least,
/// although an answer is due, is given up.
///
/// # Errors
///
/// As [`Connection::connect`].
pub async fn answering_client(info: &Conninfo) -> Result<Client> {
    sql_session(info).await.map(|(client, _)| client)
}

/// The same, and how to reach the very server that was found, whichever of the hosts it is.
///
/// # Errors
///
/// As [`Connection::connect`].
pub async fn sql_session(info: &Conninfo) -> Result<(Client, Conninfo)> {
    open(info, Some(Answer::within(info.answer_limit()))).await
}

/// A session that is looked after by whoever uses it.
#[derive(Debug)]
pub struct Observed {
    /// How to reach that very server.
    pub here: Conninfo,
    /// How long it has said nothing.
    pub quiet: Quiet,
    driver: AbortHandle,
}

impl Drop for Observed {
    fn drop(&mut self) {
        // Dropped, its client would let it wait for the rest of the answer: with the socket, for as long as whatever
        // stands between keeps that.
        if self.quiet.is_due() {
            self.driver.abort();
        }
    }
}

/// As [`sql_client`], with what tells how the session is. It ends with the second where an answer is due.
///
/// # Errors
///
/// As [`Connection::connect`].
pub async fn observed_client(info: &Conninfo) -> Result<(Client, Observed)> {
    let quiet = Quiet::default();
    let (client, here, driver) = driven(info, Some(Answer::unlimited(quiet.clone()))).await?;
    Ok((client, Observed { here, quiet, driver }))
}

async fn open(info: &Conninfo, answer: Option<Answer>) -> Result<(Client, Conninfo)> {
    driven(info, answer).await.map(|(client, here, _)| (client, here))
}

async fn driven(info: &Conninfo, answer: Option<Answer>) -> Result<(Client, Conninfo, AbortHandle)> {
    let connection = Connection::connect(info, Purpose::Query).await?;
    let (here, at) = (info.at(connection.host()), connection.host().to_string());
    let stream = Adopted::new(connection, answer);
    let mut config = tokio_postgres::Config::new();
    config.user(&info.user).dbname(&info.dbname);
    let adopted = config.connect_raw(stream, NoTls).await;
    let (client, mut driver) =
        adopted.map_err(|e| Error::failed("Cannot take over the SQL session").because(e))?;
    let driving = tokio::spawn(async move {
        while let Some(message) = poll_fn(|cx| driver.poll_message(cx)).await {
            match message {
                Ok(AsyncMessage::Notice(notice)) => tracing::debug!("Postgres says: {}", notice.message()),
                Ok(_) => {}
                Err(error) if is_late(&error) => {
                    return tracing::warn!("A session at {at} is given up: {error}");
                }
                // Whoever uses the client gets an error of their own.
                Err(error) => return tracing::debug!("The SQL session ended: {error}"),
            }
        }
    });
    Ok((client, here, driving.abort_handle()))
}

/// Whether an answer was waited for in vain. To whoever has asked the session is only closed.
fn is_late(error: &tokio_postgres::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut)
}

/// A logged-in socket that looks as if it were about to be.
struct Adopted {
    socket: Socket,
    /// The replayed answer, then whatever was read ahead.
    incoming: BytesMut,
    startup: Startup,
    /// Where the time for an answer is of interest.
    answer: Option<Answer>,
}

/// How much of the start-up message has been swallowed.
enum Startup {
    /// The length is not known yet: so many of its four bytes, and their value.
    Length(u8, u32),
    /// So many bytes are still to come.
    Body(usize),
}

impl Adopted {
    fn new(connection: Connection, bounded: Option<Answer>) -> Self {
        let (messages, parameters, key) = connection.into_parts();
        let mut incoming = answer(&parameters, key);
        incoming.extend_from_slice(&messages.incoming);
        Self { socket: messages.socket, incoming, startup: Startup::Length(0, 0), answer: bounded }
    }
}

/// AuthenticationOk, ParameterStatus for each parameter, BackendKeyData, ReadyForQuery (idle).
fn answer(parameters: &BTreeMap<String, String>, key: (i32, i32)) -> BytesMut {
    let mut out = BytesMut::new();
    let mut message = |tag: u8, parts: &[&[u8]]| {
        out.put_u8(tag);
        // Names and values of settings, which came in messages with such a length.
        let length = parts.iter().map(|part| part.len()).sum::<usize>() + 4;
        out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        parts.iter().for_each(|part| out.put_slice(part));
    };
    message(b'R', &[&[0; 4]]);
    for (name, value) in parameters {
        message(b'S', &[name.as_bytes(), &[0], value.as_bytes(), &[0]]);
    }
    message(b'K', &[&key.0.to_be_bytes(), &key.1.to_be_bytes()]);
    message(b'Z', &[b"I"]);
    out
}

impl Startup {
    /// Takes what belongs to the start-up message off the front of `bytes`; how many that were.
    fn swallow(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while let (Self::Length(seen, value), Some(byte)) = (&*self, bytes.get(taken)) {
            let value = value << 8 | u32::from(*byte);
            taken += 1;
            // The length counts its own four bytes.
            *self = if *seen == 3 {
                Self::Body(value.saturating_sub(4) as usize)
            } else {
                Self::Length(seen + 1, value)
            };
        }
        if let Self::Body(left) = self {
            let more = (*left).min(bytes.len() - taken);
            *left -= more;
            taken += more;
        }
        taken
    }
}

impl AsyncRead for Adopted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.incoming.is_empty() {
            let before = buf.filled().len();
            let read = Pin::new(&mut this.socket).poll_read(cx, buf);
            return match (&mut this.answer, read) {
                (Some(answer), Poll::Pending) => answer.nothing(cx),
                (Some(answer), read) => {
                    answer.came(&buf.filled()[before..]);
                    read
                }
                (None, read) => read,
            };
        }
        let count = this.incoming.len().min(buf.remaining());
        buf.put_slice(&this.incoming[..count]);
        this.incoming.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Adopted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.startup.swallow(bytes) {
            0 => {
                let written = Pin::new(&mut this.socket).poll_write(cx, bytes);
                if let Some(answer) = &mut this.answer {
                    let sent = if let Poll::Ready(Ok(count)) = written { count } else { 0 };
                    answer.asked(bytes, sent, cx);
                }
                written
            }
            swallowed => Poll::Ready(Ok(swallowed)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swallows_one_startup_message_however_it_is_cut() {
        let message = [0, 0, 0, 9, 1, 2, 3, 4, 5];
        for cut in 0..=message.len() {
            let mut startup = Startup::Length(0, 0);
            assert_eq!(startup.swallow(&message[..cut]), cut);
            let rest = [&message[cut..], b"Q"].concat();
            assert_eq!(startup.swallow(&rest), message.len() - cut);
            assert_eq!(startup.swallow(b"Q"), 0);
        }
    }
}
