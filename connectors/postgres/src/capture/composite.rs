//! Notices that a row type has changed: Postgres sends no message for that.

use std::borrow::Cow;

use rowcast_engine::record::{Tuple, Value};
use rowcast_engine::schema::{Schema, Type, TypeKind};

use crate::catalog::Attributes;

/// A column whose type is a row type, or an array of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Composite {
    column: usize,
    is_array: bool,
    /// As many fields as its values have.
    fields: usize,
    /// There was such a value.
    seen: bool,
}

impl Composite {
    /// How many fields the values of a row have; `None` for what does not tell.
    fn fields_of(&self, row: Tuple<'_>) -> Option<usize> {
        let Some(Value::Text(text)) = row.values().nth(self.column) else { return None };
        if self.is_array { fields(&element(text)?) } else { fields(text) }
    }
}

/// The row-type columns of a table.
pub(super) fn columns(schema: &Schema) -> Vec<Composite> {
    let composite = |(column, ty): (usize, &Type)| {
        let fields = ty.row()?.len();
        let is_array = matches!(ty.undomained().kind, TypeKind::Array { .. });
        Some(Composite { column, is_array, fields, seen: false })
    };
    schema.columns.iter().map(|column| &column.ty).enumerate().filter_map(composite).collect()
}

/// A column whose value in `raw` (what follows the relation id in a change) has another number of fields, and how
/// many those are.
pub(super) fn mismatch(composites: &[Composite], raw: &[u8]) -> Option<Attributes> {
    rows(raw).find_map(|row| {
        composites.iter().find_map(|composite| {
            let count = composite.fields_of(row)?;
            (count != composite.fields).then_some(Attributes { column: composite.column, count })
        })
    })
}

/// Accepts values of so many fields from now on: the catalog, asked again, knows no better.
pub(super) fn accept(composites: &mut [Composite], new: Attributes) {
    for composite in composites.iter_mut().filter(|composite| composite.column == new.column) {
        composite.fields = new.count;
    }
}

/// Notes of which columns a change, which has no mismatch, has values.
pub(super) fn note_seen(composites: &mut [Composite], raw: &[u8]) {
    for composite in composites.iter_mut().filter(|composite| !composite.seen) {
        composite.seen = rows(raw).any(|row| composite.fields_of(row).is_some());
    }
}

/// Likewise, with other numbers of fields, of which nothing has been seen.
pub(super) fn unseen(composites: &[Composite], new: Attributes) -> Vec<Composite> {
    let mut composites = composites.to_vec();
    composites.iter_mut().for_each(|composite| composite.seen = false);
    accept(&mut composites, new);
    composites
}

/// Whether they are of the same numbers of fields.
pub(super) fn are_alike(these: &[Composite], those: &[Composite]) -> bool {
    let counts = |composites: &[Composite]| -> Vec<(usize, usize)> {
        composites.iter().map(|composite| (composite.column, composite.fields)).collect()
    };
    counts(these) == counts(those)
}

/// How many fields the values that were seen have.
pub(super) fn seen(composites: &[Composite]) -> Vec<Attributes> {
    let seen = composites.iter().filter(|composite| composite.seen);
    seen.map(|composite| Attributes { column: composite.column, count: composite.fields }).collect()
}

/// The rows of a change: the new one, or the old one and then the new one.
fn rows(raw: &[u8]) -> impl Iterator<Item = Tuple<'_>> {
    let mut rest = raw;
    std::iter::from_fn(move || {
        let (_tag, bytes) = rest.split_first()?;
        let (row, after) = Tuple::split(bytes)?;
        rest = after;
        Some(row)
    })
}

/// The first element of an array's text that is not null, unquoted.
fn element(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    // Bounds stand in front, if they are not from 1 on.
    let mut rest = text.get(text.iter().position(|byte| *byte == b'{')?..)?;
    loop {
        while let [b'{', after @ ..] = rest {
            rest = after;
        }
        if let [b'"', after @ ..] = rest {
            return unquoted(after).map(Cow::Owned);
        }
        let end = rest.iter().position(|byte| matches!(byte, b',' | b'}'))?;
        match rest.get(..end)? {
            b"" | b"NULL" => {}
            element => return Some(Cow::Borrowed(element)),
        }
        rest = rest.get(end + 1..)?;
    }
}

fn unquoted(text: &[u8]) -> Option<Vec<u8>> {
    let (mut element, mut bytes) = (Vec::new(), text.iter());
    loop {
        match bytes.next()? {
            b'"' => return Some(element),
            b'\\' => element.push(*bytes.next()?),
            byte => element.push(*byte),
        }
    }
}

/// How many fields a row's text form has: commas outside quotes, and one more. `None` for `()`, which is no field
/// or one that is null.
fn fields(text: &[u8]) -> Option<usize> {
    if text == b"()" {
        return None;
    }
    let (mut count, mut quoted, mut escaped) = (1, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => count += 1,
            _ => {}
        }
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_fields() {
        for (text, count) in [
            ("(1,2)", Some(2)),
            ("()", None),
            ("(,)", Some(2)),
            (r#"("a,b",c)"#, Some(2)),
            (r#"("a""b,",c)"#, Some(2)),
            (r#"("a\\",c)"#, Some(2)),
            (r#"("(1,""x,y"")",c)"#, Some(2)),
            ("(1)", Some(1)),
        ] {
            assert_eq!(fields(text.as_bytes()), count, "{text}");
        }
    }

    #[test]
    fn finds_the_column_that_changed() {
        let mut composites = vec![Composite { column: 1, is_array: false, fields: 2, seen: false }];
        let raw = b"N\0\x02t\0\0\0\x011t\0\0\0\x07(1,2,3)";
        let three = Attributes { column: 1, count: 3 };
        assert_eq!(mismatch(&composites, raw), Some(three));
        accept(&mut composites, three);
        assert_eq!(mismatch(&composites, raw), None);
        let null = b"N\0\x02t\0\0\0\x011n";
        assert_eq!(mismatch(&composites, null), None);
        note_seen(&mut composites, null);
        assert_eq!(seen(&composites), []);
        note_seen(&mut composites, raw);
        assert_eq!(seen(&composites), [three]);
        let others = unseen(&composites, Attributes { column: 1, count: 4 });
        assert!(seen(&others).is_empty() && !are_alike(&composites, &others));
        assert!(are_alike(&others, &unseen(&others, Attributes { column: 1, count: 4 })));
    }

    #[test]
    fn finds_the_first_element_of_an_array() {
        for (text, first) in [
            (r#"{"(1,2)","(3,4,5)"}"#, Some("(1,2)")),
            (r#"{NULL,"(1,\"a\"\"\\\\b\")"}"#, Some(r#"(1,"a""\\b")"#)),
            (r#"[0:1]={"(1,2)",NULL}"#, Some("(1,2)")),
            (r#"{{NULL,NULL},{NULL,"(1,2)"}}"#, Some("(1,2)")),
            ("{(1)}", Some("(1)")),
            ("{(),(1)}", Some("()")),
            ("{}", None),
            ("{NULL}", None),
            (r#"{"(1"#, None),
            ("1", None),
        ] {
            let found = element(text.as_bytes());
            assert_eq!(found.as_deref(), first.map(str::as_bytes), "{text}");
        }
    }
}
