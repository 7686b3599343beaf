//! Custom events: logical decoding messages whose prefix is ours.

use std::borrow::Cow;

use rowcast_engine::channel::check_custom;
use rowcast_engine::in_quotes;
use rowcast_engine::status::Status;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::proof::Proof;
use super::refusals::Refusals;
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

/// Said in a transaction that changes a type: its labels, its attributes, its name.
const TYPES: &str = "rowcast.types";

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

/// What a message says to the reader of a slot.
#[derive(Debug, PartialEq)]
pub(super) enum Said<'a> {
    /// Nothing: it is somebody else's.
    Nothing,
    /// Rows of this table came before its capture.
    Gap(&'a str),
    /// A table's rows are wanted.
    Wish(Box<Job>),
    /// A definition has changed.
    Ddl(&'a [u8]),
    /// A type has.
    Types,
    /// A custom event, of this channel.
    Event(&'a str, &'a [u8]),
    /// It claims to be rowcast's own and is not, or is none that can be understood.
    Forged(&'static str),
}

/// Whether a prefix is `kind`, for the reader of `slot`.
fn is_for(slot: &str, prefix: &str, kind: &str) -> bool {
    prefix.strip_prefix(kind).and_then(|rest| rest.strip_prefix('.')) == Some(slot)
}

/// Reads a message; `xid` is the transaction that it belongs to, if it belongs to one. Everybody may send events; what
/// makes rowcast do something is believed only with a proof.
pub(super) fn hear<'a>(
    proof: &Proof,
    slot: &str,
    xid: Option<u32>,
    prefix: &'a str,
    content: &'a [u8],
) -> Said<'a> {
    if let Some(channel) = prefix.strip_prefix(PREFIX) {
        return Said::Event(channel, content);
    }
    // Older versions named no slot; whoever asks for a snapshot need not.
    let gap = prefix == NEW_TABLE || is_for(slot, prefix, NEW_TABLE);
    let wish = prefix == SNAPSHOT || is_for(slot, prefix, SNAPSHOT);
    let (ddl, types) = (is_for(slot, prefix, DDL), is_for(slot, prefix, TYPES));
    if !(gap || wish || ddl || types) {
        return Said::Nothing;
    }
    let Some(xid) = xid else { return Said::Forged("it is of no transaction") };
    match proof.open(xid, prefix, content) {
        Err(reason) => Said::Forged(reason),
        Ok(said) if ddl => Said::Ddl(said),
        Ok(_) if types => Said::Types,
        Ok(said) if gap => table(said).map_or(Said::Forged("it names no table"), Said::Gap),
        Ok(said) => wanted(said).map_or(Said::Forged("it is no wish that can be understood"), Said::Wish),
    }
}

fn table(said: &[u8]) -> Option<&str> {
    let fits = (1..=CHANNEL_MAX).contains(&said.len());
    std::str::from_utf8(said).ok().filter(|_| fits)
}

fn wanted(said: &[u8]) -> Option<Box<Job>> {
    #[derive(Deserialize)]
    struct Wish {
        schema: String,
        table: String,
        condition: Option<String>,
    }
    let fits = said.len() <= WISH_MAX;
    let Wish { schema, table, condition } = serde_json::from_slice(said).ok().filter(|_| fits)?;
    Some(Box::new(Job { ad_hoc: true, schema, table, condition, ..Job::default() }))
}

/// Schema and name of a table by its channel.
pub(super) fn names(channel: &str) -> Option<(String, String)> {
    let parts = crate::tables::split(channel)?;
    <[String; 2]>::try_from(parts).ok().map(|[schema, table]| (schema, table))
}

/// The event that a custom message stands for.
pub(super) fn event<'a>(
    channel: &'a str,
    content: &'a [u8],
    status: &Status,
    refusals: &mut Refusals,
) -> Custom<'a> {
    let refused = if check_custom(channel).is_err() {
        Some("the channel's name is not one that a custom channel can have")
    } else if !is_json(content) {
        Some("the payload is not JSON in UTF-8")
    } else if status.is_table(channel) {
        Some("the channel is that of a captured table")
    } else {
        None
    };
    match refused {
        Some(reason) => reject(channel, reason, content, refusals),
        None => Custom { channel, payload: one_line(content) },
    }
}

