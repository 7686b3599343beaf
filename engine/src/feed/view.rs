//! A view: what readers with equal wishes share. It is evaluated and rendered once per batch.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use tokio::sync::watch;

use crate::event::{Body, Event, Op};
use crate::feed::Filter;
use crate::feed::kept::{Cell, Kept};
use crate::feed::records::Records;
use crate::format::native::{self, NativeOptions};
use crate::record::{Batch, fitted};
use crate::schema::{Schema, SchemaId};

/// Batches of which a view knows a rendering, if that is kept: the newest. A reader that is further behind renders for
/// itself.
const RECENT: usize = 8;

/// How events are framed for a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    /// Server-sent events: `id:`, `data:`, blank line; gaps as `event: gap`.
    Sse,
    /// A JSON object a line.
    Ndjson,
    /// JSON objects one after the other, to be picked by [`Rendered::frames`].
    Objects,
}

/// What makes two readers want the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ViewKey {
    /// Channels and operations.
    pub filter: Filter,
    /// Framing.
    pub framing: Framing,
    /// Options of the native format.
    pub options: NativeOptions,
}

/// One event in [`Rendered::bytes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The event's number.
    pub id: u64,
    /// Where it starts.
    pub start: u32,
    /// Where it ends.
    pub end: u32,
    /// It is a gap, not a change.
    pub gap: bool,
}

/// The events of a batch that a view lets through, as bytes to send.
#[derive(Clone, Debug, Default)]
pub struct Rendered {
    /// All frames, one after the other.
    pub bytes: Bytes,
    /// Where each event stands.
    pub frames: Vec<Frame>,
    /// The schema versions of the rows, in the order in which they come.
    pub versions: Vec<Appearance>,
}

/// Where a schema version first appears in [`Rendered`].
#[derive(Clone, Debug)]
pub struct Appearance {
    /// The place in `frames` of its first event.
    pub at: usize,
    /// It.
    pub schema: Arc<Schema>,
}

impl Rendered {
    /// Memory that it takes.
    pub(super) fn byte_len(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.frames) + size_of_val(&*self.versions)
    }
}

#[derive(Debug)]
struct Recent {
    first: u64,
    rendered: Weak<OnceLock<Arc<Rendered>>>,
}

/// See the module.
#[derive(Debug)]
pub struct View {
    key: ViewKey,
    /// Number of the last event of the newest batch that holds anything for this view.
    matched: watch::Sender<u64>,
    /// All up to this number has been looked at.
    evaluated: AtomicU64,
    recent: Mutex<VecDeque<Recent>>,
    kept: Arc<Kept>,
    records: Arc<Records>,
}

impl View {
    pub(crate) fn new(key: ViewKey, newest: u64, kept: Arc<Kept>, records: Arc<Records>) -> Self {
        // What came before is not known to match or not: readers behind look for themselves.
        Self {
            key,
            matched: watch::Sender::new(newest),
            evaluated: AtomicU64::new(newest),
            recent: Mutex::new(VecDeque::new()),
            kept,
            records,
        }
    }

    pub(crate) fn key(&self) -> &ViewKey {
        &self.key
    }

    pub(crate) fn matched(&self) -> watch::Receiver<u64> {
        self.matched.subscribe()
    }

    pub(crate) fn evaluated(&self) -> u64 {
        self.evaluated.load(Ordering::Acquire)
    }

    /// Looks at a batch and wakes the readers if there is anything for them.
    pub(crate) fn evaluate(&self, batch: &Batch) {
        if self.key.filter.matches_batch(batch) {
            self.raise(batch.last());
        }
        self.evaluated.fetch_max(batch.last(), Ordering::AcqRel);
    }

    /// Wakes the readers without looking: what is new is too old for memory already.
    pub(crate) fn assume(&self, newest: u64) {
        self.raise(newest);
        self.evaluated.fetch_max(newest, Ordering::AcqRel);
    }

    /// A view that is younger than the hub's place has its start above what the hub still looks at.
    fn raise(&self, id: u64) {
        self.matched.send_if_modified(|matched| {
            let raised = id > *matched;
            *matched = id.max(*matched);
            raised
        });
    }

