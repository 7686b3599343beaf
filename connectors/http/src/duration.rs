//! Lengths of time as Postgres writes them: `500ms`, `30s`, `5min`, `1h`, `7d`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

const UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("min", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// Reads a whole number with its unit.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let micros = UNITS.iter().find(|(name, _)| *name == unit.trim()).map(|(_, micros)| micros);
    match (number.parse::<u64>(), micros) {
        (Ok(number), Some(micros)) => number
            .checked_mul(*micros)
            .map(Duration::from_micros)
            .ok_or_else(|| format!("{text} is too long")),
        (Ok(number), None) if unit.is_empty() => Err(format!("{number} has no unit: write {number}s")),
        _ => Err(format!("{text} is not a length of time like 500ms, 30s, 5min, 1h or 7d")),
    }
}

/// Writes it in the largest unit that leaves a whole number.
pub(crate) fn show(duration: Duration) -> String {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let fits = |(_, unit): &&(&str, u64)| micros >= *unit && micros.is_multiple_of(*unit);
    UNITS
        .iter()
        .find(fits)
        .map_or_else(|| String::from("0s"), |(name, unit)| format!("{}{name}", micros / unit))
}

pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&show(*duration))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_lengths_of_time() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("5min", 300_000), ("1h", 3_600_000)] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse(text), Ok(duration));
            assert_eq!(show(duration), text);
        }
        assert_eq!(parse(" 2 s "), Ok(Duration::from_secs(2)));
        assert_eq!(show(Duration::ZERO), "0s");
        assert_eq!(parse("30"), Err("30 has no unit: write 30s".to_owned()));
        assert!(parse("soon").is_err_and(|error| error.starts_with("soon is not")));
        assert!(parse("99999999999999d").is_err_and(|error| error.ends_with("too long")));
        assert!(parse("").is_err());
    }
}
