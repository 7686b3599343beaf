//! The rows that are there, read beside the stream: whoever follows both ends with the table.

mod alone;
mod beside;
mod busy;
mod estimate;
mod failing;
mod far;
mod filters;
mod forged;
mod generated;
mod hidden;
mod ids;
mod keyless;
mod keys;
mod late;
mod left_out;
pub(super) mod load;
mod looked_for;
mod marks;
mod orders;
mod other_order;
mod overlapping;
mod renamed;
mod room;
mod rows;
mod selective;
mod slow;
mod stalled;
mod standby;
mod streamed;
mod unpublished;
mod unread;
mod wide;
mod window;

use std::collections::BTreeMap;

use rowcast_engine::event::Op;
use rowcast_engine::journal::Journal;
use rowcast_engine::snapshots::{Command, State};
use rowcast_postgres::SnapshotMode;
use tokio_postgres::Client;

use super::harness::{Capture, Directory, Seen, Sink, config, run, sql, until, value};
use super::interceptor::Interceptor;
use crate::support::Server;

pub(super) fn initial(server: &Server) -> rowcast_postgres::Config {
    rowcast_postgres::Config { snapshot: Some(SnapshotMode::Initial), ..config(server) }
}

/// Asks for the rows of `public.t`, or for those that meet a condition.
pub(super) fn rows_of_t(condition: Option<&str>) -> Command {
    Command::Start { tables: vec!["public.t".to_owned()], condition: condition.map(str::to_owned) }
}

/// Waits until nothing is left to be read.
pub(super) async fn read_whole(capture: &Capture) {
    until("the snapshot to be done", async || {
        let notes = capture.journal.notes();
        let sinks = capture.status.wishes().unwrap_or_default();
        notes.keys().all(|name| !name.starts_with("snapshot"))
            && capture.report().snapshots.is_empty()
            && sinks.keys().all(|sink| capture.status.filling(sink).is_none())
    })
    .await;
}

/// Whether a wish of a transaction for `public.t` is noted.
pub(super) fn is_wished(journal: &Journal) -> bool {
    journal.any_note(|name, _| name.starts_with("snapshot public.t wished at "))
}

/// Whether rows wait for what these words say.
fn is_waiting(capture: &Capture, words: &str) -> bool {
    let snapshots = capture.report().snapshots;
    snapshots.iter().any(|shown| shown.reason.as_ref().is_some_and(|why| why.contains(words)))
}

/// Waits until a snapshot is paused, and has not ended before.
pub(super) async fn paused(capture: &Capture) {
    until("it to be paused", async || {
        capture.report().snapshots.iter().any(|shown| shown.state == State::Paused)
    })
    .await;
}

/// Has a reading, of whose chunks none passes before, paused behind its first one.
pub(super) async fn pause_behind_a_chunk(way: &Interceptor, client: &Client, capture: &Capture) {
    until("a chunk to be read", async || way.chunks() >= 1).await;
    way.pass_chunk();
    until("the next one to be read", async || way.chunks() > 1).await;
    // The first one is written by then, at its place in the stream.
    caught_up(client, capture).await;
    capture.status.ask_for_snapshot(Command::Pause(vec!["public.t".to_owned()])).await.unwrap();
    paused(capture).await;
    way.pass_all_chunks();
    assert_eq!(capture.report().snapshots[0].rows, 2000);
}

/// Waits until all that was committed so far has arrived.
pub(super) async fn caught_up(client: &Client, capture: &Capture) {
    let end = value(client, "pg_current_wal_insert_lsn()").await.parse::<rowcast_engine::Lsn>().unwrap();
    run(client, "select pg_logical_emit_message(true, 'other', '')").await;
    until("capture to catch up", async || capture.journal.position().lsn >= end).await;
}

/// The table as a consumer has it who follows the events: key to the other columns. `None` is a value that no event
/// has brought.
pub(super) fn rebuilt(events: &[Seen], channel: &str, width: usize) -> BTreeMap<String, Vec<Option<String>>> {
    let mut table: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.channel == channel) {
        let values: Vec<&str> = event.new.splitn(width, ',').collect();
        let old = event.old.strip_prefix("K:").map(|old| old.split(',').next().unwrap_or_default());
        match event.op {
            Op::Truncate => table.clear(),
            Op::Delete => _ = table.remove(old.unwrap()),
            Op::Insert | Op::Read | Op::Update => {
                let before = table.remove(old.unwrap_or(values[0]));
                let value = |(at, text): (usize, &&str)| match *text {
                    "UNCHANGED" => before.as_ref().and_then(|before| before.get(at - 1)?.clone()),
                    text => Some(text.to_owned()),
                };
                let row = values.iter().enumerate().skip(1).map(value).collect();
                table.insert(values[0].to_owned(), row);
            }
            Op::Message | Op::Gap => panic!("{}", event.brief()),
        }
    }
    table
}

/// The same of the database itself.
pub(super) async fn actual(
    client: &Client,
    table: &str,
    columns: &[&str],
) -> BTreeMap<String, Vec<Option<String>>> {
    let list = columns.iter().map(|column| format!("coalesce({column}::text, 'NULL')")).collect::<Vec<_>>();
    let rows = client.query(&format!("select {} from public.{table}", list.join(", ")), &[]).await.unwrap();
    let values =
        |row: &tokio_postgres::Row| (1..columns.len()).map(|at| Some(row.get::<_, String>(at))).collect();
    rows.iter().map(|row| (row.get::<_, String>(0), values(row))).collect()
}
