//! What a client is told when it does not get what it asked for.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rowcast_engine::{Error, Kind};
use serde::Serialize;
use serde_json::json;

/// Seconds after which a client that was turned away for now may come again.
const RETRY_AFTER: &str = "5";

/// An error for a client: `{"error":{"code":…,"message":…,"hint":…,"field":…}}`.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    /// What is wrong, in one word, for programs.
    pub(crate) code: &'static str,
    /// What is wrong, for people.
    pub(crate) message: String,
    /// What to do next.
    pub(crate) hint: Option<String>,
    /// The parameter it is about.
    pub(crate) field: Option<String>,
}

/// The shape on the wire.
#[derive(Serialize)]
struct Body<'a> {
    code: &'a str,
    message: &'a str,
    hint: Option<&'a str>,
    field: Option<&'a str>,
}

impl Refusal {
    /// With a status, a word and a sentence.
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), hint: None, field: None }
    }

    /// A parameter that is wrong.
    pub(crate) fn parameter(field: &str, message: impl Into<String>) -> Self {
        let refusal = Self::new(StatusCode::BAD_REQUEST, "bad_parameter", message);
        Self { field: Some(field.to_owned()), ..refusal }
    }

    /// A request that is wrong as a whole.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// As many clients as the configuration allows.
    pub(crate) fn busy() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "As many clients are connected as http.max_connections allows",
        )
        .hint("Come again in some seconds.")
    }

    /// What to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether asking again later may help.
    pub(crate) fn is_temporary(&self) -> bool {
        self.status.is_server_error()
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let (status, code) = match error.kind() {
            // Not one that clients repeat by themselves.
            _ if error.may_be_done() => (StatusCode::INTERNAL_SERVER_ERROR, "unknown_outcome"),
            Kind::Transient | Kind::Journal => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
        };
        let refusal = Self::new(status, code, error.to_string());
        Self { hint: error.remedy().map(str::to_owned), ..refusal }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Body {
            code: self.code,
            message: &self.message,
            hint: self.hint.as_deref(),
            field: self.field.as_deref(),
        };
        let mut response = (self.status, Json(json!({ "error": body }))).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients repeat what they are told to come again with.
    #[test]
    fn what_may_be_done_already_is_not_asked_for_again() {
        let error = || Error::journal("Whether it was stored is not known");
        let answer = Refusal::from(error()).into_response();
        assert_eq!(answer.status().as_u16(), 503);
        assert_eq!(answer.headers()[header::RETRY_AFTER], RETRY_AFTER);
        let refusal = Refusal::from(error().or_done());
        assert_eq!(refusal.code, "unknown_outcome");
        let answer = refusal.into_response();
        assert_eq!((answer.status().as_u16(), answer.headers().get(header::RETRY_AFTER)), (500, None));
    }
}
