//! What is said over a WebSocket.

use axum::extract::ws::{Message, Utf8Bytes};
use bytes::Bytes;
use rowcast_engine::feed::Frame;
use rowcast_engine::in_quotes;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::opening::{Gap, Opening};
use crate::query::{self, Pairs, Place, Query};
use crate::refusal::Refusal;

/// Bytes of a subscription's id: it comes back with every event.
const ID_MAX: usize = 128;

/// What a client says.
#[derive(Debug)]
pub(super) enum Said {
    /// It is there.
    Hello,
    /// It wants events.
    Subscribe(Option<String>, Box<Query>),
    /// It wants no more of them.
    Unsubscribe(String),
    /// It wants to know whether we are there.
    Ping(Value),
}

/// What is wrong with a message.
#[derive(Debug)]
pub(super) enum Wrong {
    /// It is no message of the protocol: the connection ends.
    Message(Refusal),
    /// It asks for what there is not: the connection goes on. With the subscription's id.
    Wish(Option<String>, Refusal),
}

/// Reads a message.
pub(super) fn read(text: &str) -> Result<Said, Wrong> {
    let wrong = |message: String| Wrong::Message(Refusal::bad_request(message));
    let object: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| wrong(format!("The message is not a JSON object: {error}")))?;
    let Some(kind) = object.get("type").and_then(Value::as_str) else {
        return Err(wrong("The message has no type".to_owned()));
    };
    match kind {
        "hello" => only(&object, &["type", "client"]).map(|()| Said::Hello),
        "ping" => {
            only(&object, &["type", "t"]).map(|()| Said::Ping(object.get("t").cloned().unwrap_or_default()))
        }
        "subscribe" => subscribe(&object),
        "unsubscribe" => {
            only(&object, &["type", "id"])?;
            let missing = || Wrong::Wish(None, Refusal::parameter("id", "The subscription's id is missing"));
            id(&object)?.map(Said::Unsubscribe).ok_or_else(missing)
        }
        _ => {
            let refusal = Refusal::bad_request(format!("There is no message of type {}", in_quotes(kind)));
            let hint = query::one_of(kind, &["hello", "subscribe", "unsubscribe", "ping"]);
            Err(Wrong::Message(refusal.hint(hint)))
        }
    }
}

/// What the address asks for behind its `?`: a first subscription, by the parameters that `/v1/events` has, and `id`.
pub(super) fn of_address(query: &str) -> Option<Result<Said, Wrong>> {
    let pairs = query::pairs_of_query(query);
    if pairs.is_empty() {
        return None;
    }
    let (ids, pairs): (Pairs, Pairs) = pairs.into_iter().partition(|(name, _)| name == "id");
    let id = match ids.as_slice() {
        [] => None,
        [(_, id)] if (1..=ID_MAX).contains(&id.len()) => Some(id.clone()),
        _ => return Some(Err(wrong_id())),
    };
    Some(match Query::parse(&pairs, None, Place::Stream) {
        Ok(query) => Ok(Said::Subscribe(id, Box::new(query))),
        Err(refusal) => Err(Wrong::Wish(id, refusal)),
    })
}

fn subscribe(object: &Map<String, Value>) -> Result<Said, Wrong> {
    let id = id(object)?;
    let pairs = query::pairs_of_object(object);
    let query = pairs.and_then(|pairs| Query::parse(&pairs, None, Place::Message));
    match query {
        Ok(query) => Ok(Said::Subscribe(id, Box::new(query))),
        Err(refusal) => Err(Wrong::Wish(id, refusal)),
    }
}

fn id(object: &Map<String, Value>) -> Result<Option<String>, Wrong> {
    match object.get("id") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) if !id.is_empty() && id.len() <= ID_MAX => Ok(Some(id.clone())),
        Some(Value::Number(id)) => Ok(Some(id.to_string())),
        Some(_) => Err(wrong_id()),
    }
}

fn wrong_id() -> Wrong {
    let message = format!("A subscription's id is one string of 1 to {ID_MAX} bytes");
    Wrong::Wish(None, Refusal::parameter("id", message))
}

fn only(object: &Map<String, Value>, known: &[&str]) -> Result<(), Wrong> {
    let Some(name) = object.keys().find(|name| !known.contains(&name.as_str())) else { return Ok(()) };
    let refusal = Refusal::parameter(name, format!("There is no member {} in this message", in_quotes(name)));
    Err(Wrong::Wish(None, refusal.hint(query::one_of(name, known))))
}

#[derive(Serialize)]
struct Subscribed<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(flatten)]
    opening: &'a Opening,
    gap: Option<Gap>,
}

/// The subscription stands.
pub(super) fn subscribed(id: &str, opening: &Opening, gap: Option<Gap>) -> Message {
    text(&Subscribed { kind: "subscribed", id, opening, gap })
}

/// Replay is done.
pub(super) fn synced(id: &str, position: u64) -> Message {
    text(&json!({"type": "synced", "id": id, "pos": position}))
}

/// Nothing up to here.
pub(super) fn position(id: &str, position: u64) -> Message {
    text(&json!({"type": "position", "id": id, "pos": position}))
}

