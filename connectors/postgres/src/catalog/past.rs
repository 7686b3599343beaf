//! Keys of a table as its earlier versions had them, where the catalog of now cannot say: changes may be read when the table
//! has another key by then, or is gone.

use std::cmp::Reverse;
use std::sync::Arc;

use rowcast_engine::schema::{Column, Identity, Schema};

use super::Described;
use super::keys::places;

impl Described {
    /// Whether an earlier version may know more of its keys than the catalog.
    pub(super) fn needs_past_keys(&self) -> bool {
        self.gone || !self.ordered
    }

    /// Takes from the versions of all tables what the catalog does not say of its keys.
    pub(super) fn recall_keys(&mut self, mut versions: Vec<Arc<Schema>>) {
        let schema = &mut self.schema;
        // An OID is a table's own in one database.
        versions.retain(|past| past.relation == schema.relation && past.database == schema.database);
        versions.sort_unstable_by_key(|past| Reverse(past.id));
        if !self.ordered {
            order(schema, &versions);
        }
        if self.gone
            && let Some(newest) = versions.first()
        {
            take_over(schema, newest, self.partly);
        }
    }
}

/// The key's columns are those of the time of the change; the newest version that had the same knows their order.
fn order(schema: &mut Schema, versions: &[Arc<Schema>]) {
    let key_of = |past: &Schema| match (schema.identity, past.identity) {
        (Identity::Index, Identity::Index) => found(&schema.columns, past, &past.key),
        (Identity::Index, _) => Vec::new(),
        _ => found(&schema.columns, past, &past.primary_key),
    };
    let is_same = |key: &Vec<u16>| {
        let mut sorted = key.clone();
        sorted.sort_unstable();
        sorted == schema.key
    };
    let Some(key) = versions.iter().map(|past| key_of(past)).find(is_same) else { return };
    if schema.identity == Identity::Default {
        schema.primary_key.clone_from(&key);
    }
    schema.key = key;
}

/// The keys of which the stream says nothing.
fn take_over(schema: &mut Schema, newest: &Schema, partly: bool) {
    schema.unique_key = found(&schema.columns, newest, &newest.unique_key);
    if schema.identity == Identity::Default && !partly {
        return;
    }
    schema.primary_key = found(&schema.columns, newest, &newest.primary_key);
    if schema.identity == Identity::Full || partly {
        schema.key.clone_from(&schema.primary_key);
    }
    for (index, column) in (0..).zip(&mut schema.columns).filter(|_| partly) {
        column.identity = schema.key.contains(&index);
    }
}

/// Where the columns of a version's key are now.
fn found(columns: &[Column], past: &Schema, key: &[u16]) -> Vec<u16> {
    let name = |index: &u16| past.columns.get(usize::from(*index)).map(|column| column.name.clone());
    let names: Option<Vec<String>> = key.iter().map(name).collect();
    places(columns, &names.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use rowcast_engine::schema::Type;

    use super::*;

    /// Columns `a`, `b` and `c`, with this key.
    fn version(id: u32, identity: Identity, key: &[u16]) -> Schema {
        let column = |name: &str| Column {
            name: name.to_owned(),
            ty: Type::base(23, "int4"),
            typmod: -1,
            identity: false,
            not_null: false,
        };
        Schema {
            id,
            relation: 16_400,
            database: "d".to_owned(),
            schema: "public".to_owned(),
            table: "t".to_owned(),
            channel: "public.t".to_owned(),
            identity,
            inserts_only: false,
            columns: ["a", "b", "c"].map(column).to_vec(),
            primary_key: if identity == Identity::Index { vec![2] } else { key.to_vec() },
            key: key.to_vec(),
            unique_key: vec![2, 0],
        }
    }

    /// What is made of a key with which the catalog cannot help.
    fn recalled(identity: Identity, key: &[u16], gone: bool, versions: Vec<Schema>) -> Schema {
        let mut schema = version(0, identity, key);
        schema.unique_key.clear();
        if identity != Identity::Default {
            schema.primary_key.clear();
        }
        let ordered = !matches!(identity, Identity::Default | Identity::Index);
        let mut described = Described {
            schema,
            names: Vec::new(),
            hidden: Vec::new(),
            grown: Vec::new(),
            gone,
            ordered,
            published: false,
            partly: false,
        };
        assert!(described.needs_past_keys());
        described.recall_keys(versions.into_iter().map(Arc::new).collect());
        described.schema
    }

    #[test]
    fn the_order_of_the_newest_version_with_the_same_columns() {
        let past = || {
            vec![
                version(1, Identity::Default, &[0, 1]),
                version(3, Identity::Default, &[2, 0]),
                version(2, Identity::Full, &[1, 0]),
            ]
        };
        let schema = recalled(Identity::Default, &[0, 1], false, past());
        assert_eq!((schema.primary_key, schema.key, schema.unique_key), (vec![1, 0], vec![1, 0], vec![]));
        assert_eq!(recalled(Identity::Default, &[1, 2], true, past()).key, [1, 2]);
        assert_eq!(recalled(Identity::Default, &[0, 1], true, Vec::new()).key, [0, 1]);
        // A primary key is no other index.
        assert_eq!(recalled(Identity::Index, &[0, 1], true, past()).key, [0, 1]);
        let index = vec![version(4, Identity::Index, &[1, 0])];
        let schema = recalled(Identity::Index, &[0, 1], true, index);
        assert_eq!((schema.primary_key, schema.key, schema.unique_key), (vec![2], vec![1, 0], vec![2, 0]));
    }

    #[test]
    fn the_primary_key_of_one_that_is_gone() {
        let past = || vec![version(1, Identity::Full, &[0, 1]), version(2, Identity::Default, &[1, 0])];
        let schema = recalled(Identity::Full, &[], true, past());
        assert_eq!((schema.primary_key, schema.key, schema.unique_key), (vec![1, 0], vec![1, 0], vec![2, 0]));
        let schema = recalled(Identity::Nothing, &[], true, past());
        assert_eq!((schema.primary_key, schema.key), (vec![1, 0], vec![]));
        let mut other = past();
        other.iter_mut().for_each(|past| past.columns[1].name = "gone".to_owned());
        assert!(recalled(Identity::Full, &[], true, other).key.is_empty());
        for elsewhere in [|past: &mut Schema| past.relation += 1, |past: &mut Schema| past.database.push('x')]
        {
            let mut other = past();
            other.iter_mut().for_each(elsewhere);
            assert!(recalled(Identity::Full, &[], true, other).key.is_empty());
        }
    }
}
