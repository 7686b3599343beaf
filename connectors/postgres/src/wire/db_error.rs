//! What the server reports, and what it means for the caller.

use std::fmt;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;
use rowcast_engine::{Error, Kind};

use super::remedy;
use super::veil::veiled;

/// An ErrorResponse of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DbError {
    /// `ERROR`, `FATAL` or `PANIC`, whatever the server's language.
    pub severity: String,
    /// SQLSTATE, five characters.
    pub code: String,
    /// The server's text, in its language.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// The server's own advice.
    pub hint: Option<String>,
    /// The server's source function, which tells apart what shares a code.
    pub routine: Option<String>,
}

impl DbError {
    /// Reads the fields of an ErrorResponse or a NoticeResponse; a malformed rest is dropped.
    pub(super) fn read(mut fields: ErrorFields<'_>) -> Self {
        let mut error = Self::default();
        while let Ok(Some(field)) = fields.next() {
            error.set(field.type_(), field.value_bytes());
        }
        error
    }

    /// The same from a message's body: a type byte and a zero-ended text for each field, then a zero byte.
    pub(super) fn parse(mut body: &[u8]) -> Self {
        let mut error = Self::default();
        while let Some((field, rest)) = body.split_first().filter(|(field, _)| **field != 0) {
            let mut parts = rest.splitn(2, |byte| *byte == 0);
            error.set(*field, parts.next().unwrap_or_default());
            body = parts.next().unwrap_or_default();
        }
        error
    }

    /// Whether it is the notice of a server from version 18 on that it goes on without a publication, which does not exist where
    /// it reads the log. The function's name is the same in every language.
    pub fn leaves_out_publication(&self) -> bool {
        self.severity == "WARNING"
            && self.code == "55000"
            && self.routine.as_deref() == Some("LoadPublications")
    }

    /// Passes a notice on to the log.
    pub(super) fn log(&self) {
        if self.severity == "WARNING" {
            tracing::warn!(code = self.code, "Postgres warns: {}", self.message);
        } else {
            tracing::debug!(code = self.code, "Postgres says: {}", self.message);
        }
    }

    fn set(&mut self, field: u8, value: &[u8]) {
        let value = String::from_utf8_lossy(value).into_owned();
        match field {
            b'V' => self.severity = value,
            // Translated where a server sends it, which sends the other, too; PgBouncer has no other.
            b'S' if self.severity.is_empty() => self.severity = value,
            b'C' => self.code = value,
            b'M' => self.message = value,
            b'D' => self.detail = Some(value),
            b'H' => self.hint = Some(value),
            b'R' => self.routine = Some(value),
            _ => {}
        }
    }

    /// What the caller has to do, by SQLSTATE.
    pub fn kind(&self) -> Kind {
        match self.code.as_str() {
            // All replication slots are in use.
            "53400" => Kind::Refused,
            // Slot or object in use, lock not available, cancelled; on a standby that may be promoted.
            "55006" | "55P03" | "57014" | "25006" => Kind::Transient,
            // The database was dropped.
            "57P04" => Kind::Refused,
            // Data or index corrupted.
            "XX001" | "XX002" => Kind::Refused,
            // An option of START_REPLICATION that the server does not know, which it takes for an error of its own.
            "XX000" if self.routine.as_deref() == Some("parse_output_parameters") => Kind::Refused,
            code => match code.get(..2) {
                // Connection, rollback to be retried, resources, shutdown, system, internal.
                Some("08" | "40" | "53" | "57" | "58" | "XX") => Kind::Transient,
                _ => Kind::Refused,
            },
        }
    }
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            write!(f, "SQLSTATE {}", self.code)?;
        } else {
            write!(f, "{} (SQLSTATE {})", self.message, self.code)?;
        }
        if let Some(detail) = &self.detail {
            write!(f, ", {detail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for DbError {}

impl From<&tokio_postgres::error::DbError> for DbError {
    fn from(error: &tokio_postgres::error::DbError) -> Self {
        Self {
            severity: error.severity().to_owned(),
            code: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
            routine: error.routine().map(str::to_owned),
        }
    }
}

/// An error of the server while doing something: kind and remedy follow from its code.
///
/// `what` says what was being done and that it failed, such as `Cannot create the replication slot`.
pub fn server_error(what: impl Into<String>, error: DbError) -> Error {
    let hint = remedy::for_statement(&error).or_else(|| error.hint.clone());
    let result = Error::new(error.kind(), what).because(error);
    match hint {
        Some(hint) => result.hint(hint),
        None => result,
    }
}

/// The same for an error that [`tokio_postgres`] reports.
pub fn sql_error(what: impl Into<String>, error: tokio_postgres::Error) -> Error {
    if let Some(reported) = error.as_db_error() {
        return server_error(what, DbError::from(reported));
    }
    let lost = error.is_closed() || has_io_cause(&error);
    Error::new(if lost { Kind::Transient } else { Kind::Failed }, what).because(error)
}

/// The same for a statement that goes through rows: nothing that may be a value of one is repeated.
pub fn row_error(what: impl Into<String>, error: tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(reported) => server_error(what, veiled(DbError::from(reported))),
        None => sql_error(what, error),
    }
}

fn has_io_cause(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<std::io::Error>())
}
