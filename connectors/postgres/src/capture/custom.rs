//! Custom events: logical decoding messages whose prefix is ours.

use std::borrow::Cow;

use rowcast_engine::channel::check_custom;
use rowcast_engine::status::Status;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use serde_json::value::RawValue;

use crate::snapshot::job::Job;

/// What follows it is the channel. Messages with other prefixes are somebody else's.
const PREFIX: &str = "rowcast.event.";

/// Said with a table's channel in the transaction from which on it is captured, when it had rows before. A dot and the
/// slot follow for which it is so.
pub(crate) const NEW_TABLE: &str = "rowcast.gap.new_table";

/// A dot and a slot follow whose rowcast is to tell of changes of definitions; the event trigger says it.
const DDL: &str = "rowcast.ddl";

/// A longer name than any table has, in bytes: 63 for each of schema and table, and quotes.
const CHANNEL_MAX: usize = 300;

/// Said by `rowcast.snapshot`: a table whose rows are wanted, and a condition.
const SNAPSHOT: &str = "rowcast.snapshot";

/// A longer wish has a condition that nobody writes, in bytes.
const WISH_MAX: usize = 64 << 10;

/// Where events go that cannot go where they were sent.
const REJECTED: &str = "rowcast.rejected";

/// So much of a refused name is repeated, in characters.
const SHOWN: usize = 60;

/// An event for the journal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Custom<'a> {
    pub(super) channel: &'a str,
    /// JSON text without line breaks.
    pub(super) payload: Cow<'a, [u8]>,
}

/// Whether a message is a custom event, or tells the reader of `slot` of a changed definition.
pub(super) fn is_event(prefix: &str, slot: &str) -> bool {
    prefix.starts_with(PREFIX) || is_for(slot, prefix, DDL)
}

/// Whether a prefix is `kind`, for the reader of `slot`.
fn is_for(slot: &str, prefix: &str, kind: &str) -> bool {
    prefix.strip_prefix(kind).and_then(|rest| rest.strip_prefix('.')) == Some(slot)
}

/// The table of a message that says that rows of it came before its capture in `slot`.
pub(super) fn is_gap<'a>(
    transactional: bool,
    prefix: &str,
    slot: &str,
    content: &'a [u8],
) -> Option<&'a str> {
    // Older versions named no slot.
    let said = prefix == NEW_TABLE || is_for(slot, prefix, NEW_TABLE);
    let ours = transactional && said && (1..=CHANNEL_MAX).contains(&content.len());
    std::str::from_utf8(content).ok().filter(|_| ours)
}

/// The snapshot that a message of `rowcast.snapshot` asks the reader of `slot` for.
pub(super) fn wish(transactional: bool, prefix: &str, slot: &str, content: &[u8]) -> Option<Job> {
    #[derive(Deserialize)]
    struct Wish {
        schema: String,
        table: String,
        condition: Option<String>,
    }
    let ours = transactional && (prefix == SNAPSHOT || is_for(slot, prefix, SNAPSHOT));
    if !ours || content.len() > WISH_MAX {
        return None;
    }
    let Wish { schema, table, condition } = serde_json::from_slice(content).ok()?;
    Some(Job { ad_hoc: true, schema, table, condition, ..Job::default() })
}

/// Schema and name of a table by its channel.
pub(super) fn names(channel: &str) -> Option<(String, String)> {
    let parts = crate::tables::split(channel)?;
    <[String; 2]>::try_from(parts).ok().map(|[schema, table]| (schema, table))
}

/// The event that a message stands for; `None` when it is none of ours.
pub(super) fn read<'a>(
    prefix: &'a str,
    slot: &str,
    content: &'a [u8],
    status: &Status,
) -> Option<Custom<'a>> {
    if is_for(slot, prefix, DDL) {
        let refused = (!is_json(content)).then_some("the payload is not JSON in UTF-8");
        let told = Custom { channel: DDL, payload: one_line(content) };
        return Some(refused.map_or(told, |reason| reject(DDL, reason, content)));
    }
    let channel = prefix.strip_prefix(PREFIX)?;
    let refused = if check_custom(channel).is_err() {
        Some("the channel's name is not one that a custom channel can have")
    } else if !is_json(content) {
        Some("the payload is not JSON in UTF-8")
    } else if status.is_table(channel) {
        Some("the channel is that of a captured table")
    } else {
        None
    };
    Some(match refused {
        Some(reason) => reject(channel, reason, content),
        None => Custom { channel, payload: one_line(content) },
    })
}

