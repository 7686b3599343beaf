//! Whether a payload is JSON that every reader of events can take in: numbers of any size, and no more than that.

use serde::de::IgnoredAny;

/// Levels within each other. Parsers give up somewhere, serde_json behind 127; on a page an event's payload stands three
/// levels deep.
const DEPTH_MAX: usize = 124;

/// What is wrong with it, if anything, for whoever has sent it.
pub(crate) fn check(payload: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(payload).map_err(|_| "The payload is not UTF-8".to_owned())?;
    // Numbers are not looked at: they are kept as they are written.
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| format!("The payload is not JSON: {error}"))?;
    Sound { rest: text, depth: 0 }.check()
}

/// JSON, about which the grammar leaves something to be said.
struct Sound<'a> {
    rest: &'a str,
    depth: usize,
}

impl Sound<'_> {
    fn check(mut self) -> Result<(), String> {
        while let Some(at) = self.rest.find(['"', '[', ']', '{', '}']) {
            let (byte, rest) = (self.rest.as_bytes().get(at), self.rest.get(at + 1..).unwrap_or_default());
            self.rest = rest;
            match byte {
                Some(b'"') => self.string()?,
                Some(b'[' | b'{') if self.depth == DEPTH_MAX => {
                    return Err(format!("The payload has more than {DEPTH_MAX} levels of objects and lists"));
                }
                Some(b'[' | b'{') => self.depth += 1,
                _ => self.depth = self.depth.saturating_sub(1),
            }
        }
        Ok(())
    }

    /// Passes the rest of a string. Half of a surrogate pair is no character, and no parser makes one of it.
    fn string(&mut self) -> Result<(), String> {
        while let Some(at) = self.rest.find(['"', '\\']) {
            let found = self.rest.get(at..).unwrap_or_default();
            if let Some(rest) = found.strip_prefix('"') {
                self.rest = rest;
                return Ok(());
            }
            let length = match (unit(found), found.get(6..).and_then(unit)) {
                (Some(0xD800..0xDC00), Some(0xDC00..0xE000)) => 12,
                (Some(lone @ 0xD800..0xE000), _) => {
                    return Err(format!("The payload has \\u{lone:04x}, half of a character, in a string"));
                }
                (Some(_), _) => 6,
                (None, _) => 2,
            };
            self.rest = found.get(length..).unwrap_or_default();
        }
        Ok(())
    }
}

/// The UTF-16 unit that an escape at the start of `text` stands for.
fn unit(text: &str) -> Option<u16> {
    u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> String {
        format!("{}1{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn all_that_readers_can_take_in() {
        for text in [
            "1e400",
            "-123456789012345678901234567890.5E-999",
            &"9".repeat(400),
            r#"{"a": [1, {"b": "]}\"[{"}], "c": "\\"}"#,
            r#""\ud83d\ude00 \u00e4 😀""#,
            &nested(DEPTH_MAX),
            // Many, but not within each other.
            &format!("[{}[]]", "[],".repeat(500)),
        ] {
            assert_eq!(check(text.as_bytes()), Ok(()), "{text}");
        }
    }

    #[test]
    fn each_refusal_says_why() {
        for (text, why) in [
            (&b"\xff"[..], "not UTF-8"),
            (b"{", "not JSON: EOF"),
            (b"1 2", "not JSON: trailing"),
            (b"01", "not JSON: invalid number"),
            (nested(DEPTH_MAX + 1).as_bytes(), "more than 124 levels"),
            (br#"["\ud800"]"#, "\\ud800"),
            (br#""\ud800\ud800""#, "\\ud800"),
            (br#""\udc00""#, "\\udc00"),
            (br#""\\\udc00""#, "\\udc00"),
        ] {
            let refused = check(text).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
