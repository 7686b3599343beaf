//! The moment of a snapshot: what it surely sees, and how far the stream has to come before its rows are written.
//!
//! *On a primary* `pg_current_snapshot()` says what is seen, and the end of the log, asked behind it, lies above the
//! commit of all of that.
//!
//! *On a standby* that function leaves out what is in progress (it prints one of the snapshot's two lists, and a standby
//! has only the other), so it calls transactions seen that are not. But a standby shows commits in the order of its log:
//! one record after the other is applied, which makes its transaction visible, and then `pg_last_wal_replay_lsn()` is
//! moved behind it (`ApplyWalRecord`, `xact_redo_commit`). So what ended at or below that position *before* the snapshot
//! is seen; and of what is seen nothing begins above that position *behind* the snapshot, but one record may begin just
//! there: it was being applied. Hence rows are written when the stream has come beyond it, and not at it. A standby's
//! stream tells nothing that has not been replayed (`WalSndWaitForWal`): what was streamed before the position was asked
//! is seen.
//!
//! A standby on which nothing happens would never come beyond. It need not where nothing can have been applied: no
//! record begins at the position as long as the WAL receiver, which is the only one that brings any while it runs, has
//! brought no byte of one; and none is applied while replay is paused. A record of which a part has come is completed by
//! the primary when it writes more, and by its bgwriter within 15 s if it does not.

use futures_util::future::join;
use rowcast_engine::{Error, Lsn, Result};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow, Transaction};

use super::visible::Visible;
use crate::setup::slot;
use crate::wire::sql_error;

/// SQLSTATEs of a query that stood in the way of the log: serialization failure, deadlock (over a buffer).
const CONFLICTS: [&str; 2] = ["40001", "40P01"];

/// What a transaction's snapshot is.
#[derive(Debug)]
pub(super) struct Moment {
    pub(super) visible: Visible,
    /// A position of that moment.
    pub(super) lsn: Lsn,
    /// All that is seen has been streamed when the stream has come here.
    pub(super) due: Lsn,
    /// The database has no encoding.
    pub(super) unencoded: bool,
}

/// How far a standby has replayed its log; `None` on a primary. To be asked before the snapshot is taken: in another
/// transaction.
pub(super) async fn replayed(client: &Client) -> Result<Option<Lsn>> {
    let sql = "select case when pg_is_in_recovery() then pg_last_wal_replay_lsn()::text end";
    let row = client.query_typed_one(sql, &[]).await.map_err(failed)?;
    row.get::<_, Option<&str>>(0).map(lsn_of).transpose()
}

/// Where the server's log ends, as far as a standby has replayed it.
pub(super) async fn position(client: &Client) -> Result<Lsn> {
    let sql = "select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end::text";
    let row = client.query_typed_one(sql, &[]).await.map_err(failed)?;
    row.get::<_, Option<&str>>(0).map_or(Ok(Lsn::ZERO), lsn_of)
}

/// What any snapshot sees that is taken from now on.
pub(super) async fn from_now_on(client: &Client) -> Result<Visible> {
    if let Some(replayed) = replayed(client).await? {
        return Ok(Visible::default().on_standby(replayed));
    }
    let row = client.query_typed_one("select pg_current_snapshot()::text", &[]).await.map_err(failed)?;
    visible_of(row.get(0))
}

/// A standby's snapshot, and its position right before and right behind.
#[derive(Debug)]
pub(super) struct Taken {
    visible: Visible,
    /// What is seen was applied when the standby stood here.
    pub(super) behind: Lsn,
}

/// Begins a transaction by these statements, the last of which must take no snapshot, and takes its snapshot, on a
/// standby. All of it goes to the server at once: what is applied between the two positions is what nobody knows of, and
/// with a way to the server and back between them that would be much. `None`: it is no standby any more.
pub(super) async fn take_at_once(client: &Client, begin: &str) -> Result<Option<Taken>> {
    let before = "select pg_last_wal_replay_lsn()::text, pg_is_in_recovery()::text";
    let taken = format!(
        "{begin}; select pg_current_snapshot()::text, pg_last_wal_replay_lsn()::text, pg_is_in_recovery()::text"
    );
    let (before, taken) = join(client.simple_query(before), client.simple_query(&taken)).await;
    let (before, taken) = (before.map_err(failed)?, taken.map_err(failed)?);
    let (Some(before), Some(taken)) = (row_of(&before), row_of(&taken)) else { return Ok(None) };
    let is_standby = before.get(1) == Some("true") && taken.get(2) == Some("true");
    let texts = (before.get(0), taken.get(0), taken.get(1));
    let (Some(replayed), Some(visible), Some(behind)) = texts else { return Ok(None) };
    if !is_standby {
        return Ok(None);
    }
    let visible = visible_of(visible)?.on_standby(lsn_of(replayed)?);
    Ok(Some(Taken { visible, behind: lsn_of(behind)? }))
}

impl Taken {
    /// Nothing was applied while it was taken, but for what was being applied at that very moment.
    pub(super) fn is_still(&self) -> bool {
        self.visible.replayed() == Some(self.behind)
    }
}

fn row_of(messages: &[SimpleQueryMessage]) -> Option<&SimpleQueryRow> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