fn is_json(content: &[u8]) -> bool {
    std::str::from_utf8(content).is_ok() && serde_json::from_slice::<IgnoredAny>(content).is_ok()
}

/// Line breaks can only stand between tokens; they would end a frame of a stream of lines.
fn one_line(content: &[u8]) -> Cow<'_, [u8]> {
    let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
    if content.iter().any(is_break) {
        Cow::Owned(content.iter().copied().filter(|byte| !is_break(byte)).collect())
    } else {
        Cow::Borrowed(content)
    }
}

fn reject<'a>(channel: &str, reason: &str, content: &[u8]) -> Custom<'a> {
    metrics::counter!("rowcast_source_rejected_messages_total").increment(1);
    let shown: String = channel.chars().take(SHOWN).collect();
    tracing::warn!(channel = ?shown, reason, "A custom event goes to the channel {REJECTED}");
    let one_line = one_line(content);
    let payload: Option<&RawValue> =
        is_json(content).then(|| serde_json::from_slice(&one_line).ok()).flatten();
    let told = json!({ "channel": shown, "reason": reason, "bytes": content.len(), "payload": payload });
    Custom { channel: REJECTED, payload: Cow::Owned(told.to_string().into_bytes()) }
}

#[cfg(test)]
mod tests {
    use rowcast_engine::status::Captured;

    use super::*;

    fn status() -> Status {
        let status = Status::default();
        status.source(|source| {
            source.tables.insert("public.orders".to_owned(), Captured::default());
        });
        status
    }

    #[test]
    fn events_keep_their_payload_on_one_line() {
        let event = read("rowcast.event.a.b", "s", b"{\n \"x\": \"\\n\"\r\n}", &status()).unwrap();
        assert_eq!((event.channel, &*event.payload), ("a.b", &b"{ \"x\": \"\\n\"}"[..]));
        assert_eq!(read("rowcast.heartbeat", "s", b"", &status()), None);
        assert_eq!(read("other", "s", b"{}", &status()), None);
    }

    #[test]
    fn what_is_said_for_one_reader_is_nothing_to_the_others() {
        let gap = |prefix: &str| is_gap(true, prefix, "mine", b"public.t");
        assert_eq!(gap("rowcast.gap.new_table.mine"), Some("public.t"));
        assert_eq!(gap("rowcast.gap.new_table"), Some("public.t"));
        assert_eq!((gap("rowcast.gap.new_table.mine2"), gap("rowcast.gap.new_table.")), (None, None));
        assert_eq!(is_gap(false, "rowcast.gap.new_table.mine", "mine", b"public.t"), None);
        assert!(is_event("rowcast.ddl.mine", "mine") && !is_event("rowcast.ddl.other", "mine"));
        let told = read("rowcast.ddl.mine", "mine", b"{\"command\" :\n1}", &status()).unwrap();
        assert_eq!((told.channel, &*told.payload), ("rowcast.ddl", &b"{\"command\" :1}"[..]));
        assert_eq!(read("rowcast.ddl.mine", "mine", b"{", &status()).unwrap().channel, REJECTED);
        assert_eq!(read("rowcast.ddl.other", "mine", b"{}", &status()), None);
    }

    #[test]
    fn what_cannot_go_to_its_channel_is_told_elsewhere() {
        let long = format!("rowcast.event.{}", "x".repeat(201));
        for (prefix, content) in [
            ("rowcast.event.public.orders", &b"{\"a\":1}"[..]),
            ("rowcast.event.", b"{}"),
            ("rowcast.event.a\nb", b"{}"),
            (&long, b"{}"),
            ("rowcast.event.a", b"no json"),
            ("rowcast.event.a", b"\"\xff\""),
        ] {
            let event = read(prefix, "s", content, &status()).unwrap();
            assert_eq!(event.channel, REJECTED, "{prefix:?}");
            let told: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
            assert!(told["reason"].is_string() && told["bytes"] == content.len());
        }
        let event = read("rowcast.event.public.orders", "s", b"{\"a\":1}", &status()).unwrap();
        let told: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
        assert_eq!(told["payload"]["a"], 1);
    }
}
