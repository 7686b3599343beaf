//! Sizes and lengths of time as Postgres writes them: `8GB`, `512MB`, `24h`, `500ms`.

use std::time::Duration;

use rowcast_engine::units;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Duration);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        units::size(&Unit::deserialize(from)?.0).map(Self).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        units::time(&Unit::deserialize(from)?.0).map(Self).map_err(de::Error::custom)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&units::show_size(self.0))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&units::show_time(self.0))
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
    let Some((name, factor)) = units::BYTES.iter().find(|(_, factor)| bytes >= *factor) else {
        return "0 B".into();
    };
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
    fn bare_numbers_are_told_what_they_lack() {
        assert_eq!(from_value::<Size>(json!("512MB")).unwrap(), Size(512 << 20));
        assert_eq!(from_value::<Time>(json!("30s")).unwrap(), Time(Duration::from_secs(30)));
        let error = |value| from_value::<Size>(value).unwrap_err().to_string();
        assert_eq!(error(json!(512)), "512 has no unit, write it like 512MB or 8GB");
        assert!(error(json!(true)).contains("a number with its unit"));
        assert_eq!(to_value(Time(Duration::from_secs(86_400))).unwrap(), "1d");
        assert_eq!(to_value(Size(8 << 30)).unwrap(), "8GB");
    }

    #[test]
    fn for_people() {
        let sizes = [0, 7, 1536, 20 << 20, 1 << 30].map(approximate_size);
        assert_eq!(sizes, ["0 B", "7 B", "1.5 kB", "20 MB", "1.0 GB"]);
        let times = [0, 59, 61, 7260, 90_000].map(|seconds| approximate_time(Duration::from_secs(seconds)));
        assert_eq!(times, ["0 ms", "59 s", "1 min 1 s", "2 h 1 min", "1 d 1 h"]);
    }
}
