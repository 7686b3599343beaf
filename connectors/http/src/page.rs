//! The page at `/`, from the binary: it works without any other server.

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};

/// Nothing from elsewhere, nothing inline, in no other page's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /`.
pub(crate) async fn index() -> Response {
    file("text/html; charset=utf-8", include_str!("page/index.html"))
}

/// `GET /page/app.js`.
pub(crate) async fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("page/app.js"))
}

/// `GET /page/style.css`.
pub(crate) async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("page/style.css"))
}

fn file(media_type: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, &'static str); 5] = [
        (header::CONTENT_TYPE, media_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let mut response = text.into_response();
    headers.into_iter().for_each(|(name, value)| {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    });
    response
}
