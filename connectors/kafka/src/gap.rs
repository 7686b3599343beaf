//! What consumers are told where the history is broken.

use std::time::{SystemTime, UNIX_EPOCH};

use rowcast_engine::Error;
use rowcast_engine::format::write_rfc3339;
use rowcast_engine::journal::Gone;
use rowcast_engine::sink::SinkError;
use serde_json::json;

/// The topic is `{prefix}.rowcast`.
pub(crate) const SUFFIX: &str = "rowcast";

/// Nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A gap that retention made, in the shape of a stored one, with the range that is missing.
pub(crate) fn of_retention(gone: Gone) -> Vec<u8> {
    let mut ts = Vec::new();
    write_rfc3339(&mut ts, now() / 1000);
    let ts: serde_json::Value = serde_json::from_slice(&ts).unwrap_or_default();
    let gap = json!({
        "id": gone.to,
        "channel": null,
        "op": "gap",
        "reason": "retention",
        "detail": "Retention has removed events before they were delivered",
        "from": gone.from,
        "to": gone.to,
        "ts": ts,
        "tx": null,
    });
    gap.to_string().into_bytes()
}

/// Why the sink does not go on.
pub(crate) fn stopped(what: &str) -> SinkError {
    SinkError::Stop(Error::failed(format!("The history that Kafka gets is broken: {what}")).hint(
        "Load the tables anew into what reads the topics, then set on_gap = \"continue\" in [kafka] and start rowcast again.",
    ))
}
