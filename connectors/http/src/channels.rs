//! What there is to listen to: captured tables, and the custom channels that have been seen.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::State;
use rowcast_engine::journal::{Journal, Read};
use rowcast_engine::record::Batch;
use serde_json::{Value, json};

use crate::app::App;

/// Names are kept for a list and for telling a client that it may have mistyped; beyond this many, new ones are
/// not noted, which bounds the memory against a publisher that makes up a name an event.
const NAMES_MAX: usize = 10_000;
/// At the start the newest events are looked at, no further back than this, so that opening takes no time.
const LOOK_BACK_EVENTS: u64 = 100_000;

/// Custom channels that have been seen: in the newest events at the start, and since.
#[derive(Debug, Default)]
pub(crate) struct CustomChannels(Mutex<BTreeSet<Box<str>>>);

impl CustomChannels {
    /// Whether events of it have been seen.
    pub(crate) fn contains(&self, channel: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(channel)
    }

    /// Notes one.
    pub(crate) fn note(&self, channel: &str) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.contains(channel) && names.len() < NAMES_MAX {
            names.insert(channel.into());
        }
    }

    /// All, in order.
    pub(crate) fn all(&self) -> Vec<Box<str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn see(&self, batch: &Batch) {
        let custom = batch.shares().iter().filter(|share| share.schema.is_none());
        custom.map(|share| share.channel()).filter(|name| !name.is_empty()).for_each(|name| self.note(name));
    }

    fn look_back(&self, journal: &Journal) {
        let newest = journal.newest();
        let mut position = journal.seek_last(LOOK_BACK_EVENTS);
        while position < newest {
            match journal.read(position) {
                Ok(Read::Batches(batches)) => {
                    batches.iter().for_each(|batch| self.see(batch));
                    position = batches.last().map_or(newest, |batch| batch.last());
                }
                Ok(Read::Gone(gone)) => position = gone.to,
                // Readers meet the same error and tell it; a list of names is not worth another word.
                Ok(Read::AtHead) | Err(_) => return,
            }
        }
    }
}

/// Keeps the list of custom channels, until dropped. What has left memory before it is looked at is not noted.
pub(crate) async fn watch(app: Arc<App>) {
    let mut head = app.journal().head();
    let mut seen = *head.borrow_and_update();
    let past = Arc::clone(&app);
    // A panic there costs names, not the door.
    let _ = tokio::task::spawn_blocking(move || past.channels.look_back(past.journal())).await;
    while head.changed().await.is_ok() {
        let newest = *head.borrow_and_update();
        while let Some(batch) = app.journal().cached(seen).filter(|batch| batch.last() > seen) {
            app.channels.see(&batch);
            seen = batch.last();
        }
        seen = seen.max(newest);
    }
}

/// `GET /v1/channels`.
pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let tables = app.status.tables();
    let custom = app.channels.all().into_iter().filter(|name| !tables.contains_key(&**name));
    let custom: Vec<Value> = custom.map(|name| json!({"channel": name, "kind": "custom"})).collect();
    let tables = tables.iter().map(
        |(channel, table)| json!({"channel": channel, "kind": "table", "inserts_only": table.inserts_only}),
    );
    Json(json!({"channels": tables.chain(custom).collect::<Vec<_>>()}))
}
