//! Which address is what.

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware;
use axum::routing::{get, post};

use crate::app::App;
use crate::guard::{self, Guard};
use crate::refusal::Refusal;
use crate::{admin, adopt, channels, events, page, publish, schemas, sinks, snapshots, websocket};

/// All routes; without a guard for who can reach the Unix socket, which no web page can.
pub(crate) fn routes(app: Arc<App>, guard: Option<Guard>) -> Router {
    // Orders are the owner's.
    let (pause, resume, rewind) = match guard {
        None => (post(sinks::pause), post(sinks::resume), post(sinks::rewind)),
        Some(_) => (post(sinks::not_here), post(sinks::not_here), post(sinks::not_here)),
    };
    let snapshots = match guard {
        None => Router::new()
            .route("/v1/snapshots", get(snapshots::list).post(snapshots::start))
            .route("/v1/snapshots/pause", post(snapshots::pause))
            .route("/v1/snapshots/resume", post(snapshots::resume))
            .route("/v1/snapshots/cancel", post(snapshots::cancel)),
        Some(_) => Router::new()
            .route("/v1/snapshots", get(snapshots::list).post(snapshots::not_here))
            .route("/v1/snapshots/{order}", post(snapshots::not_here)),
    };
    let mut api = Router::new()
        .route("/v1/events", get(events::get).post(events::post))
        .route("/v1/ws", get(websocket::upgrade))
        .route("/v1/channels", get(channels::list))
        .route("/v1/channels/{name}/events", post(publish::publish))
        .route("/v1/schemas/{table}", get(schemas::get))
        .route("/v1/sinks", get(sinks::list))
        .route("/v1/sinks/{name}/pause", pause)
        .route("/v1/sinks/{name}/resume", resume)
        .route("/v1/sinks/{name}/rewind", rewind)
        .merge(snapshots)
        .route("/v1/status", get(admin::status))
        .route("/v1/health/flow", get(admin::flow))
        .method_not_allowed_fallback(not_allowed);
    if let Some(guard) = guard {
        // After the fallback, so that preflights of other people's pages meet the guard too.
        api = api.layer(middleware::from_fn_with_state(Arc::new(guard), guard::stand));
    } else {
        api = api.route("/v1/source/adopt", post(adopt::adopt));
    }
    Router::new()
        .route("/healthz", get(admin::alive))
        .route("/readyz", get(admin::ready))
        .route("/metrics", get(admin::metrics))
        .route("/", get(page::index))
        .route("/page/app.js", get(page::script))
        .route("/page/style.css", get(page::style))
        .method_not_allowed_fallback(not_allowed)
        .fallback(not_found)
        .merge(api)
        .with_state(app)
}

async fn not_found(uri: Uri) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "not_found", format!("There is nothing at {}", uri.path()))
        .hint("Events are at /v1/events, the page is at /.")
}

async fn not_allowed(method: Method, uri: Uri) -> Refusal {
    let message = format!("{} cannot be asked with {method}", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
