//! As much of an HTTP client as the measurements need.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rowcast_engine::{Error, Result};
use serde_json::Value;
use tokio::net::TcpStream;

/// Lines longer than this are no event of ours.
const LINE_MAX: usize = 1 << 20;

async fn get(address: SocketAddr, path: &str, accept: &str) -> Result<Response<Incoming>> {
    let failed = || format!("GET {path} has failed");
    let stream = TcpStream::connect(address).await.map_err(|error| Error::failed(failed()).because(error))?;
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|error| Error::failed(failed()).because(error))?;
    // A broken connection shows in the body.
    tokio::spawn(async move { connection.await.is_ok() });
    let request = Request::get(path).header("host", address.to_string()).header("accept", accept);
    let request =
        request.body(Empty::<Bytes>::new()).map_err(|error| Error::failed(failed()).because(error))?;
    let response =
        sender.send_request(request).await.map_err(|error| Error::failed(failed()).because(error))?;
    if !response.status().is_success() {
        return Err(Error::failed(format!("GET {path} is answered {}", response.status())));
    }
    Ok(response)
}

/// The JSON document at a path.
pub(crate) async fn json(address: SocketAddr, path: &str) -> Result<Value> {
    let failed = || format!("GET {path} has no JSON");
    let response = get(address, path, "application/json").await?;
    let body =
        response.into_body().collect().await.map_err(|error| Error::failed(failed()).because(error))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| Error::failed(failed()).because(error))
}

/// The lines of a stream of events.
#[derive(Debug)]
pub(crate) struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    /// Opens the stream.
    pub(crate) async fn open(address: SocketAddr, path: &str) -> Result<Self> {
        let response = get(address, path, "text/event-stream").await?;
        Ok(Self { body: response.into_body(), buffer: Vec::new() })
    }

    /// Waits for bytes and gives every whole line in them to `each`; false when the stream has ended.
    pub(crate) async fn lines(&mut self, mut each: impl FnMut(&[u8])) -> bool {
        let Some(Ok(frame)) = self.body.frame().await else { return false };
        let Some(data) = frame.data_ref() else { return true };
        self.buffer.extend_from_slice(data);
        let mut rest = self.buffer.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            each(line);
            rest = after.get(1..).unwrap_or_default();
        }
        let done = self.buffer.len() - rest.len();
        self.buffer.drain(..done);
        self.buffer.len() < LINE_MAX
    }
}
