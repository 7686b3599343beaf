//! Dates, times and intervals as Debezium counts or spells them with `time.precision.mode=adaptive`.
//!
//! Input is Postgres' text with DateStyle ISO, `0044-03-15 12:00:00.5+00 BC`, and IntervalStyle iso_8601.

use crate::format::json::{write_int, write_text};
use crate::format::time::{civil_from_days, days_from_civil, is_infinite, write_clock, write_padded};
use crate::format::value::ValueError;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// 30.4375 days, Debezium's month.
const MICROS_PER_MONTH: i64 = 2_629_800 * MICROS_PER_SECOND;
/// What the JDBC driver takes for the infinite timestamps, in milliseconds and, in Debezium, microseconds; its
/// documentation names them.
const INFINITY: i64 = 9_223_372_036_825_200_000;
const NEGATIVE_INFINITY: i64 = -9_223_372_036_832_400_000;

/// Appends days since 1970; infinity as a string.
pub(super) fn write_date(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    if is_infinite(text) {
        return write_text(out, text);
    }
    let (date, bc) = without_era(text);
    write_int(out, days(date, bc).ok_or(ValueError::DATE)?);
    Ok(())
}

/// Appends the time of day.
pub(super) fn write_time(out: &mut Vec<u8>, text: &[u8], millis: bool, cut: bool) -> Result<(), ValueError> {
    let micros = clock(text).ok_or(ValueError::TIME)?;
    match (millis, cut) {
        (true, _) => write_int(out, micros / 1000),
        (false, true) => write_int(out, micros / 1000 * 1000),
        (false, false) => write_int(out, micros),
    }
    Ok(())
}

/// Appends a timestamp without zone as if it were in UTC; one of the last thirty years that Postgres has, whose
/// microseconds since 1970 do not fit in 64 bits, as its text.
pub(super) fn write_timestamp(out: &mut Vec<u8>, text: &[u8], millis: bool) -> Result<(), ValueError> {
    let micros = match text {
        b"infinity" => INFINITY.into(),
        b"-infinity" => NEGATIVE_INFINITY.into(),
        _ => timestamp(text).ok_or(ValueError::TIMESTAMP)?,
    };
    match i64::try_from(if millis { micros.div_euclid(1000) } else { micros }) {
        Ok(count) => write_int(out, count),
        Err(_) => write_text(out, text)?,
    }
    Ok(())
}

/// Appends a timestamp with zone, moved to UTC, with all its digits: `"-0043-03-15T12:00:00.000000Z"`.
pub(super) fn write_zoned_timestamp(out: &mut Vec<u8>, text: &[u8], digits: usize) -> Result<(), ValueError> {
    if is_infinite(text) {
        return write_text(out, text);
    }
    let micros = timestamp(text).ok_or(ValueError::TIMESTAMP)?;
    let days = i64::try_from(micros.div_euclid(MICROS_PER_DAY.into())).map_err(|_| ValueError::TIMESTAMP)?;
    let of_day =
        u64::try_from(micros.rem_euclid(MICROS_PER_DAY.into())).map_err(|_| ValueError::TIMESTAMP)?;
    let (year, month, day) = civil_from_days(days);
    out.push(b'"');
    match year {
        ..0 => out.push(b'-'),
        10_000.. => out.push(b'+'),
        _ => {}
    }
    write_padded(out, year.unsigned_abs(), 4);
    for part in [month, day] {
        out.push(b'-');
        write_padded(out, part, 2);
    }
    out.push(b'T');
    write_clock(out, of_day);
    write_fraction(out, of_day, digits);
    out.extend_from_slice(b"Z\"");
    Ok(())
}

/// Appends a time with zone, moved to UTC, with the digits that it needs: `"08:00:00.1Z"`.
pub(super) fn write_zoned_time(out: &mut Vec<u8>, text: &[u8], cut: bool) -> Result<(), ValueError> {
    let micros = zoned_clock(text).ok_or(ValueError::TIME)?.rem_euclid(MICROS_PER_DAY).unsigned_abs();
    let (mut fraction, mut digits) = (micros % 1_000_000, 6);
    while digits > 0 && (cut || fraction.is_multiple_of(10)) {
        (fraction, digits) = (fraction / 10, digits - 1);
    }
    out.push(b'"');
    write_clock(out, micros);
    write_fraction(out, micros, digits);
    out.extend_from_slice(b"Z\"");
    Ok(())
}

/// Appends the point and the first digits of the second's fraction; nothing when there are none.
fn write_fraction(out: &mut Vec<u8>, micros: u64, digits: usize) {
    if digits > 0 {
        out.push(b'.');
        write_padded(out, micros % 1_000_000, 6);
        out.truncate(out.len() - 6 + digits);
    }
}

/// Appends an interval in microseconds; one that does not fit in 64 bits, or is infinite, as its text.
pub(super) fn write_interval(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    if is_infinite(text) {
        return write_text(out, text);
    }
    match i64::try_from(interval(text).ok_or(ValueError::INTERVAL)?) {
        Ok(micros) => write_int(out, micros),
        Err(_) => write_text(out, text)?,
    }
    Ok(())
}

