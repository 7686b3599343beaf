//! JSON that Postgres or a publisher hands us as text: checked, and put on one line.

use crate::format::json::{plain_prefix, utf8};
use crate::format::number::json_number_len;
use crate::format::value::ValueError;

/// Appends JSON text, without the newlines between its tokens and otherwise byte for byte.
///
/// Checked on the way, since one broken value would break the line that it stands on. Fails with nothing useful
/// written; the caller truncates.
pub(super) fn write_json(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    utf8(text)?;
    let mut scan = Scan { text, at: 0, copied: 0, out };
    scan.document().ok_or(ValueError::JSON)
}

/// A cursor over the text; what lies before `copied` is in `out`.
struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    copied: usize,
    out: &'a mut Vec<u8>,
}

impl Scan<'_> {
    fn document(&mut self) -> Option<()> {
        let mut nesting = Nesting::default();
        loop {
            if self.value(&mut nesting)? {
                continue;
            }
            while self.after_value(&mut nesting)? {
                if nesting.depth == 0 {
                    self.copy();
                    return (self.at == self.text.len()).then_some(());
                }
            }
        }
    }

    /// Reads a value or the opening of one; true when another value comes next inside of it.
    fn value(&mut self, nesting: &mut Nesting) -> Option<bool> {
        self.space();
        match *self.text.get(self.at)? {
            b'{' => {
                self.at += 1;
                nesting.push(true);
                self.space();
                if self.text.get(self.at) == Some(&b'}') {
                    return Some(false);
                }
                self.member()?;
                return Some(true);
            }
            b'[' => {
                self.at += 1;
                nesting.push(false);
                self.space();
                return Some(self.text.get(self.at) != Some(&b']'));
            }
            b'"' => self.string()?,
            b't' => self.literal(b"true")?,
            b'f' => self.literal(b"false")?,
            b'n' => self.literal(b"null")?,
            _ => self.at += json_number_len(self.text.get(self.at..)?)?,
        }
        Some(false)
    }

    /// Reads what follows a value; true when one is complete once more, false when another one comes next.
    fn after_value(&mut self, nesting: &mut Nesting) -> Option<bool> {
        self.space();
        if nesting.depth == 0 {
            return Some(true);
        }
        let closing = if nesting.in_object() { b'}' } else { b']' };
        let byte = *self.text.get(self.at)?;
        self.at += 1;
        if byte == closing {
            nesting.pop();
            self.space();
            return Some(true);
        }
        if byte != b',' {
            return None;
        }
        if nesting.in_object() {
            self.space();
            self.member()?;
        }
        Some(false)
    }

    /// Reads a member's name and its colon.
    fn member(&mut self) -> Option<()> {
        self.string()?;
        self.space();
        self.literal(b":")
    }

    fn string(&mut self) -> Option<()> {
        self.literal(b"\"")?;
        loop {
            self.at += plain_prefix(self.text.get(self.at..)?);
            match *self.text.get(self.at)? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => self.escape()?,
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        let rest = self.text.get(self.at + 1..)?;
        self.at += match rest.first()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
            b'u' if rest.get(1..5)?.iter().all(u8::is_ascii_hexdigit) => 6,
            _ => return None,
        };
        Some(())
    }

    fn literal(&mut self, word: &[u8]) -> Option<()> {
        self.text.get(self.at..)?.starts_with(word).then(|| self.at += word.len())
    }

    /// Passes white space; newlines are not copied.
    fn space(&mut self) {
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b' ' | b'\t' => self.at += 1,
                b'\n' | b'\r' => {
                    self.copy();
                    self.at += 1;
                    self.copied = self.at;
                }
                _ => return,
            }
        }
    }

    fn copy(&mut self) {
        self.out.extend_from_slice(self.text.get(self.copied..self.at).unwrap_or_default());
        self.copied = self.at;
    }
}

/// Which brackets are open: a bit each, true for an object. The first 128 levels cost no memory.
#[derive(Default)]
struct Nesting {
    depth: usize,
    top: u128,
    below: Vec<u128>,
}

impl Nesting {
    fn push(&mut self, object: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(128) {
            self.below.push(self.top);
        }
        self.top = (self.top << 1) | u128::from(object);
        self.depth += 1;
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.top >>= 1;
        if self.depth > 0 && self.depth.is_multiple_of(128) {
            self.top = self.below.pop().unwrap_or_default();
        }
    }

    fn in_object(&self) -> bool {
        self.top & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    fn written(text: &str) -> Result<String, ValueError> {
        let mut out = Vec::new();
        write_json(&mut out, text.as_bytes())?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn keeps_the_text_but_for_newlines_between_tokens() {
        assert_eq!(
            written("{\"b\" : 1,\r\n \"a\":[ ],\n\t\"a\":{\n}}\n").unwrap(),
            "{\"b\" : 1, \"a\":[ ],\t\"a\":{}}"
        );
        assert_eq!(written("\"a\\nb\"").unwrap(), "\"a\\nb\"");
        assert_eq!(written(" -1.50e+3 ").unwrap(), " -1.50e+3 ");
        assert_eq!(written("\n[true,\nfalse,null]").unwrap(), "[true,false,null]");
    }

    #[test]
    fn refuses_what_is_no_json() {
        let broken = [
            "",
            " ",
            "{",
            "}",
            "[1,]",
            "[,1]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "tru",
            "nul",
            "01",
            "1.",
            "+1",
            "1 2",
            "[1]]",
            "[1}",
            "{\"a\":1]",
            "\"a",
            "\"a\nb\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "'a'",
            "NaN",
            "-",
            "[1 2]",
        ];
        for text in broken {
            assert_eq!(written(text), Err(ValueError::JSON), "{text:?}");
        }
        assert_eq!(write_json(&mut Vec::new(), b"\"\xff\""), Err(ValueError::ENCODING));
    }

    #[test]
    fn depth_has_no_limit_of_its_own() {
        for depth in [127, 128, 129, 257, 5000] {
            let mixed = format!("{}1{}", "[{\"a\":".repeat(depth), "}]".repeat(depth));
            assert_eq!(written(&mixed).unwrap(), mixed, "{depth}");
            let broken = format!("{}1{}", "[{\"a\":".repeat(depth), "]}".repeat(depth));
            assert_eq!(written(&broken), Err(ValueError::JSON));
        }
    }

    proptest! {
        #[test]
        fn agrees_with_serde_about_what_is_json(text in "[\\[\\]{}:,\" \\n0-9.eE+\\-a-fnrtuls\\\\]{0,24}") {
            let ours = written(&text);
            let theirs = serde_json::from_str::<Box<RawValue>>(&text);
            prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?}", text);
        }
    }
}
