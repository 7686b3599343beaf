//! A door with a journal, and clients for it.

mod client;
mod server;
mod websocket;

use std::time::Duration;

pub(crate) use client::{Lines, Sse, request, request_over, send, send_over};
pub(crate) use server::{Server, Setup};
pub(crate) use websocket::Socket;

/// Long enough for whatever should happen at once, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Gives up on a future after [`SOON`].
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, future).await {
        Ok(value) => value,
        Err(_) => panic!("Waited {SOON:?} for {what}"),
    }
}
