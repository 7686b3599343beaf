//! `/v1/sinks`: the doors that push, as a person sees and commands them.
//!
//! ```text
//! GET  /v1/sinks                  how each stands
//! POST /v1/sinks/{name}/pause     deliver nothing more, over restarts, too
//! POST /v1/sinks/{name}/resume    go on after a pause, behind a gap, or try again what needed a person
//! POST /v1/sinks/{name}/rewind    {"from": PLACE, "dry_run": false}: go on at another place
//! ```
//! Orders are taken on the Unix socket alone, which is its owner's: nobody is asked who he is on the port.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use rowcast_engine::beginnings::Filling;
use rowcast_engine::cursor::Started;
use rowcast_engine::feed::{Filter, From, Pattern};
use rowcast_engine::journal::Journal;
use rowcast_engine::sinks::{Obeyed, Wish};
use rowcast_engine::status::Door;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::app::App;
use crate::path::Name;
use crate::publish::{now, read_body};
use crate::query;
use crate::refusal::Refusal;

/// Bytes of an order's body: a place, not data.
const BODY_MAX: usize = 4 << 10;

/// How a sink stands.
#[derive(Serialize)]
struct Standing {
    name: String,
    kind: &'static str,
    state: &'static str,
    reason: Option<String>,
    /// The last event that the target has.
    position: Option<u64>,
    newest: u64,
    /// Events held here that the target lacks.
    behind_events: Option<u64>,
    /// Commit time of the oldest of them, microseconds since 1970.
    behind_since: Option<i64>,
    /// Numbers that the target lacks and that are not held any more.
    gap: Option<(u64, u64)>,
    /// Events delivered since the start.
    delivered: u64,
    /// How it began, `snapshot`, `earliest` or `latest`, behind which event and when; null where that is not known.
    started: Option<Started>,
    /// Rows that are read for it alone, while there are any left.
    filling: Option<Filling>,
}

/// `GET /v1/sinks`.
pub(crate) async fn list(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let doors = app.report().doors;
    let mut sinks = Vec::new();
    for name in app.sinks.names() {
        let door = doors.get(&name).cloned().unwrap_or_default();
        let journal = app.journal().clone();
        // It may read the disk.
        let standing = tokio::task::spawn_blocking(move || standing(name, door, &journal)).await;
        let broken =
            |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", "The look at a sink broke off");
        sinks.push(standing.map_err(broken)?);
    }
    let body = json!({"sinks": sinks, "newest": app.journal().newest(), "now": now()});
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

fn standing(name: String, door: Door, journal: &Journal) -> Standing {
    let newest = journal.newest();
    let Door { kind, state, reason, position, delivered, started, filling, behind_since, .. } = door;
    // Of what cannot be read the sink may know since when it waits.
    let since = position.and_then(|position| journal.waiting_since(position).unwrap_or(behind_since));
    let gone = position.and_then(|position| journal.held_after(position));
    Standing {
        name,
        kind,
        state: if state.is_empty() { "starting" } else { state },
        reason,
        position,
        newest,
        behind_events: position.map(|position| journal.count(position, newest)),
        behind_since: since,
        gap: gone.map(|gone| (gone.from, gone.to)),
        delivered,
        started,
        filling,
    }
}

/// `POST /v1/sinks/{name}/pause`.
pub(crate) async fn pause(State(app): State<Arc<App>>, Name(name): Name) -> Result<Json<Value>, Refusal> {
    let obeyed = order(&app, &name, Wish::Pause).await?;
    Ok(Json(answer(&app, &name, obeyed)))
}

/// `POST /v1/sinks/{name}/resume`.
pub(crate) async fn resume(State(app): State<Arc<App>>, Name(name): Name) -> Result<Json<Value>, Refusal> {
    let obeyed = order(&app, &name, Wish::Resume).await?;
    Ok(Json(answer(&app, &name, obeyed)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rewind {
    from: String,
    /// Only say what would be repeated and skipped.
    #[serde(default)]
    dry_run: bool,
}

/// `POST /v1/sinks/{name}/rewind`.
pub(crate) async fn rewind(
    State(app): State<Arc<App>>,
    Name(name): Name,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    known(&app, &name)?;
    let body = read_body(body, BODY_MAX).await?;
    let wanted: Rewind = serde_json::from_slice(&body).map_err(|error| {
        Refusal::bad_request(format!("The body is not {{\"from\": PLACE, \"dry_run\": false}}: {error}"))
    })?;
    let position = place(&app, &wanted.from).await?;
    let obeyed = if wanted.dry_run {
        let before = app.report().doors.get(&name).and_then(|door| door.position).unwrap_or(position);
        Obeyed { before, position }
    } else {
        order(&app, &name, Wish::Move(position)).await?
    };
    let mut said = answer(&app, &name, obeyed);
    said["repeats"] = app.journal().count(obeyed.position, obeyed.before).into();
    said["skips"] = app.journal().count(obeyed.before, obeyed.position).into();
    said["dry_run"] = wanted.dry_run.into();
    Ok(Json(said))
}

/// On the port.
pub(crate) async fn not_here(uri: Uri) -> Refusal {
    let command = uri.path().rsplit('/').next().unwrap_or_default();
    let place = if command == "rewind" { " --from PLACE" } else { "" };
    Refusal::new(StatusCode::FORBIDDEN, "not_here", "Sinks take orders on rowcast's own machine alone").hint(format!(
        "There, as the user that runs rowcast: rowcast sink {command} NAME{place} --data DIR, with its data directory."
    ))
}

fn known(app: &App, name: &str) -> Result<(), Refusal> {
    if app.sinks.names().iter().any(|known| known == name) {
        return Ok(());
    }
    let error = app.sinks.unknown(name);
    let refusal = Refusal::new(StatusCode::NOT_FOUND, "unknown_sink", error.to_string());
    Err(refusal.hint(error.remedy().unwrap_or_default()))
}

async fn order(app: &App, name: &str, wish: Wish) -> Result<Obeyed, Refusal> {
    known(app, name)?;
    Ok(app.sinks.order(name, wish).await?)
}

fn answer(app: &App, name: &str, obeyed: Obeyed) -> Value {
    let door = app.report().doors.remove(name).unwrap_or_default();
    let Obeyed { before, position } = obeyed;
    json!({"name": name, "state": door.state, "reason": door.reason, "before": before, "position": position})
}

/// A position that is held, and so can be delivered from.
async fn place(app: &App, text: &str) -> Result<u64, Refusal> {
    let everything = Filter::new(vec![Pattern::All], &[]);
    let from = query::from(text)?;
    let start = app.feed.start(from, &everything).await?;
    let Some((gone, reason)) = start.gap else { return Ok(start.position) };
    let (oldest, newest) = (app.journal().oldest(), app.journal().newest());
    let (message, hint) = match reason {
        "ahead" => (
            format!("Event {} lies above the newest one, {newest}", gone.to),
            "Write latest for what comes next.",
        ),
        "retention" if matches!(from, From::Time(_)) => (
            format!("Of what came since then event {} is not held any more; the oldest is {oldest}", gone.to),
            "Write earliest for all that is held.",
        ),
        "retention" => (
            format!("What comes after event {} is not held any more; the oldest is {oldest}", gone.from - 1),
            "Write earliest for all that is held.",
        ),
        _ => (
            format!("The number {text} was never given to an event of this history"),
            "Write the id of an event.",
        ),
    };
    Err(Refusal::parameter("from", message).hint(hint))
}
