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
use super::not_let_in::NotLetIn;
use super::remedy;
use super::session;
use super::socket::Socket;
use super::tls;
use crate::conninfo::{ChannelBinding, Conninfo, Host, SslMode, TargetServer, Tls};
use crate::tables::identifier;

/// A fixed receive buffer closes the TCP window when we are behind, so that the server's kernel gathers its
/// many small messages into large segments: three times the rows per second while catching up. In bytes. A network
/// needs as much as it carries in a round trip; ten milliseconds of a gigabit.
const RECEIVE_BUFFER: u32 = 1024 * 1024;

/// The same on one machine, where a round trip takes no time: small enough that single rows fill it well within a nap of
/// the reader's, and behind it everything gathers.
const LOCAL_RECEIVE_BUFFER: u32 = 128 * 1024;

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
    // A login that must be bound to TLS has nothing to gain there.
    let may_be_plain = info.tls.mode == SslMode::Prefer && info.channel_binding != ChannelBinding::Require;
    if may_be_plain && result.as_ref().err().is_some_and(|e| is_about_tls(e, under_tls)) {
        tracing::debug!("Trying {host} without TLS, since sslmode is prefer");
        let plain = Tls { mode: SslMode::Disable, ..info.tls.clone() };
        result = attempt.open(&plain, &mut under_tls).await;
    }
    let mut connection = result?;
    connection.sort = Sort::read(&mut connection, info.target).await?;
    connection.simple_query(&session::after_login(connection.server_version())).await?;
    if purpose == Purpose::Query {
        // Where the platform cannot, a statement ends by itself.
        if let Err(error) = connection.simple_query(session::NOTICE_OUR_END).await {
            tracing::debug!("{host} cannot notice that a client is gone: {error}");
        }
    }
    Ok(connection)
}

/// What a server is, as far as `target_session_attrs` asks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sort {
    standby: Option<bool>,
    read_only: Option<bool>,
}

impl Sort {
    /// Asked before anything is pinned: what sessions may do by default is the server's and the role's to say.
    async fn read(connection: &mut Connection, target: TargetServer) -> Result<Self> {
        let mut sort = Self::default();
        let (sql, answer) = match target {
            TargetServer::Any => return Ok(sort),
            TargetServer::ReadWrite | TargetServer::ReadOnly => {
                ("SELECT pg_catalog.current_setting('transaction_read_only') = 'on'", &mut sort.read_only)
            }
            TargetServer::Primary
            | TargetServer::PreferPrimary
            | TargetServer::Standby
            | TargetServer::PreferStandby => ("SELECT pg_catalog.pg_is_in_recovery()", &mut sort.standby),
        };
        let rows = connection.simple_query(sql).await?;
        *answer = rows.first().and_then(|row| row.first()).and_then(Option::as_deref).map(|text| text == "t");
        Ok(sort)
    }
}

/// Holds a server against `target_session_attrs`.
pub(super) fn is_wanted(connection: &Connection, target: TargetServer) -> bool {
    let Sort { standby, read_only } = connection.sort;
    match target {
        TargetServer::Any => true,
        TargetServer::ReadWrite => read_only == Some(false),
        TargetServer::ReadOnly => read_only == Some(true),
        TargetServer::Primary | TargetServer::PreferPrimary => standby == Some(false),
        TargetServer::Standby | TargetServer::PreferStandby => standby == Some(true),
    }
}

/// The error for a server that is not. It may become one.
pub(super) fn other_server(host: &Host, target: TargetServer) -> Error {
    let name = target.as_str();
    Error::transient(format!("Postgres at {host} is not what target_session_attrs={name} asks for"))
        .hint("Name all servers of the cluster in the source URL: postgres://USER@HOST1,HOST2/DATABASE")
}

/// Whether the login may succeed without TLS: the handshake failed, or pg_hba.conf has no line for it.
fn is_about_tls(error: &Error, under_tls: bool) -> bool {
    let Some(cause) = error.source() else { return false };
    let cause = cause.downcast_ref().map_or(cause, NotLetIn::cause);
    let not_admitted = cause.downcast_ref::<DbError>().is_some_and(|e| e.code == "28000");
    let handshake = cause
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
        .is_some_and(|e| e.is::<rustls::Error>());
    handshake || (not_admitted && under_tls)
}