/// What else belongs to the moment of a snapshot that a standby's transaction has taken.
pub(super) async fn of_taken(transaction: &Transaction<'_>, taken: Taken) -> Result<Option<Moment>> {
    let replayed = taken.visible.replayed().unwrap_or_default();
    let moment = of_standby(transaction, replayed).await?;
    Ok(moment.map(|moment| Moment { visible: taken.visible, ..moment }))
}

/// Takes the transaction's snapshot; `replayed` is what was asked before. `None`: the standby has been promoted
/// meanwhile, and nobody knows by which rule to read what it sees.
pub(super) async fn take(transaction: &Transaction<'_>, replayed: Option<Lsn>) -> Result<Option<Moment>> {
    match replayed {
        None => of_primary(transaction).await.map(Some),
        Some(replayed) => of_standby(transaction, replayed).await,
    }
}

async fn of_primary(transaction: &Transaction<'_>) -> Result<Moment> {
    let sql = "select pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text,
                      current_setting('wal_block_size')::int8,
                      current_setting('server_encoding') = 'SQL_ASCII'";
    let row = transaction.query_typed_one(sql, &[]).await.map_err(failed)?;
    let (visible, lsn) = (visible_of(row.get(0))?, lsn_of(row.get(1))?);
    let block = u64::try_from(row.get::<_, i64>(2)).unwrap_or(8192);
    let lsn = end_of_record(lsn, block);
    Ok(Moment { visible, lsn, due: lsn, unencoded: row.get(3) })
}

async fn of_standby(transaction: &Transaction<'_>, before: Lsn) -> Result<Option<Moment>> {
    let sql = "select pg_current_snapshot()::text, current_setting('server_encoding') = 'SQL_ASCII',
                      pg_get_wal_replay_pause_state() = 'paused',
                      exists (select from pg_stat_wal_receiver), pg_last_wal_receive_lsn()::text";
    let seen = transaction.query_typed_one(sql, &[]).await.map_err(failed)?;
    // By a statement of its own: whatever began to be applied before those answers has been by now, or begins here.
    let sql = "select pg_is_in_recovery(), pg_last_wal_replay_lsn()::text";
    let behind = transaction.query_typed_one(sql, &[]).await.map_err(failed)?;
    if !behind.get::<_, bool>(0) {
        return Ok(None);
    }
    let visible = visible_of(seen.get(0))?.on_standby(before);
    let (lsn, paused, receives) = (lsn_of(behind.get(1))?, seen.get(2), seen.get(3));
    let received = seen.get::<_, Option<&str>>(4).map(lsn_of).transpose()?.filter(|_| receives);
    Ok(Some(Moment { visible, lsn, due: beyond(lsn, paused, received), unencoded: seen.get(1) }))
}

/// How far the stream has to come, where a standby stands at `replayed`. It is told of ends of records only, so one
/// above the position is the end of the record that begins there.
pub(super) fn beyond(replayed: Lsn, paused: bool, received: Option<Lsn>) -> Lsn {
    let nothing_begins = paused || received.is_some_and(|received| received <= replayed);
    if nothing_begins { replayed } else { Lsn(replayed.0 + 1) }
}

/// The insert position stands behind a page's header where the last record ends with the page before; nothing that
/// is streamed would reach it until somebody writes. Headers have 24 bytes, the first of a segment 40.
fn end_of_record(lsn: Lsn, block: u64) -> Lsn {
    match lsn.0 % block {
        header @ (24 | 40) => Lsn(lsn.0 - header),
        _ => lsn,
    }
}

/// Says what to do about a standby that ends our queries so that it can replay.
pub(super) fn explained(error: Error) -> Error {
    match slot::sqlstate(&error) {
        Some(state) if CONFLICTS.contains(&state) => error.hint(
            "What the primary has cleaned up or locked could not be replayed while the rows were read. On the standby: \
             ALTER SYSTEM SET hot_standby_feedback = on; ALTER SYSTEM SET max_standby_streaming_delay = '30s'; SELECT \
             pg_reload_conf();",
        ),
        _ => error,
    }
}

fn visible_of(text: &str) -> Result<Visible> {
    text.parse().map_err(|_| Error::failed("The server's snapshot cannot be understood"))
}

pub(crate) fn lsn_of(text: &str) -> Result<Lsn> {
    text.parse().map_err(|_| Error::failed("The server's position cannot be understood"))
}

fn failed(error: tokio_postgres::Error) -> Error {
    sql_error("Cannot take a snapshot", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_pages_header_is_behind_the_record_before() {
        let ends = |lsn| end_of_record(Lsn(lsn), 8192).0;
        assert_eq!((ends(8192 + 24), ends(8192 + 40), ends(8192 + 64)), (8192, 8192, 8192 + 64));
    }

    /// What is being applied at the position may be seen already, and is streamed behind it.
    #[test]
    fn the_stream_has_to_come_beyond_a_record_that_may_be_being_applied() {
        let due = |paused, received: Option<u64>| beyond(Lsn(100), paused, received.map(Lsn)).0;
        assert_eq!(due(false, Some(100)), 100, "no byte of it has come");
        assert_eq!(due(false, Some(90)), 100, "what was there has been read from the archive before");
        assert_eq!(due(false, Some(101)), 101, "a part of it has come, or all");
        assert_eq!(due(false, None), 101, "it may come from the archive");
        assert_eq!(due(true, Some(500)), 100, "nothing is applied");
    }
}
