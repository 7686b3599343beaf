//! What has come, since a chunk's snapshot was taken, for the rows that it has.

use std::collections::{HashMap, VecDeque};

use rowcast_engine::record::{Tuple, Value};

use super::window::{Noted, Read, Values};
use crate::snapshot::rows::key_bytes;
use crate::snapshot::told::Form;
use crate::snapshot::visible::Visible;

/// What came for one key.
#[derive(Debug)]
pub(super) struct Newer<'n> {
    incomplete: bool,
    /// The row's tuple behind each of these, in their order, where all of them are updates that left it where it was and all
    /// tuples were kept.
    updates: Option<Vec<&'n Values>>,
}

impl Newer<'_> {
    /// Whether an event lacks values.
    pub(super) fn is_incomplete(&self) -> bool {
        self.incomplete
    }
}

/// What becomes of a row.
pub(super) enum Row<'a, 'n> {
    Kept(&'a [u8]),
    /// A newer event has all its values.
    Replaced,
    /// A newer event lacks some: it is to be read again, by this key.
    Again(&'n [u8]),
    /// It was read again, and updated meanwhile: the row as it is where the stream stands. Else one that is updated all
    /// the time would be read for ever.
    BroughtUp(&'n [u8], Vec<u8>),
}

impl<'n> Row<'_, 'n> {
    pub(super) fn again(&self) -> Option<&'n [u8]> {
        match self {
            Self::Again(key) => Some(key),
            _ => None,
        }
    }
}

pub(super) fn superseded<'a, 'n>(read: &Read<'a>, newer: &HashMap<&'n [u8], Newer<'n>>) -> Vec<Row<'a, 'n>> {
    let fate = |row: &'a [u8]| {
        let Some((tuple, _)) = Tuple::split(row) else { return Row::Kept(row) };
        let key = key_bytes(tuple, read.key);
        match key.and_then(|key| newer.get_key_value(&*key)) {
            None => Row::Kept(row),
            Some((_, Newer { incomplete: false, .. })) => Row::Replaced,
            Some((key, Newer { updates, .. })) => {
                let now = updates.as_ref().and_then(|updates| brought_up(tuple, read.form, updates));
                now.map_or(Row::Again(key), |row| Row::BroughtUp(key, row))
            }
        }
    };
    read.rows.iter().map(fate).collect()
}

/// The keys that were changed by transactions that the snapshot does not surely see.
pub(super) fn newer<'n>(
    notes: &'n VecDeque<Noted>,
    from: u64,
    visible: &Visible,
) -> HashMap<&'n [u8], Newer<'n>> {
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let mut newer = HashMap::new();
    for noted in unseen(notes.iter().skip(from), visible) {
        let all = newer
            .entry(&*noted.key)
            .or_insert_with(|| Newer { incomplete: false, updates: Some(Vec::new()) });
        all.incomplete |= noted.incomplete;
        match (&mut all.updates, &noted.values) {
            (Some(updates), Some(values)) => updates.push(values),
            (updates, _) => *updates = None,
        }
    }
    newer
}

/// Those that the snapshot does not surely see. A standby shows commits in the order of its log, and so does the stream: with
/// one that is seen all before it are, even where their own ids do not say so. Made once more without it they would take
/// the row back to what it was.
fn unseen<'n>(
    notes: impl DoubleEndedIterator<Item = &'n Noted> + ExactSizeIterator + Clone,
    visible: &Visible,
) -> impl Iterator<Item = &'n Noted> {
    let seen = visible.replayed().and_then(|_| notes.clone().rposition(|noted| visible.sees(noted.commit)));
    notes.skip(seen.map_or(0, |seen| seen + 1)).filter(|noted| !visible.sees(noted.commit))
}

/// A row with what updates have made of it. Of those that it has in it already, as a standby's may, nothing is changed by
/// their being made once more: what comes behind them is made as well. `None` where the values of one are written in another
/// form than the row's: a table that was altered in between may have as many columns, and other ones. Its version may be
/// another one for less: a label that was added, or what is logged of old rows.
fn brought_up(row: Tuple<'_>, form: Form, updates: &[&Values]) -> Option<Vec<u8>> {
    let mut values: Vec<Value<'_>> = row.values().collect();
    for (of, update) in updates {
        let (update, _) = Tuple::split(update)?;
        if *of != form || update.len() != values.len() {
            return None;
        }
        for (value, new) in values.iter_mut().zip(update.values()) {
            if new != Value::Unchanged {
                *value = new;
            }
        }
    }
    tuple_of(&values)
}

/// As pgoutput's TupleData.
fn tuple_of(values: &[Value<'_>]) -> Option<Vec<u8>> {
    let mut bytes = u16::try_from(values.len()).ok()?.to_be_bytes().to_vec();
    for value in values {
        match value {
            Value::Null => bytes.push(b'n'),
            // A row that was read has all of its own.
            Value::Unchanged => return None,
            Value::Text(text) => {
                bytes.push(b't');
                bytes.extend_from_slice(&u32::try_from(text.len()).ok()?.to_be_bytes());
                bytes.extend_from_slice(text);
            }
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use rowcast_engine::Lsn;

    use super::*;
    use crate::snapshot::visible::Commit;

    /// Numbers are given in another order than that of the commits, and one of those in between is still in progress.
    #[test]
    fn a_standby_that_shows_a_commit_shows_all_before_it() {
        let noted = |xid, at| Noted {
            key: Box::default(),
            commit: Commit { xid, at: Lsn(at) },
            incomplete: true,
            values: None,
        };
        let notes = VecDeque::from([noted(20, 105), noted(10, 110), noted(21, 115), noted(22, 120)]);
        let of = |visible: &Visible| -> Vec<u32> {
            unseen(notes.iter(), visible).map(|noted| noted.commit.xid).collect()
        };
        let taken: Visible = "15:21:".parse().unwrap();
        assert_eq!(of(&taken.on_standby(Lsn(100))), [21, 22]);
        assert_eq!(of(&"15:21:20".parse().unwrap()), [20, 21, 22], "a primary knows it of each");
        assert_eq!(of(&"9:21:".parse::<Visible>().unwrap().on_standby(Lsn(100))), [20, 10, 21, 22]);
    }
}
