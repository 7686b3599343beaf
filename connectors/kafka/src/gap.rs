//! What consumers are told where the history is broken.

use std::time::{SystemTime, UNIX_EPOCH};

use rowcast_engine::Error;
use rowcast_engine::format::write_rfc3339;
use rowcast_engine::sink::{Missing, SinkError};
use serde_json::json;

/// The topic is `{prefix}.rowcast`.
pub(crate) const SUFFIX: &str = "rowcast";

/// Nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Events that Kafka does not get, in the shape of a stored gap, with the range that is missing.
pub(crate) fn of_missing(missing: Missing) -> Vec<u8> {
    let mut ts = Vec::new();
    write_rfc3339(&mut ts, now() / 1000);
    let ts: serde_json::Value = serde_json::from_slice(&ts).unwrap_or_default();
    let gap = json!({
        "id": missing.gone.to,
        "channel": null,
        "op": "gap",
        "reason": missing.reason.name(),
        "detail": missing.reason.detail(),
        "from": missing.gone.from,
        "to": missing.gone.to,
        "ts": ts,
        "tx": null,
    });
    gap.to_string().into_bytes()
}

/// Where a sink's options stand.
fn section(sink: &str) -> String {
    if sink == "kafka" { "[kafka]".to_owned() } else { format!("[sinks.{sink}]") }
}

/// Why the sink does not go on by itself behind the gap that is the event `id`.
pub(crate) fn stopped(sink: &str, id: u64, what: &str) -> SinkError {
    let error = Error::failed(format!("The history that Kafka gets is broken: {what}")).hint(format!(
        "Load the tables anew into what reads the topics, then `rowcast sink resume {sink}` goes on behind the gap. \
         With on_gap = \"continue\" in {} it does so by itself",
        section(sink)
    ));
    SinkError::Gap { id, error }
}
