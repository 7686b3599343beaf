use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::soon;

/// What a request brought back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// A header's value; empty when absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A response whose body is still coming.
pub(crate) struct Stream {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
}

impl Stream {
    /// The next piece; `None` at the end, also when the connection breaks.
    pub(crate) async fn chunk(&mut self) -> Option<Bytes> {
        while let Some(Ok(frame)) = self.body.frame().await {
            if let Ok(data) = frame.into_data() {
                return Some(data);
            }
        }
        None
    }

    pub(crate) async fn answer(mut self) -> Answer {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await {
            body.extend_from_slice(&chunk);
        }
        Answer { status: self.status, headers: self.headers, body: body.into() }
    }
}

/// Sends a request on a connection of its own.
pub(crate) async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Stream {
    let tcp = TcpStream::connect(address).await.expect("a connection");
    let host = address.to_string();
    let all: Vec<_> = headers.iter().copied().chain([("host", host.as_str())]).collect();
    send_over(tcp, method, path, &all, body).await
}

/// Sends a request over a connection; the first of two headers of a name counts.
pub(crate) async fn send_over(
    connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Stream {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.expect("a handshake");
    // A broken connection shows at its reader.
    tokio::spawn(async move { connection.await.is_ok() });
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *request.method_mut() = Method::from_bytes(method.as_bytes()).expect("a method");
    *request.uri_mut() = path.parse().expect("a path");
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        let value = HeaderValue::from_str(value).expect("a value");
        request.headers_mut().entry(name).or_insert(value);
    }
    let response = soon("an answer", sender.send_request(request)).await.expect("an answer");
    let (parts, body) = response.into_parts();
    Stream { status: parts.status, headers: parts.headers, body }
}

/// Sends a request and reads its answer to the end.
pub(crate) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    soon(path, async { send(address, method, path, headers, body).await.answer().await }).await
}

/// Sends a request over any connection and reads its answer to the end.
pub(crate) async fn request_over(
    connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Answer {
    soon(path, async { send_over(connection, method, path, headers, "").await.answer().await }).await
}

/// A frame of an event stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SseEvent {
    pub(crate) id: Option<u64>,
    pub(crate) event: Option<String>,
    pub(crate) data: String,
    pub(crate) retry: Option<u64>,
}

impl SseEvent {
    /// The data as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {}", self.data))
    }

    fn parse(text: &str) -> Self {
        let mut event = Self::default();
        for line in text.lines() {
            let (field, value) = line.split_once(": ").unwrap_or_else(|| panic!("no field: {line}"));
            match field {
                "id" => event.id = Some(value.parse().expect("an id")),
                "event" => event.event = Some(value.to_owned()),
                "data" => event.data.push_str(value),
                "retry" => event.retry = Some(value.parse().expect("a time")),
                _ => panic!("an unknown field: {line}"),
            }
        }
        event
    }
}

/// Cuts a body at a separator.
struct Cutter {
    stream: Stream,
    separator: &'static str,
    rest: String,
    ready: VecDeque<String>,
}

impl Cutter {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(piece);
            }
            let chunk = self.stream.chunk().await?;
            self.rest.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
            while let Some((piece, rest)) = self.rest.split_once(self.separator) {
                self.ready.push_back(piece.to_owned());
                self.rest = rest.to_owned();
            }
        }
    }
}

/// A client of `text/event-stream`.
pub(crate) struct Sse {
    pub(crate) headers: HeaderMap,
    cutter: Cutter,
}

impl Sse {
    /// Opens `/v1/events` with a query.
    pub(crate) async fn open(address: SocketAddr, query: &str) -> Self {
        Self::open_with(address, query, &[]).await
    }

    /// With headers.
    pub(crate) async fn open_with(address: SocketAddr, query: &str, headers: &[(&str, &str)]) -> Self {
        let headers: Vec<_> = [("accept", "text/event-stream")].iter().chain(headers).copied().collect();
        let stream = send(address, "GET", &format!("/v1/events?{query}"), &headers, "").await;
        assert_eq!(stream.status, 200);
        assert_eq!(stream.headers["content-type"], "text/event-stream");
        let headers = stream.headers.clone();
        Self {
            headers,
            cutter: Cutter { stream, separator: "\n\n", rest: String::new(), ready: VecDeque::new() },
        }
    }

    /// The next frame; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<SseEvent> {
        soon("a frame", self.cutter.next()).await.map(|text| SseEvent::parse(&text))
    }

    /// The next frame, which has to have this name (empty for data).
    pub(crate) async fn expect(&mut self, name: &str) -> SseEvent {
        let event = self.next().await.unwrap_or_else(|| panic!("The stream ended before {name:?}"));
        assert_eq!(event.event.as_deref().unwrap_or_default(), name, "{event:?}");
        event
    }

    /// The numbers of the next data frames.
    pub(crate) async fn ids(&mut self, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        for _ in 0..count {
            let event = self.expect("").await;
            assert_eq!(event.id, event.json()["id"].as_u64());
            ids.extend(event.id);
        }
        ids
    }
}

/// A client of `application/x-ndjson`.
pub(crate) struct Lines(Cutter);

impl Lines {
    /// Opens `/v1/events` with a query.
    pub(crate) async fn open(address: SocketAddr, query: &str) -> Self {
        let headers = [("accept", "application/x-ndjson")];
        let stream = send(address, "GET", &format!("/v1/events?{query}"), &headers, "").await;
        assert_eq!(stream.status, 200);
        assert_eq!(stream.headers["content-type"], "application/x-ndjson");
        Self(Cutter { stream, separator: "\n", rest: String::new(), ready: VecDeque::new() })
    }

    /// The next line; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let line = soon("a line", self.0.next()).await?;
        Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }

    /// The next line, which there has to be.
    pub(crate) async fn expect(&mut self) -> Value {
        self.next().await.expect("a line")
    }
}
