//! A session that runs simple queries and replication commands.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;
use rowcast_engine::{Error, Result};
use tokio::time::timeout;

use super::answer;
use super::copy::CopyStream;
use super::db_error::{DbError, server_error};
use super::hosts;
use super::login::Sort;
use super::messages::{Incoming, Messages};
use super::remedy;
use crate::conninfo::{Conninfo, Host};

/// A simple query is for catalogs and replication commands; a bigger result in bytes is a mistake.
const MAX_RESULT: usize = 64 * 1024 * 1024;

/// How much of a statement an error shows, in characters.
const SHOWN_STATEMENT: usize = 60;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Replication commands beside SQL, for logical decoding of this database.
    Replication,
    /// SQL only.
    Query,
    /// SQL only, to see what `lc_monetary` is for others: it is not pinned.
    Locale,
}

/// A logged-in session with pinned settings (see `session.rs`).
pub struct Connection {
    messages: Messages,
    host: Host,
    parameters: BTreeMap<String, String>,
    version: u32,
    key: (i32, i32),
    /// What `target_session_attrs` looks at.
    pub(super) sort: Sort,
    /// A command has been sent and its end not seen: the caller dropped the future, or the connection broke.
    unfinished: bool,
    /// How long nothing may come of an answer; `None`: for as long as it takes.
    limit: Option<Duration>,
}

impl Connection {
    /// Tries the hosts in their order, each address for `connect_timeout` at most, until one lets us in and is what
    /// `target_session_attrs` asks for.
    ///
    /// # Errors
    ///
    /// `Kind::Transient` when no host is reachable, ready and of that sort, `Kind::Refused` when one refuses the
    /// login for good (then no further one is tried), `Kind::Usage` for unusable certificate files. Each with a hint,
    /// and with what every server that was tried has said.
    pub async fn connect(info: &Conninfo, purpose: Purpose) -> Result<Self> {
        hosts::connect(info, purpose).await
    }

    pub(super) fn new(
        messages: Messages,
        host: Host,
        parameters: BTreeMap<String, String>,
        version: u32,
        key: (i32, i32),
        limit: Duration,
    ) -> Self {
        let sort = Sort::default();
        Self { messages, host, parameters, version, key, unfinished: false, sort, limit: Some(limit) }
    }

    /// The server that let us in: a host of the source at one address.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// The server's version as a number, such as 150018 for 15.18.
    pub fn server_version(&self) -> u32 {
        self.version
    }

    /// The process id of the server's side.
    pub fn process_id(&self) -> i32 {
        self.key.0
    }

    /// Whether TCP carries it.
    pub fn is_tcp(&self) -> bool {
        self.messages.socket.is_tcp()
    }

