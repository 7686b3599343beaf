//! Which columns identify a row.

use rowcast_engine::schema::{Column, Identity};

use super::table::TableFacts;

/// Indexes into the columns, in key order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) primary: Vec<u16>,
    /// The event's key.
    pub(super) event: Vec<u16>,
    pub(super) unique: Vec<u16>,
}

/// Brings together what the stream says (which columns are the identity, as of the change) and what the catalog
/// says (order, other keys; as of now).
pub(super) fn choose(identity: Identity, columns: &[Column], facts: &TableFacts) -> Keys {
    let flagged: Vec<u16> =
        (0_u16..).zip(columns).filter(|(_, column)| column.identity).map(|(index, _)| index).collect();
    let primary = match identity {
        // The flags are the primary key of the time of the change; the catalog only knows its order better.
        Identity::Default => in_order(flagged.clone(), places(columns, &facts.primary)),
        _ => places(columns, &facts.primary),
    };
    let event = match identity {
        Identity::Default | Identity::Full => primary.clone(),
        Identity::Index => in_order(flagged, places(columns, &facts.identity)),
        Identity::Nothing => Vec::new(),
    };
    Keys { primary, event, unique: places(columns, &facts.unique) }
}

/// Where the named columns are; empty unless all are there, since a part of a key identifies nothing.
fn places(columns: &[Column], names: &[String]) -> Vec<u16> {
    let place = |name: &String| u16::try_from(columns.iter().position(|column| column.name == *name)?).ok();
    names.iter().map(place).collect::<Option<_>>().unwrap_or_default()
}

/// `ordered` if it has the same members as `members`, else `members` as they are.
fn in_order(members: Vec<u16>, ordered: Vec<u16>) -> Vec<u16> {
    let mut sorted = ordered.clone();
    sorted.sort_unstable();
    if sorted == members { ordered } else { members }
}

#[cfg(test)]
mod tests {
    use rowcast_engine::schema::Type;

    use super::*;

    fn columns(flagged: &[&str]) -> Vec<Column> {
        let column = |name: &&str| Column {
            name: (*name).to_owned(),
            ty: Type::base(23, "int4"),
            typmod: -1,
            identity: flagged.contains(name),
            not_null: false,
        };
        ["a", "b", "c"].iter().map(column).collect()
    }

    fn facts(primary: &[&str], identity: &[&str], unique: &[&str]) -> TableFacts {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        TableFacts {
            primary: owned(primary),
            identity: owned(identity),
            unique: owned(unique),
            ..TableFacts::default()
        }
    }

    #[test]
    fn the_primary_key_in_its_own_order() {
        let keys = choose(Identity::Default, &columns(&["a", "c"]), &facts(&["c", "a"], &[], &["b"]));
        assert_eq!(keys, Keys { primary: vec![2, 0], event: vec![2, 0], unique: vec![1] });
    }

    #[test]
    fn a_key_from_the_future_does_not_count() {
        let keys = choose(Identity::Default, &columns(&["a"]), &facts(&["b"], &[], &[]));
        assert_eq!(keys.primary, [0]);
        let keys = choose(Identity::Default, &columns(&[]), &facts(&["a"], &[], &[]));
        assert_eq!((keys.primary, keys.event), (vec![], vec![]));
        let keys = choose(Identity::Full, &columns(&["a", "b", "c"]), &facts(&["a", "gone"], &[], &[]));
        assert_eq!((keys.primary, keys.event), (vec![], vec![]));
    }

    #[test]
    fn full_index_and_nothing() {
        let all = columns(&["a", "b", "c"]);
        assert_eq!(choose(Identity::Full, &all, &facts(&["b"], &[], &[])).event, [1]);
        let keys = choose(Identity::Index, &columns(&["b", "c"]), &facts(&["a"], &["c", "b"], &[]));
        assert_eq!((keys.primary, keys.event), (vec![0], vec![2, 1]));
        let keys = choose(Identity::Nothing, &columns(&[]), &facts(&["a"], &[], &[]));
        assert_eq!((keys.primary, keys.event), (vec![0], vec![]));
    }
}
