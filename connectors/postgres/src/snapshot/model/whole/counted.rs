//! What is done to rows that nothing tells apart, and how many there are of each.

use super::*;

pub(super) const VALUES: u8 = 4;

pub(super) type Counts = BTreeMap<u8, i64>;

#[derive(Clone, Copy, Debug)]
pub(super) enum Did {
    Insert(u8),
    Delete(u8),
    Update(u8, u8),
    Empty,
}

pub(super) struct Transaction {
    pub(super) did: Vec<Did>,
    /// As with keys.
    pub(super) state: u8,
}

pub(super) fn did(random: &mut StdRng) -> Did {
    let (value, other) = (random.random_range(0..VALUES), random.random_range(0..VALUES));
    match random.random_range(0..12) {
        0..5 => Did::Insert(value),
        5..7 => Did::Delete(value),
        7..11 => Did::Update(value, other),
        _ => Did::Empty,
    }
}

/// The values of which it removes rows, and all that it touches.
pub(super) fn touches(transaction: &Transaction) -> (BTreeSet<u8>, BTreeSet<u8>) {
    let (mut removed, mut touched) = (BTreeSet::new(), BTreeSet::new());
    for did in &transaction.did {
        match *did {
            Did::Insert(_) => {}
            Did::Delete(old) | Did::Update(old, _) => _ = removed.insert(old),
            Did::Empty => removed.extend(0..VALUES),
        }
        if let Did::Insert(new) | Did::Update(_, new) = *did {
            touched.insert(new);
        }
    }
    touched.extend(&removed);
    (removed, touched)
}

/// What a consumer does with an event: he takes away no more than he has.
pub(super) fn follow(consumer: &mut Counts, did: Did) {
    let had = |value: u8| consumer.get(&value).is_some_and(|count| *count > 0);
    let did = match did {
        Did::Delete(old) if !had(old) => return,
        Did::Update(old, new) if !had(old) => Did::Insert(new),
        did => did,
    };
    count(consumer, did);
}

pub(super) fn tell(told: &mut Told, did: Did) {
    let row = |value: u8| said(b'N', value)[1..].to_vec();
    match did {
        Did::Insert(new) => told.add(&row(new)),
        Did::Delete(old) => told.remove(&row(old)),
        Did::Update(old, new) => {
            told.remove(&row(old));
            told.add(&row(new));
        }
        Did::Empty => told.clear(),
    }
}

pub(super) fn count(table: &mut Counts, did: Did) {
    let mut add = |value: u8, by: i64| *table.entry(value).or_insert(0) += by;
    match did {
        Did::Insert(new) => add(new, 1),
        Did::Delete(old) => add(old, -1),
        Did::Update(old, new) => {
            add(old, -1);
            add(new, 1);
        }
        Did::Empty => table.clear(),
    }
}

pub(super) fn said(tag: u8, value: u8) -> Vec<u8> {
    let text = value.to_string();
    let mut raw = vec![tag, 0, 1, b't'];
    raw.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
    raw.extend_from_slice(text.as_bytes());
    raw
}

pub(super) fn value_of(row: &[u8]) -> u8 {
    let (tuple, _) = Tuple::split(row).unwrap();
    let Some(rowcast_engine::record::Value::Text(text)) = tuple.values().next() else { panic!("{tuple:?}") };
    std::str::from_utf8(text).unwrap().parse().unwrap()
}

pub(super) fn push(rows: &mut Rows, row: &[u8]) {
    rows.push(format!("{}\n", value_of(row)).as_bytes(), 1).unwrap();
}
