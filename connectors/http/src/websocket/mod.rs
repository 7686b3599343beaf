//! `GET /v1/ws`: many subscriptions on one connection, subprotocol `rowcast.v1`. Text frames, one JSON object each.
//!
//! ```text
//! client   hello        client                          → welcome
//!          subscribe    id, channel | channels | topics, op, from, replay, numbers → subscribed, then events
//!          unsubscribe  id                              → unsubscribed
//!          ping         t                               → pong with the same t
//! server   welcome      session, server, oldest, newest, ping, limits
//!          subscribed   id, from, oldest, newest, gap, unknown, inserts_only: every later commit is delivered
//!          event        sub, then the event             synced    id, pos: replay is done, live from here
//!          position     id, pos: nothing up to here     gap       id, from, to, reason
//!          schema       id, then a version of a table, before the first event of it
//!          unsubscribed id, code, reason, pos           notice    code, reconnect_in {min, max} in milliseconds
//!          error        id, code, message, hint, field, retry
//! ```
//! `/v1/ws?channel=public.orders&from=last:5` is a connection with a first subscription: what stands behind the `?` are
//! the parameters of `/v1/events`, and `id`.
//! Close codes: 1001 shutdown, 1002 and 1007 what is no WebSocket frame or no UTF-8, 1003 binary, 1008 host or origin,
//! 1009 too long, 1013 too many clients, 4400 a message that is none, 4408 nothing heard, 4601 rotated. A subscribe
//! message that is wrong is answered by `error` and leaves the connection as it was.

mod messages;
mod session;
mod subscriptions;

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::clients::{Client, Kind};
use crate::refusal::Refusal;
use crate::serve::Seat;
use crate::websocket::session::Session;

/// The subprotocol.
const PROTOCOL: &str = "rowcast.v1";
/// Bytes of a client's message: subscriptions, not data.
const MESSAGE_MAX: usize = 64 << 10;
/// Taken at once for each connection; messages are small.
const READ_BUFFER: usize = 4 << 10;
/// Written to the socket when more than this has come together.
const WRITE_BUFFER: usize = 16 << 10;
/// RFC 6455 leaves so many bytes for a reason.
const REASON_MAX: usize = 123;
/// A connection that is refused is closed by us after this if its client does not close it.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// Opens a session.
pub(crate) async fn upgrade(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    refused: Option<Extension<Refusal>>,
    seat: Option<Extension<Seat>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let upgrade = upgrade.map_err(|rejection| {
        Refusal::new(StatusCode::UPGRADE_REQUIRED, "not_a_websocket", rejection.body_text())
            .hint("Open it as a WebSocket: ws:// and this address.")
    })?;
    let upgrade = upgrade
        .protocols([PROTOCOL])
        .max_message_size(MESSAGE_MAX)
        .max_frame_size(MESSAGE_MAX)
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER);
    if let Some(Extension(refusal)) = refused {
        return Ok(upgrade.on_upgrade(|socket| seated(seat, refuse(socket, close_code::POLICY, refusal))));
    }
    match Client::enter(&app, Kind::WebSocket) {
        Some(client) => {
            let query = query.unwrap_or_default();
            let live = move |socket| seated(seat, Session::new(app, client, socket, &query).live());
            Ok(upgrade.on_upgrade(live).into_response())
        }
        // A browser shows a page nothing of a refused upgrade.
        None if headers.contains_key(header::ORIGIN) => {
            Ok(upgrade.on_upgrade(|socket| seated(seat, refuse(socket, close_code::AGAIN, Refusal::busy()))))
        }
        None => Err(Refusal::busy()),
    }
}

/// Keeps the connection's place for as long as it lasts: it is an open file.
async fn seated(seat: Option<Extension<Seat>>, life: impl Future<Output = ()>) {
    life.await;
    drop(seat);
}

async fn refuse(mut socket: WebSocket, code: u16, refusal: Refusal) {
    let close = async {
        if socket.send(close_frame(code, &refusal.message)).await.is_ok() {
            // Until the client has answered, or is gone.
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    // It has been told, or it has gone: nothing is left to do.
    let _ = tokio::time::timeout(REFUSED_WITHIN, close).await;
}

fn close_frame(code: u16, reason: &str) -> Message {
    let end = (0..=reason.len().min(REASON_MAX)).rev().find(|end| reason.is_char_boundary(*end));
    let reason = reason.get(..end.unwrap_or(0)).unwrap_or_default();
    Message::Close(Some(CloseFrame { code, reason: reason.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_between_characters() {
        let Message::Close(Some(frame)) = close_frame(1008, &"ä".repeat(100)) else {
            panic!("no close frame")
        };
        assert_eq!(frame.reason.len(), 122);
        let Message::Close(Some(frame)) = close_frame(1008, "short") else { panic!("no close frame") };
        assert_eq!(frame.reason.as_str(), "short");
    }
}
