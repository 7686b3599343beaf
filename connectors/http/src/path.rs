//! The name in a path.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use crate::refusal::Refusal;

/// A channel, a table or a sink, as the path names it.
pub(crate) struct Name(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let named = Path::from_request_parts(parts, state).await;
        named.map(|Path(name)| Self(name)).map_err(|_| {
            Refusal::bad_request("The name in the path is not UTF-8")
                .hint("Write it in UTF-8, each byte of what is not plain ASCII as %XX.")
        })
    }
}
