//! Points in time: Postgres' text to JSON's, and instants of our own.

use crate::event::Micros;
use crate::format::json;
use crate::format::value::ValueError;

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Appends an instant as a JSON string, RFC 3339 in UTC, always with six digits: `"2026-11-21T04:05:06.123456Z"`.
pub fn write_rfc3339(out: &mut Vec<u8>, at: Micros) {
    let (year, month, day) = civil_from_days(at.div_euclid(MICROS_PER_DAY));
    out.push(b'"');
    write_year(out, year);
    out.push(b'-');
    write_padded(out, month, 2);
    out.push(b'-');
    write_padded(out, day, 2);
    out.push(b'T');
    write_clock(out, at.rem_euclid(MICROS_PER_DAY).unsigned_abs());
    out.push(b'.');
    write_padded(out, at.rem_euclid(1_000_000).unsigned_abs(), 6);
    out.extend_from_slice(b"Z\"");
}

/// Appends at least four digits, with a minus before years BC.
fn write_year(out: &mut Vec<u8>, year: i64) {
    if year < 0 {
        out.push(b'-');
    }
    write_padded(out, year.unsigned_abs(), 4);
}

/// Appends `HH:MM:SS` of a day's microseconds.
pub(super) fn write_clock(out: &mut Vec<u8>, micros: u64) {
    let seconds = micros / 1_000_000;
    write_padded(out, seconds / 3600, 2);
    out.push(b':');
    write_padded(out, seconds / 60 % 60, 2);
    out.push(b':');
    write_padded(out, seconds % 60, 2);
}

/// Appends a number with zeros before it.
pub(super) fn write_padded(out: &mut Vec<u8>, value: u64, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value).as_bytes();
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(digits.len())));
    out.extend_from_slice(digits);
}

/// Year, month and day in the proleptic Gregorian calendar of a count of days since 1970-01-01.
///
/// Counts in eras of 400 years that begin on 1 March, so that the leap day is the last of its year.
pub(super) fn civil_from_days(days: i64) -> (i64, u64, u64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month.unsigned_abs(), day.unsigned_abs())
}

/// The count of days since 1970-01-01; the opposite of [`civil_from_days`].
pub(super) fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted = (month + 9) % 12;
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

/// Whether a date or timestamp is beyond all others.
pub(super) fn is_infinite(text: &[u8]) -> bool {
    matches!(text, b"infinity" | b"-infinity")
}

/// Appends a timestamp as `to_jsonb` does: `T` between date and time, and the offset with its minutes.
pub(super) fn write_timestamp(out: &mut Vec<u8>, text: &[u8], zoned: bool) -> Result<(), ValueError> {
    if is_infinite(text) {
        return json::write_text(out, text);
    }
    let text = json::utf8(text)?;
    let (date, time) = text.split_once(' ').ok_or(ValueError::TIMESTAMP)?;
    let (clock, era) = time.strip_suffix(" BC").map_or((time, ""), |clock| (clock, " BC"));
    out.push(b'"');
    json::write_escaped(out, date);
    out.push(b'T');
    json::write_escaped(out, clock);
    // Postgres prints an offset of whole hours without minutes, `to_jsonb` with them.
    if zoned && clock.len() > 3 && matches!(clock.as_bytes().get(clock.len() - 3), Some(b'+' | b'-')) {
        out.extend_from_slice(b":00");
    }
    json::write_escaped(out, era);
    out.push(b'"');
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn instant(at: Micros) -> String {
        let mut out = Vec::new();
        write_rfc3339(&mut out, at);
        String::from_utf8(out).unwrap()
    }

    fn timestamp(text: &str, zoned: bool) -> Result<String, ValueError> {
        let mut out = Vec::new();
        write_timestamp(&mut out, text.as_bytes(), zoned)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn instants_have_six_digits() {
        assert_eq!(instant(0), "\"1970-01-01T00:00:00.000000Z\"");
        assert_eq!(instant(-1), "\"1969-12-31T23:59:59.999999Z\"");
        assert_eq!(instant(1_795_233_906_123_456), "\"2026-11-21T04:05:06.123456Z\"");
        assert_eq!(instant(951_782_400_000_000), "\"2000-02-29T00:00:00.000000Z\"");
        assert_eq!(instant(i64::MAX), "\"294247-01-10T04:00:54.775807Z\"");
        assert_eq!(instant(i64::MIN), "\"-290308-12-21T19:59:05.224192Z\"");
    }

    #[test]
    fn timestamps_read_as_to_jsonb_prints_them() {
        assert_eq!(timestamp("2026-01-02 03:04:05.6", false).unwrap(), "\"2026-01-02T03:04:05.6\"");
        assert_eq!(timestamp("0044-03-15 12:00:00 BC", false).unwrap(), "\"0044-03-15T12:00:00 BC\"");
        assert_eq!(timestamp("2026-01-02 03:04:05+00", true).unwrap(), "\"2026-01-02T03:04:05+00:00\"");
        assert_eq!(timestamp("0044-03-15 12:00:00+00 BC", true).unwrap(), "\"0044-03-15T12:00:00+00:00 BC\"");
        assert_eq!(
            timestamp("12026-01-02 03:04:05.6-03:30", true).unwrap(),
            "\"12026-01-02T03:04:05.6-03:30\""
        );
        assert_eq!(timestamp("-infinity", true).unwrap(), "\"-infinity\"");
        assert_eq!(timestamp("tomorrow", true), Err(ValueError::TIMESTAMP));
        assert_eq!(timestamp("\u{e9} \"\u{e9}", true).unwrap(), "\"\u{e9}T\\\"\u{e9}\"");
    }

    proptest! {
        #[test]
        fn days_go_both_ways(days in -200_000_000_i64..200_000_000) {
            let (year, month, day) = civil_from_days(days);
            prop_assert!((1..=12).contains(&month) && (1..=31).contains(&day));
            prop_assert_eq!(days_from_civil(year, month.cast_signed(), day.cast_signed()), days);
        }
    }
}
