//! Whether the stream moves while the server's log does. "Streaming" alone does not say so: a connection that is held
//! up on the way, in one direction or in both, looks like one on which nothing happens.

use std::time::Duration;

use rowcast_engine::status::Status;
use rowcast_engine::{Lsn, Result};
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::wire::sql_error;

/// Positions may stand still for so long whatever the server's timeout: the end of the log can lie within a record
/// that is completed by the snapshot of running transactions, which comes every 15 s.
const STILL_AT_LEAST: Duration = Duration::from_secs(30);

const QUERY: &str = "
select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end)::text,
       (select confirmed_flush_lsn::text from pg_replication_slots where slot_name = $1)";

/// What has been seen of one stream.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Counted on the board: another connection starts over.
    connection: u64,
    received: Option<Mark>,
    confirmed: Option<Mark>,
}

/// A position that has had a reason to move.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Lsn,
    goal: Lsn,
    since: Instant,
}

impl Mark {
    /// Goes on as long as the position neither moves nor has a goal that it has reached; for how long that is.
    fn follow(mark: &mut Option<Self>, at: Lsn, goal: Lsn, now: Instant) -> Option<(Self, Duration)> {
        let stands = mark.filter(|mark| mark.at == at && mark.goal > at);
        let mark = mark.insert(stands.unwrap_or(Self { at, goal, since: now }));
        (mark.goal > at).then(|| (*mark, now - mark.since))
    }
}

/// One look at both ends.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// The end of the server's log.
    end: Lsn,
    /// Up to where the slot says that it was confirmed.
    slot: Lsn,
    received: Lsn,
    /// What the server was told.
    told: Lsn,
}

impl Progress {
    /// Asks the server how far its log and the slot are, and tells the board what stands still.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked.
    pub(super) async fn look(&mut self, client: &Client, slot: &str, status: &Status) -> Result<()> {
        let failed = |error| sql_error("Cannot ask how far the server is", error);
        let row = client.query_one(QUERY, &[&slot]).await.map_err(failed)?;
        let lsn = |index| -> Result<Option<Lsn>> {
            let text: Option<String> = row.try_get(index).map_err(failed)?;
            Ok(text.and_then(|text| text.parse().ok()))
        };
        let (Some(end), Some(slot)) = (lsn(0)?, lsn(1)?) else { return Ok(()) };
        let now = Instant::now();
        status.source(|source| {
            source.server_lsn = source.server_lsn.max(end);
            let limit = source.silence_max.unwrap_or_default().max(STILL_AT_LEAST);
            let seen = Seen { end, slot, received: source.received_lsn, told: source.confirmed_lsn };
            if source.state != "streaming" || self.connection != source.reconnects {
                *self = Self { connection: source.reconnects, ..Self::default() };
            }
            source.stuck = self.judge(seen, limit, now);
        });
        Ok(())
    }

    fn judge(&mut self, seen: Seen, limit: Duration, now: Instant) -> Option<String> {
        let received = Mark::follow(&mut self.received, seen.received, seen.end, now);
        let confirmed = Mark::follow(&mut self.confirmed, seen.slot, seen.told, now);
        let stuck = |found: Option<(Mark, Duration)>| found.filter(|(_, lasted)| *lasted >= limit);
        if let Some((mark, lasted)) = stuck(received) {
            return Some(format!(
                "nothing beyond {} has come for {} s, while the server's log has gone on to {}. See what the walsender \
                 waits for (wait_event in pg_stat_activity), synchronized_standby_slots, and the network",
                mark.at,
                lasted.as_secs(),
                seen.end
            ));
        }
        let (mark, lasted) = stuck(confirmed)?;
        Some(format!(
            "the server does not take what it is told: the slot has stood at {} for {} s, {} was confirmed. See the \
             network, and what the walsender waits for (wait_event in pg_stat_activity)",
            mark.at,
            lasted.as_secs(),
            mark.goal
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn says_what_stands_still_and_for_how_long() {
        let (mut progress, start) = (Progress::default(), Instant::now());
        let mut look = |second, end, received, slot, told| {
            let seen = Seen { end: Lsn(end), slot: Lsn(slot), received: Lsn(received), told: Lsn(told) };
            progress.judge(seen, LIMIT, start + Duration::from_secs(second))
        };
        assert_eq!(look(0, 100, 100, 90, 90), None, "all is well");
        assert_eq!(look(500, 100, 100, 90, 90), None, "an idle server");
        assert_eq!(look(505, 200, 100, 90, 90), None);
        assert_eq!(look(560, 300, 100, 90, 90), None);
        let stuck = look(566, 400, 100, 90, 90).unwrap();
        assert!(
            stuck.contains("beyond 0/64 has come for 61 s") && stuck.contains("gone on to 0/190"),
            "{stuck}"
        );
        assert_eq!(look(570, 500, 101, 90, 90), None, "far behind, and moving");
        assert_eq!(look(600, 500, 500, 90, 400), None);
        let deaf = look(661, 500, 500, 90, 450).unwrap();
        assert!(deaf.contains("stood at 0/5A for 61 s, 0/190 was confirmed"), "{deaf}");
        assert_eq!(look(665, 500, 500, 450, 450), None);
    }
}
