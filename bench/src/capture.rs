//! Rows per second from a backlog: pg_recvlogical to /dev/null, and rowcast into its durable journal, in turns.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;
use rowcast_engine::{Error, Result};
use rustix::process::Signal;
use serde_json::Value;
use tokio_postgres::Client;

use crate::backlog::{self, Backlog, Change, Columns, Load, SLOT};
use crate::process::{Process, cpu, peak_memory, run};
use crate::program::Rowcast;
use crate::server::{Place, Route, Server};
use crate::table::{median, set};

/// The slot that pg_recvlogical drains.
const PEER_SLOT: &str = "bench_peer";
/// One reader has this long for the whole backlog.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(180);
/// Between two looks at a reader. Short beside what is measured, and rare enough to cost it nothing.
const LOOK: Duration = Duration::from_millis(10);

/// Durable where it counts: rowcast's journal syncs. Postgres only has to keep quiet meanwhile.
const SETTINGS: &[&str] =
    &["fsync=off", "autovacuum=off", "max_wal_size=16GB", "checkpoint_timeout=1h", "shared_buffers=512MB"];

/// What is drained where an option does not say: rows of one transaction, columns, change.
const USUAL: (u64, Columns, Change) = (100, Columns::Narrow, Change::Insert);

/// What to drain, and how often. Where nothing of what is drained is named, seven backlogs are: the usual one (100 rows
/// a transaction, narrow, inserts), and those that differ from it in one thing.
#[derive(Args)]
pub(crate) struct Options {
    /// Rows in a backlog.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// Rows of one transaction; several make several backlogs.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..))]
    rows_per_transaction: Vec<u64>,
    /// How the table looks; several make several backlogs.
    #[arg(long, value_delimiter = ',', value_enum)]
    columns: Vec<Columns>,
    /// What happens to a row; several make several backlogs.
    #[arg(long, value_delimiter = ',', value_enum)]
    changes: Vec<Change>,
    /// Rounds; the medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Let the server send large transactions before they commit.
    #[arg(long)]
    streaming: bool,
}

impl Options {
    /// The backlogs to drain.
    fn loads(&self) -> Vec<Load> {
        let load =
            |per_transaction, columns, change| Load { rows: self.rows, per_transaction, columns, change };
        let (usual, narrow, insert) = USUAL;
        if self.rows_per_transaction.is_empty() && self.columns.is_empty() && self.changes.is_empty() {
            let lengths = [usual, 1, 10_000, self.rows].map(|per| load(per, narrow, insert));
            let others = [(Columns::Wide, insert), (narrow, Change::Update), (narrow, Change::UpdateFull)];
            return lengths
                .into_iter()
                .chain(others.map(|(columns, change)| load(usual, columns, change)))
                .collect();
        }
        let mut loads = Vec::new();
        for per_transaction in or(&self.rows_per_transaction, usual) {
            for columns in or(&self.columns, narrow) {
                loads.extend(
                    or(&self.changes, insert)
                        .into_iter()
                        .map(|change| load(per_transaction, columns, change)),
                );
            }
        }
        loads
    }
}

/// What was named, else the one.
fn or<T: Clone>(named: &[T], otherwise: T) -> Vec<T> {
    if named.is_empty() { vec![otherwise] } else { named.to_vec() }
}

/// What one reader did in one round.
#[derive(Clone, Copy, Debug)]
struct Drained {
    rows_per_second: f64,
    /// Processor time in microseconds per row.
    reader: f64,
    walsender: f64,
    /// Bytes; only of rowcast.
    peak_memory: Option<f64>,
}

/// All rounds of the two readers over one route.
struct Compared {
    route: Route,
    peer: Vec<Drained>,
    rowcast: Vec<Drained>,
}

/// Measures, and gives the tables.
pub(crate) async fn measure(parent: &Path, program: &Path, options: &Options) -> Result<String> {
    let mut tables = Vec::new();
    for load in options.loads() {
        let table = measure_load(&Place::new(parent)?, program, options, load).await?;
        eprintln!("{table}");
        tables.push(table);
    }
    Ok(tables.join("\n"))
}

