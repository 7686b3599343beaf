//! From an insert to an SSE client, Postgres and rowcast both durable, at a steady rate.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use rowcast_engine::{Error, Result};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::backlog;
use crate::http::Events;
use crate::program::Rowcast;
use crate::server::{Place, Route, Server};
use crate::table::set;

/// Sessions that insert in turns, so that one slow commit does not hold up the rate.
const SESSIONS: usize = 4;
/// What is inserted before anything counts: caches, the table's first pages, the program's first allocations.
const WARM_UP: u64 = 200;
/// An event that has not come by then never does.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);
/// In microseconds; slower ones count as this.
pub(crate) const SLOWEST: u64 = 60_000_000;
/// Arrivals between the reader and the count; the reader waits when it is full.
pub(crate) const ARRIVALS: usize = 4096;

const INSERT: &str = "insert into bench values ($1, 7, '0123456789abcdef0123456789abcdef', now(), 12.34)";

/// Which rates, and for how long.
#[derive(Args)]
pub(crate) struct Options {
    /// Transactions a second, of one insert each; may be given several times.
    #[arg(long = "rate", value_name = "N", default_values_t = [1, 500], value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rates: Vec<u32>,
    /// Seconds at each rate.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

/// When one insert began and when its commit returned.
#[derive(Clone, Copy, Debug)]
struct Sent {
    began: Instant,
    committed: Instant,
}

/// Microseconds at one rate.
struct Measured {
    rate: u32,
    from_insert: Histogram<u64>,
    from_commit: Histogram<u64>,
    commit: Histogram<u64>,
}

/// Measures, and gives the table.
pub(crate) async fn measure(place: &Place, program: &Path, options: &Options) -> Result<String> {
    let server = Server::start(place, &["fsync=on"]).await?;
    let client = server.client().await?;
    backlog::create_table(&client).await?;
    let url = server.url(Route::Tcp);
    let arguments = ["--source", url.as_str(), "--tables", "public.bench"];
    let mut rowcast = Rowcast::start(program, &place.path("data"), &arguments).await?;
    rowcast.wait_streaming().await?;
    let events = Events::open(rowcast.address(), "/v1/events?channel=public.bench").await?;
    let (sender, mut arrivals) = mpsc::channel(ARRIVALS);
    let reading = tokio::spawn(read(events, sender));
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        clients.push(Arc::new(server.client().await?));
    }
    let mut load = Load { clients, next: 1, arrivals: &mut arrivals };
    load.run(WARM_UP, 100).await?;
    let mut measured = Vec::new();
    for rate in &options.rates {
        eprintln!("{rate} transactions a second for {} s", options.seconds);
        measured.push(load.run(u64::from(*rate) * u64::from(options.seconds), *rate).await?);
    }
    reading.abort();
    rowcast.stop();
    Ok(report(options, &measured))
}

/// Notes when the event of each row arrives.
pub(crate) async fn read(mut events: Events, arrivals: mpsc::Sender<(u64, Instant)>) {
    loop {
        let mut seen = Vec::new();
        let more = events.lines(|line| seen.extend(row_id(line).map(|id| (id, Instant::now())))).await;
        for arrival in seen {
            if arrivals.send(arrival).await.is_err() {
                return;
            }
        }
        if !more {
            return;
        }
    }
}

/// The key of the row in a line of the stream; `None` where there is none.
fn row_id(line: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b"\"key\":{\"id\":";
    let data = line.strip_prefix(b"data:")?;
    let start = data.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    // A bigint may be a number or a string.
    let digits =
        data.get(start..)?.iter().skip_while(|byte| **byte == b'"').take_while(|byte| byte.is_ascii_digit());
    digits
        .copied()
        .map(|digit| u64::from(digit - b'0'))
        .try_fold(0u64, |id, digit| id.checked_mul(10)?.checked_add(digit))
}

/// Inserts at a rate, and matches what arrives.
struct Load<'a> {
    clients: Vec<Arc<Client>>,
    /// The next row's key.
    next: u64,
    arrivals: &'a mut mpsc::Receiver<(u64, Instant)>,
}

