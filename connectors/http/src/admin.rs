//! Health, status and metrics.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};

use rowcast_engine::status::Report;

use crate::app::App;
use crate::publish::now;

/// `GET /healthz`: the process answers.
pub(crate) async fn alive() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: clients can be served, and what is written to the source from now on will be seen. A paused capture
/// or a stuck door does not matter here: what the journal holds is served all the same.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    let mut starting = false;
    app.status.source(|source| starting = source.state == "starting");
    if app.stop.is_stopped() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else if starting {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

/// `GET /v1/health/flow`: changes flow as they should, or 503 with the reasons.
pub(crate) async fn flow(State(app): State<Arc<App>>) -> (StatusCode, Json<Value>) {
    let report = app.report();
    let status = if report.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"healthy": report.healthy, "reasons": report.reasons})))
}

#[derive(Serialize)]
struct Status {
    #[serde(flatten)]
    report: Report,
    /// Connected clients by kind.
    clients: Map<String, Value>,
    /// The server's clock, microseconds since 1970: what times in the report are to be compared with.
    now: i64,
}

/// `GET /v1/status`: the whole board.
pub(crate) async fn status(State(app): State<Arc<App>>) -> Response {
    let status = Status { report: app.report(), clients: app.clients.by_kind(), now: now() };
    ([(header::CACHE_CONTROL, "no-store")], Json(status)).into_response()
}

/// `GET /metrics`, as Prometheus reads them.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    app.show(if app.stop.is_stopped() { "stopped" } else { "running" });
    app.clients.record();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (app.metrics)()).into_response()
}
