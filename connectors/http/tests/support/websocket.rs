use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::soon;

/// A client of `/v1/ws`.
pub(crate) struct Socket {
    stream: WebSocketStream<TcpStream>,
    /// The subprotocol that the server chose.
    pub(crate) protocol: Option<String>,
}

impl Socket {
    /// Connects and offers the subprotocol.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::open_with(address, &[("sec-websocket-protocol", "rowcast.v1")]).await.expect("a WebSocket")
    }

    /// Connects with headers of the test's choice.
    pub(crate) async fn open_with(
        address: SocketAddr,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, Box<Error>> {
        Self::open_at(address, "", headers).await
    }

    /// Connects with a query string.
    pub(crate) async fn open_at(
        address: SocketAddr,
        query: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, Box<Error>> {
        let tcp = TcpStream::connect(address).await.expect("a connection");
        let mut request = format!("ws://{address}/v1/ws{query}").into_client_request().expect("a request");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a value"));
        }
        let (stream, response) = client_async(request, tcp).await.map_err(Box::new)?;
        let protocol = response.headers().get("sec-websocket-protocol");
        let protocol = protocol.map(|protocol| protocol.to_str().expect("a name").to_owned());
        Ok(Self { stream, protocol })
    }

    /// Sends a message.
    pub(crate) async fn send(&mut self, message: &Value) {
        self.send_frame(Message::text(message.to_string())).await;
    }

    /// Sends any frame.
    pub(crate) async fn send_frame(&mut self, frame: Message) {
        self.stream.send(frame).await.expect("an open connection");
    }

    /// Sends bytes that need not be a frame.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.expect("an open connection");
    }

    /// The next message; `Err` with code and reason of the server's close.
    pub(crate) async fn next(&mut self) -> Result<Value, (u16, String)> {
        loop {
            match soon("a message", self.stream.next()).await {
                Some(Ok(Message::Text(text))) => {
                    return Ok(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")));
                }
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Err((frame.code.into(), frame.reason.as_str().to_owned()));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("The connection broke: {other:?}"),
            }
        }
    }

    /// The next message, which has to be of a type.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        let message = self.next().await.unwrap_or_else(|close| panic!("Closed before {kind}: {close:?}"));
        assert_eq!(message["type"], kind, "{message}");
        message
    }

    /// Subscribes, and reads on until the replay is done; gives the events of it.
    pub(crate) async fn subscribe(&mut self, message: &Value) -> (Value, Vec<Value>) {
        self.send(message).await;
        let subscribed = self.expect("subscribed").await;
        let mut events = Vec::new();
        loop {
            let message = self.next().await.expect("an open connection");
            match message["type"].as_str() {
                Some("event") => events.push(message),
                Some("synced") => return (subscribed, events),
                _ => panic!("{message}"),
            }
        }
    }
}
