//! One huge transaction, sent when it has committed or while it is written: how long it takes to be there, how long
//! small ones wait meanwhile and behind it, and what memory it takes. Beside it, when pg_recvlogical is sent them.

mod peer;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use rowcast_engine::{Error, Result};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::backlog;
use crate::http::Events;
use crate::latency::{ARRIVALS, SLOWEST, read};
use crate::process::{Process, peak_memory, run};
use crate::program::Rowcast;
use crate::server::{Place, Route, Server};
use crate::table::{median, set};

/// A transaction that is not there by then never will be.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(180);
/// Between two looks at what has arrived.
const LOOK: Duration = Duration::from_millis(5);
/// Small ones go on so long after the huge one is there.
const AFTERWARDS: Duration = Duration::from_secs(1);

const SETTINGS: &[&str] = &["fsync=off", "autovacuum=off", "max_wal_size=16GB", "checkpoint_timeout=1h"];

/// How huge, and how often.
#[derive(Args)]
pub(crate) struct Options {
    /// Rows of the huge transaction.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// Rounds; the medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Small transactions a second, of one insert each.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// The server's `logical_decoding_work_mem`.
    #[arg(long, default_value = "64MB")]
    work_mem: String,
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Off,
    On,
    Peer,
}

impl Reader {
    fn name(self) -> &'static str {
        match self {
            Self::Off => "streaming off",
            Self::On => "streaming on",
            Self::Peer => "pg_recvlogical",
        }
    }
}

/// The publication of all of them.
const PUBLICATION: &str = "bench";

/// What became of one of them.
struct Outcome {
    /// Seconds that its statement took, from its begin and from its commit to when what commits behind it was there.
    written: f64,
    visible: f64,
    behind_commit: f64,
    /// Milliseconds from the commits of small ones to their events: while it was written, and then until it was there.
    during: [f64; 3],
    behind: [f64; 3],
    /// Megabytes.
    memory: f64,
}

/// Measures, and gives the table.
pub(crate) async fn measure(place: &Place, program: &Path, options: &Options) -> Result<String> {
    let work_mem = format!("logical_decoding_work_mem={}", options.work_mem);
    let server = Server::start(place, &[SETTINGS, &[&work_mem]].concat()).await?;
    let client = server.client().await?;
    backlog::create_table(&client).await?;
    backlog::execute(&client, "create table small (id bigint primary key)").await?;
    let mut measured: Vec<((Route, Reader), Vec<Outcome>)> = Vec::new();
    for route in [Route::Tcp, Route::Unix] {
        // rowcast first: it makes the publication.
        measured.extend([Reader::Off, Reader::On, Reader::Peer].map(|reader| ((route, reader), Vec::new())));
    }
    for round in 1..=options.rounds {
        for (at, ((route, reader), outcomes)) in measured.iter_mut().enumerate() {
            let bench = Bench { place, program, server: &server, client: &client, route: *route };
            let outcome = bench.once(options, *reader, &format!("bench_{round}_{at}")).await?;
            let (name, behind) = (reader.name(), outcome.behind_commit);
            eprintln!("Round {round}, {route:?}, {name}: there {behind:.2} s after its commit");
            outcomes.push(outcome);
        }
    }
    Ok(report(options, &measured))
}

struct Bench<'a> {
    place: &'a Place,
    program: &'a Path,
    server: &'a Server,
    client: &'a Client,
    route: Route,
}

/// Whoever is attached.
enum Attached {
    Rowcast(Rowcast),
    Peer(Process),
}

/// Small ones that have arrived, in their order.
type Arrived = Arc<std::sync::Mutex<Vec<(u64, Instant)>>>;

