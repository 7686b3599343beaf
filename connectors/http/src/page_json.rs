//! One JSON page of events, and long polling.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use rowcast_engine::feed::{Events, Framing};
use serde::Serialize;
use tokio::time::Instant;

use crate::app::App;
use crate::clients::{Client, Kind};
use crate::opening::{Gap, Opened, open};
use crate::query::Query;
use crate::reader::{Reader, Step};
use crate::refusal::Refusal;

/// A page ends after the event that passes this, whatever its limit: a page stands in memory.
const PAGE_BYTES: usize = 4 << 20;

/// A page being filled.
struct Page {
    limit: usize,
    count: usize,
    /// The events, with commas between.
    events: Vec<u8>,
    gap: Option<Gap>,
    next: u64,
}

/// What stands behind the events.
#[derive(Serialize)]
struct Tail<'a> {
    /// To pass as `from` for the next page.
    next: u64,
    newest: u64,
    oldest: u64,
    gap: Option<Gap>,
    unknown: &'a [String],
    inserts_only: &'a [String],
}

/// Answers with a page. One that waits comes back with the first commit that matches, or empty at its time.
pub(crate) async fn answer(app: &Arc<App>, query: &Query) -> Result<Response, Refusal> {
    let client = Client::enter(app, Kind::Page).ok_or_else(Refusal::busy)?;
    let Opened { opening, gap, mut reader, .. } = open(app, query, Framing::Objects).await?;
    let mut page = Page { limit: query.limit, count: 0, events: Vec::new(), gap, next: reader.position() };
    page.fill(&mut reader).await?;
    if let Some(wait) = query.wait.filter(|_| page.is_empty()) {
        page.wait(app, &mut reader, wait).await?;
    }
    let tail = Tail {
        next: page.next,
        newest: app.journal().newest(),
        oldest: app.journal().oldest(),
        gap: page.gap,
        unknown: &opening.unknown,
        inserts_only: &opening.inserts_only,
    };
    let body = page.body(&tail);
    client.given(page.count, body.len());
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

impl Page {
    fn is_empty(&self) -> bool {
        self.count == 0 && self.gap.is_none()
    }

    fn is_full(&self) -> bool {
        self.count >= self.limit || self.events.len() >= PAGE_BYTES
    }

    /// Takes what is there already.
    async fn fill(&mut self, reader: &mut Reader) -> Result<(), Refusal> {
        while !self.is_full() {
            match reader.at_once().await? {
                Some(Step::Events(events)) => self.take(&events, reader.position()),
                // Its events name it, and it is no event.
                Some(Step::Schema(_)) => {}
                // A gap among events ends the page: the next one begins with it.
                Some(Step::Gap(_)) if self.count > 0 => return Ok(()),
                Some(Step::Gap(gap)) => {
                    let from = self.gap.map_or(gap.from, |first| first.from);
                    self.gap = Some(Gap { from, ..gap });
                    self.next = gap.to;
                }
                Some(Step::Synced(_) | Step::Position(_)) | None => {
                    self.next = reader.position();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Waits for the first event, then takes what is there.
    async fn wait(&mut self, app: &App, reader: &mut Reader, wait: Duration) -> Result<(), Refusal> {
        let deadline = Instant::now() + wait;
        while self.is_empty() {
            let step = tokio::select! {
                step = reader.step() => step?,
                () = tokio::time::sleep_until(deadline) => break,
                () = app.stop.stopped() => break,
            };
            match step {
                Step::Events(events) => self.take(&events, reader.position()),
                Step::Gap(gap) => self.gap = Some(gap),
                Step::Schema(_) | Step::Synced(_) | Step::Position(_) => {}
            }
        }
        if self.count == 0 {
            self.next = reader.position();
        }
        self.fill(reader).await
    }

    /// Takes the events of a batch, and notes where the next page starts: behind the last one taken, or, when all
    /// were, behind the batch.
    fn take(&mut self, events: &Events, position: u64) {
        for frame in events.frames() {
            if self.is_full() {
                return;
            }
            if self.count > 0 {
                self.events.push(b',');
            }
            self.events.extend_from_slice(&events.frame(frame));
            self.count += 1;
            self.next = frame.id;
        }
        self.next = position;
    }

    fn body(&self, tail: &Tail<'_>) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.events.len() + 256);
        body.extend_from_slice(b"{\"events\":[");
        body.extend_from_slice(&self.events);
        body.extend_from_slice(b"],");
        // Plain structures of numbers and strings: they always serialize.
        let tail = serde_json::to_vec(tail).unwrap_or_default();
        body.extend_from_slice(tail.get(1..).unwrap_or_default());
        body
    }
}
