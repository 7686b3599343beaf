//! Endless answers. The body is a place in the journal that is read when the socket takes more, and nothing else:
//! a client that stops reading stops its own reading of the journal.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use rowcast_engine::Stop;
use rowcast_engine::feed::Framing;
use serde::Serialize;

use crate::app::App;
use crate::clients::{Client, Kind};
use crate::opening::{Gap, Opened, Opening};
use crate::reader::{Reader, Step};
use crate::{ndjson, sse};

/// Clients that are sent away come back after a random time up to this, so that they do not all come at once.
pub(crate) const RETURN_WITHIN: Duration = Duration::from_secs(5);
/// No client is told to come back sooner than this.
pub(crate) const RETURN_AFTER: Duration = Duration::from_millis(500);

/// Which endless shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `text/event-stream`.
    Sse,
    /// `application/x-ndjson`.
    Ndjson,
}

impl Shape {
    /// How the view frames events.
    pub(crate) fn framing(self) -> Framing {
        match self {
            Self::Sse => Framing::Sse,
            Self::Ndjson => Framing::Ndjson,
        }
    }

    /// How its clients are counted.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Sse => Kind::Sse,
            Self::Ndjson => Kind::Ndjson,
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Sse => "text/event-stream",
            Self::Ndjson => "application/x-ndjson",
        }
    }

    fn opening(self, opening: &Opening, gap: Option<(Gap, u64)>) -> Bytes {
        let (mut text, gap) = match self {
            Self::Sse => (sse::open(opening), gap.map(|(gap, position)| sse::gap(gap, position))),
            Self::Ndjson => (ndjson::open(opening), gap.map(|(gap, _)| ndjson::gap(gap))),
        };
        text.extend(gap.unwrap_or_default());
        text.into()
    }

    fn gap(self, gap: Gap) -> Bytes {
        match self {
            Self::Sse => sse::gap(gap, gap.to).into(),
            Self::Ndjson => ndjson::gap(gap).into(),
        }
    }

    fn schema(self, record: &Bytes, position: u64) -> Bytes {
        match self {
            Self::Sse => sse::schema(record, position).into(),
            Self::Ndjson => ndjson::schema(record).into(),
        }
    }

    fn position(self, position: u64) -> Bytes {
        match self {
            Self::Sse => sse::position(position).into(),
            Self::Ndjson => ndjson::position(position).into(),
        }
    }

    fn end(self, why: End<'_>, position: u64) -> Bytes {
        let retry = return_after();
        match self {
            Self::Sse => sse::end(why, Some(position), retry).into(),
            Self::Ndjson => ndjson::end(why, position, retry).into(),
        }
    }
}

/// Why a stream ends.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct End<'a> {
    /// `shutdown`, `rotate`, `busy`, `error`.
    reason: &'a str,
    /// For people, of an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

impl<'a> End<'a> {
    pub(crate) fn of(reason: &'a str) -> Self {
        Self { reason, message: None, hint: None }
    }
}

/// One endless answer.
struct Stream {
    app: Arc<App>,
    shape: Shape,
    reader: Reader,
    client: Client,
    /// Told first.
    opening: Option<Bytes>,
    /// Why it ends, when it is time. Made once: at a thousand commits a second it is polled often.
    ending: Ending,
    ended: bool,
}

/// Resolves to the reason when a stream has to end.
pub(crate) type Ending = Pin<Box<dyn Future<Output = &'static str> + Send>>;

/// `shutdown` when the server stops, `rotate` when the stream has lived for its time.
pub(crate) fn ending(stop: Stop, rotate: Duration) -> Ending {
    let life = rotate.mul_f64(rand::random_range(0.8..1.2));
    Box::pin(async move {
        tokio::select! {
            () = stop.stopped() => "shutdown",
            () = tokio::time::sleep(life) => "rotate",
        }
    })
}

/// When a client that is sent away shall be back.
pub(crate) fn return_after() -> Duration {
    rand::random_range(RETURN_AFTER..RETURN_WITHIN)
}

/// Answers with an endless stream.
pub(crate) fn answer(app: &Arc<App>, client: Client, shape: Shape, opened: Opened) -> Response {
    let Opened { opening, gap, position, reader } = opened;
    let first = shape.opening(&opening, gap.map(|gap| (gap, position)));
    let ending = ending(app.stop.clone(), app.config.rotate);
    let app = Arc::clone(app);
    let stream = Stream { app, shape, reader, client, opening: Some(first), ending, ended: false };
    let body = stream::unfold(stream, async |mut stream| {
        stream.next().await.map(|bytes| (Ok::<_, Infallible>(bytes), stream))
    });
    let mut response = endless(shape.media_type(), Body::from_stream(body));
    response.headers_mut().insert("rowcast-last-event-id", HeaderValue::from(position));
    response
}

/// The headers that keep caches and proxies from holding a stream back.
pub(crate) fn endless(media_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl Stream {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let (events, bytes) = match self.opening.take() {
            Some(opening) => (0, opening),
            None => self.go_on().await,
        };
        self.client.given(events, bytes.len());
        Some(bytes)
    }

    /// The next piece, and how many events are in it.
    async fn go_on(&mut self) -> (usize, Bytes) {
        loop {
            let step = tokio::select! {
                biased;
                reason = self.ending.as_mut() => return (0, self.end(End::of(reason))),
                step = self.reader.step() => step,
            };
            match step {
                Ok(Step::Events(events)) => return (events.frames().len(), events.bytes()),
                Ok(Step::Schema(record)) => return (0, self.shape.schema(&record, self.reader.position())),
                Ok(Step::Gap(gap)) => return (0, self.shape.gap(gap)),
                Ok(Step::Position(position)) => return (0, self.shape.position(position)),
                Ok(Step::Synced(_)) => {}
                Err(error) => {
                    self.app.unreadable.tell(&error);
                    let (message, hint) = (error.to_string(), error.remedy());
                    return (0, self.end(End { reason: "error", message: Some(&message), hint }));
                }
            }
        }
    }

    fn end(&mut self, why: End<'_>) -> Bytes {
        self.ended = true;
        self.shape.end(why, self.reader.position())
    }
}
