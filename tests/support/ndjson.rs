//! A client of `application/x-ndjson`, and of the JSON page.

use std::net::SocketAddr;

use hyper::Method;
use serde_json::Value;

use super::http::{Stream, request, send};
use super::soon;

/// A running stream of lines.
pub(crate) struct Ndjson {
    stream: Stream,
    buffer: Vec<u8>,
    /// What was told of schema versions, in between.
    pub(crate) schemas: Vec<Value>,
}

impl Ndjson {
    /// Opens `path` (with its query).
    pub(crate) async fn open(address: SocketAddr, path: &str) -> Result<Self, String> {
        let stream = send(address, Method::GET, path, &[("accept", "application/x-ndjson")], "").await?;
        if stream.status != 200 {
            let status = stream.status;
            return Err(format!("{status}: {}", String::from_utf8_lossy(&stream.rest().await)));
        }
        Ok(Self { stream, buffer: Vec::new(), schemas: Vec::new() })
    }

    /// The next line; `None` when the stream has ended. Half a line at the end is not a line. What is told of schema
    /// versions is kept aside.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let text = String::from_utf8_lossy(&line);
                let value = serde_json::from_slice(&line);
                let value: Value = value.unwrap_or_else(|error| panic!("{error}: {text}"));
                if value["type"] == "schema" {
                    self.schemas.push(value);
                    continue;
                }
                return Some(value);
            }
            let chunk = self.stream.chunk().await?;
            self.buffer.extend_from_slice(&chunk);
        }
    }

    /// The next line, which has to come soon. A position is told when nothing has come for long, and is passed over.
    pub(crate) async fn expect(&mut self, what: &str) -> Value {
        loop {
            let line = soon(what, self.next()).await;
            let line = line.unwrap_or_else(|| panic!("The stream ended before {what}"));
            if line["type"] != "position" {
                return line;
            }
        }
    }
}

/// One JSON page of `path`.
pub(crate) async fn page(address: SocketAddr, path: &str) -> Result<Value, String> {
    let answer = request(address, Method::GET, path, &[("accept", "application/json")], "").await?;
    if answer.status != 200 {
        return Err(format!("{}: {}", answer.status, answer.text()));
    }
    Ok(answer.json())
}
