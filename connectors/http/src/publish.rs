//! `POST /v1/channels/{name}/events`: custom events from outside Postgres.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use rowcast_engine::channel::check_custom;
use serde_json::{Value, json};

use crate::app::App;
use crate::path::Name;
use crate::payload;
use crate::refusal::Refusal;

/// Bytes of a payload: what Postgres' own messages are used for, not files.
const PAYLOAD_MAX: usize = 1 << 20;
/// A body has to be there after this; slower is a client that has gone, or that means harm.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// Publishes the body, durable before the answer.
pub(crate) async fn publish(
    State(app): State<Arc<App>>,
    Name(channel): Name,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    check_name(&app, &channel)?;
    if headers.contains_key("idempotency-key") {
        let why = "Idempotency-Key is not supported yet: without it, publishing twice makes two events";
        return Err(Refusal::bad_request(why.to_owned()));
    }
    let body = read_body(body, PAYLOAD_MAX).await?;
    check_json(&body)?;
    let id = app.journal().publish(&[(&channel, &body)], now()).await?;
    app.channels.note(&channel);
    Ok((StatusCode::CREATED, Json(json!({"id": id, "channel": channel}))))
}

/// Reads a whole body of at most `max` bytes.
pub(crate) async fn read_body(body: Body, max: usize) -> Result<Bytes, Refusal> {
    let read = tokio::time::timeout(BODY_WITHIN, Limited::new(body, max).collect()).await;
    let late = |_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", "The body did not come in time");
    read.map_err(late)?.map(http_body_util::Collected::to_bytes).map_err(|error| {
        if error.is::<LengthLimitError>() {
            let message = format!("The body is longer than {max} bytes");
            return Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message);
        }
        Refusal::bad_request(format!("The body broke off; {CONTENT_LENGTH} may be wrong"))
    })
}

fn check_name(app: &App, channel: &str) -> Result<(), Refusal> {
    check_custom(channel).map_err(|why| Refusal::parameter("channel", why.to_owned()))?;
    match app.status.table(channel) {
        Some(true) => {
            let message = format!("{channel} is a captured table, whose events come from Postgres alone");
            let refusal = Refusal::new(StatusCode::CONFLICT, "is_table", message);
            Err(refusal.hint("Publish to a channel of another name, or write to the table."))
        }
        // The journal has rows of such a table.
        None if app.journal().schemas().iter().any(|schema| schema.channel == channel) => {
            let message = format!(
                "Whether {channel} is still a captured table is not known before the source has been reached"
            );
            let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
            Err(refusal.hint("Nothing was stored: try again, or publish to a channel of another name."))
        }
        _ => Ok(()),
    }
}

fn check_json(body: &[u8]) -> Result<(), Refusal> {
    let hint = "Send any JSON value: an object, a list, a string in quotes, a number, true, false or null.";
    payload::check(body).map_err(|why| Refusal::new(StatusCode::BAD_REQUEST, "bad_payload", why).hint(hint))
}

/// Microseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
