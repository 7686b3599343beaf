//! Lengths of time in the configuration, as Postgres writes them: `500ms`, `30s`, `5min`, `1h`, `7d`.

use std::time::Duration;

use rowcast_engine::units;
use serde::{Deserialize, Deserializer, Serializer};

pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&units::show_time(*duration))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    units::time(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}
