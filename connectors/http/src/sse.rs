//! Server-sent events: the frames that are not events. Events themselves come framed from the feed.
//!
//! Each frame has an id, since some clients forget the last one at a frame without, and data, since some drop a
//! frame without. Events are not named: named ones never reach `onmessage`.

use std::fmt::Display;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use serde::Serialize;
use serde_json::json;

use crate::opening::{Gap, Opening};
use crate::stream::{self, End};

/// Milliseconds after which a client comes back when its connection breaks.
const RETRY: u64 = 2000;

/// The first frame. Its id is the position asked for, so that a client that is cut off before its first event
/// comes back to it.
pub(crate) fn open(opening: &Opening) -> Vec<u8> {
    let mut out = format!("retry: {RETRY}\n").into_bytes();
    frame(&mut out, Some(opening.from), "open", opening);
    out
}

/// Numbers that are not held; `position` is where reading goes on.
pub(crate) fn gap(gap: Gap, position: u64) -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, Some(position), "gap", &gap);
    out
}

/// A schema version, before its first event. Its id is that of the frame before, so that it changes nothing.
pub(crate) fn schema(record: &[u8], position: u64) -> Vec<u8> {
    let mut out = format!("id: {position}\nevent: schema\ndata: ").into_bytes();
    out.extend_from_slice(record);
    out.extend_from_slice(b"\n\n");
    out
}

/// Nothing for this reader up to here.
pub(crate) fn position(position: u64) -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, Some(position), "position", &json!({"newest": position}));
    out
}

/// The last frame, and when to come back.
pub(crate) fn end(why: End<'_>, position: Option<u64>, retry: Duration) -> Vec<u8> {
    #[derive(Serialize)]
    struct Data<'a> {
        #[serde(flatten)]
        why: End<'a>,
        retry: bool,
    }
    let mut out = format!("retry: {}\n", retry.as_millis()).into_bytes();
    frame(&mut out, position, "end", &Data { why, retry: true });
    out
}

/// Sends a client away for now. With any status but 200 a browser would never come back.
pub(crate) fn busy() -> Response {
    stream::endless("text/event-stream", Body::from(end(End::of("busy"), None, stream::return_after())))
}

fn frame(out: &mut Vec<u8>, id: Option<impl Display>, event: &str, data: &impl Serialize) {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    // Plain structures of numbers and strings: they always serialize.
    let data = serde_json::to_string(data).unwrap_or_default();
    out.extend_from_slice(format!("{id}event: {event}\ndata: {data}\n\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_documented() {
        let lost = Gap { from: 121, to: 870, reason: "retention" };
        assert_eq!(
            String::from_utf8(gap(lost, 870)).expect("UTF-8"),
            "id: 870\nevent: gap\ndata: {\"from\":121,\"to\":870,\"reason\":\"retention\"}\n\n"
        );
        assert_eq!(
            String::from_utf8(position(905)).expect("UTF-8"),
            "id: 905\nevent: position\ndata: {\"newest\":905}\n\n"
        );
        assert_eq!(
            String::from_utf8(end(End::of("busy"), None, Duration::from_secs(3))).expect("UTF-8"),
            "retry: 3000\nevent: end\ndata: {\"reason\":\"busy\",\"retry\":true}\n\n"
        );
    }
}