/// One backlog on a server of its own, since what is left of one would be read over by the next.
async fn measure_load(place: &Place, program: &Path, options: &Options, load: Load) -> Result<String> {
    let server = Server::start(place, SETTINGS).await?;
    let client = server.client().await?;
    load.prepare(&client).await?;
    let bench = Bench { place, program, server: &server, client: &client, streaming: options.streaming };
    bench.set_up().await?;
    eprintln!("Filling the backlog: {}", load.shown());
    let backlog = load.fill(&client).await?;
    let mut compared =
        [Route::Tcp, Route::Unix].map(|route| Compared { route, peer: Vec::new(), rowcast: Vec::new() });
    for round in 1..=options.rounds {
        for compared in &mut compared {
            let peer = bench.peer(compared.route, &backlog).await?;
            let rowcast = bench.rowcast(compared.route, &backlog).await?;
            let (theirs, ours) = (peer.rows_per_second, rowcast.rows_per_second);
            eprintln!(
                "Round {round}, {:?}: pg_recvlogical {theirs:.0}, rowcast {ours:.0} rows/s",
                compared.route
            );
            compared.peer.push(peer);
            compared.rowcast.push(rowcast);
        }
    }
    Ok(report(load, options.rounds, &compared))
}

/// What every drain needs.
struct Bench<'a> {
    place: &'a Place,
    program: &'a Path,
    server: &'a Server,
    client: &'a Client,
    streaming: bool,
}

impl Bench<'_> {
    /// Lets rowcast make its slot, its publication and an empty journal.
    async fn set_up(&self) -> Result<()> {
        let mut rowcast = self.start(&self.place.path("empty"), Route::Unix).await?;
        rowcast.wait_streaming().await?;
        rowcast.stop();
        Ok(())
    }

    async fn start(&self, data: &Path, route: Route) -> Result<Rowcast> {
        let url = self.server.url(route);
        let slot = format!("source.slot={SLOT}");
        let publication = format!("source.publication={SLOT}");
        let streaming = format!("source.streaming={}", if self.streaming { "on" } else { "off" });
        let tables = ["--source", &url, "--tables", "public.bench"];
        let keys = ["--set", &slot, "--set", &publication, "--set", &streaming];
        Rowcast::start(self.program, data, &[&tables[..], &keys].concat()).await
    }

    /// pg_recvlogical, which throws away what it reads.
    async fn peer(&self, route: Route, backlog: &Backlog) -> Result<Drained> {
        backlog::rewind(self.client, PEER_SLOT).await?;
        let mut drain = self.server.recvlogical(route, PEER_SLOT, SLOT);
        drain.args(["--endpos", &backlog.end, "--file", "/dev/null"]);
        let start = Instant::now();
        let mut process = Process::start(&mut drain, Signal::INT, &self.place.path("peer.log"))?;
        let (mut reader, mut walsender) = (Duration::ZERO, Duration::ZERO);
        let mut sender = None;
        let status = loop {
            if let Some(status) = process.ended() {
                break status;
            }
            in_time(start)?;
            if sender.is_none() {
                sender = backlog::walsender(self.client, PEER_SLOT).await?;
            }
            reader = cpu(process.pid()).unwrap_or_default().max(reader);
            walsender = sender.and_then(cpu).unwrap_or_default().max(walsender);
            tokio::time::sleep(LOOK).await;
        };
        let time = start.elapsed();
        if !status.success() {
            let said = std::fs::read_to_string(self.place.path("peer.log")).unwrap_or_default();
            return Err(Error::failed(format!("pg_recvlogical has failed: {}", said.trim())));
        }
        backlog::drop_slot(self.client, PEER_SLOT).await?;
        Ok(drained(backlog.rows, time, reader, walsender, None))
    }

    /// rowcast, from the moment it streams until the last row is durable.
    async fn rowcast(&self, route: Route, backlog: &Backlog) -> Result<Drained> {
        backlog::rewind(self.client, SLOT).await?;
        let data = self.place.path("data");
        run(Command::new("cp").arg("-a").arg(self.place.path("empty")).arg(&data))?;
        let mut rowcast = self.start(&data, route).await?;
        let pid = rowcast.pid();
        let before = events(&rowcast.wait_streaming().await?);
        let (start, cpu_before) = (Instant::now(), cpu(pid).unwrap_or_default());
        let mut sender = None;
        let count = loop {
            if sender.is_none() {
                sender = backlog::walsender(self.client, SLOT).await?;
            }
            let count = events(&rowcast.status().await?);
            if count >= backlog.rows {
                break count;
            }
            in_time(start)?;
            tokio::time::sleep(LOOK).await;
        };
        let time = start.elapsed();
        if count != backlog.rows {
            return Err(Error::failed(format!("rowcast has {count} events of {} rows", backlog.rows)));
        }
        let reader = cpu(pid).unwrap_or_default().saturating_sub(cpu_before);
        let walsender = sender.and_then(cpu).unwrap_or_default();
        let memory = peak_memory(pid);
        rowcast.stop();
        run(Command::new("rm").arg("-r").arg(&data))?;
        Ok(drained(backlog.rows - before, time, reader, walsender, memory))
    }
}

