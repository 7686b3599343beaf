//! A client of `text/event-stream`, after the HTML standard's "Server-sent events", section 9.2.6.

use std::collections::VecDeque;
use std::net::SocketAddr;

use hyper::Method;
use serde_json::Value;

use super::http::{Stream, send};
use super::soon;

/// One dispatched event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SseEvent {
    /// The `id:` that this very event carried.
    pub(crate) id: Option<String>,
    /// `lastEventId`: the latest `id:` seen so far.
    pub(crate) last_event_id: String,
    /// `message` when the event has no name.
    pub(crate) event: String,
    /// The data lines, joined by newlines.
    pub(crate) data: String,
    /// The `retry:` that this very event carried, in milliseconds.
    pub(crate) retry: Option<u64>,
}

impl SseEvent {
    /// The data as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {}", self.data))
    }
}

/// A running stream of events.
pub(crate) struct Sse {
    stream: Stream,
    parser: Parser,
    /// What was told of schema versions, in between.
    pub(crate) schemas: Vec<Value>,
}

impl Sse {
    /// Opens `path` (with its query); panics unless a stream of events answers.
    pub(crate) async fn open(address: SocketAddr, path: &str) -> Self {
        Self::resume(address, path, None).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Opens `path` after an event.
    pub(crate) async fn resume(
        address: SocketAddr,
        path: &str,
        last_event_id: Option<&str>,
    ) -> Result<Self, String> {
        let mut headers = vec![("accept", "text/event-stream"), ("cache-control", "no-store")];
        headers.extend(last_event_id.map(|id| ("last-event-id", id)));
        let stream = send(address, Method::GET, path, &headers, "").await?;
        if stream.status != 200 {
            let status = stream.status;
            return Err(format!("{status}: {}", String::from_utf8_lossy(&stream.rest().await)));
        }
        let kind = stream.headers.get("content-type").and_then(|value| value.to_str().ok());
        let kind = kind.unwrap_or_default().to_owned();
        assert!(kind.starts_with("text/event-stream"), "{path}: a stream of {kind}");
        Ok(Self { stream, parser: Parser::default(), schemas: Vec::new() })
    }

    /// The next event; `None` when the stream has ended. Waits as long as it takes. What is told of schema versions
    /// is kept aside.
    pub(crate) async fn next(&mut self) -> Option<SseEvent> {
        loop {
            match self.parser.ready.pop_front() {
                Some(told) if told.event == "schema" => {
                    self.schemas.push(told.json());
                    continue;
                }
                Some(event) => return Some(event),
                None => {}
            }
            let chunk = self.stream.chunk().await?;
            self.parser.feed(&chunk);
        }
    }

    /// The next event, which has to come soon.
    pub(crate) async fn expect(&mut self, what: &str) -> SseEvent {
        soon(what, self.next()).await.unwrap_or_else(|| panic!("The stream ended before {what}"))
    }

    /// The next event of a name (`message` for data), which has to come soon; others are passed over.
    pub(crate) async fn expect_event(&mut self, name: &str) -> SseEvent {
        let found = async {
            loop {
                let event = self.expect(name).await;
                if event.event == name {
                    return event;
                }
            }
        };
        soon(name, found).await
    }
}

/// The standard's parser. Lines end with CR, LF or CRLF, wherever the network cuts them.
#[derive(Default)]
struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    begun: bool,
    id: Option<String>,
    last_event_id: String,
    event: String,
    data: String,
    retry: Option<u64>,
    ready: VecDeque<SseEvent>,
}

impl Parser {
    fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let crlf = byte == b'\n' && self.after_cr;
            self.after_cr = byte == b'\r';
            match byte {
                _ if crlf => {}
                b'\r' | b'\n' => self.end_of_line(),
                _ => self.line.push(byte),
            }
        }
    }

    fn end_of_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = if self.begun { &line } else { line.trim_start_matches('\u{feff}') };
        self.begun = true;
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = value.parse().ok();
            }
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        let (id, event) = (self.id.take(), std::mem::take(&mut self.event));
        let (mut data, retry) = (std::mem::take(&mut self.data), self.retry.take());
        if let Some(id) = &id {
            self.last_event_id.clone_from(id);
        }
        if data.pop().is_none() {
            return;
        }
        let event = if event.is_empty() { String::from("message") } else { event };
        let last_event_id = self.last_event_id.clone();
        self.ready.push_back(SseEvent { id, last_event_id, event, data, retry });
    }
}

#[test]
fn parses_as_the_standard_says() {
    let text = "\u{feff}: a comment\r\nid: 7\revent: open\ndata: {\ndata:}\n\ndata\n\nid\ndata:  two\nretry: 5x\nretry: 50\n\n\
                event: nothing\nid: 9\n\nfoo: bar\ndata: a:b\n\ndata: unfinished\n";
    let mut whole = Parser::default();
    whole.feed(text.as_bytes());
    let seen: Vec<_> = whole
        .ready
        .iter()
        .map(|e| (e.id.as_deref(), e.last_event_id.as_str(), e.event.as_str(), e.data.as_str(), e.retry))
        .collect();
    let expected = [
        (Some("7"), "7", "open", "{\n}", None),
        (None, "7", "message", "", None),
        (Some(""), "", "message", " two", Some(50)),
        (None, "9", "message", "a:b", None),
    ];
    assert_eq!(seen, expected);

    let mut pieces = Parser::default();
    text.as_bytes().chunks(1).for_each(|piece| pieces.feed(piece));
    assert_eq!(pieces.ready, whole.ready);
}
