//! A table without a key that cannot be read in one piece, in which alone its rows could be read.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::job::{Job, note_unless_replaced};
use super::scan::Unknown;
use super::server;
use super::task::Surroundings;
use super::tracker::Flaw;
use super::unread;
use crate::capture::now;
use crate::tables::qualified;
use crate::wire::sql_error;

/// Why such a table is given up, and what to do, where a new wish for its rows is not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    why: &'static str,
    remedy: &'static str,
}

const fn reason(why: &'static str, remedy: &'static str) -> Reason {
    Reason { why, remedy }
}

pub(super) const NO_CONDITION: &str =
    "a condition chooses rows, and whether events are about one of those cannot be told without a key";
pub(super) const CONDITION: Reason = reason(NO_CONDITION, "read it without a condition");
const TOO_MUCH: Reason = reason(
    "more of it was changed since they were wanted than memory should hold (64 MB, some 800,000 rows)",
    "when less is written",
);
const UNSAID: Reason = reason(
    "events came for it that do not say whole rows",
    "when its REPLICA IDENTITY is FULL, and stays so",
);
const SHAPES: Reason =
    reason("its columns or their types were changed, and events had told rows of before", "");
const EXCESS: Reason =
    reason("events have told rows that are not in it any more, though no event took them away", "");
const CHANGED: Reason =
    reason("it was emptied or altered again and again just as they were read", "when that is over");
const DOUBT: Reason = reason(
    "commits were replayed on the standby at the very moment of each snapshot",
    "when less is written, or at the primary",
);
const REMOVED: Reason = reason("the journal does not hold all events since they were wanted", "");
const BROKEN: Reason = reason("the history was broken since they were wanted", "");
const NO_PLACE: Reason = reason("it is not known since when they are wanted", "");

impl From<Flaw> for Reason {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Doubt => DOUBT,
            Flaw::Changed => CHANGED,
            Flaw::TooMuch => TOO_MUCH,
            Flaw::Unsaid => UNSAID,
            Flaw::Shapes => SHAPES,
            Flaw::Excess => EXCESS,
        }
    }
}

impl From<Unknown> for Reason {
    fn from(unknown: Unknown) -> Self {
        match unknown {
            Unknown::Flawed(flaw) => flaw.into(),
            Unknown::Removed => REMOVED,
            Unknown::Broken => BROKEN,
            Unknown::NoPlace => NO_PLACE,
        }
    }
}

/// Tells readers that rows are missing, if there are any, and forgets the wish.
pub(super) async fn give_up(client: &Client, around: &Surroundings, job: &Job, reason: Reason) -> Result<()> {
    let (channel, table) = (job.channel(), qualified(&job.schema, &job.table));
    let Reason { why, remedy } = reason;
    let is_told = has_rows(client, job).await?;
    if is_told {
        let anew = format!("rowcast snapshot '{channel}' {remedy}");
        tracing::warn!(
            table = channel,
            hint = format!(
                "{}; or give it a key: ALTER TABLE {table} ADD PRIMARY KEY (…), of columns that are all published",
                anew.trim_end()
            ),
            "There is no snapshot of a table without a key, its rows so far are told as a gap: {why}"
        );
        let detail = format!(
            "The table has no key by which a snapshot could tell its rows apart, and {why}: rows of before are in no event"
        );
        let mut gone = vec![(job.note(), Vec::new())];
        gone.extend(around.unread(&channel, &job.sinks, &format!("has no key, and {why}")));
        around.journal.record_gap_for(&job.sinks, &channel, ("no_key", &detail), &gone, now()).await?;
    } else {
        note_unless_replaced(&around.journal, job, b"").await?;
        if let Some(unread) = unread::read(&around.journal, job) {
            around.journal.note(&[(&unread, b"")]).await?;
        }
    }
    // Whoever sees that finds no wish any more.
    match (job.sinks.is_empty(), is_told) {
        (true, true) => around.status.note_dropped(&channel, &format!("has no key, and {why}")),
        // There was nothing to be read.
        (true, false) => around.status.note_read(&channel, 0),
        (false, _) => {}
    }
    Ok(())
}

/// What is empty now has lost nothing: the stream began before, with all that was still open then.
async fn has_rows(client: &Client, job: &Job) -> Result<bool> {
    let failed = |error| sql_error(format!("Cannot look into {}", job.channel()), error);
    // Where a policy hides rows, they cannot be ruled out.
    let sql = "select c.relkind = 'p', c.relrowsecurity from pg_class c join pg_namespace n on n.oid = c.relnamespace
               where n.nspname = $1 and c.relname = $2";
    let found = client.query_opt(sql, &[&job.schema, &job.table]).await.map_err(failed)?;
    let Some(found) = found else { return Ok(false) };
    let (partitioned, hidden): (bool, bool) = (found.get(0), found.get(1));
    let only = if partitioned { "" } else { "only " };
    let source = format!("{only}{}", qualified(&job.schema, &job.table));
    // The session ends with the reading.
    Ok(hidden || server::has_rows(client, &source).await?)
}
