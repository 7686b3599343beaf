//! Rows per second of a snapshot into the durable journal while changes are streamed, beside `COPY … TO STDOUT` to
//! nowhere, in turns; an application changes rows beside both.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use rowcast_engine::{Error, Result};
use rustix::process::Signal;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;
use tokio_postgres::Client;

use crate::backlog;
use crate::http;
use crate::process::{Manners, command, peak_memory, printed, run};
use crate::program::Rowcast;
use crate::server::{Place, Route, Server};
use crate::table::{median, set};

/// One reading has this long.
const READ_TIMEOUT: Duration = Duration::from_secs(180);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(10);

/// Durable where it counts: rowcast's journal syncs.
const SETTINGS: &[&str] =
    &["fsync=off", "autovacuum=off", "max_wal_size=16GB", "checkpoint_timeout=1h", "shared_buffers=512MB"];

/// What to read, and how often.
#[derive(Args)]
pub(crate) struct Options {
    /// Rows in the table.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// Rounds; the medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Transactions a second that an application makes beside both, of a row each.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    changes: u32,
}

/// An application that changes a row at a time, at a pace.
struct Load {
    task: JoinHandle<Result<u64>>,
    stop: Arc<AtomicBool>,
    begun: Instant,
}

impl Load {
    async fn start(server: &Server, changes: u32) -> Result<Self> {
        let (client, begun) = (server.client().await?, Instant::now());
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut done: u64 = 0;
            while !ended.load(Ordering::Relaxed) {
                write(&client).await?;
                done += 1;
                // What it is late by it makes up for.
                let due = begun + Duration::from_secs_f64(done as f64 / f64::from(changes));
                sleep_until(due.into()).await;
            }
            Ok(done)
        });
        Ok(Self { task, stop, begun })
    }

    /// Transactions a second that it has made.
    async fn end(self) -> Result<f64> {
        let took = self.begun.elapsed().as_secs_f64();
        self.stop.store(true, Ordering::Relaxed);
        let done = self.task.await.map_err(|error| Error::failed("The load has ended").because(error))??;
        Ok(done as f64 / took)
    }
}

/// Measures, and gives the table.
pub(crate) async fn measure(place: &Place, program: &Path, options: &Options) -> Result<String> {
    let server = Server::start(place, SETTINGS).await?;
    let client = server.client().await?;
    backlog::create_table(&client).await?;
    eprintln!("Filling the table with {} rows", options.rows);
    let rows = options.rows;
    let fill = format!(
        "insert into bench select i, i % 1000, md5(i::text), clock_timestamp(), (i % 100000)::numeric / 100
         from generate_series(1, {rows}) i"
    );
    backlog::execute(&client, &fill).await?;
    backlog::execute(&client, "vacuum analyze bench").await?;
    let (mut speeds, mut loads) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let mut memory = Vec::new();
    for round in 1..=options.rounds {
        let load = Load::start(&server, options.changes).await?;
        let copied = options.rows as f64 / tokio::task::block_in_place(|| copy(&server))?.as_secs_f64();
        let beside = load.end().await?;
        let (time, peak, changed) = snapshot(place, program, &server, round, options.changes).await?;
        let read = options.rows as f64 / time.as_secs_f64();
        eprintln!(
            "Round {round}: COPY {copied:.0}, snapshot {read:.0} rows/s; {beside:.0} and {changed:.0} changes/s beside"
        );
        speeds[0].push(copied);
        speeds[1].push(read);
        loads[0].push(beside);
        loads[1].push(changed);
        memory.push(peak as f64 / 1e6);
    }
    let ([copied, read], [beside, changed]) = (speeds.map(median), loads.map(median));
    let line = |name: &str, speed: f64, load: f64, memory: String| {
        let (speed, share) = (format!("{speed:.0}"), format!("{:.2}", speed / copied));
        vec![name.to_owned(), speed, share, format!("{load:.0}"), memory]
    };
    let rows = [
        ["", "rows/s", "of COPY", "changes/s beside", "peak MB"].map(ToOwned::to_owned).to_vec(),
        line("COPY to /dev/null", copied, beside, "-".to_owned()),
        line("snapshot, durable", read, changed, format!("{:.0}", median(memory))),
    ];
    Ok(format!(
        "{} rows over the Unix socket; medians of {} rounds, in turns.\n\n{}",
        options.rows,
        options.rounds,
        set(&rows)
    ))
}

/// How long psql says that the COPY itself took: its own start and login are no part of it.
fn copy(server: &Server) -> Result<Duration> {
    let manners = Manners { user: None, end: Signal::INT };
    let mut psql = command(&server.program("psql"), manners);
    psql.args(server.options(Route::Unix)).env("LC_ALL", "C");
    psql.args(["-X", "-q", "-c", "\\timing on", "-c", "\\o /dev/null", "-c", "copy bench to stdout"]);
    let said = printed(&mut psql)?;
    let milliseconds = said
        .lines()
        .find_map(|line| line.strip_prefix("Time: ")?.split_once(" ms")?.0.parse::<f64>().ok())
        .ok_or_else(|| Error::failed("psql does not say how long COPY took").because(said.trim()))?;
    Ok(Duration::from_secs_f64(milliseconds / 1e3))
}

/// An installation that streams reads the table when it is told to, and goes on to stream what is changed. Gives how long
/// that took from the order on, the peak of its memory, and how many changes a second there were.
async fn snapshot(
    place: &Place,
    program: &Path,
    server: &Server,
    round: u32,
    changes: u32,
) -> Result<(Duration, u64, f64)> {
    let data = place.path(&format!("data-{round}"));
    let (url, slot) = (server.url(Route::Unix), format!("source.slot=snapshot_{round}"));
    let arguments =
        ["--source", &url, "--tables", "public.bench", "--set", &slot, "--set", "source.snapshot=never"];
    let client = server.client().await?;
    let mut rowcast = Rowcast::start(program, &data, &arguments).await?;
    rowcast.wait_streaming().await?;
    let load = Load::start(server, changes).await?;
    let start = Instant::now();
    backlog::execute(&client, "select rowcast.snapshot('bench')").await?;
    while !is_read(&rowcast).await? {
        if start.elapsed() > READ_TIMEOUT {
            return Err(Error::failed("The snapshot is not done in time").hint("Try fewer --rows."));
        }
        tokio::time::sleep(LOOK).await;
    }
    let (time, peak) = (start.elapsed(), peak_memory(rowcast.pid()).unwrap_or(0));
    let changed = load.end().await?;
    rowcast.stop();
    backlog::drop_slot(&client, &format!("snapshot_{round}")).await?;
    run(std::process::Command::new("rm").arg("-r").arg(&data))?;
    Ok((time, peak, changed))
}

async fn is_read(rowcast: &Rowcast) -> Result<bool> {
    let state = http::json(rowcast.address(), "/v1/snapshots").await?;
    Ok(state["read"]["public.bench"].is_u64())
}

async fn write(client: &Client) -> Result<()> {
    backlog::execute(client, "update bench set a = a + 1 where id = (select (random() * 100000)::bigint)")
        .await
}
