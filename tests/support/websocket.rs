//! A client of `/v1/ws`.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::soon;

/// A connection of the subprotocol `rowcast.v1`.
pub(crate) struct WebSocket {
    stream: WebSocketStream<TcpStream>,
    lines: Vec<Value>,
    /// What was told of schema versions, in between.
    pub(crate) schemas: Vec<Value>,
    /// Code and reason, once the server has closed the connection.
    pub(crate) closed: Option<(u16, String)>,
}

impl WebSocket {
    /// Connects, without a hello.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, String> {
        Self::open_with(address, "/v1/ws", &[("sec-websocket-protocol", "rowcast.v1")]).await
    }

    /// Connects with headers of the test's choice.
    pub(crate) async fn open_with(
        address: SocketAddr,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, String> {
        let tcp = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let mut request = format!("ws://{address}{path}").into_client_request().expect("a URL");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header's value"));
        }
        let (stream, _response) = client_async(request, tcp).await.map_err(|error| error.to_string())?;
        Ok(Self { stream, lines: Vec::new(), schemas: Vec::new(), closed: None })
    }

    /// Sends one message. A connection that is gone shows at the next read.
    pub(crate) async fn send(&mut self, message: &Value) {
        let _ = self.stream.send(Message::text(message.to_string())).await;
    }

    /// The next message; `None` when the connection has ended (see [`WebSocket::closed`]). What is told of schema
    /// versions is kept aside.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            match self.lines.pop() {
                Some(told) if told["type"] == "schema" => {
                    self.schemas.push(told);
                    continue;
                }
                Some(line) => return Some(line),
                None => {}
            }
            match self.stream.next().await?.ok()? {
                Message::Text(text) => {
                    let lines = text.lines().map(|line| {
                        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
                    });
                    self.lines = lines.collect();
                    self.lines.reverse();
                }
                Message::Close(frame) => {
                    self.closed = frame.map(|frame| (frame.code.into(), frame.reason.as_str().to_owned()));
                }
                Message::Binary(_) => panic!("A binary frame"),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// The next message, which has to come soon.
    pub(crate) async fn expect(&mut self, what: &str) -> Value {
        let message = soon(what, self.next()).await;
        message.unwrap_or_else(|| panic!("The connection ended before {what}: {:?}", self.closed))
    }

    /// The next message of a type, which has to come soon; others are passed over.
    pub(crate) async fn expect_type(&mut self, kind: &str) -> Value {
        let found = async {
            loop {
                let message = self.expect(kind).await;
                if message["type"] == kind {
                    return message;
                }
            }
        };
        soon(kind, found).await
    }
}
