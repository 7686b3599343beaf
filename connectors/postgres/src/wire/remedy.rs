//! One clear message for each way in which a login fails, and what to do about it.

use std::io;

use rowcast_engine::{Error, Kind};
use rustls::CertificateError;

use super::db_error::DbError;
use super::not_let_in::NotLetIn;
use crate::conninfo::{Host, SslMode};
use crate::setup::server::WAL_LEVEL_REMEDY;
use crate::tables::identifier;

/// Nothing answers at `host`.
pub(super) fn unreachable(host: &Host, cause: io::Error) -> Error {
    let hint = match host {
        Host::Tcp { .. } => {
            "Check that Postgres is running, that listen_addresses and port in postgresql.conf admit this \
             connection, and that no firewall is in between"
        }
        Host::Unix { .. } => {
            "Check that Postgres is running and that unix_socket_directories and port in postgresql.conf match; \
             over TCP write the source as postgres://USER@HOST:5432/DATABASE"
        }
    };
    Error::transient(format!("Postgres at {host} is unreachable")).because(cause).hint(hint)
}

/// `channel_binding=require` on a connection without a TLS channel.
pub(super) fn nothing_to_bind_to(host: &Host, mode: SslMode) -> Error {
    let hint = match (host, mode) {
        (Host::Unix { .. }, _) => "A Unix socket has no TLS: connect over TCP, or use channel_binding=prefer",
        (_, SslMode::Disable) => {
            "sslmode=disable asks for none: use sslmode=verify-full, or channel_binding=prefer"
        }
        _ => {
            "The server does not offer it: turn it on in postgresql.conf (ssl = on, ssl_cert_file, ssl_key_file), or \
             use channel_binding=prefer"
        }
    };
    let what =
        format!("channel_binding=require needs TLS, and the connection to Postgres at {host} has none");
    Error::refused(what).hint(hint)
}

/// `host` did not answer in time.
pub(super) fn too_slow(host: &Host, after: std::time::Duration) -> Error {
    Error::transient(format!("Postgres at {host} is unreachable: no login within {} s", after.as_secs()))
        .hint("Check host, port and firewalls; connect_timeout=SECONDS in the source URL waits longer")
}

/// The connection broke before the login was done.
pub(super) fn broken(host: &Host, cause: io::Error) -> Error {
    if tls_error(&cause).is_some() {
        return handshake(host, cause);
    }
    let cause = if cause.kind() == io::ErrorKind::UnexpectedEof {
        io::Error::new(cause.kind(), "the server closed the connection")
    } else {
        cause
    };
    Error::transient(format!("Postgres at {host} broke off the login"))
        .because(cause)
        .hint("Check that this is a Postgres server, and its log for the reason")
}

fn tls_error(cause: &io::Error) -> Option<&rustls::Error> {
    cause.get_ref()?.downcast_ref()
}

/// The TLS handshake failed.
pub(super) fn handshake(host: &Host, cause: io::Error) -> Error {
    let (what, hint) = match tls_error(&cause) {
        Some(rustls::Error::InvalidCertificate(error)) => certificate(host, error),
        Some(rustls::Error::InvalidCertRevocationList(_)) => (
            format!(
                "The list of revoked certificates does not fit the TLS certificate of Postgres at {host}"
            ),
            "The file that sslcrl names needs a current list of each authority in the chain",
        ),
        Some(rustls::Error::AlertReceived(_)) => (
            format!("Postgres at {host} refuses this client's TLS"),
            "If it asks for a client certificate, name one with sslcert=FILE and sslkey=FILE",
        ),
        Some(_) => (
            format!("TLS with Postgres at {host} failed"),
            "The server must speak TLS 1.2 or 1.3 (ssl_min_protocol_version, ssl_ciphers in postgresql.conf)",
        ),
        None => {
            return Error::transient(format!("Postgres at {host} broke off the TLS handshake"))
                .because(cause);
        }
    };
    Error::refused(what).because(NotLetIn::because(cause)).hint(hint)
}

