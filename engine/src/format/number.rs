//! Numbers in Postgres' text form.

use crate::format::json;
use crate::format::value::ValueError;

/// Length of the JSON number at the front of `text`, `None` when there is none.
pub(super) fn json_number_len(text: &[u8]) -> Option<usize> {
    let sign = usize::from(text.first() == Some(&b'-'));
    let whole = digits(text.get(sign..)?);
    if whole == 0 || (whole > 1 && text.get(sign) == Some(&b'0')) {
        return None;
    }
    let mut length = sign + whole;
    if text.get(length) == Some(&b'.') {
        let fraction = digits(text.get(length + 1..)?);
        if fraction == 0 {
            return None;
        }
        length += 1 + fraction;
    }
    if let Some(b'e' | b'E') = text.get(length) {
        let sign = usize::from(matches!(text.get(length + 1), Some(b'+' | b'-')));
        let exponent = digits(text.get(length + 1 + sign..)?);
        if exponent == 0 {
            return None;
        }
        length += 1 + sign + exponent;
    }
    Some(length)
}

fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|b| b.is_ascii_digit()).count()
}

/// Whether all of the text is a number as JSON writes them.
pub(super) fn is_json_number(text: &[u8]) -> bool {
    json_number_len(text) == Some(text.len())
}

/// Whether the text is one of the values that JSON has no number for.
pub(super) fn is_special(text: &[u8]) -> bool {
    matches!(text, b"NaN" | b"Infinity" | b"-Infinity")
}

/// Appends a number as it stands; `NaN` and the infinities as strings.
pub(super) fn write_number(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    if is_json_number(text) {
        out.extend_from_slice(text);
        return Ok(());
    }
    write_special(out, text)
}

/// Appends a number in quotes.
pub(super) fn write_quoted(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    if !is_json_number(text) {
        return write_special(out, text);
    }
    out.push(b'"');
    out.extend_from_slice(text);
    out.push(b'"');
    Ok(())
}

fn write_special(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    if is_special(text) { json::write_text(out, text) } else { Err(ValueError::NUMBER) }
}

/// Appends money as a plain decimal string: `-$1,234.50` becomes `"-1234.50"`.
pub(super) fn write_money(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    out.push(b'"');
    let start = out.len();
    out.extend(money_digits(text));
    match out.get(start..) {
        Some(plain) if is_json_number(plain) => out.push(b'"'),
        _ => return Err(ValueError::MONEY),
    }
    Ok(())
}

/// Money under lc_monetary C without currency sign and thousands separators.
pub(super) fn money_digits(text: &[u8]) -> impl Iterator<Item = u8> {
    text.iter().copied().filter(|b| !matches!(b, b'$' | b','))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_json_number() {
        for text in ["0", "-0", "12", "-1.50", "1e+15", "1.5E-7", "123456789012345678901234567890.5", "0.1"] {
            assert!(is_json_number(text.as_bytes()), "{text}");
        }
        for text in ["", "-", "01", "-01", ".5", "1.", "1e", "1e+", "+1", "0x1", "1_000", "NaN", "1 ", " 1"] {
            assert!(!is_json_number(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn money_loses_its_ornaments() {
        let cases = [("$9.99", "\"9.99\""), ("-$1,234,567.89", "\"-1234567.89\""), ("$0.00", "\"0.00\"")];
        for (text, expected) in cases {
            let mut out = Vec::new();
            write_money(&mut out, text.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        for text in ["9,99 €", "", "$", "1\"2"] {
            assert_eq!(write_money(&mut Vec::new(), text.as_bytes()), Err(ValueError::MONEY), "{text}");
        }
    }
}