    /// The frames of a batch. `live` batches are rendered once for all readers.
    pub(crate) fn render(&self, batch: &Batch, live: bool) -> Arc<Rendered> {
        if !live {
            return Arc::new(self.draw(batch));
        }
        let cell = self.recent_cell(batch.first());
        let mut drawn = false;
        let rendered = Arc::clone(cell.get_or_init(|| {
            drawn = true;
            Arc::new(self.draw(batch))
        }));
        if drawn {
            self.kept.keep(cell);
        }
        rendered
    }

    fn recent_cell(&self, first: u64) -> Cell {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let known = recent.iter().find(|entry| entry.first == first);
        if let Some(cell) = known.and_then(|entry| entry.rendered.upgrade()) {
            return cell;
        }
        recent.retain(|entry| entry.first != first);
        if recent.len() >= RECENT {
            recent.pop_front();
        }
        let rendered = Cell::default();
        recent.push_back(Recent { first, rendered: Arc::downgrade(&rendered) });
        rendered
    }

    fn draw(&self, batch: &Batch) -> Rendered {
        // Rendered rows are about twice as long as stored ones.
        let mut out = Vec::with_capacity(batch.byte_len() * 2);
        let mut frames = Vec::with_capacity(batch.header().events as usize);
        let mut versions = Versions::default();
        let at = |out: &Vec<u8>| u32::try_from(out.len()).unwrap_or(u32::MAX);
        for event in batch.events_where(|channel, op| self.key.filter.wants(channel, op)) {
            let start = at(&out);
            self.frame(&mut out, &event);
            versions.see(batch, &event, frames.len());
            frames.push(Frame { id: event.id, start, end: at(&out), gap: event.op == Op::Gap });
        }
        frames.shrink_to_fit();
        Rendered { bytes: fitted(out), frames, versions: versions.found }
    }

    /// What readers are told of a schema version before its first event: an object on one line.
    pub(crate) fn record(&self, schema: &Schema) -> Bytes {
        self.records.of(schema)
    }

    fn frame(&self, out: &mut Vec<u8>, event: &Event<'_>) {
        match self.key.framing {
            Framing::Sse => {
                out.extend_from_slice(b"id: ");
                out.extend_from_slice(itoa::Buffer::new().format(event.id).as_bytes());
                out.extend_from_slice(if event.op == Op::Gap {
                    b"\nevent: gap\ndata: "
                } else {
                    b"\ndata: "
                });
                self.object(out, event);
                out.extend_from_slice(b"\n\n");
            }
            Framing::Ndjson => {
                self.object(out, event);
                out.push(b'\n');
            }
            Framing::Objects => self.object(out, event),
        }
    }

    fn object(&self, out: &mut Vec<u8>, event: &Event<'_>) {
        match event.body {
            Body::Gap { channel, from, reason, detail } => {
                let channel = (!channel.is_empty()).then_some(channel);
                let gap = serde_json::json!({
                    "type": "gap", "from": from, "to": event.id, "reason": reason, "channel": channel,
                    "detail": detail,
                });
                out.extend_from_slice(gap.to_string().as_bytes());
            }
            _ => native::write_event(out, event, &self.key.options),
        }
    }
}

/// Notes where each schema version first appears.
#[derive(Default)]
struct Versions {
    found: Vec<Appearance>,
    /// Of the event before: rows of one table mostly come together.
    last: SchemaId,
}

impl Versions {
    fn see(&mut self, batch: &Batch, event: &Event<'_>, at: usize) {
        let (Body::Row { schema, .. } | Body::Truncate { schema, .. }) = event.body else { return };
        if std::mem::replace(&mut self.last, schema.id) == schema.id
            || self.found.iter().any(|seen| seen.schema.id == schema.id)
        {
            return;
        }
        let mut held = batch.shares().iter().filter_map(|share| share.schema.as_ref());
        if let Some(schema) = held.find(|held| held.id == schema.id) {
            self.found.push(Appearance { at, schema: Arc::clone(schema) });
        }
    }
}
