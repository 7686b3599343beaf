//! Array and vector text: `{1,NULL,"a b"}`, `[0:1]={5,6}`, `{{1,2},{3,4}}`, `1 2 3`.
//!
//! Source: PostgreSQL documentation, "Array Input and Output Syntax"; `array_out` writes no blanks of its own.

use std::borrow::Cow;

use crate::format::json::separate;
use crate::format::value::ValueError;

/// Writes one element that is not null.
pub(super) type WriteElement<'f> = &'f mut dyn FnMut(&mut Vec<u8>, &[u8]) -> Result<(), ValueError>;

/// An element's text, `None` for NULL.
type Element<'a> = Option<Cow<'a, [u8]>>;

/// Appends an array as a JSON array, nested as deep as it has dimensions; lower bounds are dropped.
pub(super) fn write_array(
    out: &mut Vec<u8>,
    text: &[u8],
    delimiter: char,
    write: WriteElement<'_>,
) -> Result<(), ValueError> {
    let delimiter = u8::try_from(delimiter).map_err(|_| ValueError::ARRAY)?;
    let mut rest = without_bounds(text).ok_or(ValueError::ARRAY)?;
    let mut depth = 0_usize;
    loop {
        while let Some(inside) = rest.strip_prefix(b"{") {
            if depth > 0 {
                separate(out);
            }
            out.push(b'[');
            depth += 1;
            rest = inside;
        }
        if depth == 0 {
            return Err(ValueError::ARRAY);
        }
        if !(rest.starts_with(b"}") && out.ends_with(b"[")) {
            let (element, after) = split_element(rest, delimiter).ok_or(ValueError::ARRAY)?;
            separate(out);
            match element {
                Some(text) => write(out, &text)?,
                None => out.extend_from_slice(b"null"),
            }
            rest = after;
        }
        while let Some(after) = rest.strip_prefix(b"}").filter(|_| depth > 0) {
            out.push(b']');
            depth -= 1;
            rest = after;
        }
        if depth == 0 {
            return if rest.is_empty() { Ok(()) } else { Err(ValueError::ARRAY) };
        }
        rest = rest.strip_prefix(&[delimiter]).ok_or(ValueError::ARRAY)?;
    }
}

/// Drops `[0:2][1:3]=`, which stands before an array whose lower bounds are not all 1.
fn without_bounds(text: &[u8]) -> Option<&[u8]> {
    if !text.starts_with(b"[") {
        return Some(text);
    }
    text.get(memchr::memchr(b'=', text)? + 1..)
}

/// Takes one element off the front, and gives what follows it.
fn split_element(text: &[u8], delimiter: u8) -> Option<(Element<'_>, &[u8])> {
    if let Some(inside) = text.strip_prefix(b"\"") {
        let (element, rest) = split_quoted(inside)?;
        return Some((Some(element), rest));
    }
    let end = text.iter().position(|b| *b == delimiter || *b == b'}')?;
    let (element, rest) = text.split_at(end);
    if element.is_empty() || element.iter().any(|b| matches!(b, b'"' | b'\\' | b'{')) {
        return None;
    }
    let null = element.eq_ignore_ascii_case(b"NULL");
    Some(((!null).then_some(Cow::Borrowed(element)), rest))
}

/// Reads up to the closing quote; only an element with a backslash in it is copied.
fn split_quoted(inside: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let mut copy: Option<Vec<u8>> = None;
    let mut at = 0;
    loop {
        let run = inside.get(at..)?;
        let length = memchr::memchr2(b'"', b'\\', run)?;
        if run.get(length) == Some(&b'"') {
            let rest = run.get(length + 1..)?;
            let element = match copy {
                None => Cow::Borrowed(inside.get(..at + length)?),
                Some(mut copy) => {
                    copy.extend_from_slice(run.get(..length)?);
                    Cow::Owned(copy)
                }
            };
            return Some((element, rest));
        }
        let copy = copy.get_or_insert_default();
        copy.extend_from_slice(run.get(..length)?);
        copy.push(*run.get(length + 1)?);
        at += length + 2;
    }
}

