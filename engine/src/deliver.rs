//! The loop of every push door: coalesce up to the head, send, commit, remember, and start over after a failure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};

use crate::abort::{self, Point};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::feed::blocking;
use crate::journal::{Journal, Read};
use crate::record::Batch;
use crate::sink::{Sink, SinkError};
use crate::status::Status;
use crate::stop::Stop;

/// Sent between two commits at most. Larger costs more repeating after a failure, smaller costs throughput.
const ROUND_BYTES: usize = 16 << 20;
/// And a round lasts no longer than this: what a killed process sent without a commit is sent again.
const ROUND_TIME: Duration = Duration::from_secs(1);
/// The pause after the first failure, doubled by each further one.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest pause: a target that is back is found within this time.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What the loop needs to know beside the sink.
#[derive(Debug)]
pub struct Delivery {
    /// The journal to read.
    pub journal: Journal,
    /// Where the sink's position is kept.
    pub cursor: Cursor,
    /// The board.
    pub status: Status,
    /// The stop signal.
    pub stop: Stop,
    /// Where a sink begins that has no position yet: before the oldest event held, or at the newest.
    pub from_earliest: bool,
}

/// Delivers until told to stop, or until the sink says that it cannot go on without a person; then the reason
/// stands on the board, and the sink's position stays where it is.
pub async fn deliver<S: Sink>(mut sink: S, delivery: Delivery) -> Result<()> {
    let name = sink.name().to_owned();
    let mut pause = RETRY_MIN;
    loop {
        let mut progress = false;
        let run = run(&mut sink, &delivery, &name, &mut progress);
        let error = tokio::select! {
            () = delivery.stop.stopped() => return Ok(()),
            ended = run => match ended {
                Ok(never) => match never {},
                Err(SinkError::Stop(error)) => {
                    tracing::error!(sink = %name, %error, hint = error.remedy(), "The sink has stopped");
                    delivery.status.door(&name, |door| {
                        door.state = "stopped";
                        door.reason = Some(reason(&error));
                    });
                    return Err(error);
                }
                Err(SinkError::Retry(error)) => error,
            },
        };
        counter!("rowcast_sink_retries_total", "sink" => name.clone()).increment(1);
        tracing::warn!(sink = %name, %error, hint = error.remedy(), "Delivery failed, trying again");
        delivery.status.door(&name, |door| {
            door.state = "retrying";
            door.reason = Some(reason(&error));
        });
        pause = if progress { RETRY_MIN } else { (pause * 2).min(RETRY_MAX) };
        tokio::select! {
            () = delivery.stop.stopped() => return Ok(()),
            () = tokio::time::sleep(jittered(pause)) => {}
        }
    }
}

/// Between half the pause and all of it, so that many sinks do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    pause / 2 + (pause / 2).mul_f64(f64::from(nanos % 1000) / 1000.0)
}

fn reason(error: &Error) -> String {
    error.remedy().map_or_else(|| error.to_string(), |hint| format!("{error}. {hint}"))
}

enum Never {}

async fn run<S: Sink>(
    sink: &mut S,
    delivery: &Delivery,
    name: &str,
    progress: &mut bool,
) -> Result<Never, SinkError> {
    let mut position = start(sink, delivery).await?;
    let mut head = delivery.journal.head();
    let mut reader = Reader { journal: &delivery.journal, pending: VecDeque::new() };
    shown(delivery, name, position, 0);
    loop {
        head.mark_unchanged();
        let started = Instant::now();
        let mut bytes = 0;
        let mut events = 0;
        let before = position;
        while bytes < ROUND_BYTES && started.elapsed() < ROUND_TIME {
            match reader.next(position).await.map_err(SinkError::Stop)? {
                Some(Read::Batches(batches)) => {
                    for batch in batches {
                        let waiting = batch.header().time_min;
                        delivery.status.door(name, |door| {
                            door.behind_since.get_or_insert(waiting);
                        });
                        sink.send(&batch, position).await?;
                        bytes += batch.byte_len();
                        events += batch.last() - position.max(batch.first() - 1);
                        position = batch.last();
                    }
                }
                Some(Read::Gone(gone)) => {
                    tracing::error!(sink = %name, from = gone.from, to = gone.to, "Retention has overtaken the sink");
                    sink.gap(gone).await?;
                    position = gone.to;
                }
                Some(Read::AtHead) | None => break,
            }
        }
        if position > before {
            abort::point(Point::SinkSent);
            sink.commit().await?;
            abort::point(Point::SinkCommitted);
            save(delivery, name, position).await;
            *progress = true;
            shown(delivery, name, position, events);
        } else if head.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Stores what the target has. Where that cannot be, on a full disk, it is tried until it can: starting over would
/// send the same events again and again for as long as that lasts.
async fn save(delivery: &Delivery, name: &str, position: u64) {
    let mut pause = RETRY_MIN;
    while let Err(error) = delivery.cursor.save(position) {
        tracing::warn!(sink = %name, %error, "Delivery waits until its position can be stored");
        delivery.status.door(name, |door| {
            door.state = "retrying";
            door.reason = Some(reason(&error));
        });
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// The target's answer beats the cursor.
async fn start<S: Sink>(sink: &mut S, delivery: &Delivery) -> Result<u64, SinkError> {
    let target = sink.resume().await?;
    if let Some(position) = target.or(delivery.cursor.load().map_err(SinkError::Stop)?) {
        return Ok(position);
    }
    let journal = &delivery.journal;
    let position = if delivery.from_earliest { journal.seek_earliest() } else { journal.newest() };
    // From here on retention knows where the sink is, and a restart starts at the same place.
    delivery.cursor.save(position).map_err(SinkError::Retry)?;
    Ok(position)
}

fn shown(delivery: &Delivery, name: &str, position: u64, events: u64) {
    delivery.status.door(name, |door| {
        door.state = "running";
        door.reason = None;
        door.position = Some(position);
        door.delivered += events;
        if position >= delivery.journal.newest() {
            door.behind_since = None;
        }
    });
    delivery.journal.hold_above(name, position);
    counter!("rowcast_sink_events_total", "sink" => name.to_owned()).increment(events);
    gauge!("rowcast_sink_position_id", "sink" => name.to_owned()).set(position as f64);
}

/// Reads on, with what one read brought kept for the next rounds.
struct Reader<'a> {
    journal: &'a Journal,
    pending: VecDeque<Arc<Batch>>,
}

impl Reader<'_> {
    async fn next(&mut self, position: u64) -> Result<Option<Read>> {
        while let Some(batch) = self.pending.pop_front() {
            if batch.last() > position {
                return Ok(Some(Read::Batches(vec![batch])));
            }
        }
        if let Some(batch) =
            self.journal.cached(position).filter(|batch| batch.last() <= self.journal.newest())
        {
            return Ok(Some(Read::Batches(vec![batch])));
        }
        let journal = self.journal.clone();
        match blocking(move || journal.read(position)).await? {
            Read::Batches(batches) => {
                self.pending.extend(batches);
                Ok(self.pending.pop_front().map(|batch| Read::Batches(vec![batch])))
            }
            other => Ok(Some(other)),
        }
    }
}
