//! `/v1/snapshots`: the rows that are there, read beside the stream.
//!
//! ```text
//! GET  /v1/snapshots           the tables that are not done, each with its rows, estimate and percent; and what has
//!                              become of others since the start: read (with the rows), dropped (and why)
//! POST /v1/snapshots           {"tables": ["public.orders"], "where": "id > 1000"}: read them; answered with their
//!                              channels, and where those without a key begin: "since": {"public.log": 1757…}
//! POST /v1/snapshots/pause     {"tables": ["public.*"]}: stop after the chunk on its way, over restarts, too
//! POST /v1/snapshots/resume    {"tables": …}: go on from there
//! POST /v1/snapshots/cancel    {"tables": …}: read them no more
//! ```
//! Orders are taken on the Unix socket alone, as those for sinks are.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use rowcast_engine::Kind;
use rowcast_engine::snapshots::{Command, Shown};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::app::App;
use crate::publish::read_body;
use crate::refusal::Refusal;

/// Bytes of an order's body: names and a condition, not data.
const BODY_MAX: usize = 64 << 10;

/// What is wanted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    tables: Vec<String>,
    #[serde(default, rename = "where")]
    condition: Option<String>,
}

#[derive(Serialize)]
struct Standing {
    #[serde(flatten)]
    shown: Shown,
    percent: f64,
}

/// `GET /v1/snapshots`.
pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    let standing = |shown: Shown| Standing { percent: (shown.percent() * 10.0).round() / 10.0, shown };
    let tables: Vec<Standing> = app.status.unfinished_snapshots().into_iter().map(standing).collect();
    let (read, dropped) = (app.status.read_tables(), app.status.dropped_tables());
    let body = json!({"tables": tables, "read": read, "dropped": dropped});
    ([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

/// `POST /v1/snapshots`.
pub(crate) async fn start(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    let Order { tables, condition } = order(body).await?;
    obey(&app, Command::Start { tables, condition }).await
}

/// `POST /v1/snapshots/pause`.
pub(crate) async fn pause(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    obey(&app, Command::Pause(named(body).await?)).await
}

/// `POST /v1/snapshots/resume`.
pub(crate) async fn resume(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    obey(&app, Command::Resume(named(body).await?)).await
}

/// `POST /v1/snapshots/cancel`.
pub(crate) async fn cancel(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    obey(&app, Command::Cancel(named(body).await?)).await
}

/// On the port nobody is asked who he is.
pub(crate) async fn not_here() -> Refusal {
    let what = "Snapshots are ordered on rowcast's own machine alone";
    Refusal::new(StatusCode::FORBIDDEN, "not_here", what).hint(
        "There, as the user that runs rowcast: rowcast snapshot TABLE --data DIR, with its data directory.",
    )
}

async fn order(body: Body) -> Result<Order, Refusal> {
    let bytes = read_body(body, BODY_MAX).await?;
    let order: Order = serde_json::from_slice(&bytes).map_err(|error| {
        Refusal::bad_request(format!("The body is no order: {error}"))
            .hint("Write {\"tables\": [\"public.orders\"], \"where\": \"id > 1000\"}")
    })?;
    if order.tables.is_empty() {
        return Err(Refusal::parameter("tables", "No table is named"));
    }
    Ok(order)
}

async fn named(body: Body) -> Result<Vec<String>, Refusal> {
    let Order { tables, condition } = order(body).await?;
    match condition {
        None => Ok(tables),
        Some(_) => Err(Refusal::parameter("where", "A condition is for a snapshot that begins")),
    }
}

async fn obey(app: &App, command: Command) -> Result<Json<Value>, Refusal> {
    match app.status.ask_for_snapshot(command).await {
        Ok(ordered) => Ok(Json(json!(ordered))),
        Err(error) => {
            let status = match error.kind() {
                Kind::Usage => StatusCode::BAD_REQUEST,
                Kind::Refused => StatusCode::CONFLICT,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            let refusal = Refusal::new(status, "no_snapshot", error.to_string());
            Err(match error.remedy() {
                Some(remedy) => refusal.hint(remedy),
                None => refusal,
            })
        }
    }
}
