//! Types of a table's columns as earlier versions had them, where the catalog of now cannot say: changes may be read when a
//! type is gone, as it is when an enumeration was made anew, or when a row type has other attributes.

use std::cmp::Reverse;
use std::sync::Arc;

use rowcast_engine::schema::{Column, Schema, Type, TypeKind};

use super::Described;

/// A column of a row type, or of an array of one, and how many attributes its values have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) column: usize,
    pub(crate) count: usize,
}

impl Described {
    /// Whether an earlier version may know more than the catalog, of a table whose values were seen to be such.
    pub(crate) fn needs_past(&self, seen: &[Attributes]) -> bool {
        self.needs_past_keys() || self.lacks_types() || seen.iter().any(|seen| !self.fits(*seen))
    }

    /// Takes from the versions of all tables what the catalog does not say.
    pub(crate) fn recall(&mut self, versions: Vec<Arc<Schema>>, seen: &[Attributes]) {
        if self.lacks_types() || !seen.is_empty() {
            self.recall_types(&versions, seen);
        }
        if self.needs_past_keys() {
            self.recall_keys(versions);
        }
    }

    fn lacks_types(&self) -> bool {
        self.schema.columns.iter().any(|column| column.ty.is_unknown())
    }

    fn fits(&self, Attributes { column, count }: Attributes) -> bool {
        self.schema.columns.get(column).is_none_or(|column| attributes(&column.ty) == Some(count))
    }

    fn recall_types(&mut self, versions: &[Arc<Schema>], seen: &[Attributes]) {
        let here = |past: &&Arc<Schema>| past.database == self.schema.database;
        let mut versions: Vec<_> = versions.iter().filter(here).collect();
        // The table's own, then what it was when it had another OID, or its partitions; the newest first.
        versions.sort_unstable_by_key(|past| (past.relation != self.schema.relation, Reverse(past.id)));
        for column in self.schema.columns.iter_mut().filter(|column| column.ty.is_unknown()) {
            let known = past(&versions, column).find(|ty| !ty.is_unknown());
            if let Some(known) = known.cloned() {
                column.ty = known;
            }
        }
        for Attributes { column: index, count } in seen {
            let Some(column) = self.schema.columns.get_mut(*index) else { continue };
            if attributes(&column.ty) == Some(*count) {
                continue;
            }
            let fitting = past(&versions, column).find(|ty| attributes(ty) == Some(*count));
            match fitting.cloned() {
                Some(fitting) => column.ty = fitting,
                None if self.grown.contains(index) => shorten(&mut column.ty, *count),
                None => {}
            }
        }
    }
}

fn attributes(ty: &Type) -> Option<usize> {
    ty.row().map(<[_]>::len)
}

/// Takes the newest attributes away.
fn shorten(ty: &mut Type, count: usize) {
    match &mut ty.kind {
        TypeKind::Domain { base, .. } => shorten(base, count),
        TypeKind::Array { element, .. } => shorten(element, count),
        TypeKind::Composite(fields) => fields.truncate(count),
        _ => {}
    }
}

/// What a column's type was. Numbers come round after four thousand million: what had this one under another name is not
/// believed to be the same type.
fn past<'a>(versions: &[&'a Arc<Schema>], column: &Column) -> impl Iterator<Item = &'a Type> {
    let (name, oid) = (column.name.clone(), column.ty.oid);
    let of = move |past: &&'a Arc<Schema>| {
        let column = past.columns.iter().find(|column| column.name == name && column.ty.oid == oid);
        column.map(|column| &column.ty)
    };
    versions.iter().copied().filter_map(move |past| of(&past))
}

#[cfg(test)]
mod tests {
    use rowcast_engine::schema::{Field, Identity};

    use super::*;

    const MOOD: u32 = 20_000;
    const PAIR: u32 = 20_001;

    fn mood(label: &str) -> Type {
        Type { oid: MOOD, name: "mood".to_owned(), kind: TypeKind::Enum(vec![label.to_owned()]) }
    }

