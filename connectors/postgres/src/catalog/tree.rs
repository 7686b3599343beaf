//! From rows of `pg_type` to a type with everything below it.

use std::collections::HashMap;

use rowcast_engine::schema::{Field, Type, TypeKind};
use tokio_postgres::types::{Kind, Type as BuiltIn};

use super::types::{TypeRow, Types};

/// Types within types; a row type cannot contain itself, so this ends by itself in every sound catalog. One level is up to
/// four of JSON, of which 127 can be read back: with those around it and a built-in array below, 103 of them are used.
const MAX_DEPTH: usize = 24;

/// So many parts (attributes, elements, labels) the types of a table have together. A row type is told anew wherever it is
/// used: thirty of them, each with two of the one before, would be a billion.
const MAX_PARTS: usize = 50_000;

const INT2VECTOR: u32 = 22;
const OIDVECTOR: u32 = 30;

/// The types of a table's columns.
pub(super) struct Trees<'a> {
    types: &'a Types,
    /// Parts that they may still have.
    left: usize,
    /// How many a type has, so many levels of it.
    parts: HashMap<(u32, usize), usize>,
}

impl<'a> Trees<'a> {
    pub(super) fn of(types: &'a Types) -> Self {
        Self { types, left: MAX_PARTS, parts: HashMap::new() }
    }

    /// The type of the next column, by its OID. One that the catalog does not have (any more) is taken from what is built
    /// in, else nothing is known of it (see `past_types.rs`). One with more parts than are left
    /// is its text, too, and takes none from the columns behind it.
    pub(super) fn build(&mut self, oid: u32) -> Type {
        let parts = self.parts(oid, MAX_DEPTH);
        match (self.left.checked_sub(parts), self.types.get(&oid)) {
            (None, Some(row)) => Type { oid, name: row.name.clone(), kind: TypeKind::Opaque },
            (left, _) => {
                self.left = left.unwrap_or(0);
                at_depth(self.types, oid, MAX_DEPTH)
            }
        }
    }

    /// How many parts there would be: counted once for each type and level, however often it is used.
    fn parts(&mut self, oid: u32, left: usize) -> usize {
        let (Some(row), Some(below)) = (self.types.get(&oid), left.checked_sub(1)) else { return 0 };
        if let Some(known) = self.parts.get(&(oid, left)) {
            return *known;
        }
        let attributes = row.attributes.iter().map(|(_, oid)| *oid);
        let within = attributes.chain(row.element).chain((row.base != 0).then_some(row.base));
        let parts = within
            .fold(row.labels.len(), |sum, oid| sum.saturating_add(1).saturating_add(self.parts(oid, below)));
        self.parts.insert((oid, left), parts);
        parts
    }
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

/// Whether the row type that this is, or that its elements are, has only ever been given attributes.
pub(super) fn has_grown(types: &Types, mut oid: u32) -> bool {
    for _ in 0..MAX_DEPTH {
        let Some(row) = types.get(&oid) else { return false };
        match (row.element, row.base) {
            (Some(element), _) => oid = element,
            (None, 0) => return row.kind == b'c' && !row.lost,
            (None, base) => oid = base,
        }
    }
    false
}

/// A type of every Postgres, known without asking.
fn built_in(oid: u32) -> Type {
    let Some(ty) = BuiltIn::from_oid(oid) else { return Type::unknown(oid) };
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

    fn build(types: &Types, oid: u32) -> Type {
        Trees::of(types).build(oid)
    }

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
            lost: false,
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
        assert_eq!(build(&none, 99_999), Type::unknown(99_999));
    }

    #[test]
    fn a_type_within_itself_ends() {
        let types = Types::from([(99_999, TypeRow { base: 99_999, ..row(b'd') })]);
        assert_eq!(build(&types, 99_999).undomained(), &Type::unknown(99_999));
    }

    fn nodes(ty: &Type) -> usize {
        1 + match &ty.kind {
            TypeKind::Composite(fields) => fields.iter().map(|field| nodes(&field.ty)).sum(),
            TypeKind::Array { element, .. } => nodes(element),
            TypeKind::Enum(labels) => labels.len(),
            _ => 0,
        }
    }

    /// Each level has twice as many.
    #[test]
    fn row_types_of_row_types_are_text_where_they_have_too_many_parts() {
        let of =
            |number: u32| [("a", number), ("b", number)].map(|(name, oid)| (name.to_owned(), oid)).to_vec();
        let mut types =
            Types::from([(1000, TypeRow { attributes: vec![("x".to_owned(), 23)], ..row(b'c') })]);
        types.extend(
            (1..=31).map(|level| (1000 + level, TypeRow { attributes: of(999 + level), ..row(b'c') })),
        );
        types.insert(2000, TypeRow { element: Some(1031), ..row(b'b') });
        types.insert(2001, TypeRow { labels: vec!["ok".to_owned(); MAX_PARTS], ..row(b'e') });
        types.insert(23, TypeRow { name: "int4".to_owned(), ..row(b'b') });
        let columns = [1031, 2000, 1014, 1002, 1013, 2001, 23];
        let mut trees = Trees::of(&types);
        let built = columns.map(|oid| trees.build(oid));
        let all: usize = built.iter().map(nodes).sum();
        assert!(all <= columns.len() + MAX_PARTS, "{all}");
        let opaque = built.each_ref().map(|ty| ty.kind == TypeKind::Opaque);
        assert_eq!(opaque, [true, true, false, false, true, true, false]);
        // Whole, or not at all: 3 * 2^14 - 2 parts, and ten.
        assert_eq!((nodes(&built[2]), nodes(&built[3])), (49_151, 11));
        assert_eq!((built[0].name.as_str(), &built[6]), ("t", &Type::base(23, "int4")));
    }
}
