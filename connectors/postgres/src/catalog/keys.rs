//! Which columns identify a row.

use rowcast_engine::schema::{Column, Identity};

use super::table::{HiddenKey, TableFacts};

/// Indexes into the columns, in key order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) primary: Vec<u16>,
    /// The event's key.
    pub(super) event: Vec<u16>,
    pub(super) unique: Vec<u16>,
    /// Columns of the table's key that are not published, for which the event has none.
    pub(super) hidden: Vec<String>,
}

impl Keys {
    /// Whether the columns of the event's key are in an order that the catalog has.
    pub(super) fn is_ordered(&self, identity: Identity, columns: &[Column], facts: &TableFacts) -> bool {
        let known = match identity {
            Identity::Default => &facts.primary,
            Identity::Index => &facts.identity,
            Identity::Full | Identity::Nothing => return true,
        };
        self.event.len() < 2 || self.event == places(columns, known)
    }
}

/// Brings together what the stream says (which columns are the identity, as of the change) and what the catalog
/// says (order, other keys; as of now).
pub(super) fn choose(identity: Identity, columns: &[Column], facts: &TableFacts) -> Keys {
    let flagged: Vec<u16> =
        (0_u16..).zip(columns).filter(|(_, column)| column.identity).map(|(index, _)| index).collect();
    let partial = partial(identity, &flagged, columns, facts);
    let hidden = partial.map(|key| key.hidden.clone()).unwrap_or_default();
    let primary = match identity {
        Identity::Default if partial.is_some() => Vec::new(),
        // The flags are the primary key of the time of the change; the catalog only knows its order better.
        Identity::Default => in_order(flagged.clone(), places(columns, &facts.primary)),
        _ => places(columns, &facts.primary),
    };
    let event = match identity {
        Identity::Default | Identity::Full => primary.clone(),
        Identity::Index if partial.is_some() => Vec::new(),
        Identity::Index => in_order(flagged, places(columns, &facts.identity)),
        Identity::Nothing => Vec::new(),
    };
    Keys { primary, event, unique: places(columns, &facts.unique), hidden }
}

/// The index of which the stream shows a part as the identity, or as the primary key where the identity is FULL.
fn partial<'a>(
    identity: Identity,
    flagged: &[u16],
    columns: &[Column],
    facts: &'a TableFacts,
) -> Option<&'a HiddenKey> {
    let is_flagged = |names: &[String]| {
        let mut places = places(columns, names);
        places.sort_unstable();
        places.len() == names.len() && places == flagged
    };
    let now = match identity {
        Identity::Default => &facts.primary,
        Identity::Index => &facts.identity,
        Identity::Full => return facts.hidden.iter().find(|key| key.primary && key.is_hidden_in(columns)),
        Identity::Nothing => return None,
    };
    if !now.is_empty() && is_flagged(now) {
        return None;
    }
    facts.hidden.iter().find(|key| key.is_hidden_in(columns) && is_flagged(&key.shown))
}

impl HiddenKey {
    /// What the stream shows has been published when it was written.
    fn is_hidden_in(&self, columns: &[Column]) -> bool {
        columns.iter().all(|column| !self.hidden.contains(&column.name))
    }
}

/// Where the named columns are; empty unless all are there, since a part of a key identifies nothing.
pub(super) fn places(columns: &[Column], names: &[String]) -> Vec<u16> {
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
        assert_eq!(keys, Keys { primary: vec![2, 0], event: vec![2, 0], unique: vec![1], hidden: vec![] });
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
    fn a_part_of_a_key_is_none() {
        let hidden = |primary, shown: &[&str]| HiddenKey {
            primary,
            shown: shown.iter().map(|name| (*name).to_owned()).collect(),
            hidden: vec!["g".to_owned()],
        };
        let mut facts = facts(&["a", "g"], &[], &["b"]);
        facts.hidden = vec![hidden(true, &["a"]), hidden(false, &["b"])];
        let keys = choose(Identity::Default, &columns(&["a"]), &facts);
        assert_eq!(
            keys,
            Keys { primary: vec![], event: vec![], unique: vec![1], hidden: vec!["g".to_owned()] }
        );
        assert_eq!(choose(Identity::Full, &columns(&["a", "b", "c"]), &facts).hidden, ["g"]);
        // Another key, from before.
        assert_eq!(choose(Identity::Default, &columns(&["c"]), &facts).event, [2]);
        // The identity is another index by now, or one of columns that are all there.
        assert!(choose(Identity::Index, &columns(&["b"]), &facts).event.is_empty());
        facts.identity = vec!["b".to_owned()];
        assert_eq!(choose(Identity::Index, &columns(&["b"]), &facts).event, [1]);
        // Only the hidden column.
        facts.hidden = vec![hidden(true, &[])];
        assert_eq!(choose(Identity::Default, &columns(&[]), &facts).hidden, ["g"]);
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
