//! A door out: change events into Kafka topics, shaped as Debezium shapes them.
//!
//! | event | topic | key | value |
//! |---|---|---|---|
//! | row of `schema.table` | `{prefix}.{schema}.{table}` | primary key | Debezium's envelope; null for a tombstone |
//! | row that a snapshot read | as rows | as rows | Debezium's envelope, op `r`; never a tombstone |
//! | custom event on `channel` | `{prefix}.{channel}` | null | the payload |
//! | truncate, with `skipped.operations` = `none` | as rows | null | Debezium's envelope, op `t` |
//! | gap | `{prefix}.rowcast` | null | the gap in rowcast's own JSON |
//!
//! Every record has the headers `rowcast.id`, the event's number, and `rowcast.part`, which record of the event it is,
//! both as decimal text: together they are the identity of the record, by which a consumer drops repetitions. Records
//! of rows and truncates have `rowcast.schema`, the version of the table's schema, as `GET /v1/schemas/{table}` numbers
//! them; records of custom events have `rowcast.channel`. `rowcast.unchanged` names, as a JSON array, the columns that are
//! null in `after` though they did not change: Postgres did not send them, and Debezium has no placeholder for their type.
//!
//! Delivery is at least once, in order per key: the producer is idempotent,
//! never gives a record up, and stops at the first one that Kafka refuses; the position is saved when everything
//! before it has been acknowledged by all replicas in sync.

mod beginnings;
mod client;
mod config;
mod connection;
mod context;
mod flat;
mod gap;
mod held;
mod monitor;
mod outcome;
mod partition;
mod sink;
mod topics;

use std::panic::resume_unwind;
use std::sync::Arc;

use rowcast_engine::deliver::{Delivery, deliver};
use rowcast_engine::journal::Journal;
use rowcast_engine::sinks::Sinks;
use rowcast_engine::status::Status;
use rowcast_engine::{Result, Stop};
use tokio::task::JoinSet;

pub use config::{Config, Guarantee};
pub use rowcast_engine::sink::{OnGap, Start};

use crate::monitor::{Board, Monitor};
use crate::sink::KafkaSink;

/// Delivers the journal's events to Kafka as the sink `name` until told to stop. It takes its seat among `sinks`.
///
/// While Kafka is away it waits, with the reason on the board, and goes on by itself. What Kafka refuses for good waits
/// for a person; the sink's position stays where it is. An error is wrong configuration (`Usage`), or a position that
/// cannot be read.
pub async fn run(
    name: String,
    config: Config,
    journal: Journal,
    status: Status,
    sinks: Sinks,
    stop: Stop,
) -> Result<()> {
    let board = Board::new(name.clone(), status.clone());
    board.starting();
    let (start, on_gap) = (config.start.unwrap_or_default(), config.on_gap);
    let seat = sinks.seat(&name, journal.installation());
    let sink = KafkaSink::new(name.clone(), &config).inspect_err(|error| board.stopped(error))?;
    let connection = sink.connection();
    let monitor = Monitor::new(Arc::clone(&connection), board);
    let delivery = Delivery { journal, seat, status, stop, start, on_gap };
    // On a task of its own, so that an outage is told even while delivery is held up, by a disk that stands still, say.
    let mut watching = JoinSet::new();
    watching.spawn(monitor.run());
    let ended = tokio::select! {
        ended = deliver(sink, delivery) => ended,
        Some(Err(error)) = watching.join_next() => resume_unwind(error.into_panic()),
    };
    watching.shutdown().await;
    connection.close(&name).await;
    ended
}