/// The event of a changed definition.
pub(super) fn ddl<'a>(content: &'a [u8], refusals: &mut Refusals) -> Custom<'a> {
    if is_json(content) {
        return Custom { channel: DDL, payload: one_line(content) };
    }
    reject(DDL, "the payload is not JSON in UTF-8", content, refusals)
}

/// The event of a message that is not rowcast's own although it says so. What it says is repeated nowhere.
pub(super) fn forged(
    prefix: &str,
    reason: &'static str,
    content: &[u8],
    refusals: &mut Refusals,
) -> Custom<'static> {
    let shown: String = prefix.chars().take(SHOWN).collect();
    if let Some(unsaid) = refusals.note(reason) {
        tracing::warn!(
            name = %in_quotes(&shown),
            reason,
            unsaid,
            "A message that only rowcast's own functions may send is not believed, and told on {REJECTED}"
        );
    }
    told(&shown, reason, content, None)
}

/// The event of a wish that is not fulfilled. A condition may have values in it.
pub(super) fn refused(
    prefix: &str,
    reason: &'static str,
    content: &[u8],
    refusals: &mut Refusals,
) -> Custom<'static> {
    let shown: String = prefix.chars().take(SHOWN).collect();
    if let Some(unsaid) = refusals.note(reason) {
        tracing::warn!(
            reason,
            unsaid,
            "A snapshot that a transaction asks for is not made, and told on {REJECTED}"
        );
    }
    told(&shown, reason, content, None)
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

fn reject<'a>(channel: &str, reason: &'static str, content: &[u8], refusals: &mut Refusals) -> Custom<'a> {
    let shown: String = channel.chars().take(SHOWN).collect();
    if let Some(unsaid) = refusals.note(reason) {
        tracing::warn!(channel = %in_quotes(&shown), reason, unsaid, "A custom event goes to the channel {REJECTED}");
    }
    let one_line = one_line(content);
    let payload: Option<&RawValue> =
        is_json(content).then(|| serde_json::from_slice(&one_line).ok()).flatten();
    told(&shown, reason, content, payload)
}

/// The event itself. The payload stays text: as a value, a number beyond f64 or a deep nesting of somebody's would be an error.
fn told<'a>(channel: &str, reason: &str, content: &[u8], payload: Option<&RawValue>) -> Custom<'a> {
    #[derive(Serialize)]
    struct Told<'a> {
        channel: &'a str,
        reason: &'a str,
        bytes: usize,
        payload: Option<&'a RawValue>,
    }
    let told = Told { channel, reason, bytes: content.len(), payload };
    // Texts, a number, and what is JSON already: there is nothing in it that could fail.
    Custom { channel: REJECTED, payload: Cow::Owned(serde_json::to_vec(&told).unwrap_or_default()) }
}

#[cfg(test)]
mod tests {
    use rowcast_engine::status::Captured;

    use super::*;
    use crate::capture::proof::signed;

    fn status() -> Status {
        let status = Status::default();
        status.source(|source| {
            source.tables.insert("public.orders".to_owned(), Captured::default());
        });
        status
    }

    fn proof() -> Proof {
        Proof::new(Some(&[1; 64]))
    }

    #[test]
    fn events_keep_their_payload_on_one_line() {
        let payload = b"{\n \"x\": \"\\n\"\r\n}";
        assert_eq!(hear(&proof(), "s", None, "rowcast.event.a.b", payload), Said::Event("a.b", payload));
        let event = event("a.b", payload, &status(), &mut Refusals::default());
        assert_eq!((event.channel, &*event.payload), ("a.b", &b"{ \"x\": \"\\n\"}"[..]));
        for prefix in ["rowcast.heartbeat", "other", "rowcast.snapshots", "rowcast.ddl"] {
            assert_eq!(hear(&proof(), "s", Some(1), prefix, b"{}"), Said::Nothing, "{prefix}");
        }
    }