fn certificate(host: &Host, error: &CertificateError) -> (String, &'static str) {
    match error {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            format!("The TLS certificate of Postgres at {host} is made out to another name"),
            "Connect by the name in the certificate, or use sslmode=verify-ca",
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            format!("The TLS certificate of Postgres at {host} has expired"),
            "Renew it (ssl_cert_file in postgresql.conf, then select pg_reload_conf())",
        ),
        CertificateError::Revoked => (
            format!("The TLS certificate of Postgres at {host} has been revoked"),
            "Give the server a new one, and see the list that sslcrl names",
        ),
        CertificateError::UnknownRevocationStatus
        | CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => (
            format!("Nobody says whether the TLS certificate of Postgres at {host} was revoked"),
            "The file that sslcrl names needs a current list of each authority in the chain",
        ),
        _ => (
            format!("The TLS certificate of Postgres at {host} is not trusted"),
            "Name the certificate of its authority with sslrootcert=FILE",
        ),
    }
}

/// Told to those who connect through a pooler.
pub(crate) const NAME_THE_SERVER: &str = "Name the Postgres server itself in the source URL, with its own host and port \
                                          (mostly 5432): a pooler such as PgBouncer neither sets what sessions need nor \
                                          passes replication on";

/// Where the server compares a role's limit of connections, and a database's: the same in every language.
const OF_ROLE: &str = "InitializeSessionUserId";
const OF_DATABASE: &str = "CheckMyDatabase";

/// The server refused the login of `user` to `dbname`.
pub(super) fn login(host: &Host, user: &str, dbname: &str, error: DbError) -> Error {
    let (user_sql, database_sql) = (identifier(user), identifier(dbname));
    let routine = error.routine.as_deref().unwrap_or_default();
    let (what, hint) = match error.code.as_str() {
        "28P01" => (
            format!("Postgres at {host} refuses the password of user {user_sql}"),
            format!(
                "Check the password in the source URL, PGPASSWORD or ~/.pgpass; set it with \
                     ALTER ROLE {user_sql} PASSWORD '…'"
            ),
        ),
        // By what is the same in every language.
        "28000" if error.message.contains("pg_hba.conf") => (
            format!(
                "Postgres at {host} has no pg_hba.conf entry that admits user {user_sql} to database {database_sql}"
            ),
            format!(
                "Add a line such as: host {dbname} {user} CLIENT-ADDRESS/32 scram-sha-256; then \
                     select pg_reload_conf(); where only hostssl lines match, use sslmode=require"
            ),
        ),
        "28000" if routine == "ClientAuthentication" => (
            format!("Postgres at {host} asks for a client certificate"),
            "Name one with sslcert=FILE and sslkey=FILE, over TLS (sslmode=require or above)".to_owned(),
        ),
        "28000" => (
            format!("Postgres at {host} does not let user {user_sql} log in"),
            format!(
                "Check that the role exists and may log in: CREATE ROLE {user_sql} LOGIN REPLICATION PASSWORD '…', \
                     or ALTER ROLE {user_sql} LOGIN; with peer or ident authentication the system user must match"
            ),
        ),
        "3D000" => (
            format!("Postgres at {host} has no database {database_sql}"),
            "List them with psql -l, and name one at the end of the source URL: postgres://…/DATABASE"
                .to_owned(),
        ),
        "42501" => (
            format!("Postgres at {host} denies user {user_sql} the connection to database {database_sql}"),
            format!(
                "For replication: ALTER ROLE {user_sql} REPLICATION (on RDS: GRANT rds_replication TO {user_sql}); \
                     for the database: GRANT CONNECT ON DATABASE {database_sql} TO {user_sql}"
            ),
        ),
        "55000" => nobody(host, &database_sql),
        "53300" => no_more(host, &user_sql, &database_sql, routine),
        "57P03" => (
            format!("Postgres at {host} is not accepting connections yet"),
            "It is starting up, shutting down or recovering: try again in a moment, and see its log"
                .to_owned(),
        ),
        "08P01" if is_pooler(&error) => (
            format!(
                "What answers at {host} is a connection pooler, which does not let through what capture needs"
            ),
            NAME_THE_SERVER.to_owned(),
        ),
        _ => {
            let hint = for_statement(&error).or_else(|| error.hint.clone());
            (
                format!("Postgres at {host} refuses the login of user {user_sql} to database {database_sql}"),
                hint.unwrap_or_default(),
            )
        }
    };
    // Its words would say once more what ours say.
    let is_said = matches!(error.code.as_str(), "28P01" | "3D000") || is_limit(&error);
    let error = if is_said { DbError { message: String::new(), ..error } } else { error };
    let kind = if is_pooler(&error) { Kind::Refused } else { error.kind() };
    let result = Error::new(kind, what).because(error);
    if hint.is_empty() { result } else { result.hint(hint) }
}