    /// Runs SQL statements or one replication command, and gives the rows of all of them, values as text.
    ///
    /// A server of which nothing comes for twelve times `connect_timeout` is given up. A dropped call leaves the
    /// connection unusable.
    ///
    /// # Errors
    ///
    /// The server's [`DbError`] as cause, its kind by SQLSTATE; `Kind::Transient` when the connection breaks.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.send_query(sql).await?;
        let (mut rows, mut size, mut failure) = (Vec::new(), 0, None);
        loop {
            let message = match self.answer().await {
                Ok(Incoming::Message(message)) => message,
                Ok(Incoming::CopyBoth) => return Err(unexpected(sql)),
                // A fatal error closes the connection right behind its message.
                Err(e) => return Err(failure.map_or_else(|| lost(sql, e), |f| failed(sql, f))),
            };
            match message {
                Message::DataRow(body) => {
                    size += body.buffer().len();
                    if size > MAX_RESULT {
                        return Err(Error::failed(format!("The result of {} is too large", shown(sql))));
                    }
                    rows.push(read_row(&body)?);
                }
                Message::ErrorResponse(body) => failure = Some(DbError::read(body.fields())),
                Message::ReadyForQuery(_) => break,
                Message::RowDescription(_) | Message::CommandComplete(_) | Message::EmptyQueryResponse => {}
                other => self.aside(&other).ok_or_else(|| unexpected(sql))?,
            }
        }
        self.unfinished = false;
        failure.map_or(Ok(rows), |f| Err(failed(sql, f)))
    }

    /// The same for what may take any time. The caller looks after the server meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Self::simple_query`].
    pub async fn patient_query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let limit = self.limit.take();
        let result = self.simple_query(sql).await;
        self.limit = limit;
        result
    }

    /// The next message of an answer that is due.
    async fn answer(&mut self) -> io::Result<Incoming> {
        let Some(limit) = self.limit else { return self.messages.read().await };
        timeout(limit, self.messages.read()).await.unwrap_or_else(|_| Err(answer::late(limit)))
    }

    /// Sends a START_REPLICATION command and hands the connection over to its stream.
    ///
    /// # Errors
    ///
    /// The server's [`DbError`] as cause: slot missing (42704), in use (55006), invalidated (55000).
    pub async fn start_replication(mut self, command: &str) -> Result<CopyStream> {
        self.send_query(command).await?;
        loop {
            match self.answer().await.map_err(|e| lost(command, e))? {
                Incoming::CopyBoth => return Ok(CopyStream::new(self.messages)),
                Incoming::Message(Message::ErrorResponse(body)) => {
                    return Err(failed(command, DbError::read(body.fields())));
                }
                Incoming::Message(other) => self.aside(&other).ok_or_else(|| unexpected(command))?,
            }
        }
    }

    async fn send_query(&mut self, sql: &str) -> Result<()> {
        if self.unfinished {
            return Err(Error::transient("The connection to Postgres was left in the middle of a command"));
        }
        self.unfinished = true;
        let limit = self.limit.unwrap_or(Duration::MAX);
        let sent = timeout(limit, self.messages.send(|buffer| frontend::query(sql, buffer))).await;
        sent.unwrap_or_else(|_| Err(answer::late(limit))).map_err(|e| lost(sql, e))
    }

    /// Takes in what the server may send at any time; None for anything else.
    fn aside(&mut self, message: &Message) -> Option<()> {
        match message {
            Message::NoticeResponse(body) => DbError::read(body.fields()).log(),
            Message::ParameterStatus(body) => {
                let (name, value) = (body.name().ok()?, body.value().ok()?);
                self.parameters.insert(name.to_owned(), value.to_owned());
            }
            Message::NotificationResponse(_) => {}
            _ => return None,
        }
        Some(())
    }

    pub(super) fn into_parts(self) -> (Messages, BTreeMap<String, String>, (i32, i32)) {
        (self.messages, self.parameters, self.key)
    }
}

fn read_row(body: &DataRowBody) -> Result<Vec<Option<String>>> {
    let text = |range: Option<std::ops::Range<usize>>| {
        Ok(range.and_then(|r| body.buffer().get(r)).map(|b| String::from_utf8_lossy(b).into_owned()))
    };
    body.ranges().map(text).collect().map_err(|_| remedy::protocol("a row is shorter than it says"))
}

/// The statement's beginning, up to where values might stand.
fn shown(sql: &str) -> String {
    sql.trim_start()
        .split(['\n', ';', '(', '\''])
        .next()
        .unwrap_or_default()
        .chars()
        .take(SHOWN_STATEMENT)
        .collect()
}

fn failed(sql: &str, error: DbError) -> Error {
    server_error(format!("Postgres refuses {}", shown(sql)), error)
}

fn lost(sql: &str, cause: io::Error) -> Error {
    Error::transient(format!("The connection to Postgres broke during {}", shown(sql))).because(cause)
}

fn unexpected(sql: &str) -> Error {
    remedy::protocol(format!("an unexpected message came in answer to {}", shown(sql)))
}
