//! Tuples as pgoutput has them, and what is read out of them.

use rowcast_engine::event::Op;
use rowcast_engine::record::{Tuple, Value};
use rowcast_engine::schema::{Identity, Schema};

use super::{KEY, TABLE};
use crate::snapshot::rows::{Rows, key_bytes};
use crate::snapshot::told::Form;
use crate::snapshot::tracker::Read;
use crate::snapshot::visible::Visible;

/// A chunk of [`TABLE`] as it is in most tests.
pub(in crate::snapshot) fn chunk<'a>(window: u64, visible: &'a Visible, rows: &'a Rows) -> Read<'a> {
    Read {
        relation: TABLE,
        window,
        visible,
        schema: 1,
        form: Form::of(&schema()),
        key: KEY,
        rows,
        asked: &[],
        all_read: false,
    }
}

pub(super) fn raw(tag: u8, key: u8, row: Option<(u32, Option<u32>)>) -> Vec<u8> {
    let mut bytes = vec![tag, 0, 3];
    let mut text = |text: String| {
        bytes.push(b't');
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    text(key.to_string());
    match row {
        None => bytes.extend_from_slice(b"nn"),
        Some((value, large)) => {
            text(value.to_string());
            match large {
                Some(large) => text(large.to_string()),
                None => bytes.push(b'u'),
            }
        }
    }
    bytes
}

pub(super) fn key_of(key: u8) -> Box<[u8]> {
    let bytes = raw(b'N', key, None);
    key_bytes(Tuple::split(&bytes[1..]).unwrap().0, KEY).unwrap()
}

/// The key that an event without all values moves a row to.
pub(super) fn moved(op: Op, raw: &[u8]) -> Option<Box<[u8]>> {
    let (old, rest) = Tuple::split(raw.get(1..)?)?;
    let (new, _) = Tuple::split(rest.get(1..)?)?;
    let lacks = new.values().any(|value| value == Value::Unchanged);
    let moves = op == Op::Update && lacks && key_bytes(old, KEY) != key_bytes(new, KEY);
    moves.then(|| key_bytes(new, KEY)).flatten()
}

/// What follows the old tuple.
pub(super) fn behind_the_old(raw: &[u8]) -> &[u8] {
    Tuple::split(&raw[1..]).unwrap().1
}

pub(super) fn row_of(tuple: Tuple<'_>) -> (u8, Option<u32>, Option<u32>) {
    let mut numbers = tuple.values().map(|value| match value {
        Value::Text(text) => std::str::from_utf8(text).unwrap().parse::<u32>().ok(),
        _ => None,
    });
    let mut next = || numbers.next().flatten();
    (u8::try_from(next().unwrap()).unwrap(), next(), next())
}

pub(in crate::snapshot) fn schema() -> Schema {
    Schema {
        id: 1,
        relation: TABLE,
        database: String::new(),
        schema: "public".to_owned(),
        table: "t".to_owned(),
        channel: "public.t".to_owned(),
        identity: Identity::Full,
        inserts_only: false,
        columns: Vec::new(),
        primary_key: KEY.to_vec(),
        key: KEY.to_vec(),
        unique_key: Vec::new(),
    }
}
