//! Row text: `(7,"a, b",,"say ""x""")`. Source: PostgreSQL documentation, "Composite Type Input and Output Syntax".

use std::borrow::Cow;

use crate::format::value::ValueError;

/// The attributes of one composite value: text, or `None` for null.
pub(super) struct Attributes<'a> {
    /// What follows the opening parenthesis or the last comma; `None` after the closing parenthesis.
    rest: Option<&'a [u8]>,
}

impl<'a> Attributes<'a> {
    /// Starts to read `text`, which has to begin with a parenthesis.
    pub(super) fn of(text: &'a [u8]) -> Result<Self, ValueError> {
        text.strip_prefix(b"(").map(|rest| Self { rest: Some(rest) }).ok_or(ValueError::COMPOSITE)
    }

    /// The next attribute; an error when there is none or the text is broken.
    pub(super) fn next(&mut self) -> Result<Option<Cow<'a, [u8]>>, ValueError> {
        let rest = self.rest.take().ok_or(ValueError::COMPOSITE)?;
        let (attribute, quoted, end) = split_attribute(rest).ok_or(ValueError::COMPOSITE)?;
        self.rest = match rest.get(end) {
            Some(b',') => rest.get(end + 1..),
            Some(b')') if end + 1 == rest.len() => None,
            _ => return Err(ValueError::COMPOSITE),
        };
        Ok((quoted || !attribute.is_empty()).then_some(attribute))
    }

    /// Ends reading; an error unless all attributes have been read.
    pub(super) fn end(&self) -> Result<(), ValueError> {
        // A type without attributes prints as `()`.
        if self.rest.is_none() || self.rest == Some(b")") { Ok(()) } else { Err(ValueError::COMPOSITE) }
    }
}

/// Reads one attribute: its text, whether anything of it was quoted, and where it ends.
fn split_attribute(text: &[u8]) -> Option<(Cow<'_, [u8]>, bool, usize)> {
    let plain = text.iter().position(|b| matches!(b, b',' | b')' | b'"' | b'\\'))?;
    if let Some(b',' | b')') = text.get(plain) {
        return Some((Cow::Borrowed(text.get(..plain)?), false, plain));
    }
    if plain == 0 && text.first() == Some(&b'"') {
        let length = memchr::memchr2(b'"', b'\\', text.get(1..)?)?;
        if text.get(length + 1) == Some(&b'"') && matches!(text.get(length + 2), Some(b',' | b')')) {
            return Some((Cow::Borrowed(text.get(1..=length)?), true, length + 2));
        }
    }
    let (copy, quoted, end) = unescape(text)?;
    Some((Cow::Owned(copy), quoted, end))
}

/// The slow way: quotes anywhere, doubled quotes, backslashes.
fn unescape(text: &[u8]) -> Option<(Vec<u8>, bool, usize)> {
    let mut copy = Vec::new();
    let (mut inside, mut quoted) = (false, false);
    let mut at = 0;
    loop {
        match *text.get(at)? {
            b'\\' => {
                at += 1;
                copy.push(*text.get(at)?);
            }
            b'"' if inside && text.get(at + 1) == Some(&b'"') => {
                at += 1;
                copy.push(b'"');
            }
            b'"' => (inside, quoted) = (!inside, true),
            b',' | b')' if !inside => return Some((copy, quoted, at)),
            byte => copy.push(byte),
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attributes(text: &str, count: usize) -> Result<Vec<Option<String>>, ValueError> {
        let mut attributes = Attributes::of(text.as_bytes())?;
        let text = |bytes: Cow<'_, [u8]>| String::from_utf8(bytes.into_owned()).unwrap();
        let found = (0..count).map(|_| Ok(attributes.next()?.map(text))).collect();
        attributes.end()?;
        found
    }

    fn some(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|text| Some((*text).into())).collect()
    }

    #[test]
    fn reads_what_postgres_prints() {
        assert_eq!(attributes("()", 0).unwrap(), vec![]);
        assert_eq!(attributes("()", 1).unwrap(), vec![None]);
        assert_eq!(attributes("(,)", 2).unwrap(), vec![None, None]);
        assert_eq!(attributes("(7,\"a, b\")", 2).unwrap(), some(&["7", "a, b"]));
        assert_eq!(attributes("(\"\",\"a\"\"b\",\"c\\\\d\")", 3).unwrap(), some(&["", "a\"b", "c\\d"]));
        assert_eq!(attributes("(a\\,b,\"c\\\"d\")", 2).unwrap(), some(&["a,b", "c\"d"]));
        assert_eq!(
            attributes("(\"(1,\"\"x y\"\")\",\"{1,2}\")", 2).unwrap(),
            some(&["(1,\"x y\")", "{1,2}"])
        );
    }

    #[test]
    fn refuses_what_is_no_row_of_that_width() {
        for (text, count) in [
            ("", 1),
            ("1", 1),
            ("(", 1),
            ("(1", 1),
            ("(1,2)", 1),
            ("(1)", 2),
            ("(1))", 1),
            ("(\"a)", 1),
            ("(1)x", 1),
            ("(\\", 1),
        ] {
            assert_eq!(attributes(text, count), Err(ValueError::COMPOSITE), "{text:?} {count}");
        }
    }

    proptest! {
        #[test]
        fn attributes_survive(values in proptest::collection::vec(any::<Option<String>>(), 1..6)) {
            let quoted = |text: &String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\"\""));
            let texts: Vec<_> = values.iter().map(|v| v.as_ref().map_or(String::new(), quoted)).collect();
            prop_assert_eq!(attributes(&format!("({})", texts.join(",")), values.len()).unwrap(), values);
        }
    }
}
