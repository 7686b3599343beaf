//! From rows of `pg_type` to a type with everything below it.

use rowcast_engine::schema::{Field, Type, TypeKind};
use tokio_postgres::types::{Kind, Type as BuiltIn};

use super::types::{TypeRow, Types};

/// Types within types; a row type cannot contain itself, so this ends by itself in every sound catalog. One level is up to
/// four of JSON, of which 127 can be read back: with those around it and a built-in array below, 103 of them are used.
const MAX_DEPTH: usize = 24;

const INT2VECTOR: u32 = 22;
const OIDVECTOR: u32 = 30;

/// The type with this OID. One that the catalog does not have (any more) is taken from what is built in, else it
/// is a base type without a name, whose values are shown as their text.
pub(super) fn build(types: &Types, oid: u32) -> Type {
    at_depth(types, oid, MAX_DEPTH)
}

fn at_depth(types: &Types, oid: u32, left: usize) -> Type {
    let (Some(row), Some(left)) = (types.get(&oid), left.checked_sub(1)) else { return built_in(oid) };
    let below = |oid| Box::new(at_depth(types, oid, left));
    let kind = match (oid, row.kind, row.element) {
        (INT2VECTOR | OIDVECTOR, _, Some(element)) => TypeKind::Vector(below(element)),
        (_, _, Some(element)) => TypeKind::Array { element: below(element), delimiter: row.delimiter },
        (_, b'c', _) => TypeKind::Composite(fields(types, row, left)),
        (_, b'd', _) => TypeKind::Domain { base: below(row.base), typmod: row.typmod },
        (_, b'e', _) => TypeKind::Enum(row.labels.clone()),
        (_, b'r' | b'm', _) => TypeKind::Range,
        _ if Type::extension_of(&row.name).is_some_and(|known| row.extension.as_deref() != Some(known)) => {
            TypeKind::Opaque
        }
        _ => TypeKind::Base,
    };
    Type { oid, name: row.name.clone(), kind }
}

fn fields(types: &Types, row: &TypeRow, left: usize) -> Vec<Field> {
    let field = |(name, oid): &(String, u32)| Field { name: name.clone(), ty: at_depth(types, *oid, left) };
    row.attributes.iter().map(field).collect()
}

/// A type of every Postgres, known without asking.
fn built_in(oid: u32) -> Type {
    let Some(ty) = BuiltIn::from_oid(oid) else { return Type::base(oid, "unknown") };
    let kind = match (oid, ty.kind()) {
        (INT2VECTOR, _) => TypeKind::Vector(Box::new(Type::base(21, "int2"))),
        (OIDVECTOR, _) => TypeKind::Vector(Box::new(Type::base(26, "oid"))),
        (_, Kind::Array(element)) => TypeKind::Array {
            element: Box::new(built_in(element.oid())),
            delimiter: if *element == BuiltIn::BOX { ';' } else { ',' },
        },
        (_, Kind::Range(_) | Kind::Multirange(_)) => TypeKind::Range,
        _ => TypeKind::Base,
    };
    Type { oid, name: ty.name().to_owned(), kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: u8) -> TypeRow {
        TypeRow {
            name: "t".to_owned(),
            kind,
            element: None,
            delimiter: ',',
            base: 0,
            typmod: -1,
            labels: Vec::new(),
            attributes: Vec::new(),
            extension: None,
        }
    }

    #[test]
    fn a_domain_over_an_array_of_composites() {
        let types = Types::from([
            (1001, TypeRow { base: 1002, ..row(b'd') }),
            (1002, TypeRow { element: Some(1003), ..row(b'b') }),
            (
                1003,
                TypeRow { attributes: vec![("x".to_owned(), 23), ("mood".to_owned(), 1004)], ..row(b'c') },
            ),
            (1004, TypeRow { labels: vec!["sad".to_owned(), "ok".to_owned()], ..row(b'e') }),
        ]);
        let ty = build(&types, 1001);
        let TypeKind::Array { element, .. } = &ty.undomained().kind else { panic!("{ty:?}") };
        let TypeKind::Composite(fields) = &element.kind else { panic!("{element:?}") };
        assert_eq!((fields[0].name.as_str(), fields[0].ty.name.as_str()), ("x", "int4"));
        assert_eq!(fields[1].ty.kind, TypeKind::Enum(vec!["sad".to_owned(), "ok".to_owned()]));
    }

    #[test]
    fn a_name_says_something_of_an_extensions_own_types_alone() {
        let named = |extension: Option<&str>| {
            let extension = extension.map(str::to_owned);
            let types =
                Types::from([(16_500, TypeRow { name: "geometry".to_owned(), extension, ..row(b'b') })]);
            build(&types, 16_500).kind
        };
        assert_eq!(named(Some("postgis")), TypeKind::Base);
        assert_eq!((named(None), named(Some("hstore"))), (TypeKind::Opaque, TypeKind::Opaque));
        let types = Types::from([(16_500, row(b'b'))]);
        assert_eq!(build(&types, 16_500), Type::base(16_500, "t"));
    }

    #[test]
    fn what_the_catalog_lacks_is_built_in_or_unknown() {
        let none = Types::new();
        assert_eq!(
            build(&none, 1007).kind,
            TypeKind::Array { element: Box::new(Type::base(23, "int4")), delimiter: ',' }
        );
        assert!(matches!(build(&none, 1020).kind, TypeKind::Array { delimiter: ';', .. }));
        assert!(matches!(build(&none, 22).kind, TypeKind::Vector(_)));
        assert_eq!(build(&none, 3904).kind, TypeKind::Range);
        assert_eq!(build(&none, 99_999), Type::base(99_999, "unknown"));
    }

    #[test]
    fn a_type_within_itself_ends() {
        let types = Types::from([(99_999, TypeRow { base: 99_999, ..row(b'd') })]);
        assert_eq!(build(&types, 99_999).undomained(), &Type::base(99_999, "unknown"));
    }
}
