//! Sizes and lengths of time as Postgres writes them: `8GB`, `512MB`, `24h`, `500ms`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Duration);

/// As in Postgres, kB is 1024 bytes.
const BYTES: [(&str, u64); 5] =
    [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10), ("B", 1)];

const MICROSECONDS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("min", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

fn parse(text: &str, units: &[(&str, u64)], example: &str) -> Result<u64, String> {
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
        return Err(format!("{text:?} is not a number with one of the units {}", names.join(", ")));
    };
    number.checked_mul(factor).ok_or_else(|| format!("{text} is too much"))
}

/// In the largest unit that leaves a whole number; the smallest for nothing at all.
fn show(value: u64, units: &[(&str, u64)]) -> String {
    let whole = units.iter().find(|(_, factor)| value >= *factor && value.is_multiple_of(*factor));
    let (name, factor) = whole.or(units.last()).copied().unwrap_or(("", 1));
    format!("{}{name}", value / factor)
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Unit::deserialize(from)?.0;
        parse(&text, &BYTES, "512MB or 8GB").map(Self).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Unit::deserialize(from)?.0;
        let micros = parse(&text, &MICROSECONDS, "500ms, 30s or 24h").map_err(de::Error::custom)?;
        Ok(Self(Duration::from_micros(micros)))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&show(self.0, &BYTES))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let micros = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        to.serialize_str(&show(micros, &MICROSECONDS))
    }
}

/// A text; a bare number of a file is taken too, to be told that it lacks its unit.
struct Unit(String);

impl<'de> Deserialize<'de> for Unit {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Unit;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number with its unit, in quotes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Unit, E> {
                Ok(Unit(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Unit, E> {
                Ok(Unit(number.to_string()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Unit, E> {
                Ok(Unit(number.to_string()))
            }
        }
        from.deserialize_any(Visitor)
    }
}

/// A size for people: three figures at most.
pub(crate) fn approximate_size(bytes: u64) -> String {
    let Some((name, factor)) = BYTES.iter().find(|(_, factor)| bytes >= *factor) else { return "0 B".into() };
    let value = bytes as f64 / *factor as f64;
    let decimals = usize::from(value < 10.0 && *factor > 1);
    format!("{value:.decimals$} {name}")
}

/// A length of time for people: its two largest parts.
pub(crate) fn approximate_time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("8GB", 8 << 30), ("512MB", 512 << 20), ("1kB", 1024), ("7B", 7), ("2TB", 2 << 40)]
        {
            assert_eq!(from_value::<Size>(json!(text)).unwrap(), Size(bytes));
            assert_eq!(to_value(Size(bytes)).unwrap(), text);
        }
        assert_eq!(from_value::<Size>(json!(" 3 MB ")).unwrap(), Size(3 << 20));
        let error = |value| from_value::<Size>(value).unwrap_err().to_string();
        assert_eq!(error(json!(512)), "512 has no unit, write it like 512MB or 8GB");
        assert!(error(json!("8gb")).contains("units TB, GB, MB, kB, B"));
        assert_eq!(error(json!("99999999TB")), "99999999TB is too much");
        assert!(error(json!("")).contains("is not a number"));
        assert!(error(json!(true)).contains("a number with its unit"));
    }

    #[test]
    fn times() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("5min", 300_000), ("24h", 86_400_000)] {
            let time = Time(Duration::from_millis(millis));
            assert_eq!(from_value::<Time>(json!(text)).unwrap(), time);
        }
        assert_eq!(to_value(Time(Duration::from_secs(86_400))).unwrap(), "1d");
        assert_eq!(to_value(Time(Duration::ZERO)).unwrap(), "0us");
    }

    #[test]
    fn for_people() {
        let sizes = [0, 7, 1536, 20 << 20, 1 << 30].map(approximate_size);
        assert_eq!(sizes, ["0 B", "7 B", "1.5 kB", "20 MB", "1.0 GB"]);
        let times = [0, 59, 61, 7260, 90_000].map(|seconds| approximate_time(Duration::from_secs(seconds)));
        assert_eq!(times, ["0 ms", "59 s", "1 min 1 s", "2 h 1 min", "1 d 1 h"]);
    }
}