/// Appends `int2vector` or `oidvector` text, values with blanks between, as a JSON array.
pub(super) fn write_vector(
    out: &mut Vec<u8>,
    text: &[u8],
    write: WriteElement<'_>,
) -> Result<(), ValueError> {
    out.push(b'[');
    for element in text.split(|b| *b == b' ').filter(|element| !element.is_empty()) {
        separate(out);
        write(out, element)?;
    }
    out.push(b']');
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::format::json::write_text;

    fn strings(text: &str, delimiter: char) -> Result<Value, ValueError> {
        let mut out = Vec::new();
        write_array(&mut out, text.as_bytes(), delimiter, &mut |out, text| write_text(out, text))?;
        Ok(serde_json::from_slice(&out).unwrap())
    }

    #[test]
    fn reads_what_postgres_prints() {
        assert_eq!(strings("{}", ',').unwrap(), json!([]));
        assert_eq!(
            strings("{a,NULL,\"NULL\",\"\",\"b c\"}", ',').unwrap(),
            json!(["a", null, "NULL", "", "b c"])
        );
        assert_eq!(
            strings(r#"{"d\"e","x\\y","{}","a,b"}"#, ',').unwrap(),
            json!(["d\"e", "x\\y", "{}", "a,b"])
        );
        assert_eq!(strings("[0:1]={5,6}", ',').unwrap(), json!(["5", "6"]));
        assert_eq!(strings("[-1:0][2:3]={{1,2},{3,4}}", ',').unwrap(), json!([["1", "2"], ["3", "4"]]));
        assert_eq!(strings("{{{1},{2}},{{3},{4}}}", ',').unwrap(), json!([[["1"], ["2"]], [["3"], ["4"]]]));
        assert_eq!(strings("{(3,4),(1,2);(7,8),(5,6)}", ';').unwrap(), json!(["(3,4),(1,2)", "(7,8),(5,6)"]));
        assert_eq!(strings("{NULL;\"a;b\"}", ';').unwrap(), json!([null, "a;b"]));
    }

    #[test]
    fn refuses_what_is_no_array() {
        for text in [
            "", "1", "{", "}", "{1", "{1,}", "{,1}", "{1}}", "{1}2", "[0:1]", "{\"a}", "{a\"b}", "{1,{2}",
            "{\"\\", "{{},",
        ] {
            assert_eq!(strings(text, ','), Err(ValueError::ARRAY), "{text:?}");
        }
    }

    #[test]
    fn vectors_have_blanks_between() {
        for (text, expected) in [("1 2 3", "[1,2,3]"), ("", "[]"), ("7", "[7]")] {
            let mut out = Vec::new();
            write_vector(&mut out, text.as_bytes(), &mut |out, text| {
                out.extend_from_slice(text);
                Ok(())
            })
            .unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    /// Writes as `array_out` does, always quoting.
    fn encoded(elements: &[Option<String>]) -> String {
        let quoted = |text: &String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let texts: Vec<_> = elements.iter().map(|e| e.as_ref().map_or("NULL".into(), quoted)).collect();
        format!("{{{}}}", texts.join(","))
    }

    proptest! {
        #[test]
        fn elements_survive(elements in proptest::collection::vec(any::<Option<String>>(), 0..6)) {
            prop_assert_eq!(strings(&encoded(&elements), ',').unwrap(), json!(elements));
        }

        #[test]
        fn dimensions_survive(rows in proptest::collection::vec(proptest::collection::vec(any::<Option<String>>(), 2), 1..4)) {
            let text = format!("{{{}}}", rows.iter().map(|row| encoded(row)).collect::<Vec<_>>().join(","));
            prop_assert_eq!(strings(&text, ',').unwrap(), json!(rows));
        }

        #[test]
        fn anything_else_is_refused_or_valid(text in "[{}\",\\\\ab\\[\\]=:N]{0,16}") {
            // Parsing the output is the assertion.
            let _ = strings(&text, ',');
        }
    }
}
