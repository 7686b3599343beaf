//! A publication of ours that appears beside a stream that does not read it. The server shows a stream those that it was
//! begun with, and what is to be shown must exist already where a change was made: so the stream begins anew with it, from
//! where no transaction is left that was running as it appeared.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rowcast_engine::{Lsn, Result};
use tokio_postgres::Client;

use super::reading::Reading;
use crate::setup::holders::oldest;
use crate::snapshot::lsn_of;
use crate::wire::sql_error;

/// A transaction that lasts longer than this is for a person to look at: meanwhile rows are in no event.
const LONG: Duration = Duration::from_secs(60);

/// A name, and an OID.
type Publication = (String, u32);

/// The oldest transaction that runs, the next that begins, and a position behind all that had ended by then.
const MOMENT: &str = "
select pg_snapshot_xmin(s)::text::int8, pg_snapshot_xmax(s)::text::int8,
       coalesce(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end, '0/0')::text
from (select pg_current_snapshot() as s offset 0) now";

/// Those that the stream does not read.
#[derive(Debug, Default)]
pub(super) struct Younger {
    unread: BTreeMap<Publication, Unread>,
    /// What the oldest of them waits for, where that lasts: for people.
    pub(super) waits: Option<String>,
}

#[derive(Debug)]
struct Unread {
    /// All transactions before this one were begun that may have run as it appeared.
    before: i64,
    since: Instant,
}

impl Younger {
    /// Takes in which `exist`; gives whether the stream can begin anew with one, the journal standing at `position`.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked.
    pub(super) async fn look(
        &mut self,
        client: &Client,
        reading: &Reading,
        existing: &[Publication],
        position: Lsn,
    ) -> Result<bool> {
        let unread = reading.unread(existing);
        self.unread.retain(|publication, _| unread.contains(publication));
        if unread.is_empty() {
            self.waits = None;
            return Ok(false);
        }
        // After the look that has shown them.
        let failed = |error| sql_error("Cannot look which transactions run", error);
        let row = client.query_one(MOMENT, &[]).await.map_err(failed)?;
        let (running, next): (i64, i64) = (row.get(0), row.get(1));
        let at = lsn_of(row.get(2))?;
        for publication in &unread {
            let seen = self.unread.entry(publication.clone()).or_insert_with(|| {
                tracing::warn!(
                    publication = publication.0,
                    "The publication has been made, and the stream does not read it yet: it begins anew with it when the \
                     transactions that are running have ended. What is written to its tables until then is in no event, \
                     and a gap will say so"
                );
                Unread { before: next, since: Instant::now() }
            });
            if running >= seen.before {
                reading.note_readable(publication, at);
            }
        }
        self.waits = match self.long(running, Instant::now()) {
            Some((name, since)) => Some(told(name, since, &oldest(client, running).await)),
            None => None,
        };
        Ok(unread.iter().any(|publication| reading.is_readable(publication, position)))
    }

    /// One that has waited for too long at `now` for a transaction that is still running, and for how long.
    fn long(&self, running: i64, now: Instant) -> Option<(&str, Duration)> {
        let waiting = self.unread.iter().filter(|(_, unread)| running < unread.before);
        let since = waiting.map(|((name, _), unread)| (name.as_str(), now.duration_since(unread.since)));
        since.max_by_key(|(_, since)| *since).filter(|(_, since)| *since >= LONG)
    }
}

fn told(publication: &str, since: Duration, who: &str) -> String {
    format!(
        "The publication {publication} was made {} s ago, and the stream cannot read it before a transaction has ended that \
         was running then: {who}. What is written to its tables until then is in no event",
        since.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_its_time_is_no_trouble_and_what_lasts_is() {
        let (since, name) = (Instant::now(), ("p".to_owned(), 1));
        let younger = Younger { unread: BTreeMap::from([(name, Unread { before: 10, since })]), waits: None };
        let long = |running, after| younger.long(running, since + Duration::from_secs(after));
        assert_eq!(long(9, 59), None);
        assert_eq!(long(9, 60), Some(("p", LONG)));
        // It waits for the journal alone.
        assert_eq!(long(10, 60), None);
    }
}
