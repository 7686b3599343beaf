//! From a host to a session that is ready for queries.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::io;

use postgres_protocol::message::backend::{ErrorFields, Message};
use postgres_protocol::message::frontend;
use rowcast_engine::{Error, Result};

use super::auth;
use super::connection::{Connection, Purpose};
use super::db_error::DbError;
use super::dial::dial;
use super::messages::{Incoming, Messages};
use super::remedy;
use super::session;
use super::socket::Socket;
use super::tls;
use crate::conninfo::{Conninfo, Host, SslMode, TargetServer, Tls};

/// A fixed receive buffer closes the TCP window when we are behind, so that the server's kernel gathers its
/// many small messages into large segments: three times the rows per second while catching up. In bytes.
const REPLICATION_RECEIVE_BUFFER: u32 = 1024 * 1024;

/// One login being tried.
pub(super) struct Attempt<'a> {
    pub(super) info: &'a Conninfo,
    pub(super) host: &'a Host,
    purpose: Purpose,
}

/// Logs in at `host`. The caller bounds the time.
pub(super) async fn login(info: &Conninfo, host: &Host, purpose: Purpose) -> Result<Connection> {
    let attempt = Attempt { info, host, purpose };
    let mut under_tls = false;
    let mut result = attempt.open(&info.tls, &mut under_tls).await;
    // As in libpq, `prefer` means to do without TLS where it does not work or is not admitted.
    if info.tls.mode == SslMode::Prefer && result.as_ref().err().is_some_and(|e| is_about_tls(e, under_tls)) {
        tracing::debug!("Trying {host} without TLS, since sslmode is prefer");
        let plain = Tls { mode: SslMode::Disable, ..info.tls.clone() };
        result = attempt.open(&plain, &mut under_tls).await;
    }
    let mut connection = result?;
    attempt.check_target(&mut connection).await?;
    Ok(connection)
}

/// Whether the login may succeed without TLS: the handshake failed, or pg_hba.conf has no line for it.
fn is_about_tls(error: &Error, under_tls: bool) -> bool {
    let Some(cause) = error.source() else { return false };
    let not_admitted = cause.downcast_ref::<DbError>().is_some_and(|e| e.code == "28000");
    let handshake = cause
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
        .is_some_and(|e| e.is::<rustls::Error>());
    handshake || (not_admitted && under_tls)
}

impl Attempt<'_> {
    async fn open(&self, tls: &Tls, under_tls: &mut bool) -> Result<Connection> {
        let receive_buffer = match self.purpose {
            Purpose::Replication => Some(REPLICATION_RECEIVE_BUFFER),
            Purpose::Query => None,
        };
        let socket = tls::start(dial(self.host, receive_buffer).await?, self.host, tls).await?;
        *under_tls = matches!(socket, Socket::Tls(_));
        let mut messages = Messages::new(socket);
        self.start(&mut messages).await?;
        auth::authenticate(&mut messages, self).await?;
        let mut connection = self.until_ready(messages).await?;
        let later = session::after_login(connection.server_version());
        if !later.is_empty() {
            connection.simple_query(&later).await?;
        }
        Ok(connection)
    }

    async fn start(&self, messages: &mut Messages) -> Result<()> {
        let mut parameters = vec![("user", self.info.user.as_str()), ("database", &self.info.dbname)];
        if self.purpose == Purpose::Replication {
            parameters.push(("replication", "database"));
        }
        parameters.push(("application_name", &self.info.application_name));
        parameters.extend(self.info.options.as_deref().map(|options| ("options", options)));
        parameters.extend(session::STARTUP);
        let sent = messages.send(|buffer| frontend::startup_message(parameters, buffer)).await;
        sent.map_err(|e| remedy::broken(self.host, e))
    }

    /// Collects what the server says about itself after the login.
    async fn until_ready(&self, mut messages: Messages) -> Result<Connection> {
        let mut parameters = BTreeMap::new();
        let mut key = (0, 0);
        loop {
            match messages.read().await.map_err(|e| remedy::broken(self.host, e))? {
                Incoming::Message(Message::ParameterStatus(body)) => {
                    if let (Ok(name), Ok(value)) = (body.name(), body.value()) {
                        parameters.insert(name.to_owned(), value.to_owned());
                    }
                }
                Incoming::Message(Message::BackendKeyData(body)) => {
                    key = (body.process_id(), body.secret_key())
                }
                Incoming::Message(Message::NoticeResponse(body)) => DbError::read(body.fields()).log(),
                Incoming::Message(Message::ErrorResponse(body)) => return Err(self.refused(body.fields())),
                Incoming::Message(Message::ReadyForQuery(_)) => break,
                _ => return Err(remedy::protocol("an unexpected message came after the login")),
            }
        }
        let version = parameters.get("server_version").and_then(|v| session::version_number(v));
        let version = version.ok_or_else(|| remedy::protocol("the server does not tell its version"))?;
        Ok(Connection::new(messages, parameters, version, key))
    }

    /// Holds the server against `target_session_attrs`.
    async fn check_target(&self, connection: &mut Connection) -> Result<()> {
        let (sql, wanted, name) = match self.info.target {
            TargetServer::Any => return Ok(()),
            TargetServer::ReadWrite => ("SHOW transaction_read_only", "off", "read-write"),
            TargetServer::ReadOnly => ("SHOW transaction_read_only", "on", "read-only"),
            TargetServer::Primary => ("SELECT pg_catalog.pg_is_in_recovery()", "f", "primary"),
            TargetServer::Standby => ("SELECT pg_catalog.pg_is_in_recovery()", "t", "standby"),
        };
        let rows = connection.simple_query(sql).await?;
        let found = rows.first().and_then(|row| row.first()).and_then(Option::as_deref);
        if found == Some(wanted) {
            return Ok(());
        }
        // It may become one.
        Err(Error::transient(format!(
            "Postgres at {} is not what target_session_attrs={name} asks for",
            self.host
        ))
        .hint("Name all servers of the cluster in the source URL: postgres://USER@HOST1,HOST2/DATABASE"))
    }

    /// The error for the server's refusal.
    pub(super) fn refused(&self, fields: ErrorFields<'_>) -> Error {
        remedy::login(self.host, &self.info.user, &self.info.dbname, DbError::read(fields))
    }

    /// The password, or what to do about having none.
    pub(super) fn password(&self) -> Result<String> {
        self.info.password_for(self.host).ok_or_else(|| {
            let (host, user) = (self.host, &self.info.user);
            Error::refused(format!(
                "Postgres at {host} asks for the password of user {user:?}, and none is given"
            ))
            .hint("Set PGPASSWORD, or write HOST:PORT:DATABASE:USER:PASSWORD into ~/.pgpass (mode 0600)")
        })
    }
}