impl Bench<'_> {
    async fn once(&self, options: &Options, reader: Reader, slot: &str) -> Result<Outcome> {
        backlog::execute(self.client, "truncate bench; truncate small; checkpoint").await?;
        let (sender, mut arrivals) = mpsc::channel(ARRIVALS);
        let attached = match reader {
            Reader::Peer => Attached::Peer(self.peer(slot, sender).await?),
            Reader::Off | Reader::On => Attached::Rowcast(self.rowcast(reader, slot, sender).await?),
        };
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let every = Duration::from_secs(1) / options.rate;
        let client = self.server.client().await?;
        let small = tokio::spawn(insert(client, every, (Arc::clone(&stop), Arc::clone(&count))));
        let arrived = Arrived::default();
        let collected = Arc::clone(&arrived);
        let collect = tokio::spawn(async move {
            while let Some(arrival) = arrivals.recv().await {
                if let Ok(mut arrived) = collected.lock() {
                    arrived.push(arrival);
                }
            }
        });
        let [began, written, committed, visible] = self.huge(&arrived, &count, options.rows).await?;
        tokio::time::sleep(AFTERWARDS).await;
        stop.store(true, Ordering::Relaxed);
        let sent =
            small.await.map_err(|error| Error::failed("A session was broken off").because(error))??;
        tokio::time::sleep(AFTERWARDS).await;
        collect.abort();
        let memory = self.detach(attached, slot).await?;
        let arrived = arrived.lock().map_err(|_| Error::failed("The reader was broken off"))?.clone();
        if arrived.len() != sent.len() {
            return Err(Error::failed(format!("{} of {} small events came", arrived.len(), sent.len())));
        }
        let waits = |from: Instant, to: Instant| quantiles(&sent, &arrived, from, to);
        Ok(Outcome {
            written: (written - began).as_secs_f64(),
            visible: (visible - began).as_secs_f64(),
            behind_commit: (visible - committed).as_secs_f64(),
            during: waits(began, written)?,
            behind: waits(committed, visible)?,
            memory,
        })
    }

    async fn rowcast(
        &self,
        reader: Reader,
        slot: &str,
        arrivals: mpsc::Sender<(u64, Instant)>,
    ) -> Result<Rowcast> {
        let url = self.server.url(self.route);
        let streaming = if reader == Reader::On { "on" } else { "off" };
        let settings = [("slot", slot), ("publication", PUBLICATION), ("streaming", streaming)];
        let settings = settings.map(|(key, value)| format!("source.{key}={value}"));
        let mut arguments = vec!["--source", url.as_str()];
        arguments.extend(["--tables", "public.bench", "--tables", "public.small"]);
        arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        let mut rowcast = Rowcast::start(self.program, &self.place.path("data"), &arguments).await?;
        rowcast.wait_streaming().await?;
        let events = Events::open(rowcast.address(), "/v1/events?channel=public.small").await?;
        // Ends with the connection.
        tokio::spawn(read(events, arrivals));
        Ok(rowcast)
    }

    /// Ends it; how much memory it took at most, in megabytes.
    async fn detach(&self, attached: Attached, slot: &str) -> Result<f64> {
        let megabytes = |pid| peak_memory(pid).unwrap_or_default() as f64 / 1e6;
        let memory = match attached {
            Attached::Rowcast(rowcast) => {
                let memory = megabytes(rowcast.pid());
                rowcast.stop();
                run(Command::new("rm").arg("-r").arg(self.place.path("data")))?;
                memory
            }
            Attached::Peer(process) => {
                let memory = megabytes(process.pid());
                process.stop();
                memory
            }
        };
        backlog::drop_slot(self.client, slot).await?;
        Ok(memory)
    }

    /// When it began, was written, had committed, and when one arrived that committed behind it.
    async fn huge(&self, arrived: &Arrived, count: &AtomicU64, rows: u64) -> Result<[Instant; 4]> {
        let at = |id: u64| {
            let arrived = arrived.lock().map_err(|_| Error::failed("The reader was broken off"))?;
            let place = arrived.partition_point(|(other, _)| *other < id);
            Ok(arrived.get(place).map(|(_, at)| *at))
        };
        while at(1)?.is_none() {
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(AFTERWARDS).await;
        let began = Instant::now();
        let insert = format!(
            "insert into bench select i, i % 1000, md5(i::text), clock_timestamp(), (i % 100000)::numeric / 100
             from generate_series(1, {rows}) i"
        );
        backlog::execute(self.client, &format!("begin; {insert}")).await?;
        let written = Instant::now();
        backlog::execute(self.client, "commit").await?;
        let committed = Instant::now();
        // One may be under way, and commit before it.
        let behind = count.load(Ordering::Relaxed) + 2;
        loop {
            if let Some(visible) = at(behind)? {
                return Ok([began, written, committed, visible]);
            }
            if committed.elapsed() > VISIBLE_TIMEOUT {
                return Err(Error::failed("The huge transaction does not come").hint("Try fewer --rows."));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Inserts small ones until it is stopped; gives when each had committed.
async fn insert(
    client: Client,
    every: Duration,
    (stop, count): (Arc<AtomicBool>, Arc<AtomicU64>),
) -> Result<Vec<(u64, Instant)>> {
    let failed = |error| Error::failed("An insert has failed").because(error);
    let statement = client.prepare("insert into small values ($1)").await.map_err(failed)?;
    let mut sent = Vec::new();
    let mut due = tokio::time::interval(every);
    for id in 1_i64.. {
        due.tick().await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        client.execute(&statement, &[&id]).await.map_err(failed)?;
        sent.push((id.unsigned_abs(), Instant::now()));
        count.store(id.unsigned_abs(), Ordering::Relaxed);
    }
    Ok(sent)
}

/// Median, 99th of 100 and longest time, in milliseconds, of those that committed in a stretch of time.
fn quantiles(
    sent: &[(u64, Instant)],
    arrived: &[(u64, Instant)],
    from: Instant,
    to: Instant,
) -> Result<[f64; 3]> {
    let bounds = Histogram::<u64>::new_with_bounds(1, SLOWEST, 3);
    let mut times = bounds.map_err(|error| Error::failed("No histogram").because(error))?;
    for ((id, committed), (other, at)) in sent.iter().zip(arrived) {
        if id != other {
            return Err(Error::failed(format!("Small event {other} comes in place of {id}")));
        }
        if (from..to).contains(committed) {
            let micros = at.saturating_duration_since(*committed).as_micros();
            times.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
        }
    }
    if times.is_empty() {
        return Ok([f64::NAN; 3]);
    }
    let (p50, p99) = (times.value_at_quantile(0.5), times.value_at_quantile(0.99));
    Ok([p50, p99, times.max()].map(|micros| micros as f64 / 1000.0))
}

fn report(options: &Options, measured: &[((Route, Reader), Vec<Outcome>)]) -> String {
    let heading = [
        "",
        "written s",
        "visible s",
        "after commit s",
        "rows/s",
        "during: p50 ms",
        "p99",
        "max",
        "behind: p50 ms",
        "p99",
        "max",
        "peak MB",
    ];
    let mut rows = vec![heading.map(ToOwned::to_owned).to_vec()];
    for ((route, reader), outcomes) in measured {
        let middle = |of: &dyn Fn(&Outcome) -> f64| median(outcomes.iter().map(of).collect());
        let visible = middle(&|outcome| outcome.visible);
        let name = if *route == Route::Tcp { "TCP" } else { "Unix socket" };
        let mut row = vec![
            format!("{name}, {}", reader.name()),
            format!("{:.2}", middle(&|outcome| outcome.written)),
            format!("{visible:.2}"),
            format!("{:.2}", middle(&|outcome| outcome.behind_commit)),
            format!("{:.0}", options.rows as f64 / visible),
        ];
        for at in 0..3 {
            row.push(format!(
                "{:.1}",
                middle(&|outcome| outcome.during.get(at).copied().unwrap_or(f64::NAN))
            ));
        }
        for at in 0..3 {
            row.push(format!(
                "{:.1}",
                middle(&|outcome| outcome.behind.get(at).copied().unwrap_or(f64::NAN))
            ));
        }
        row.push(format!("{:.0}", middle(&|outcome| outcome.memory)));
        rows.push(row);
    }
    format!(
        "A transaction of {} rows, beside {} small ones a second; medians of {} rounds, in turns; \
         logical_decoding_work_mem = {}.\n\n{}",
        options.rows,
        options.rate,
        options.rounds,
        options.work_mem,
        set(&rows)
    )
}