    fn pair(names: &[&str]) -> Type {
        let field = |name: &&str| Field { name: (*name).to_owned(), ty: Type::base(23, "int4") };
        let kind = TypeKind::Composite(names.iter().map(field).collect());
        Type { oid: PAIR, name: "pair".to_owned(), kind }
    }

    fn version(id: u32, relation: u32, columns: &[(&str, Type)]) -> Schema {
        let column = |(name, ty): &(&str, Type)| Column {
            name: (*name).to_owned(),
            ty: ty.clone(),
            typmod: -1,
            identity: false,
            not_null: false,
        };
        Schema {
            id,
            relation,
            database: "d".to_owned(),
            schema: "public".to_owned(),
            table: "t".to_owned(),
            channel: "public.t".to_owned(),
            identity: Identity::Default,
            inserts_only: false,
            columns: columns.iter().map(column).collect(),
            primary_key: Vec::new(),
            key: Vec::new(),
            unique_key: Vec::new(),
        }
    }

    /// Table 1, as the catalog shows it.
    fn described(columns: &[(&str, Type)]) -> Described {
        Described {
            schema: version(0, 1, columns),
            names: Vec::new(),
            hidden: Vec::new(),
            grown: Vec::new(),
            gone: false,
            ordered: true,
            published: true,
            partly: false,
        }
    }

    /// What the columns of table 1 become.
    fn recalled(columns: &[(&str, Type)], seen: &[Attributes], versions: Vec<Schema>) -> Vec<Type> {
        let mut described = described(columns);
        assert!(described.needs_past(seen));
        described.recall(versions.into_iter().map(Arc::new).collect(), seen);
        described.schema.columns.into_iter().map(|column| column.ty).collect()
    }

    #[test]
    fn a_type_that_is_gone_is_what_it_was_last() {
        let unknown = || [("m", Type::unknown(MOOD)), ("n", Type::base(23, "int4"))];
        let of = |id, relation, label: &str| version(id, relation, &[("m", mood(label))]);
        let own = vec![of(1, 1, "first"), of(3, 1, "last"), of(2, 1, "second"), of(4, 2, "another's")];
        assert_eq!(recalled(&unknown(), &[], own), [mood("last"), Type::base(23, "int4")]);
        // Of a table that was made anew, or of a partition.
        assert_eq!(recalled(&unknown(), &[], vec![of(4, 2, "another's")])[0], mood("another's"));
        // Nobody knows it, or what has its number may be another type.
        let mut elsewhere = of(5, 1, "elsewhere");
        elsewhere.database = "e".to_owned();
        let not = vec![
            elsewhere,
            version(6, 1, &[("m", Type::unknown(MOOD))]),
            version(7, 1, &[("other", mood("other"))]),
            version(8, 1, &[("m", Type { oid: MOOD + 9, ..mood("renumbered") })]),
        ];
        assert_eq!(recalled(&unknown(), &[], not)[0], Type::unknown(MOOD));
    }

    #[test]
    fn a_row_type_is_what_its_values_were() {
        let seen = |count| [Attributes { column: 0, count }];
        let now = [("p", pair(&["a", "b", "c"]))];
        let past =
            || vec![version(1, 1, &[("p", pair(&["x", "y"]))]), version(2, 1, &[("p", pair(&["a", "b"]))])];
        assert_eq!(recalled(&now, &seen(2), past())[0], pair(&["a", "b"]));
        assert_eq!(recalled(&now, &seen(4), past())[0], pair(&["a", "b", "c"]));
        // Gone as well, and with what it had before it was.
        let gone = [("p", Type::unknown(PAIR))];
        let mut versions = past();
        versions.push(version(3, 1, &now));
        assert_eq!(recalled(&gone, &seen(2), versions.clone())[0], pair(&["a", "b"]));
        assert_eq!(recalled(&gone, &[], versions)[0], now[0].1);
        let described = described(&now);
        assert!(!described.needs_past(&seen(3)) && !described.needs_past(&[]));
    }
}
