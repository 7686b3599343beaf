//! How a place to start from is written.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::event::Micros;
use crate::quotes::in_quotes;

/// Where a reader starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// What commits from now on.
    Latest,
    /// All that is held.
    Earliest,
    /// What comes after an event.
    After(u64),
    /// At a time, inclusive. One behind the newest event is [`Self::Latest`].
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
        time(text).map(Self::Time).ok_or_else(|| {
            Error::usage(format!("{} is not a place to start from", in_quotes(text))).hint(
                "Write latest, earliest, the number of an event, last:N, or a time with zone like 2026-11-21T04:05:06Z.",
            )
        })
    }
}

/// A time with its zone. All but the last day of the year 9999 can be counted; that day is a time like others, as far
/// away as can be.
fn time(text: &str) -> Option<Micros> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.as_microsecond());
    }
    let written = jiff::fmt::temporal::Pieces::parse(text).ok()?;
    let whole = written.time().is_some() && written.offset().is_some();
    (whole && written.date() >= LAST_DAY).then(|| jiff::Timestamp::MAX.as_microsecond())
}

/// It begins before the library's latest time, and ends behind it.
const LAST_DAY: jiff::civil::Date = jiff::civil::date(9999, 12, 30);

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
            ("9999-12-30T21:59:59Z", From::Time(253_402_207_199_000_000)),
            ("9999-12-30T23:59:59Z", From::Time(253_402_207_200_999_999)),
            ("9999-12-31T23:59:59.999999+00:00", From::Time(253_402_207_200_999_999)),
        ] {
            assert_eq!(text.parse::<From>().unwrap(), place);
        }
        for wrong in [
            "",
            "-1",
            "last:",
            "last:-1",
            "yesterday",
            "2026-11-21T04:05:06",
            "9999-12-31",
            "9999-12-31T00:00:00",
        ] {
            assert!(wrong.parse::<From>().is_err(), "{wrong}");
        }
    }
}
