//! What `/metrics` shows.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use rowcast_engine::journal::Journal;
use rowcast_engine::status::Status;
use rowcast_engine::{Error, Result};

/// Seconds: from a sync on a good disk to one that somebody should look at.
const SECONDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// What was measured is put into the buckets this often, so that it takes no memory where nobody scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Counters of what should not happen, there from the start: who is told of an increase misses the first of a series that begins with
/// it. Those that have labels begin where their labels are known.
const FROM_ZERO: [&str; 12] = [
    "rowcast_journal_compressed_failures_total",
    "rowcast_journal_missing_total",
    "rowcast_journal_remove_failures_total",
    "rowcast_snapshot_chunks_repeated_total",
    "rowcast_snapshot_stalls_total",
    "rowcast_source_looks_failed_total",
    "rowcast_source_reconnects_total",
    "rowcast_source_rejected_messages_total",
    "rowcast_source_slots_given_up_total",
    "rowcast_source_spilled_transactions_total",
    "rowcast_source_streaming_given_up_total",
    "rowcast_source_unknown_types_total",
];

/// The recorder.
pub(crate) struct Metrics(PrometheusHandle);

/// Starts recording. Once in a process.
pub(crate) fn install() -> Result<Metrics> {
    let failed = |error| Error::failed("Cannot start recording metrics").because(error);
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .map_err(failed)?;
    let handle = builder.install_recorder().map_err(failed)?;
    describe();
    for total in FROM_ZERO {
        counter!(total).increment(0);
    }
    gauge!("rowcast_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(UPKEEP_EVERY);
        loop {
            tick.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(Metrics(handle))
}

impl Metrics {
    /// Renders everything as Prometheus reads it; gauges are as of that moment.
    pub(crate) fn render(self, status: &Status, journal: &Journal) -> Arc<dyn Fn() -> String + Send + Sync> {
        let (status, journal) = (status.clone(), journal.clone());
        Arc::new(move || {
            status.record(&journal);
            self.0.render()
        })
    }
}

fn describe() {
    describe_slot();
    describe_stream();
    describe_exceptions();
    describe_sinks();
    describe_clients();
    describe_snapshots();
    describe_gauge!("rowcast_build_info", "The version, as a label");
    describe_gauge!("rowcast_healthy", "1 when changes flow as they should; /v1/health/flow says why not");
    describe_gauge!("rowcast_journal_newest_id", "Number of the newest event");
    describe_gauge!("rowcast_journal_oldest_id", "Number of the oldest event held");
    describe_gauge!("rowcast_journal_size_bytes", Unit::Bytes, "All segments, as they lie on the disk");
    describe_gauge!(
        "rowcast_journal_removed_bytes",
        Unit::Bytes,
        "Of files that were removed, what the file system has not given back yet"
    );
    describe_gauge!(
        "rowcast_journal_open",
        "1 while the journal takes events, 0 while it waits for room or has failed"
    );
    describe_counter!(
        "rowcast_journal_pauses_total",
        "Times that capture had to wait: for room on the disk, for too many open files, or at max_size for a sink that is moving"
    );
    describe_counter!(
        "rowcast_journal_segments_removed_total",
        "Segments removed: for their age, for max_size, or for max_size although a stalled sink needed them"
    );
    describe_counter!(
        "rowcast_journal_remove_failures_total",
        "Old segments that could not be removed when they should have been"
    );
    describe_counter!(
        "rowcast_journal_missing_total",
        "Openings at which events were missing at the journal's beginning or end, taken by another hand than retention's"
    );
    describe_gauge!("rowcast_journal_compressed_segments", "Segments held that are compressed");
    describe_counter!("rowcast_journal_compressed_segments_total", "Segments compressed since the start");
    describe_counter!(
        "rowcast_journal_compressed_saved_bytes_total",
        Unit::Bytes,
        "Bytes that compression gave back to the disk"
    );
    describe_counter!(
        "rowcast_journal_compressed_failures_total",
        "Segments that could not be compressed and stay as they are"
    );
    describe_counter!("rowcast_journal_bytes_total", Unit::Bytes, "Bytes written to the journal");
    describe_counter!("rowcast_events_total", "Events written to the journal");
    describe_histogram!("rowcast_journal_sync_seconds", Unit::Seconds, "Time that the disk took to sync");
    describe_histogram!(
        "rowcast_journal_commit_seconds",
        Unit::Seconds,
        "From the arrival of a group at the journal until it is durable and visible"
    );
}

/// What the server says of the slot, and what became of it.
fn describe_slot() {
    describe_gauge!(
        "rowcast_source_slot_state",
        "1 for the state that the replication slot is in; for none while it cannot be seen"
    );
    describe_gauge!(
        "rowcast_source_broken",
        "1 for the reason for which the source's history does not go on"
    );
    describe_gauge!(
        "rowcast_source_wal_retained_bytes",
        Unit::Bytes,
        "Log that the server keeps for the replication slot; NaN while that cannot be seen"
    );
    describe_gauge!(
        "rowcast_source_wal_safe_bytes",
        Unit::Bytes,
        "Log that may be written before the server gives the slot up; infinite without max_slot_wal_keep_size, NaN while that cannot be seen"
    );
    describe_gauge!(
        "rowcast_source_commits_wait",
        "1 while commits on the server wait until rowcast has confirmed them (synchronous_standby_names)"
    );
    describe_gauge!(
        "rowcast_source_slot_inactive_seconds",
        Unit::Seconds,
        "For so long nobody has read the slot, as Postgres 17 and later say"
    );
    describe_gauge!(
        "rowcast_source_slot_catalog_xmin_age",
        "Transactions since the oldest one whose catalog rows the slot keeps from VACUUM"
    );
    describe_gauge!(
        "rowcast_source_slot_spilled_transactions",
        "Transactions that the server wrote to its disk while decoding them for the slot (pg_stat_replication_slots)"
    );
    describe_gauge!("rowcast_source_slot_spilled_bytes", Unit::Bytes, "Bytes of them");
    describe_gauge!(
        "rowcast_source_slot_streamed_transactions",
        "Transactions that the server sent before they committed (pg_stat_replication_slots)"
    );
    describe_gauge!("rowcast_source_slot_streamed_bytes", Unit::Bytes, "Bytes of them");
    describe_counter!(
        "rowcast_source_slots_given_up_total",
        "Slots given up because the server kept more for them than source.wal_budget"
    );
}

/// What comes from the server, and what does not come.
fn describe_stream() {
    describe_gauge!("rowcast_source_streaming", "1 while the replication stream runs");
    describe_gauge!(
        "rowcast_source_lag_bytes",
        Unit::Bytes,
        "Log between the server's newest position and the confirmed one"
    );
    describe_gauge!("rowcast_source_confirmed_lsn", "Position confirmed to the server");
    describe_counter!("rowcast_source_bytes_total", Unit::Bytes, "Bytes of the replication stream");
    describe_counter!(
        "rowcast_source_naps_total",
        "Reads that were made late, which is faster where there is a backlog"
    );
    describe_counter!(
        "rowcast_source_gathers_total",
        "Reads that waited for more, since more than a thousand transactions a second come"
    );
    describe_counter!("rowcast_source_transactions_total", "Transactions captured");
    describe_counter!(
        "rowcast_source_gaps_total",
        "Breaks of the source's history that were gone past, by reason"
    );
    describe_counter!("rowcast_source_reconnects_total", "Connections to the source that were lost");
    describe_counter!(
        "rowcast_source_looks_failed_total",
        "Looks at which tables are to be captured that came to nothing"
    );
    describe_counter!(
        "rowcast_source_unknown_types_total",
        "Columns whose type neither the catalog nor the journal knows: their values are told as text"
    );
    describe_gauge!("rowcast_source_stuck", "1 while a position does not move although it has a reason to");
    describe_gauge!("rowcast_source_silence_seconds", Unit::Seconds, "Since the server was last heard of");
    describe_gauge!(
        "rowcast_source_lag_seconds",
        Unit::Seconds,
        "How old what was committed last was when the server sent it"
    );
    describe_gauge!(
        "rowcast_source_held_bytes",
        Unit::Bytes,
        "Log that the server keeps only because sinks lack it (source.confirm = \"sinks\")"
    );
    describe_gauge!(
        "rowcast_source_confirm_waived",
        "1 while the server may forget what sinks lack, since it kept nearly source.wal_budget for them"
    );
    describe_gauge!(
        "rowcast_source_repeated_transactions",
        "Transactions that the server has sent again although the journal has them; 0 when it is through"
    );
    describe_counter!(
        "rowcast_source_rejected_messages_total",
        "Custom events that went to rowcast.rejected, since their channel or contents cannot be"
    );
}

/// Transactions that were too large for memory, or sent before they committed, and values that nobody can show.
fn describe_exceptions() {
    describe_counter!(
        "rowcast_source_spilled_transactions_total",
        "Transactions that were large enough for a file of their own"
    );
    describe_gauge!("rowcast_source_streamed_open", "Transactions that are sent before they commit, now");
    describe_counter!(
        "rowcast_source_streamed_transactions_total",
        "Transactions that were sent before they committed"
    );
    describe_counter!(
        "rowcast_source_streamed_aborted_total",
        "Transactions that were sent and then rolled back"
    );
    describe_counter!(
        "rowcast_source_streaming_given_up_total",
        "Times that source.streaming was given up until the next start"
    );
    describe_counter!(
        "rowcast_unrendered_values_total",
        "Values that could not be shown, by format and reason; their events name them"
    );
}

/// Doors that push.
fn describe_sinks() {
    describe_gauge!("rowcast_door_running", "1 while the door runs");
    describe_gauge!("rowcast_door_position_id", "Number of the last event that the target of a door has");
    describe_gauge!(
        "rowcast_sink_snapshot_tables_left",
        "Tables whose rows are still to be read for a sink alone, which began with start = snapshot"
    );
    describe_counter!("rowcast_sink_events_total", "Events delivered by doors that push");
    describe_counter!(
        "rowcast_sink_hold_lost_total",
        "Times that a sink has lost events, since it stood still at max_size"
    );
    describe_counter!("rowcast_sink_lost_events_total", "Events that a sink has lost in this way");
    describe_counter!("rowcast_sink_gaps_total", "Gaps made by retention behind which a sink has gone on");
    describe_counter!("rowcast_sink_retries_total", "Deliveries that failed and were tried again");
    describe_gauge!("rowcast_sink_position_id", "Number of the last event that a sink's target has");
    describe_counter!("rowcast_kafka_records_total", "Records that the broker has acknowledged");
    describe_counter!("rowcast_kafka_bytes_total", Unit::Bytes, "Bytes of their keys and values");
    describe_gauge!("rowcast_kafka_records_in_flight", "Records that are on their way to the broker");
    describe_counter!("rowcast_kafka_outages_total", "Times that no broker could be reached");
    describe_counter!(
        "rowcast_kafka_clients_lost_total",
        "Times that Kafka's client found no broker though others did, and was replaced"
    );
    describe_counter!(
        "rowcast_kafka_unrendered_values_total",
        "Values that could not be shown in records for Kafka"
    );
}

/// Doors that serve.
fn describe_clients() {
    describe_gauge!("rowcast_door_clients", "Clients connected");
    describe_gauge!("rowcast_http_clients", "Clients connected, by kind");
    describe_counter!("rowcast_http_events_total", "Events sent to clients, by kind");
    describe_counter!("rowcast_http_bytes_total", Unit::Bytes, "Bytes sent to clients, by kind");
}

/// The rows that are there, read beside the stream.
fn describe_snapshots() {
    describe_counter!("rowcast_snapshot_rows_total", "Rows that snapshots have written");
    describe_counter!(
        "rowcast_snapshot_chunks_repeated_total",
        "Chunks read again, since the table had changed or a commit was not visible yet"
    );
    describe_counter!(
        "rowcast_snapshot_stalls_total",
        "Sessions reading rows that were given up, since what stands between let nothing through any more"
    );
    describe_histogram!(
        "rowcast_snapshot_chunk_seconds",
        Unit::Seconds,
        "Time that reading a chunk took, and its transaction was open on the server"
    );
    describe_gauge!("rowcast_snapshot_unfinished_tables", "Tables whose snapshot is wanted and not done");
    describe_gauge!(
        "rowcast_snapshot_failed_tables",
        "Tables that have failed, or have not got on for a minute; the status says why"
    );
    describe_gauge!("rowcast_snapshot_table_rows", "Rows of a table written so far; of 100 tables at most");
    describe_gauge!("rowcast_snapshot_table_estimated_rows", "Rows that the table is thought to have");
    describe_gauge!("rowcast_snapshot_table_percent", "How much of the table has been read");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
            if entry.is_dir() {
                sources(&entry, found);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                found.push(entry);
            }
        }
    }

    /// Names of metrics behind these macros' names.
    fn named(text: &str, macros: &[&str]) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for one in macros {
            for part in text.split(&format!("{one}!(")).skip(1) {
                let name = part.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
                names.extend(name.filter(|name| name.starts_with("rowcast_")).map(str::to_owned));
            }
        }
        names
    }

    /// Also those that no test makes appear.
    #[test]
    fn every_metric_is_described() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        for folder in
            ["src", "engine/src", "connectors/http/src", "connectors/kafka/src", "connectors/postgres/src"]
        {
            sources(&root.join(folder), &mut files);
        }
        let texts: Vec<String> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        let all = texts.concat();
        let mut used = named(
            &all,
            &[" counter", " gauge", " histogram", ":counter", ":gauge", ":histogram", "=counter"],
        );
        // Through a function that adds a label.
        for part in ["count(\"", "set(\""].iter().flat_map(|call| all.split(call).skip(1)) {
            used.extend(
                part.split('"').next().filter(|name| name.starts_with("rowcast_")).map(str::to_owned),
            );
        }
        let described = named(&all, &["describe_counter", "describe_gauge", "describe_histogram"]);
        assert!(used.len() > 50, "only {} were found", used.len());
        let missing: Vec<&String> = used.difference(&described).collect();
        assert!(missing.is_empty(), "not described: {missing:?}");
        let gone: Vec<&String> = described.difference(&used).collect();
        assert!(gone.is_empty(), "described, and nowhere: {gone:?}");
    }
}