/// Microseconds of `P1Y2M-3DT4H-5M6.789S`; every number has a sign of its own.
fn interval(text: &[u8]) -> Option<i128> {
    let mut rest = text.strip_prefix(b"P")?;
    let (mut sum, mut in_time) = (0_i128, false);
    while !rest.is_empty() {
        if let Some(time) = rest.strip_prefix(b"T").filter(|_| !in_time) {
            (rest, in_time) = (time, true);
            continue;
        }
        let end = rest.iter().position(u8::is_ascii_alphabetic)?;
        let (number, unit) = (rest.get(..end)?, rest.get(end)?);
        let micros = match (in_time, unit) {
            (false, b'Y') => 12 * MICROS_PER_MONTH,
            (false, b'M') => MICROS_PER_MONTH,
            (false, b'D') => MICROS_PER_DAY,
            (true, b'H') => 3600 * MICROS_PER_SECOND,
            (true, b'M') => 60 * MICROS_PER_SECOND,
            (true, b'S') => MICROS_PER_SECOND,
            _ => return None,
        };
        let millionths = i128::from(signed_millionths(number)?);
        sum += millionths * i128::from(micros) / i128::from(MICROS_PER_SECOND);
        rest = rest.get(end + 1..)?;
    }
    Some(sum)
}

fn signed_millionths(text: &[u8]) -> Option<i64> {
    match text.strip_prefix(b"-") {
        Some(text) => millionths(text)?.checked_neg(),
        None => millionths(text),
    }
}

/// A decimal number with up to six digits after the point, times a million.
fn millionths(text: &[u8]) -> Option<i64> {
    let (whole, fraction) = match memchr::memchr(b'.', text) {
        Some(at) => (text.get(..at)?, text.get(at + 1..)?),
        None => (text, &b"0"[..]),
    };
    let scale = 10_i64.pow(6_u32.checked_sub(u32::try_from(fraction.len()).ok()?)?);
    integer(whole)?.checked_mul(MICROS_PER_SECOND)?.checked_add(integer(fraction)? * scale)
}

/// A number of nothing but digits.
fn integer(text: &[u8]) -> Option<i64> {
    if text.is_empty() || text.len() > 18 {
        return None;
    }
    text.iter().try_fold(0, |value, b| b.is_ascii_digit().then(|| value * 10 + i64::from(b - b'0')))
}

/// Takes the era off the end: whether the year counts backwards.
fn without_era(text: &[u8]) -> (&[u8], bool) {
    text.strip_suffix(b" BC").map_or((text, false), |text| (text, true))
}

/// Days since 1970 of `2026-01-02`.
fn days(date: &[u8], bc: bool) -> Option<i64> {
    let mut parts = date.split(|b| *b == b'-').map(integer);
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    // Postgres' years end with 294276 and 5874897; anything longer is not its text.
    let valid =
        parts.next().is_none() && year < 10_000_000 && (1..=12).contains(&month) && (1..=31).contains(&day);
    valid.then(|| days_from_civil(if bc { 1 - year } else { year }, month, day))
}

/// Microseconds of `03:04:05.678901`.
fn clock(text: &[u8]) -> Option<i64> {
    let mut parts = text.split(|b| *b == b':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next()?);
    let valid = parts.next().is_none() && hours.len() == 2 && minutes.len() == 2 && seconds.len() >= 2;
    let minutes = integer(hours)? * 60 + integer(minutes)?;
    valid.then_some(
        minutes * 60 * MICROS_PER_SECOND + millionths(seconds).filter(|s| *s < 100 * MICROS_PER_SECOND)?,
    )
}

/// Microseconds of `03:04:05.678901+02`, moved to UTC; may be negative or beyond the day.
fn zoned_clock(text: &[u8]) -> Option<i64> {
    let Some(at) = text.iter().position(|b| matches!(b, b'+' | b'-')) else { return clock(text) };
    let mut offset = 0;
    for (part, unit) in text.get(at + 1..)?.split(|b| *b == b':').zip([3600, 60, 1]) {
        offset += integer(part).filter(|part| *part < 100)? * unit * MICROS_PER_SECOND;
    }
    let local = clock(text.get(..at)?)?;
    Some(if text.get(at) == Some(&b'-') { local + offset } else { local - offset })
}

/// Microseconds since 1970 of `2026-01-02 03:04:05.678901`, with or without an offset and an era.
fn timestamp(text: &[u8]) -> Option<i128> {
    let (text, bc) = without_era(text);
    let blank = memchr::memchr(b' ', text)?;
    let days = days(text.get(..blank)?, bc)?;
    Some(i128::from(days) * i128::from(MICROS_PER_DAY) + i128::from(zoned_clock(text.get(blank + 1..)?)?))
}

#[cfg(test)]
mod tests;
