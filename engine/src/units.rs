//! Sizes and lengths of time as Postgres writes them: `8GB`, `512MB`, `24h`, `500ms`.

use std::time::Duration;

use crate::quotes::in_quotes;

type Units = [(&'static str, u64)];

/// As in Postgres, kB is 1024 bytes.
pub const BYTES: &Units = &[("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10), ("B", 1)];

const MICROSECONDS: &Units = &[
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("min", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// Reads a whole number of bytes with its unit. The error is a sentence without an end, for the caller to finish.
pub fn size(text: &str) -> Result<u64, String> {
    parse(text, BYTES, "512MB or 8GB")
}

/// Reads a whole length of time with its unit; the error as with [`size`].
pub fn time(text: &str) -> Result<Duration, String> {
    parse(text, MICROSECONDS, "500ms, 30s or 24h").map(Duration::from_micros)
}

/// Writes a number of bytes in the largest unit that leaves a whole number.
pub fn show_size(bytes: u64) -> String {
    show(bytes, BYTES)
}

/// Writes a length of time in the largest unit that leaves a whole number, in microseconds at the finest.
pub fn show_time(time: Duration) -> String {
    show(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), MICROSECONDS)
}

fn parse(text: &str, units: &Units, example: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    if unit.is_empty() && digits > 0 {
        return Err(format!("{number} has no unit, write it like {example}"));
    }
    let factor = units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let (Ok(number), Some(factor)) = (number.parse::<u64>(), factor) else {
        let names: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
        return Err(format!(
            "{} is not a number with one of the units {}",
            in_quotes(text),
            names.join(", ")
        ));
    };
    number.checked_mul(factor).ok_or_else(|| format!("{text} is too much"))
}

fn show(value: u64, units: &Units) -> String {
    let whole = units.iter().find(|(_, factor)| value >= *factor && value.is_multiple_of(*factor));
    let (name, factor) = whole.or(units.last()).copied().unwrap_or(("", 1));
    format!("{}{name}", value / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("8GB", 8 << 30), ("512MB", 512 << 20), ("1kB", 1024), ("7B", 7), ("2TB", 2 << 40)]
        {
            assert_eq!(size(text), Ok(bytes));
            assert_eq!(show_size(bytes), text);
        }
        assert_eq!(size(" 3 MB "), Ok(3 << 20));
        assert_eq!(size("512").unwrap_err(), "512 has no unit, write it like 512MB or 8GB");
        assert!(size("8gb").unwrap_err().contains("units TB, GB, MB, kB, B"));
        assert_eq!(size("99999999TB").unwrap_err(), "99999999TB is too much");
        assert!(size("").unwrap_err().contains("is not a number"));
    }

    #[test]
    fn times() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("5min", 300_000), ("1d", 86_400_000)] {
            let duration = Duration::from_millis(millis);
            assert_eq!(time(text), Ok(duration));
            assert_eq!(show_time(duration), text);
        }
        assert_eq!(show_time(Duration::ZERO), "0us");
        assert_eq!(time("30").unwrap_err(), "30 has no unit, write it like 500ms, 30s or 24h");
        assert!(time("soon").unwrap_err().contains("units d, h, min"));
        assert!(time("99999999999999d").unwrap_err().ends_with("is too much"));
    }
}
