//! The wire: Postgres' frontend/backend protocol version 3, for ordinary sessions and for replication.
//!
//! [`Connection`] finds a server that will do among the source's hosts, logs in (TCP or Unix socket, TLS, passwords, SCRAM with channel binding) and pins the
//! settings that value text depends on. It runs simple queries and replication commands, and becomes a
//! [`CopyStream`] when replication starts. [`sql_client`] gives the same login to `tokio-postgres`, for
//! ordinary SQL. Errors of the server are [`DbError`], with kind and remedy decided in one place.
//! Source: <https://www.postgresql.org/docs/current/protocol.html>.

mod adopt;
mod answer;
mod auth;
mod buffer;
mod connection;
mod copy;
#[cfg(test)]
mod copy_tests;
mod db_error;
mod der;
mod dial;
mod hosts;
mod login;
mod messages;
mod not_let_in;
mod remedy;
mod session;
mod socket;
mod status;
mod tls;
mod veil;
mod verifier;

pub use adopt::{Observed, answering_client, observed_client, sql_client, sql_session};
pub use answer::Quiet;
pub use connection::{Connection, Purpose};
pub use copy::{CopyFrame, CopyStream};
pub use db_error::{DbError, row_error, server_error, sql_error};
pub(crate) use not_let_in::NotLetIn;
pub(crate) use remedy::NAME_THE_SERVER;
pub use socket::Socket;