fn in_time(start: Instant) -> Result<()> {
    if start.elapsed() > DRAIN_TIMEOUT {
        let seconds = DRAIN_TIMEOUT.as_secs();
        return Err(
            Error::failed(format!("The backlog is not drained after {seconds} s")).hint("Try fewer --rows.")
        );
    }
    Ok(())
}

/// Events in the journal: what it shows is durable.
fn events(status: &Value) -> u64 {
    let number = |name: &str| status["journal"][name].as_u64().unwrap_or_default();
    (number("newest") + 1).saturating_sub(number("oldest"))
}

fn drained(rows: u64, time: Duration, reader: Duration, walsender: Duration, memory: Option<u64>) -> Drained {
    let per_row = |cpu: Duration| cpu.as_secs_f64() * 1e6 / rows as f64;
    Drained {
        rows_per_second: rows as f64 / time.as_secs_f64(),
        reader: per_row(reader),
        walsender: per_row(walsender),
        peak_memory: memory.map(|bytes| bytes as f64),
    }
}

fn report(load: Load, rounds: u32, compared: &[Compared]) -> String {
    let heading = ["", "rows/s", "of pg_recvlogical", "CPU us/row", "walsender us/row", "peak MB"];
    let mut rows = vec![heading.map(ToOwned::to_owned).to_vec()];
    for Compared { route, peer, rowcast } in compared {
        let middle = |runs: &[Drained], of: fn(&Drained) -> f64| median(runs.iter().map(of).collect());
        // Of the same round: what the machine does meanwhile is done to both.
        let ratio = |runs: &[Drained]| {
            let pairs = runs.iter().zip(peer);
            median(pairs.map(|(run, peer)| run.rows_per_second / peer.rows_per_second).collect())
        };
        for (name, runs) in [("pg_recvlogical to /dev/null", peer), ("rowcast, durable", rowcast)] {
            let speed = middle(runs, |run| run.rows_per_second);
            let memory = middle(runs, |run| run.peak_memory.unwrap_or(f64::NAN)) / 1e6;
            rows.push(vec![
                format!("{}: {name}", if *route == Route::Tcp { "TCP" } else { "Unix socket" }),
                format!("{speed:.0}"),
                format!("{:.2}", ratio(runs)),
                format!("{:.2}", middle(runs, |run| run.reader)),
                format!("{:.2}", middle(runs, |run| run.walsender)),
                if memory.is_nan() { "-".to_owned() } else { format!("{memory:.0}") },
            ]);
        }
    }
    format!("{}; medians of {rounds} rounds, in turns.\n\n{}", load.shown(), set(&rows))
}
