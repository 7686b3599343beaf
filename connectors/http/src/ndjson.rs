//! A JSON object a line: the lines that are not events. Each has a `type`, which events have not.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::opening::{Gap, Opening};
use crate::stream::End;

#[derive(Serialize)]
struct Typed<'a, T> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    rest: &'a T,
}

/// The first line.
pub(crate) fn open(opening: &Opening) -> Vec<u8> {
    line(&Typed { kind: "open", rest: opening })
}

/// Numbers that are not held.
pub(crate) fn gap(gap: Gap) -> Vec<u8> {
    line(&Typed { kind: "gap", rest: &gap })
}

/// A schema version, before its first event.
pub(crate) fn schema(record: &[u8]) -> Vec<u8> {
    [record, b"\n"].concat()
}

/// Nothing for this reader up to here.
pub(crate) fn position(position: u64) -> Vec<u8> {
    line::<Value>(&json!({"type": "position", "id": position}))
}

/// The last line: where to go on, and after how many milliseconds.
pub(crate) fn end(why: End<'_>, position: u64, retry: Duration) -> Vec<u8> {
    #[derive(Serialize)]
    struct Record<'a> {
        id: u64,
        #[serde(flatten)]
        why: End<'a>,
        retry: u64,
    }
    let retry = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX);
    line(&Typed { kind: "end", rest: &Record { id: position, why, retry } })
}

fn line<T: Serialize>(value: &T) -> Vec<u8> {
    // Plain structures of numbers and strings: they always serialize.
    let mut out = serde_json::to_vec(value).unwrap_or_default();
    out.push(b'\n');
    out
}
