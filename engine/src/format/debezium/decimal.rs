//! Decimal text as the unscaled integer in two's complement, most significant byte first, as Java's BigInteger.

use crate::format::debezium::binary::write_base64;
use crate::format::json::{write_int, write_text};
use crate::format::number::{is_special, money_digits};
use crate::format::value::ValueError;

/// Digits that surely fit in 127 bits.
const MAX_SMALL: usize = 38;
/// Digits that one step of the long way takes in; their power of ten fits in 64 bits.
const STEP: usize = 18;

/// A decimal number taken apart.
struct Decimal<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a [u8]) -> Option<Self> {
        let (negative, digits) = text.strip_prefix(b"-").map_or((false, text), |digits| (true, digits));
        let point = memchr::memchr(b'.', digits);
        let (whole, fraction) = match point {
            Some(at) => (digits.get(..at)?, digits.get(at + 1..)?),
            None => (digits, &[][..]),
        };
        let valid = !whole.is_empty() && (point.is_none() || !fraction.is_empty());
        let valid = valid && whole.iter().chain(fraction).all(u8::is_ascii_digit);
        valid.then_some(Self { negative, whole, fraction })
    }

    /// Appends base64 of the number times ten to the power of `scale`; `None` when that is no integer.
    fn write_unscaled(&self, out: &mut Vec<u8>, scale: i32) -> Option<()> {
        let kept = usize::try_from(scale).unwrap_or(0);
        let dropped = usize::try_from(scale.saturating_neg()).unwrap_or(0).min(self.whole.len());
        let (whole, zeros) = self.whole.split_at(self.whole.len() - dropped);
        let padding = kept.checked_sub(self.fraction.len())?;
        if zeros.iter().any(|digit| *digit != b'0') {
            return None;
        }
        let digits = whole.iter().chain(self.fraction).copied().chain(std::iter::repeat_n(b'0', padding));
        if whole.len() + kept <= MAX_SMALL {
            let magnitude = digits.fold(0_i128, |value, digit| value * 10 + i128::from(digit - b'0'));
            let value = if self.negative { -magnitude } else { magnitude };
            write_base64(out, without_sign_bytes(&value.to_be_bytes()));
        } else {
            let digits: Vec<u8> = digits.collect();
            let bytes = twos_complement(&limbs(&digits), self.negative);
            write_base64(out, without_sign_bytes(&bytes));
        }
        Some(())
    }
}

/// Appends `numeric(p,s)`; NaN and the infinities, which Connect's Decimal cannot hold, as strings.
pub(super) fn write_decimal(out: &mut Vec<u8>, text: &[u8], scale: i32) -> Result<(), ValueError> {
    if is_special(text) {
        return write_text(out, text);
    }
    let decimal = Decimal::parse(text).ok_or(ValueError::NUMBER)?;
    decimal.write_unscaled(out, scale).ok_or(ValueError::NUMBER)
}

/// Appends `numeric` without a scale of its own, zeros at the end of the fraction cut off.
pub(super) fn write_variable_decimal(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    if is_special(text) {
        return write_text(out, text);
    }
    let mut decimal = Decimal::parse(text).ok_or(ValueError::NUMBER)?;
    while let Some((b'0', shorter)) = decimal.fraction.split_last() {
        decimal.fraction = shorter;
    }
    let scale = i32::try_from(decimal.fraction.len()).map_err(|_| ValueError::NUMBER)?;
    out.extend_from_slice(b"{\"scale\":");
    write_int(out, scale);
    out.extend_from_slice(b",\"value\":");
    decimal.write_unscaled(out, scale).ok_or(ValueError::NUMBER)?;
    out.push(b'}');
    Ok(())
}

/// Appends money as a decimal with two digits after the point.
pub(super) fn write_money(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    let plain: Vec<u8> = money_digits(text).collect();
    let decimal = Decimal::parse(&plain).ok_or(ValueError::MONEY)?;
    decimal.write_unscaled(out, 2).ok_or(ValueError::MONEY)
}

/// The magnitude in base 2^64, lowest first, of decimal digits.
fn limbs(digits: &[u8]) -> Vec<u64> {
    let mut limbs: Vec<u64> = Vec::new();
    for step in digits.chunks(STEP) {
        let (mut carry, power) = step.iter().fold((0_u128, 1_u128), |(value, power), digit| {
            (value * 10 + u128::from(digit - b'0'), power * 10)
        });
        for limb in &mut limbs {
            carry += u128::from(*limb) * power;
            *limb = low_half(carry);
            carry >>= 64;
        }
        if carry > 0 {
            limbs.push(low_half(carry));
        }
    }
    limbs
}

fn low_half(value: u128) -> u64 {
    (value & u128::from(u64::MAX)) as u64
}