impl Load<'_> {
    /// Inserts `count` rows, one transaction each, and waits until all have arrived.
    async fn run(&mut self, count: u64, rate: u32) -> Result<Measured> {
        let first = self.next;
        self.next += count;
        let start = Instant::now();
        let sessions = self.clients.len() as u64;
        let tasks: Vec<_> = (0..)
            .zip(&self.clients)
            .map(|(session, client)| {
                let turns = (session..count).step_by(usize::try_from(sessions).unwrap_or(1));
                let due = turns.map(move |n| {
                    (first + n, start + Duration::from_secs(1) * u32::try_from(n).unwrap_or(u32::MAX) / rate)
                });
                tokio::spawn(insert(Arc::clone(client), due.collect()))
            })
            .collect();
        let mut arrived = vec![None; usize::try_from(count).unwrap_or(usize::MAX)];
        for _ in 0..count {
            let waited = tokio::time::timeout(
                ARRIVAL_TIMEOUT.max(Duration::from_secs(2) / rate),
                self.arrivals.recv(),
            )
            .await;
            let Ok(Some((id, at))) = waited else {
                return Err(Error::failed("Events are missing from the stream"));
            };
            let place = id.checked_sub(first).and_then(|n| arrived.get_mut(usize::try_from(n).ok()?));
            *place.ok_or_else(|| Error::failed(format!("Row {id} arrives out of turn")))? = Some(at);
        }
        let mut sent = Vec::new();
        for task in tasks {
            let ended =
                task.await.map_err(|error| Error::failed("A session was broken off").because(error))?;
            sent.extend(ended?);
        }
        let mut measured = Measured::new(rate)?;
        for (id, sent) in sent {
            let at = usize::try_from(id - first).ok().and_then(|n| *arrived.get(n)?);
            measured.note(
                sent,
                at.ok_or_else(|| Error::failed(format!("Row {id} arrives twice, another never")))?,
            );
        }
        Ok(measured)
    }
}

/// Inserts rows when they are due; says when each began and when its commit returned.
async fn insert(client: Arc<Client>, due: Vec<(u64, Instant)>) -> Result<Vec<(u64, Sent)>> {
    let failed = |error| Error::failed("An insert has failed").because(error);
    let statement = client.prepare(INSERT).await.map_err(failed)?;
    let mut sent = Vec::with_capacity(due.len());
    for (id, at) in due {
        tokio::time::sleep_until(at).await;
        let began = Instant::now();
        let row = i64::try_from(id).unwrap_or(i64::MAX);
        client.execute(&statement, &[&row]).await.map_err(failed)?;
        sent.push((id, Sent { began, committed: Instant::now() }));
    }
    Ok(sent)
}

impl Measured {
    fn new(rate: u32) -> Result<Self> {
        let empty = || {
            let bounds = Histogram::new_with_bounds(1, SLOWEST, 3);
            bounds.map_err(|error| Error::failed("No histogram").because(error))
        };
        Ok(Self { rate, from_insert: empty()?, from_commit: empty()?, commit: empty()? })
    }

    /// The event may be here before the session hears of its commit: that counts as no time.
    fn note(&mut self, sent: Sent, arrived: Instant) {
        let micros = |from: Instant, to: Instant| {
            u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
        };
        self.from_insert.saturating_record(micros(sent.began, arrived));
        self.from_commit.saturating_record(micros(sent.committed, arrived));
        self.commit.saturating_record(micros(sent.began, sent.committed));
    }
}

fn report(options: &Options, measured: &[Measured]) -> String {
    let mut rows = vec![["", "p50 ms", "p99 ms", "max ms", "events"].map(ToOwned::to_owned).to_vec()];
    for measured in measured {
        let lines = [
            ("commit returned to event received", &measured.from_commit),
            ("insert sent to event received", &measured.from_insert),
            ("insert sent to commit returned", &measured.commit),
        ];
        for (name, times) in lines {
            let ms = |micros: u64| format!("{:.2}", micros as f64 / 1000.0);
            let (p50, p99) = (times.value_at_quantile(0.5), times.value_at_quantile(0.99));
            let name = format!("{} tx/s: {name}", measured.rate);
            rows.push(vec![name, ms(p50), ms(p99), ms(times.max()), times.len().to_string()]);
        }
    }
    format!(
        "One insert a transaction, {} s at each rate; Postgres with fsync, rowcast durable.\n\n{}",
        options.seconds,
        set(&rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_found_in_either_form() {
        let line =
            br#"data: {"id":1795,"channel":"public.bench","op":"insert","key":{"id":42},"before":null}"#;
        assert_eq!(row_id(line), Some(42));
        assert_eq!(row_id(br#"data: {"key":{"id":"43"}}"#), Some(43));
        assert_eq!(row_id(b"id: 1795"), None);
        assert_eq!(row_id(br#"data: {"key":null}"#), None);
    }
}