    #[test]
    fn what_is_said_for_one_reader_is_nothing_to_the_others() {
        let heard = |prefix: &str, said: &[u8]| {
            let content = signed(&proof(), 5, prefix, said);
            format!("{:?}", hear(&proof(), "mine", Some(5), prefix, &content))
        };
        assert_eq!(heard("rowcast.gap.new_table.mine", b"public.t"), "Gap(\"public.t\")");
        assert_eq!(heard("rowcast.gap.new_table", b"public.t"), "Gap(\"public.t\")");
        assert_eq!(heard("rowcast.gap.new_table", b""), "Forged(\"it names no table\")");
        for other in
            ["rowcast.gap.new_table.mine2", "rowcast.gap.new_table.", "rowcast.ddl.other", "rowcast.ddl"]
        {
            assert_eq!(heard(other, b"{}"), "Nothing", "{other}");
        }
        assert!(heard("rowcast.ddl.mine", b"{}").starts_with("Ddl"));
        let wish = br#"{"schema": "public", "table": "t", "condition": null}"#;
        assert!(heard("rowcast.snapshot", wish).contains("table: \"t\""));
        assert!(heard("rowcast.snapshot.mine", wish).starts_with("Wish"));
        assert_eq!(heard("rowcast.snapshot.other", wish), "Nothing");
        assert!(heard("rowcast.snapshot", b"{}").starts_with("Forged"));
        let mut refusals = Refusals::default();
        assert_eq!(&*ddl(b"{\"command\" :\n1}", &mut refusals).payload, b"{\"command\" :1}");
        assert_eq!(ddl(b"{", &mut refusals).channel, REJECTED);
    }

    #[test]
    fn what_is_not_signed_is_not_believed_and_not_repeated() {
        let wish = br#"{"schema": "public", "table": "t", "condition": "secret"}"#;
        for prefix in ["rowcast.snapshot", "rowcast.snapshot.s", "rowcast.gap.new_table.s", "rowcast.ddl.s"] {
            let content = signed(&proof(), 5, prefix, wish);
            assert!(matches!(hear(&proof(), "s", Some(5), prefix, wish), Said::Forged(_)), "{prefix}");
            assert!(matches!(hear(&proof(), "s", Some(6), prefix, &content), Said::Forged(_)), "{prefix}");
            assert!(matches!(hear(&proof(), "s", None, prefix, &content), Said::Forged(_)), "{prefix}");
            let told = forged(prefix, "why", wish, &mut Refusals::default());
            let payload = String::from_utf8_lossy(&told.payload).into_owned();
            assert!(
                told.channel == REJECTED && payload.contains("why") && !payload.contains("secret"),
                "{payload}"
            );
        }
    }

    #[test]
    fn what_cannot_go_to_its_channel_is_told_elsewhere() {
        let long = "x".repeat(201);
        for (channel, content) in [
            ("public.orders", &b"{\"a\":1}"[..]),
            ("", b"{}"),
            ("a\nb", b"{}"),
            (&long, b"{}"),
            ("a", b"no json"),
            ("a", b"\"\xff\""),
        ] {
            let event = event(channel, content, &status(), &mut Refusals::default());
            assert_eq!(event.channel, REJECTED, "{channel:?}");
            let told: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
            assert!(told["reason"].is_string() && told["bytes"] == content.len());
        }
        let event = event("public.orders", b"{\"a\":1}", &status(), &mut Refusals::default());
        let told: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
        assert_eq!(told["payload"]["a"], 1);
    }

    /// Valid JSON, of which no value can be made.
    #[test]
    fn what_no_value_can_hold_is_repeated_as_it_is() {
        let nested = ["[".repeat(500), "]".repeat(500)].concat();
        for content in ["[1e400]", &nested] {
            assert!(serde_json::from_str::<serde_json::Value>(content).is_err());
            let event = event("public.orders", content.as_bytes(), &status(), &mut Refusals::default());
            let told = String::from_utf8(event.payload.into_owned()).unwrap();
            assert_eq!(event.channel, REJECTED);
            assert!(told.ends_with(&format!("\"payload\":{content}}}")), "{told}");
        }
    }
}
