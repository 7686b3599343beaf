//! hstore text: `"a"=>"1", "b c"=>"d\"e", "n"=>NULL`. Source: PostgreSQL documentation, "hstore".

use std::borrow::Cow;

use crate::format::json;
use crate::format::value::ValueError;

/// A key and its value, `None` for NULL.
pub(super) type Pair<'a> = (Cow<'a, [u8]>, Option<Cow<'a, [u8]>>);

/// Iterates over the pairs as `hstore_out` prints them.
pub(super) struct Pairs<'a> {
    rest: &'a [u8],
    first: bool,
}

impl<'a> Pairs<'a> {
    pub(super) fn of(text: &'a [u8]) -> Self {
        Self { rest: text, first: true }
    }

    fn pair(&mut self) -> Option<Pair<'a>> {
        if !std::mem::take(&mut self.first) {
            self.rest = self.rest.strip_prefix(b", ")?;
        }
        let (key, rest) = split_quoted(self.rest)?;
        let rest = rest.strip_prefix(b"=>")?;
        if let Some(rest) = rest.strip_prefix(b"NULL") {
            self.rest = rest;
            return Some((key, None));
        }
        let (value, rest) = split_quoted(rest)?;
        self.rest = rest;
        Some((key, Some(value)))
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<Pair<'a>, ValueError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let pair = self.pair().ok_or(ValueError::HSTORE);
        if pair.is_err() {
            self.rest = &[];
        }
        Some(pair)
    }
}

/// Takes a quoted string off the front; a backslash stands before a quote or a backslash.
fn split_quoted(text: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let inside = text.strip_prefix(b"\"")?;
    let plain = memchr::memchr2(b'"', b'\\', inside)?;
    if inside.get(plain) == Some(&b'"') {
        return Some((Cow::Borrowed(inside.get(..plain)?), inside.get(plain + 1..)?));
    }
    let mut copy = Vec::new();
    let mut bytes = inside.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((Cow::Owned(copy), inside.get(at + 1..)?)),
            b'\\' => copy.push(*bytes.next()?.1),
            _ => copy.push(*byte),
        }
    }
    None
}

/// Appends an hstore as an object whose values are strings or null.
pub(super) fn write_hstore(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    out.push(b'{');
    for pair in Pairs::of(text) {
        write_pair(out, &pair?)?;
    }
    out.push(b'}');
    Ok(())
}

/// Appends one member of the object.
pub(super) fn write_pair(out: &mut Vec<u8>, (key, value): &Pair<'_>) -> Result<(), ValueError> {
    json::write_name(out, json::utf8(key)?);
    match value {
        Some(value) => json::write_text(out, value)?,
        None => out.extend_from_slice(b"null"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn object(text: &str) -> Result<Value, ValueError> {
        let mut out = Vec::new();
        write_hstore(&mut out, text.as_bytes())?;
        Ok(serde_json::from_slice(&out).unwrap())
    }

    #[test]
    fn reads_what_postgres_prints() {
        assert_eq!(object("").unwrap(), json!({}));
        let text = r#""a"=>"1", "n"=>NULL, "b c"=>"d\"e\\", "NULL"=>"NULL""#;
        assert_eq!(object(text).unwrap(), json!({"a": "1", "n": null, "b c": "d\"e\\", "NULL": "NULL"}));
    }

    #[test]
    fn refuses_what_is_no_hstore() {
        for text in
            ["a", "\"a\"", "\"a\"=>", "\"a\"=>1", "\"a\"=>\"1", "\"a\"=>\"1\"x", "\"a\"=>NULL,", "\"a\\"]
        {
            assert_eq!(object(text), Err(ValueError::HSTORE), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn pairs_survive(pairs in any::<BTreeMap<String, Option<String>>>()) {
            let quoted = |text: &String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            let pair = |(key, value): (&String, &Option<String>)| {
                format!("{}=>{}", quoted(key), value.as_ref().map_or("NULL".into(), quoted))
            };
            let text = pairs.iter().map(pair).collect::<Vec<_>>().join(", ");
            prop_assert_eq!(object(&text).unwrap(), json!(pairs));
        }
    }
}