/// Retention has overtaken the subscription.
pub(super) fn gap(id: &str, gap: Gap) -> Message {
    text(&json!({"type": "gap", "id": id, "from": gap.from, "to": gap.to, "reason": gap.reason}))
}

/// The subscription has ended.
pub(super) fn unsubscribed(id: &str, code: &str, reason: &str, position: u64) -> Message {
    text(&json!({"type": "unsubscribed", "id": id, "code": code, "reason": reason, "pos": position}))
}

/// The answer to [`Said::Ping`].
pub(super) fn pong(t: &Value) -> Message {
    text(&json!({"type": "pong", "t": t}))
}

/// What was asked for cannot be had.
pub(super) fn error(id: Option<&str>, refusal: &Refusal) -> Message {
    text(&json!({
        "type": "error", "id": id, "code": refusal.code, "message": refusal.message, "hint": refusal.hint,
        "field": refusal.field, "retry": refusal.is_temporary(),
    }))
}

/// Any other message.
pub(super) fn text(value: &impl Serialize) -> Message {
    // Plain structures of numbers and strings: they always serialize.
    Message::text(serde_json::to_string(value).unwrap_or_default())
}

/// What stands before the shared body of an event or a recorded gap. Made once for a subscription.
#[derive(Debug)]
pub(super) struct Prefix {
    event: Box<[u8]>,
    gap: Box<[u8]>,
    schema: Box<[u8]>,
}

/// How a recorded gap begins as the feed writes it.
const GAP_BEGINS: &[u8] = b"{\"type\":\"gap\",";
/// And a schema version.
const SCHEMA_BEGINS: &[u8] = b"{\"type\":\"schema\",";

impl Prefix {
    /// For a subscription.
    pub(super) fn new(id: &str) -> Self {
        let id = Value::from(id);
        Self {
            event: format!("{{\"type\":\"event\",\"sub\":{id},").into_bytes().into(),
            gap: format!("{{\"type\":\"gap\",\"id\":{id},").into_bytes().into(),
            schema: format!("{{\"type\":\"schema\",\"id\":{id},").into_bytes().into(),
        }
    }

    /// The message of an event.
    pub(super) fn message(&self, frame: &Frame, body: &Bytes) -> Option<Message> {
        let (prefix, begins) = if frame.gap { (&self.gap, GAP_BEGINS) } else { (&self.event, &b"{"[..]) };
        put_before(prefix, body.strip_prefix(begins)?)
    }

    /// The message of a schema version.
    pub(super) fn schema(&self, record: &Bytes) -> Option<Message> {
        put_before(&self.schema, record.strip_prefix(SCHEMA_BEGINS)?)
    }
}

fn put_before(prefix: &[u8], rest: &[u8]) -> Option<Message> {
    Utf8Bytes::try_from(Bytes::from([prefix, rest].concat())).ok().map(Message::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_makes_an_event_a_message() {
        let prefix = Prefix::new("a\"b");
        let message = |gap, body: &'static str| {
            let frame = Frame { id: 7, start: 0, end: 0, gap };
            let message = prefix.message(&frame, &Bytes::from_static(body.as_bytes())).expect("a message");
            message.into_text().expect("text").as_str().to_owned()
        };
        assert_eq!(
            message(false, r#"{"id":7,"op":"insert"}"#),
            r#"{"type":"event","sub":"a\"b","id":7,"op":"insert"}"#
        );
        assert_eq!(message(true, r#"{"type":"gap","from":7}"#), r#"{"type":"gap","id":"a\"b","from":7}"#);
        let record = Bytes::from_static(br#"{"type":"schema","schema":7}"#);
        let told = prefix.schema(&record).expect("a message").into_text().expect("text");
        assert_eq!(told.as_str(), r#"{"type":"schema","id":"a\"b","schema":7}"#);
    }

    #[test]
    fn wrong_messages_and_wrong_wishes_differ() {
        for text in ["", "[]", "{}", r#"{"type":"subscribes"}"#, r#"{"type":7}"#] {
            assert!(matches!(read(text), Err(Wrong::Message(_))), "{text}");
        }
        for text in [
            r#"{"type":"subscribe","chanel":"a"}"#,
            r#"{"type":"subscribe","id":""}"#,
            r#"{"type":"unsubscribe"}"#,
            r#"{"type":"ping","x":1}"#,
        ] {
            assert!(matches!(read(text), Err(Wrong::Wish(..))), "{text}");
        }
        let Err(Wrong::Wish(Some(id), refusal)) = read(r#"{"type":"subscribe","id":"a","op":"inser"}"#)
        else {
            panic!("no refusal");
        };
        assert_eq!((id.as_str(), refusal.field.as_deref()), ("a", Some("op")));
        assert!(matches!(read(r#"{"type":"subscribe","topics":["a"]}"#), Ok(Said::Subscribe(None, _))));
        assert!(matches!(read(r#"{"type":"unsubscribe","id":7}"#), Ok(Said::Unsubscribe(id)) if id == "7"));
    }
}
