//! What of the server works and may still surprise: its minor version, its timeouts.

use std::time::Duration;

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::{Requirement, requirement};
use crate::setup::server::Server;
use crate::wire::sql_error;

/// Major version, the first minor that sends what is written while a publication changes, and the first that
/// needs no gigabytes for doing so.
const REPAIRED: [(u32, u32, u32); 4] = [(14, 18, 19), (15, 13, 14), (16, 9, 10), (17, 5, 6)];

/// A server that looks more often than this for its reader takes a short pause for its death.
const HASTY: Duration = Duration::from_secs(5);

/// A minor version whose faults capture can run into.
pub(super) fn of_minor(server: &Server) -> Option<Requirement> {
    let (major, minor) = (server.version / 10_000, server.version % 10_000);
    let (_, sends, frugal) = REPAIRED.into_iter().find(|(repaired, ..)| *repaired == major)?;
    let (why, first) = match minor {
        0 | 1 if major == 15 => ("sends rows with more columns than their table has", frugal),
        _ if minor < sends => ("can leave out what is written while somebody changes a publication", frugal),
        _ if minor < frugal => ("can need a gigabyte of memory when publications change often", frugal),
        _ => return None,
    };
    let remedy = format!("Upgrade to Postgres {major}.{first} or newer: nothing but the programs changes");
    Some(requirement("minor version", true, format!("Postgres {} {why}", server.version_text), remedy))
}

/// Server encodings of which every character has its UTF-8: of all others some byte can be stored that has none.
const WHOLE: [&str; 16] = [
    "UTF8",
    "LATIN1",
    "LATIN2",
    "LATIN4",
    "LATIN5",
    "LATIN6",
    "LATIN7",
    "LATIN8",
    "LATIN9",
    "LATIN10",
    "ISO_8859_5",
    "KOI8R",
    "KOI8U",
    "WIN866",
    "WIN1256",
    // Not recoded at all.
    "SQL_ASCII",
];

/// An encoding that the server cannot recode in all cases.
pub(super) fn of_encoding(server: &Server) -> Option<Requirement> {
    if WHOLE.contains(&server.encoding.as_str()) {
        return None;
    }
    let found = format!("{}: the server sends nothing of what has no UTF-8", server.encoding);
    let remedy = "One such character in a captured row, or in the prefix of a message (pg_logical_emit_message, which every \
                  role may call), ends capture, and it goes on only behind a gap. Move to a database in UTF8 (pg_dump, \
                  CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8')";
    Some(requirement("encoding", true, found, remedy.to_owned()))
}

/// How long the server waits for us.
pub(super) async fn of_timeouts(client: &Client, server: &Server) -> Result<Vec<Requirement>> {
    let timeout = server.sender_timeout;
    let (found, remedy) = if timeout.is_zero() {
        let remedy = "ALTER SYSTEM SET wal_sender_timeout = '60s'; select pg_reload_conf(); without it the slot stays \
                      taken for hours by a connection that was cut";
        ("none".to_owned(), Some(remedy.to_owned()))
    } else {
        let remedy = "ALTER SYSTEM SET wal_sender_timeout = '60s'; select pg_reload_conf(); so short a one cuts the \
                      stream whenever a machine or network pauses";
        (format!("{} ms", timeout.as_millis()), (timeout < HASTY).then(|| remedy.to_owned()))
    };
    let mut all = vec![requirement("wal_sender_timeout", true, found, remedy)];
    let sql = "select setting <> '0', current_setting(name) from pg_settings where name = 'idle_replication_slot_timeout'";
    let row = client.query_opt(sql, &[]).await;
    let row = row.map_err(|error| sql_error("Cannot read the server's timeouts", error))?;
    if let Some(row) = row.filter(|row| row.get(0)) {
        let remedy = "When rowcast is away for longer, its slot is lost, and its history has a gap";
        let found: String = row.get(1);
        all.push(requirement("idle_replication_slot_timeout", true, found, remedy.to_owned()));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_that_cannot_all_be_recoded_are_named() {
        let of = |encoding: &str| of_encoding(&Server { encoding: encoding.to_owned(), ..Server::default() });
        for lacking in ["WIN1252", "LATIN3", "EUC_JP"] {
            assert!(of(lacking).unwrap().found.contains(lacking));
        }
        for whole in ["UTF8", "LATIN1", "SQL_ASCII"] {
            assert_eq!(of(whole), None);
        }
    }

    #[test]
    fn minors_with_faults_are_named() {
        let of = |version: u32, text: &str| {
            let server = Server { version, version_text: text.to_owned(), ..Server::default() };
            of_minor(&server).map(|found| (found.found, found.remedy.unwrap_or_default()))
        };
        let (found, remedy) = of(150_001, "15.1").unwrap();
        assert!(found.contains("more columns") && remedy.contains("15.14"), "{found} {remedy}");
        assert!(of(140_017, "14.17").unwrap().0.contains("leave out"));
        assert!(of(160_009, "16.9").unwrap().0.contains("memory"));
        for sound in [140_019, 150_018, 160_010, 170_006, 180_000] {
            assert_eq!(of(sound, "x"), None, "{sound}");
        }
    }
}
