//! A plain HTTP/1.1 client.

use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

/// What a request brought back.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: StatusCode,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The whole body.
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{} {error}: {text}", self.status))
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value; empty when absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A response whose body is still coming.
pub(crate) struct Stream {
    /// The status.
    pub(crate) status: StatusCode,
    /// The headers.
    pub(crate) headers: HeaderMap,
    body: Incoming,
}

impl Stream {
    /// The next piece of the body; `None` at its end, also when the connection breaks.
    pub(crate) async fn chunk(&mut self) -> Option<Bytes> {
        loop {
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(data);
                    }
                }
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// The rest of the body.
    pub(crate) async fn rest(mut self) -> Bytes {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await {
            bytes.extend_from_slice(&chunk);
        }
        bytes.into()
    }
}

/// Sends a request on a connection of its own; the error says that nothing answered.
pub(crate) async fn send(
    address: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Stream, String> {
    let tcp = tokio::net::TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    exchange(tcp, &address.to_string(), method, path, headers, body).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Stream, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // A broken connection shows at its reader.
    tokio::spawn(async move { connection.await.is_ok() });
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
    request.headers_mut().insert("host", HeaderValue::from_str(host).expect("an address"));
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header's name");
        request.headers_mut().insert(name, HeaderValue::from_str(value).expect("a header's value"));
    }
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let (parts, body) = response.into_parts();
    Ok(Stream { status: parts.status, headers: parts.headers, body })
}

/// POST to the end, `application/json`, over the Unix socket that only its owner reaches.
pub(crate) async fn post_as_owner(socket: &Path, path: &str, body: &str) -> Result<Answer, String> {
    let unix = tokio::net::UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
    let json = [("content-type", "application/json")];
    answer(exchange(unix, "localhost", Method::POST, path, &json, body).await?).await
}

/// GET to the end.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<Answer, String> {
    request(address, Method::GET, path, &[], "").await
}

/// POST to the end, `application/json`.
pub(crate) async fn post(address: SocketAddr, path: &str, body: &str) -> Result<Answer, String> {
    request(address, Method::POST, path, &[("content-type", "application/json")], body).await
}

/// Any request to the end.
pub(crate) async fn request(
    address: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer, String> {
    answer(send(address, method, path, headers, body).await?).await
}

/// All of it: one that breaks off is none.
async fn answer(stream: Stream) -> Result<Answer, String> {
    let body = stream.body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok(Answer { status: stream.status, headers: stream.headers, body })
}
