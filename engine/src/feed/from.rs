//! How a place to start from is written.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::event::Micros;

/// Where a reader starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// What commits from now on.
    Latest,
    /// All that is held.
    Earliest,
    /// What comes after an event.
    After(u64),
    /// At a time, inclusive.
    Time(Micros),
    /// The newest N that match.
    Last(u64),
}

impl FromStr for From {
    type Err = Error;

    /// `latest`, `earliest`, the number of an event, `last:N`, or a time with its zone.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "latest" => return Ok(Self::Latest),
            "earliest" => return Ok(Self::Earliest),
            _ => {}
        }
        if let Ok(id) = text.parse() {
            return Ok(Self::After(id));
        }
        if let Some(count) = text.strip_prefix("last:").and_then(|count| count.parse().ok()) {
            return Ok(Self::Last(count));
        }
        let time = text.parse::<jiff::Timestamp>();
        time.map(|time| Self::Time(time.as_microsecond())).map_err(|_| {
            Error::usage(format!("{text:?} is not a place to start from")).hint(
                "Write latest, earliest, the number of an event, last:N, or a time with zone like 2026-11-21T04:05:06Z.",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        for (text, place) in [
            ("latest", From::Latest),
            ("earliest", From::Earliest),
            ("17", From::After(17)),
            ("last:5", From::Last(5)),
            ("2026-11-21T04:05:06.123456Z", From::Time(1_795_233_906_123_456)),
            ("2026-11-21T05:05:06.123456+01:00", From::Time(1_795_233_906_123_456)),
        ] {
            assert_eq!(text.parse::<From>().unwrap(), place);
        }
        for wrong in ["", "-1", "last:", "last:-1", "yesterday", "2026-11-21T04:05:06"] {
            assert!(wrong.parse::<From>().is_err(), "{wrong}");
        }
    }
}