impl Attempt<'_> {
    /// What to fix SO_RCVBUF at, in bytes.
    fn receive_buffer(&self) -> Option<u32> {
        let address = match (&self.purpose, self.host) {
            (Purpose::Replication, Host::Tcp { address, .. }) => *address,
            _ => return None,
        };
        let local = address.is_some_and(|address| address.is_loopback());
        Some(if local { LOCAL_RECEIVE_BUFFER } else { RECEIVE_BUFFER })
    }

    async fn dial(&self) -> Result<Socket> {
        dial(self.host, &self.info.keepalive, self.receive_buffer()).await
    }

    async fn open(&self, tls: &Tls, under_tls: &mut bool) -> Result<Connection> {
        let socket = self.dial().await?;
        let socket = tls::start(socket, self.host, tls).await?;
        *under_tls = matches!(socket, Socket::Tls(_));
        if self.info.channel_binding == ChannelBinding::Require && !*under_tls {
            return Err(remedy::nothing_to_bind_to(self.host, tls.mode));
        }
        let mut messages = Messages::new(socket);
        self.start(&mut messages).await?;
        auth::authenticate(&mut messages, self).await?;
        self.until_ready(messages).await
    }

    async fn start(&self, messages: &mut Messages) -> Result<()> {
        let mut parameters = vec![("user", self.info.user.as_str()), ("database", &self.info.dbname)];
        if self.purpose == Purpose::Replication {
            parameters.push(("replication", "database"));
        }
        parameters.push(("application_name", &self.info.application_name));
        parameters.extend(self.info.options.as_deref().map(|options| ("options", options)));
        parameters.extend(session::startup(self.purpose));
        parameters.push(session::lock_timeout(self.purpose));
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
        let limit = self.info.answer_limit();
        Ok(Connection::new(messages, self.host.clone(), parameters, version, key, limit))
    }

    /// The error for the server's refusal.
    pub(super) fn refused(&self, fields: ErrorFields<'_>) -> Error {
        remedy::login(self.host, &self.info.user, &self.info.dbname, DbError::read(fields))
    }

    /// The password, or what to do about having none.
    pub(super) fn password(&self) -> Result<String> {
        self.info.password_for(self.host).ok_or_else(|| {
            let (host, user) = (self.host, identifier(&self.info.user));
            let (why, remedy) = self.info.why_no_password();
            Error::refused(format!(
                "Postgres at {host} asks for the password of user {user}, and none is given"
            ))
            .because(NotLetIn::because(why))
            .hint(remedy)
        })
    }
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;

    use super::*;

    /// What the kernel was told of a connection over TCP, for a stream and for everything else.
    #[tokio::test]
    async fn the_receive_buffer_of_a_stream_is_fixed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let info = Conninfo::parse(&format!("host=127.0.0.1 port={port} user=u")).unwrap();
        let at = |address: &str| Host::Tcp { name: String::new(), address: address.parse().ok(), port };
        let (near, far) = (at("127.0.0.1"), at("192.0.2.1"));
        let unix = Host::Unix { dir: "/tmp".into(), port };
        let size = |host, purpose| Attempt { info: &info, host, purpose }.receive_buffer();
        assert_eq!(size(&near, Purpose::Replication), Some(LOCAL_RECEIVE_BUFFER));
        assert_eq!(size(&far, Purpose::Replication), Some(RECEIVE_BUFFER));
        assert_eq!((size(&near, Purpose::Query), size(&unix, Purpose::Replication)), (None, None));
        let mut granted = Vec::new();
        for purpose in [Purpose::Replication, Purpose::Query] {
            let Socket::Tcp(stream) = Attempt { info: &info, host: &near, purpose }.dial().await.unwrap()
            else {
                panic!("not TCP")
            };
            granted.push(SockRef::from(&stream).recv_buffer_size().unwrap());
        }
        // Linux says twice what it was asked for; of what nobody asked for, what it begins with, which is as much as that.
        assert_eq!(granted[0], 2 * LOCAL_RECEIVE_BUFFER as usize);
        assert_ne!(granted[1], granted[0]);
    }
}
