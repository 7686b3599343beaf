//! Notices that a row type has changed: Postgres sends no message for that.

use rowcast_engine::record::{Tuple, Value};
use rowcast_engine::schema::{Schema, TypeKind};

/// A column whose type is a row type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Composite {
    column: usize,
    /// As many fields as its values have.
    fields: usize,
}

/// The row-type columns of a table.
pub(super) fn columns(schema: &Schema) -> Vec<Composite> {
    let composite = |(column, ty): (usize, &rowcast_engine::schema::Type)| match &ty.undomained().kind {
        TypeKind::Composite(fields) => Some(Composite { column, fields: fields.len() }),
        _ => None,
    };
    schema.columns.iter().map(|column| &column.ty).enumerate().filter_map(composite).collect()
}

/// A column whose value in `raw` (what follows the relation id in a change) has another number of fields, and how
/// many those are.
pub(super) fn mismatch(composites: &[Composite], raw: &[u8]) -> Option<(usize, usize)> {
    let mut rest = raw;
    while let Some((_tag, bytes)) = rest.split_first() {
        let (tuple, after) = Tuple::split(bytes)?;
        let found = composites.iter().find_map(|composite| {
            let Some(Value::Text(text)) = tuple.values().nth(composite.column) else { return None };
            let fields = fields(text)?;
            (fields != composite.fields).then_some((composite.column, fields))
        });
        if found.is_some() {
            return found;
        }
        rest = after;
    }
    None
}

/// Accepts values of so many fields from now on: the catalog, asked again, knows no better.
pub(super) fn accept(composites: &mut [Composite], column: usize, fields: usize) {
    for composite in composites.iter_mut().filter(|composite| composite.column == column) {
        composite.fields = fields;
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
        let mut composites = vec![Composite { column: 1, fields: 2 }];
        let raw = b"N\0\x02t\0\0\0\x011t\0\0\0\x07(1,2,3)";
        assert_eq!(mismatch(&composites, raw), Some((1, 3)));
        accept(&mut composites, 1, 3);
        assert_eq!(mismatch(&composites, raw), None);
        assert_eq!(mismatch(&composites, b"N\0\x02t\0\0\0\x011n"), None);
    }
}