/// The database is closed, to whomever.
fn nobody(host: &Host, database: &str) -> (String, String) {
    (
        format!("Postgres at {host} lets nobody connect to database {database}"),
        format!(
            "Where that is for a maintenance, ALTER DATABASE {database} ALLOW_CONNECTIONS true; ends it; else see the \
             server's log"
        ),
    )
}

/// Whether a pooler refuses the login: Postgres says with each error which of its functions it comes from.
fn is_pooler(error: &DbError) -> bool {
    error.code == "08P01" && error.routine.is_none()
}

/// Whose limit of connections is reached.
fn no_more(host: &Host, user: &str, database: &str, routine: &str) -> (String, String) {
    match routine {
        OF_ROLE => (
            format!("Postgres at {host} lets user {user} have no more connections"),
            format!(
                "ALTER ROLE {user} CONNECTION LIMIT …; with a higher number (-1: without limit), or close sessions of \
                 the role seen in pg_stat_activity"
            ),
        ),
        OF_DATABASE => (
            format!("Postgres at {host} lets nobody else connect to database {database}"),
            format!(
                "ALTER DATABASE {database} CONNECTION LIMIT …; with a higher number (-1: without limit), or close \
                 sessions in the database seen in pg_stat_activity"
            ),
        ),
        _ => (
            format!("Postgres at {host} has too many connections"),
            "Raise max_connections and max_wal_senders (restart needed), or close sessions seen in \
             pg_stat_activity and pg_stat_replication"
                .to_owned(),
        ),
    }
}

/// Whether it is the limit of a role or of a database that is reached, not the server's.
fn is_limit(error: &DbError) -> bool {
    error.code == "53300" && matches!(error.routine.as_deref(), Some(OF_ROLE | OF_DATABASE))
}

/// What to do about an error of a statement or a replication command, where that is known.
pub(super) fn for_statement(error: &DbError) -> Option<String> {
    // Names of settings are the same in every language.
    let about =
        |word| error.message.contains(word) || error.hint.as_deref().is_some_and(|h| h.contains(word));
    Some(match error.code.as_str() {
        "55000" if about("wal_level") => {
            WAL_LEVEL_REMEDY
        }
        "53400" if about("max_replication_slots") => {
            "Raise max_replication_slots (restart needed), or drop a slot seen unused in pg_replication_slots: \
             select pg_drop_replication_slot('NAME')"
        }
        "53300" => {
            "Raise max_connections and max_wal_senders (restart needed), or close sessions seen in \
             pg_stat_activity and pg_stat_replication"
        }
        "53100" => "The server's disk is full",
        "55006" => "Another session has it: see active_pid in pg_replication_slots",
        "55P03" => "A lock was not to be had in time: see pg_stat_activity for long transactions",
        "57P01" | "57P02" | "57P03" => "The server is restarting: wait for it",
        // From version 16 on it is called filenumber.
        "XX000" if about("could not map filenode") || about("could not map filenumber") => {
            "Postgres cannot decode its own log here, as can be where tables were emptied or rewritten while the slot was \
             made. When it stays so: select pg_drop_replication_slot('NAME'); restart rowcast, and `rowcast adopt` \
             lets it go on behind a gap"
        }
        "42501" => "Give the role the privilege, or log in as one that has it",
        _ => return None,
    }
    .to_owned())
}

/// The server speaks otherwise than the protocol says.
pub(super) fn protocol(what: impl Into<String>) -> Error {
    Error::new(Kind::Transient, format!("Postgres broke the protocol: {}", what.into())).hint(
        "Check that nothing between rowcast and Postgres changes the stream, such as a connection pooler",
    )
}