/// The number's bytes, highest first, with at least one bit of sign.
fn twos_complement(limbs: &[u64], negative: bool) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(limbs.iter().rev().flat_map(|limb| limb.to_be_bytes()));
    if negative {
        let mut carry = true;
        for byte in bytes.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    bytes
}

/// Drops the leading bytes that only repeat the sign.
fn without_sign_bytes(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let [first, second, ..] = rest {
        let repeats = matches!((first, second), (0, 0..=0x7F) | (0xFF, 0x80..=0xFF));
        if !repeats {
            break;
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    rest
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>) -> Result<(), ValueError>) -> Result<String, ValueError> {
        let mut out = Vec::new();
        write(&mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn decimal(text: &str, scale: i32) -> Result<String, ValueError> {
        written(|out| write_decimal(out, text.as_bytes(), scale))
    }

    #[test]
    fn decimals_as_java_writes_them() {
        let cases = [
            ("10", 0, "\"Cg==\""),
            ("10.10", 2, "\"A/I=\""),
            ("9999999999", 0, "\"AlQL4/8=\""),
            ("-0.01", 2, "\"/w==\""),
            ("0.00", 2, "\"AA==\""),
            ("-0.00", 2, "\"AA==\""),
            ("128", 0, "\"AIA=\""),
            ("-128", 0, "\"gA==\""),
            ("1.5", 2, "\"AJY=\""),
            ("99900", -2, "\"A+c=\""),
            ("0", -2, "\"AA==\""),
            ("NaN", 2, "\"NaN\""),
            ("-Infinity", 2, "\"-Infinity\""),
        ];
        for (text, scale, expected) in cases {
            assert_eq!(decimal(text, scale).unwrap(), expected, "{text}");
        }
        for (text, scale) in
            [("", 0), ("-", 0), ("1.5", 0), ("1.", 0), (".", 1), ("1e5", 0), ("150", -2), ("1 ", 0)]
        {
            assert_eq!(decimal(text, scale), Err(ValueError::NUMBER), "{text}");
        }
    }

    #[test]
    fn variable_scale() {
        let cases = [
            ("1.10", "{\"scale\":1,\"value\":\"Cw==\"}"),
            (
                "123456789012345678901234567890.123456789",
                "{\"scale\":9,\"value\":\"XODppWAV/sWq36MorjmBFQ==\"}",
            ),
            ("-0.000000000000000001", "{\"scale\":18,\"value\":\"/w==\"}"),
            ("100000000000000000000", "{\"scale\":0,\"value\":\"BWvHXi1jEAAA\"}"),
            ("1.000", "{\"scale\":0,\"value\":\"AQ==\"}"),
            ("0", "{\"scale\":0,\"value\":\"AA==\"}"),
        ];
        for (text, expected) in cases {
            assert_eq!(written(|out| write_variable_decimal(out, text.as_bytes())).unwrap(), expected);
        }
    }

    #[test]
    fn money_has_cents() {
        for (text, expected) in [
            ("$92,233,720,368,547,758.07", "\"f/////////8=\""),
            ("-$1,234.56", "\"/h3A\""),
            ("$1,234.50", "\"AeI6\""),
        ] {
            assert_eq!(written(|out| write_money(out, text.as_bytes())).unwrap(), expected);
        }
        assert_eq!(written(|out| write_money(out, b"9,99 EUR")), Err(ValueError::MONEY));
    }

    /// Back from two's complement to decimal digits, by dividing bytes by ten.
    fn decimal_text(base64: &str) -> String {
        let mut bytes = STANDARD.decode(base64.trim_matches('"')).unwrap();
        assert!(!bytes.is_empty());
        let negative = bytes[0] & 0x80 != 0;
        if negative {
            let mut carry = true;
            for byte in bytes.iter_mut().rev() {
                (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
            }
        }
        let mut digits = Vec::new();
        while bytes.iter().any(|byte| *byte != 0) {
            let mut rest = 0_u32;
            for byte in &mut bytes {
                rest = rest * 256 + u32::from(*byte);
                *byte = u8::try_from(rest / 10).unwrap();
                rest %= 10;
            }
            digits.push(char::from_digit(rest, 10).unwrap());
        }
        let text: String = digits.iter().rev().collect();
        format!("{}{}", if negative { "-" } else { "" }, if text.is_empty() { "0" } else { &text })
    }

    proptest! {
        #[test]
        fn integers_survive(text in "-?[1-9][0-9]{0,120}") {
            prop_assert_eq!(decimal_text(&decimal(&text, 0).unwrap()), text);
        }

        #[test]
        fn the_long_way_agrees_with_the_short_one(value in any::<i128>()) {
            let magnitude = value.unsigned_abs().to_string();
            let long = twos_complement(&limbs(magnitude.as_bytes()), value < 0);
            let short = value.to_be_bytes();
            prop_assert_eq!(without_sign_bytes(&long), without_sign_bytes(&short));
        }
    }
}
