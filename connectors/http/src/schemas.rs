//! `GET /v1/schemas/{table}`: what the rows of a table look like, now and when older events were written.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use rowcast_engine::format::Described;
use rowcast_engine::in_quotes;
use rowcast_engine::schema::{Schema, SchemaId};
use serde_json::{Value, json};

use crate::app::App;
use crate::path::Name;
use crate::query::{one_of, pairs_of_query};
use crate::refusal::Refusal;

/// Answers `{"channel":…,"versions":[…]}`, the oldest version first: those that events still held were written under,
/// and what came since the start. The table is named as its channel is, quotes included.
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Name(table): Name,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Refusal> {
    let wanted = version(query.as_deref().unwrap_or_default())?;
    let mut held: Vec<Arc<Schema>> = app.journal().schemas();
    held.retain(|schema| schema.channel == table);
    if held.is_empty() {
        return Err(unknown(&app, &table));
    }
    held.sort_unstable_by_key(|schema| schema.id);
    let ids: Vec<SchemaId> = held.iter().map(|schema| schema.id).collect();
    held.retain(|schema| wanted.is_none_or(|wanted| schema.id == wanted));
    if held.is_empty() {
        let ids: Vec<String> = ids.iter().map(SchemaId::to_string).collect();
        let message = format!("No version {} of {table} is held", wanted.unwrap_or_default());
        return Err(not_found(message).hint(format!("There is {}.", ids.join(", "))));
    }
    let versions: Vec<Described<'_>> = held.iter().map(|schema| Described::of(schema)).collect();
    Ok(Json(json!({"channel": table, "versions": versions})))
}

fn version(query: &str) -> Result<Option<SchemaId>, Refusal> {
    let mut found = None;
    for (name, value) in pairs_of_query(query) {
        if name != "version" {
            let refusal = Refusal::parameter(&name, format!("There is no parameter {}", in_quotes(&name)));
            return Err(refusal.hint(one_of(&name, &["version"])));
        }
        let number = value.parse().map_err(|_| {
            Refusal::parameter("version", format!("{} is not the number of a version", in_quotes(&value)))
                .hint("Write the number that an event has as its schema.")
        })?;
        if found.replace(number).is_some() {
            return Err(Refusal::parameter("version", "version is given more than once"));
        }
    }
    Ok(found)
}

fn unknown(app: &App, table: &str) -> Refusal {
    if app.status.is_table(table) {
        return not_found(format!("No change of {table} has been captured yet"))
            .hint("A table is looked at when its first change comes.");
    }
    let known = app.journal().schemas();
    let mut names: Vec<&str> = known.iter().map(|schema| schema.channel.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let refusal = not_found(format!("There is no table {}", in_quotes(table)));
    refusal.hint(if names.is_empty() {
        "No change of any table has been captured yet.".to_owned()
    } else {
        one_of(table, &names)
    })
}

fn not_found(message: String) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "not_found", message)
}
