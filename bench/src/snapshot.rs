//! Rows per second of a snapshot into the durable journal while changes are streamed, beside `COPY … TO STDOUT` to
//! nowhere, in turns.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::Args;
use rowcast_engine::{Error, Result};
use rustix::process::Signal;
use tokio_postgres::Client;

use crate::backlog;
use crate::http;
use crate::process::{Manners, command, peak_memory, run};
use crate::program::Rowcast;
use crate::server::{Place, Route, Server};
use crate::table::{median, set};

/// One reading has this long.
const READ_TIMEOUT: Duration = Duration::from_secs(180);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(10);
/// Between two transactions that are streamed meanwhile.
const WRITE_EVERY: Duration = Duration::from_millis(5);

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
    let mut speeds = [Vec::new(), Vec::new()];
    let mut memory = Vec::new();
    for round in 1..=options.rounds {
        let copied = options.rows as f64 / copy(&server)?.as_secs_f64();
        let (time, peak) = snapshot(place, program, &server, round).await?;
        let read = options.rows as f64 / time.as_secs_f64();
        eprintln!("Round {round}: COPY {copied:.0}, snapshot {read:.0} rows/s");
        speeds[0].push(copied);
        speeds[1].push(read);
        memory.push(peak as f64 / 1e6);
    }
    let [copied, read] = speeds.map(median);
    let line = |name: &str, speed: f64, memory: String| {
        vec![name.to_owned(), format!("{speed:.0}"), format!("{:.2}", speed / copied), memory]
    };
    let rows = [
        ["", "rows/s", "of COPY", "peak MB"].map(ToOwned::to_owned).to_vec(),
        line("COPY to /dev/null", copied, "-".to_owned()),
        line("snapshot, durable, beside changes", read, format!("{:.0}", median(memory))),
    ];
    Ok(format!(
        "{} rows over the Unix socket; medians of {} rounds, in turns.\n\n{}",
        options.rows,
        options.rounds,
        set(&rows)
    ))
}

fn copy(server: &Server) -> Result<Duration> {
    let manners = Manners { user: None, end: Signal::INT };
    let mut psql = command(&server.program("psql"), manners);
    psql.args(server.options(Route::Unix)).args(["-q", "-c", "copy bench to stdout"]).stdout(Stdio::null());
    let start = Instant::now();
    run(&mut psql)?;
    Ok(start.elapsed())
}

/// A fresh installation reads the table while a row is changed every few milliseconds.
async fn snapshot(place: &Place, program: &Path, server: &Server, round: u32) -> Result<(Duration, u64)> {
    let data = place.path(&format!("data-{round}"));
    let (url, slot) = (server.url(Route::Unix), format!("source.slot=snapshot_{round}"));
    let arguments =
        ["--source", &url, "--tables", "public.bench", "--set", &slot, "--set", "source.snapshot=initial"];
    let writer = server.client().await?;
    let mut rowcast = Rowcast::start(program, &data, &arguments).await?;
    rowcast.wait_streaming().await?;
    let start = Instant::now();
    let mut written = Instant::now();
    loop {
        let state = http::json(rowcast.address(), "/v1/snapshots").await?;
        if state["read"]["public.bench"].is_u64() {
            break;
        }
        if start.elapsed() > READ_TIMEOUT {
            return Err(Error::failed("The snapshot is not done in time").hint("Try fewer --rows."));
        }
        if written.elapsed() >= WRITE_EVERY {
            write(&writer).await?;
            written = Instant::now();
        }
        tokio::time::sleep(LOOK).await;
    }
    let (time, peak) = (start.elapsed(), peak_memory(rowcast.pid()).unwrap_or(0));
    rowcast.stop();
    backlog::drop_slot(&writer, &format!("snapshot_{round}")).await?;
    run(std::process::Command::new("rm").arg("-r").arg(&data))?;
    Ok((time, peak))
}

async fn write(client: &Client) -> Result<()> {
    backlog::execute(client, "update bench set a = a + 1 where id = (select (random() * 100000)::bigint)")
        .await
}
