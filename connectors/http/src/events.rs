//! `/v1/events`: one resource in three shapes, chosen by the header Accept.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::Value;

use crate::app::App;
use crate::clients::Client;
use crate::opening::open;
use crate::publish::read_body;
use crate::query::{Pairs, Place, Query, last_event_id, pairs_of_object, pairs_of_query};
use crate::refusal::Refusal;
use crate::stream::Shape;
use crate::{page_json, sse, stream};

/// Parameters in a body: many channels, not data.
const BODY_MAX: usize = 256 << 10;

/// `GET /v1/events`.
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let pairs = pairs_of_query(query.as_deref().unwrap_or_default());
    answer(&app, &pairs, &headers).await
}

/// `POST /v1/events`: the same parameters as a JSON object, where they are too long for an address.
pub(crate) async fn post(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let mut pairs = pairs_of_query(query.as_deref().unwrap_or_default());
    let body = read_body(body, BODY_MAX).await?;
    if !body.is_empty() {
        let value: Value = serde_json::from_slice(&body)
            .map_err(|error| Refusal::bad_request(format!("The body is not JSON: {error}")))?;
        let object = value.as_object().ok_or_else(|| Refusal::bad_request("The body is not a JSON object"));
        pairs.extend(pairs_of_object(object?)?);
    }
    answer(&app, &pairs, &headers).await
}

async fn answer(app: &Arc<App>, pairs: &Pairs, headers: &HeaderMap) -> Result<Response, Refusal> {
    let wanted = match accepted(headers)? {
        Accepted::This(shape) => shape,
        // A client that does not care, curl say, wants what the address promises, unless it asks for a page's things.
        Accepted::Any => {
            let page = pairs.iter().any(|(name, _)| matches!(name.as_ref(), "limit" | "wait"));
            if page { None } else { Some(Shape::Sse) }
        }
    };
    let place = if wanted.is_some() { Place::Stream } else { Place::Page };
    let query = Query::parse(pairs, last_event_id(headers)?, place)?;
    let Some(shape) = wanted else { return page_json::answer(app, &query).await };
    match Client::enter(app, shape.kind()) {
        Some(client) => Ok(stream::answer(app, client, shape, open(app, &query, shape.framing()).await?)),
        None if shape == Shape::Sse => Ok(sse::busy()),
        None => Err(Refusal::busy()),
    }
}

/// What the client likes best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepted {
    /// It said nothing, or `*/*`.
    Any,
    /// An endless shape, or `None` for a page.
    This(Option<Shape>),
}

/// The shape that the client likes best.
fn accepted(headers: &HeaderMap) -> Result<Accepted, Refusal> {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut ranges =
        accept.flat_map(|value| value.split(',')).map(str::trim).filter(|range| !range.is_empty()).peekable();
    if ranges.peek().is_none() {
        return Ok(Accepted::Any);
    }
    let mut best = None;
    for range in ranges {
        let (media, parameters) = range.split_once(';').unwrap_or((range, ""));
        let accepted = match media.trim().to_ascii_lowercase().as_str() {
            "text/event-stream" | "text/*" => Accepted::This(Some(Shape::Sse)),
            "application/x-ndjson" | "application/ndjson" => Accepted::This(Some(Shape::Ndjson)),
            // A person who opens the address in a browser reads a page.
            "application/json" | "application/*" | "text/html" => Accepted::This(None),
            "*/*" => Accepted::Any,
            _ => continue,
        };
        let quality = quality(parameters);
        if quality > best.map_or(0.0, |(best, _)| best) {
            best = Some((quality, accepted));
        }
    }
    best.map(|(_, accepted)| accepted).ok_or_else(|| {
        Refusal::new(
            StatusCode::NOT_ACCEPTABLE,
            "not_acceptable",
            "Events do not come in any shape that is accepted",
        )
        .hint("Accept text/event-stream, application/x-ndjson or application/json.")
    })
}

fn quality(parameters: &str) -> f32 {
    let mut parameters = parameters.split(';').filter_map(|parameter| parameter.trim().strip_prefix("q="));
    parameters.next().and_then(|quality| quality.parse().ok()).unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(accept: &str) -> Result<Accepted, Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().expect("a header's value"));
        accepted(&headers)
    }

    #[test]
    fn the_best_liked_shape_is_chosen() {
        assert!(accepted(&HeaderMap::new()).is_ok_and(|accepted| accepted == Accepted::Any));
        for (accept, shape) in [
            ("text/event-stream", Accepted::This(Some(Shape::Sse))),
            ("*/*", Accepted::Any),
            ("application/json", Accepted::This(None)),
            ("application/json, */*", Accepted::This(None)),
            ("application/x-ndjson; q=0.5, application/json;q=0.4", Accepted::This(Some(Shape::Ndjson))),
            ("application/json, text/event-stream", Accepted::This(None)),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Accepted::This(None)),
        ] {
            assert_eq!(accepts(accept).expect(accept), shape, "{accept}");
        }
        assert!(accepts("image/png").is_err_and(|refusal| refusal.code == "not_acceptable"));
        assert!(accepts("text/event-stream;q=0").is_err());
    }
}
