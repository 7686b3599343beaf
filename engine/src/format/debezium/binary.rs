//! Bytes and bits as base64, which is how JSON carries Connect's BYTES.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::format::value::ValueError;

/// Bytes decoded at a time; a multiple of three, so that the pieces' base64 joins.
const PIECE: usize = 768;

/// Appends base64 in quotes.
pub(super) fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    encode(out, bytes);
    out.push(b'"');
}

fn encode(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = out.get_mut(start..).and_then(|room| STANDARD.encode_slice(bytes, room).ok());
    out.truncate(start + written.unwrap_or_default());
}

/// Appends `\x00ff` as base64 in quotes.
pub(super) fn write_bytea(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    write_hex_as_base64(out, text.strip_prefix(b"\\x").ok_or(ValueError::BYTES)?)
}

/// Appends hexadecimal digits as base64 in quotes, through a buffer on the stack.
pub(super) fn write_hex_as_base64(out: &mut Vec<u8>, hex: &[u8]) -> Result<(), ValueError> {
    let (pairs, []) = hex.as_chunks::<2>() else { return Err(ValueError::BYTES) };
    out.push(b'"');
    let mut buffer = [0; PIECE];
    for piece in pairs.chunks(PIECE) {
        for (byte, [high, low]) in buffer.iter_mut().zip(piece) {
            *byte = hex_byte(*high, *low).ok_or(ValueError::BYTES)?;
        }
        encode(out, buffer.get(..piece.len()).unwrap_or_default());
    }
    out.push(b'"');
    Ok(())
}

/// The byte of two hexadecimal digits.
pub(super) fn hex_byte(high: u8, low: u8) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// Appends a bit string as base64 of its bytes, lowest first, zeros at the high end cut off.
pub(super) fn write_bits(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    if !text.iter().all(|b| matches!(b, b'0' | b'1')) {
        return Err(ValueError::BITS);
    }
    let byte = |bits: &[u8]| bits.iter().fold(0, |byte, bit| byte << 1 | (bit - b'0'));
    let mut bytes: Vec<u8> = text.rchunks(8).map(byte).collect();
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(used);
    write_base64(out, &bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>) -> Result<(), ValueError>) -> Result<String, ValueError> {
        let mut out = Vec::new();
        write(&mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn bits_count_from_the_right() {
        let cases = [
            ("10101", "\"FQ==\""),
            ("1100110011", "\"MwM=\""),
            ("1000000", "\"QA==\""),
            ("000", "\"\""),
            ("", "\"\""),
        ];
        for (bits, expected) in cases {
            assert_eq!(written(|out| write_bits(out, bits.as_bytes())).unwrap(), expected, "{bits}");
        }
        assert_eq!(written(|out| write_bits(out, b"12")), Err(ValueError::BITS));
    }

    #[test]
    fn bytea_is_hexadecimal() {
        assert_eq!(written(|out| write_bytea(out, b"\\xdeadBEEF")).unwrap(), "\"3q2+7w==\"");
        assert_eq!(written(|out| write_bytea(out, b"\\x")).unwrap(), "\"\"");
        for text in ["", "dead", "\\xabc", "\\xzz", "\\x+1"] {
            assert_eq!(written(|out| write_bytea(out, text.as_bytes())), Err(ValueError::BYTES), "{text}");
        }
    }

    proptest! {
        #[test]
        fn pieces_join(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let expected = format!("\"{}\"", STANDARD.encode(&bytes));
            prop_assert_eq!(written(|out| write_bytea(out, format!("\\x{hex}").as_bytes())).unwrap(), expected);
        }
    }
}
