//! `POST /v1/source/adopt`, for whoever owns the data directory: a history that does not go on may go on behind a gap.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use rowcast_engine::Kind;
use serde_json::{Value, json};

use crate::app::App;
use crate::refusal::Refusal;

/// Answers when the gap is durable: `{"adopted":{"gap":…,"reason":…,"detail":…}}`, or null where nothing was broken.
pub(crate) async fn adopt(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    match app.status.adopt().await {
        Ok(adopted) => Ok(Json(json!({ "adopted": adopted }))),
        Err(error) => {
            let status = match error.kind() {
                Kind::Transient => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::CONFLICT,
            };
            let refusal = Refusal::new(status, "not_adopted", error.to_string());
            Err(match error.remedy() {
                Some(remedy) => refusal.hint(remedy),
                None => refusal,
            })
        }
    }
}
