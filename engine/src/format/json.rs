//! Writing JSON: strings, integers, and the small pieces that every view needs.

use crate::format::value::ValueError;
use crate::lsn::Lsn;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// How many leading bytes stand in a JSON string as they are: no quote, no backslash, no control character.
///
/// Eight bytes at a time; the lowest flagged byte is exact, those above it may be flagged by its borrow.
pub(super) fn plain_prefix(bytes: &[u8]) -> usize {
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let quote = word ^ (ONES * u64::from(b'"'));
        let slash = word ^ (ONES * u64::from(b'\\'));
        let found = control | (quote.wrapping_sub(ONES) & !quote) | (slash.wrapping_sub(ONES) & !slash);
        let flags = found & HIGH;
        if flags != 0 {
            return index * 8 + flags.trailing_zeros() as usize / 8;
        }
    }
    let special = |b: &u8| *b < 0x20 || *b == b'"' || *b == b'\\';
    words.len() * 8 + tail.iter().position(special).unwrap_or(tail.len())
}

/// Appends a JSON string with its quotes.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    write_escaped(out, text);
    out.push(b'"');
}

/// Appends the inside of a JSON string.
pub(super) fn write_escaped(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    loop {
        let (plain, special) = rest.split_at(plain_prefix(rest));
        out.extend_from_slice(plain);
        let Some((byte, after)) = special.split_first() else { return };
        write_escape(out, *byte);
        rest = after;
    }
}

fn write_escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0C => b'f',
        _ => {
            out.extend_from_slice(b"\\u00");
            out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            return;
        }
    };
    out.extend([b'\\', short]);
}

/// Appends bytes that should be UTF-8 as a JSON string; nothing is written when they are not.
pub(super) fn write_text(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    write_string(out, utf8(text)?);
    Ok(())
}

/// The bytes as text; a database with encoding SQL_ASCII can hold anything.
pub(super) fn utf8(text: &[u8]) -> Result<&str, ValueError> {
    std::str::from_utf8(text).map_err(|_| ValueError::ENCODING)
}

/// Appends an integer.
pub fn write_int(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends `true` or `false`.
pub fn write_bool(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

/// Appends a member's name and the colon, with a comma before it unless it is the first after a `{`.
pub fn write_name(out: &mut Vec<u8>, name: &str) {
    separate(out);
    write_string(out, name);
    out.push(b':');
}

/// As [`write_name`], for a name of our own, which has nothing to escape.
pub(super) fn write_member(out: &mut Vec<u8>, name: &'static str) {
    separate(out);
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// Appends a comma unless an object or array has just been opened.
pub(super) fn separate(out: &mut Vec<u8>) {
    if !matches!(out.last(), Some(b'{' | b'[')) {
        out.push(b',');
    }
}

/// Appends a log position as Postgres prints it, in quotes: `"16/B374D848"`.
pub fn write_lsn(out: &mut Vec<u8>, lsn: Lsn) {
    out.push(b'"');
    write_hex(out, lsn.0 >> 32);
    out.push(b'/');
    write_hex(out, lsn.0 & 0xFFFF_FFFF);
    out.push(b'"');
}

fn write_hex(out: &mut Vec<u8>, value: u64) {
    let digits = (16 - value.leading_zeros() / 4).max(1);
    for digit in (0..digits).rev() {
        let nibble = (value >> (digit * 4)) & 15;
        out.push(HEX[nibble as usize].to_ascii_uppercase());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn string(text: &str) -> String {
        let mut out = Vec::new();
        write_string(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escapes_what_json_demands_and_no_more() {
        assert_eq!(string("plain, é漢😀 /"), "\"plain, é漢😀 /\"");
        assert_eq!(
            string("a\"b\\c\n\r\t\u{8}\u{c}\u{0}\u{1f}\u{7f}"),
            "\"a\\\"b\\\\c\\n\\r\\t\\b\\f\\u0000\\u001f\u{7f}\""
        );
    }

    #[test]
    fn log_positions_read_as_postgres_prints_them() {
        for lsn in [0, 1, 0x16_B374_D848, u64::MAX] {
            let mut out = Vec::new();
            write_lsn(&mut out, Lsn(lsn));
            assert_eq!(String::from_utf8(out).unwrap(), format!("\"{}\"", Lsn(lsn)));
        }
    }

    proptest! {
        #[test]
        fn strings_survive(text in any::<String>()) {
            prop_assert_eq!(serde_json::from_str::<String>(&string(&text)).unwrap(), text);
        }

        #[test]
        fn the_scan_stops_where_a_byte_by_byte_one_does(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let slow = bytes.iter().position(|b| *b < 0x20 || *b == b'"' || *b == b'\\').unwrap_or(bytes.len());
            prop_assert_eq!(plain_prefix(&bytes), slow);
        }
    }
}
