//! The settings that value text and statements depend on, the same for every session of this connector.
//!
//! They stand in the start-up packet, which wins over ALTER ROLE … SET, ALTER DATABASE … SET, postgresql.conf
//! and the `options` parameter, and which RESET goes back to.

use super::Purpose;

/// What all supported versions know.
///
/// - `DateStyle` to `lc_monetary`: the text of values. Anything above 0 in `extra_float_digits` gives the
///   shortest text that reads back equal.
/// - `search_path`: names of tables, types and functions in values (regclass and the like) come out qualified
///   unless they are in `pg_catalog`, and nobody can put a function in front of a built-in one.
/// - `quote_all_identifiers`, `standard_conforming_strings`: how identifiers come out and literals go in.
/// - `row_security` off: a query that row-level security would thin out fails instead, since a snapshot with
///   rows missing in silence would be wrong.
/// - the timeouts: a stream and a snapshot take as long as they take. Who waits for a lock sets how long; else it is
///   given up after a while, by the server, which would have it wait on for a client that has long gone. From 16 on
///   even looking at the publications waits for whoever has a table for itself.
/// - `default_transaction_isolation`, `exit_on_error`: an error is an error and not the end of the session, and a
///   statement sees what was committed before it.
/// - `synchronous_commit` local: what is stored of an installation survives a crash of the server, and waits for no
///   standby.
/// - `client_min_messages`: warnings come, and not a line for each step of a query.
///
/// `role` is left alone: what a role's sessions become is a matter of rights.
const STARTUP: [(&str, &str); 17] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "iso_8601"),
    ("TimeZone", "UTC"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "3"),
    ("lc_monetary", "C"),
    ("search_path", "pg_catalog"),
    ("quote_all_identifiers", "off"),
    ("standard_conforming_strings", "on"),
    ("row_security", "off"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("default_transaction_isolation", "read committed"),
    ("exit_on_error", "off"),
    ("synchronous_commit", "local"),
    ("client_min_messages", "notice"),
];

/// What this session pins.
pub(super) fn startup<'a>(purpose: Purpose) -> Vec<(&'a str, &'a str)> {
    let is_pinned = |name: &str| purpose != Purpose::Locale || name != "lc_monetary";
    STARTUP.into_iter().filter(|(name, _)| is_pinned(name)).collect()
}

/// For locks: a stream waits as long as it takes, a query less long than its client waits for the answer.
pub(super) fn lock_timeout(purpose: Purpose) -> (&'static str, &'static str) {
    ("lock_timeout", if purpose == Purpose::Replication { "0" } else { "20s" })
}

/// When we are gone, the server ends what it still does for us so much later; else a statement that takes long, such as
/// a chunk with a condition, would go on until it has something to send.
pub(super) const NOTICE_OUR_END: &str = "SET client_connection_check_interval = '5s'";

/// Settings that came later, with the version from which they exist; one that `target_session_attrs` has to see first as
/// it is; and one that not every pooler lets into the start-up packet: to compile a question to a catalog of thousands of
/// tables takes longer than to answer it.
const SINCE: [(u32, &str); 4] = [
    (0, "SET default_transaction_read_only = off;"),
    (110_000, "SET jit = off;"),
    (140_000, "SET idle_session_timeout = 0;"),
    (170_000, "SET transaction_timeout = 0;"),
];

/// The statements to run after the login.
pub(super) fn after_login(version: u32) -> String {
    SINCE.iter().filter(|(since, _)| version >= *since).map(|(_, sql)| *sql).collect()
}

/// `15.18 (Debian …)` is 150018, `17beta1` is 170000, `9.6.24` is 90624.
pub(super) fn version_number(text: &str) -> Option<u32> {
    let digits = text.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut parts = digits.split('.').map(str::parse::<u32>);
    let major = parts.next()?.ok().filter(|m| *m < 1000)?;
    let second = parts.next().and_then(Result::ok).unwrap_or(0);
    let third = parts.next().and_then(Result::ok).unwrap_or(0);
    Some(if major >= 10 { major * 10_000 + second } else { major * 10_000 + second * 100 + third })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version_number("15.18 (Debian 15.18-0+deb12u1)"), Some(150_018));
        assert_eq!(version_number("17beta1"), Some(170_000));
        assert_eq!(version_number("18devel"), Some(180_000));
        assert_eq!(version_number("9.6.24"), Some(90_624));
        assert_eq!(version_number("new"), None);
    }

    #[test]
    fn later_settings_by_version() {
        assert!(!after_login(130_000).contains("idle_session_timeout"));
        assert!(after_login(150_018).ends_with("SET idle_session_timeout = 0;"));
        assert!(after_login(170_000).contains("transaction_timeout"));
    }
}
